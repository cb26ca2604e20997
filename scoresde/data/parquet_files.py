"""Pictures in parquet files, as data sets of Hugging Face are stored, read without their library."""

import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from scoresde.data.array_files import one_line
from scoresde.data.assembling import as_labels, assembled, discrete
from scoresde.data.base import Data
from scoresde.data.conditions import vector_of
from scoresde.data.images import Fit, Frames, Reading, Resample, Source, images_to_tensor, open_image, picture
from scoresde.data.labels import index_classes, listed, natural_order
from scoresde.data.lazy_arrays import file_identity
from scoresde.data.packed import Packed
from scoresde.data.picture_rows import PictureRows
from scoresde.data.places import located
from scoresde.data.rows import InMemory, Rows, Values, reads_lazily
from scoresde.extras import need
from scoresde.storage.bounded import DamagedFile, parse_json
from scoresde.storage.limits import check_memory

if TYPE_CHECKING:
    from PIL.Image import Image
    from pyarrow import Table

__all__ = ["image_columns", "parquet"]


_ROWS = 256  # that are read at once for a copy


def parquet(
    path: str,
    image_column: str | None = None,
    label_column: str | None = None,
    labels: bool | None = None,
    size: int | Sequence[int] | None = None,
    channels: int = 3,
    test_size: int | float = 0.1,
    seed: int = 0,
    resample: Resample = "lanczos",
    fit: Fit = "crop",
    background: str | None = None,
    bits: int | None = None,
    frames: Frames = "first",
    condition_columns: Sequence[str] | None = None,
    in_memory: InMemory = "auto",
) -> Data:
    """The pictures in a column of a parquet file, or of a folder of them, such as a copy of a data set from the hub.

    In a folder, files `train-...` are to train on, and files `test-...` (or `validation-...`) to test on. A row that
    holds no picture but the path of one is refused, since it may come from a stranger.

    Args:
        path: The file, or the folder.
        image_column: Column of encoded pictures; None: the only one.
        label_column: Column of classes, integers or strings. None: `label`, if there is one.
        labels: Whether there are labels. None: if their column is found.
        size: Side, or height and width, to which every picture is resized; None if all have one size already.
        channels: 3 for RGB, 1 for grey; 4 or 2 with opacity.
        test_size: Test samples where there are no files of them, as a count (int) or a fraction (float).
        seed: Seed of the random split.
        resample: Filter used for resizing, "lanczos" or "box".
        fit: "crop" to cut out the middle before resizing, or "stretch".
        background: Colour that transparent pictures are put on; None drops transparency if `channels` has none.
        bits: Bits of a channel, 8 or 16; None: 8, and grey pictures of more are refused.
        frames: "first" or "refuse", for animations.
        condition_columns: Columns of numbers that make the `vector` of a row, its condition.
        in_memory: Whether pictures are decoded at once and held in memory, or decoded when they are asked for: from a
            copy of the encoded pictures beside the files, since a row of parquet costs a group of rows.

    Raises:
        ValueError: A file or column that is not there, damage, more than the limit of memory, or a picture that cannot
            be read.
    """
    reading = Reading(size, channels, resample, fit, background, bits, frames)
    place = located(path)
    names: tuple[str, ...] | None = None
    values: list[Values] = []
    targets: list[np.ndarray] = []
    conditions: list[dict[str, Tensor]] = []
    given = [str(name) for name in condition_columns or ()]
    for files in _parts(place):
        tables = [_opened(file) for file in files]
        lazy = reads_lazily(in_memory, max(sum(map(_unpacked, tables)), _decoded(tables, files, image_column, reading)))
        if not lazy:
            check_memory(sum(map(_unpacked, tables)), str(files[0] if len(files) == 1 else place))
        schema = tables[0].schema_arrow
        column = _image_column(schema, image_column, files[0])
        label = None if labels is False else label_column or next((n for n in schema.names if n == "label"), None)
        if labels and label is None:
            raise ValueError(f"labels=true, but {files[0]} has no column 'label': name it by label_column=NAME")
        if label is not None and label not in schema.names:
            raise ValueError(f"{files[0]} has no column {label!r}; available: {listed(schema.names)}")
        names = _declared_names(schema, label, files[0]) or names
        for name in given:
            if name not in schema.names or name in (column, label):
                raise ValueError(f"condition_columns has {name!r}; {files[0]} has {listed(schema.names)}")
        sources, own, vectors = [], [], []
        for file, opened in zip(files, tables, strict=True):
            wanted = [name for name in (column, label, *given) if name is not None]
            missing = [name for name in wanted if name not in opened.schema_arrow.names]
            if missing:
                raise ValueError(f"{file} has no column {missing[0]!r}, which {files[0]} has")
            read = _read(opened, file, [name for name in wanted if not (lazy and name == column)])
            if not lazy:
                sources += [(f"{i} of {file}", partial(_open, read[column], i)) for i in range(len(read))]
            if label is not None:
                own.append(_labels(read[label], label, file))
            if given:
                vectors.append(vector_of({name: read[name].to_pylist() for name in given}, str(file)))
        if values and bool(targets) != bool(own):
            raise ValueError(
                f"{place} has labels in the files of one split alone: add them to the others, or give labels=false"
            )
        if lazy:
            values.append(_stay(place, files, tables, column, reading))
        else:
            values.append(images_to_tensor(sources, reading))
        if label is not None:
            targets.append(np.concatenate(own))
        if given:
            conditions.append({"vector": torch.cat(vectors)})
    indices: list[Tensor] = []
    if targets and names is not None:
        indices = [torch.from_numpy(y.astype(np.int64)) for y in targets]
    elif targets:
        indices, names = index_classes(*targets)
    transform, classes = discrete(reading.levels), names if targets else None
    return assembled(place.stem, values, indices, classes, transform, test_size, seed, conditions=conditions)


def _stay(place: Path, files: Sequence[Path], tables: Sequence[Any], column: str, reading: Reading) -> Rows:
    """The pictures of files that are decoded when they are asked for."""
    identity = "\n".join([*map(file_identity, files), column])
    packed = Packed(place, identity, _encoded(files, tables, column))

    def source(i: int) -> Source:
        return f"{i} of {place}", lambda: open_image(io.BytesIO(packed.read(i)))

    return PictureRows(len(packed), source, reading, f"pictures of {place}", place, lambda: identity)


def _encoded(files: Sequence[Path], tables: Sequence[Any], column: str) -> Iterator[bytes]:
    """The encoded pictures of files, one after the other."""
    for file, opened in zip(files, tables, strict=True):
        count = 0
        try:
            for batch in opened.iter_batches(_ROWS, columns=[column]):
                for row in batch.column(0).to_pylist():
                    yield _content(row)
                    count += 1
        except Exception as error:  # of damage, as the library raises it, or of a row
            raise ValueError(
                f"{file} cannot be read after {count} of {opened.metadata.num_rows} rows: {one_line(error)}"
            ) from error


def _decoded(tables: Sequence[Any], files: Sequence[Path], name: str | None, reading: Reading) -> int:
    """Bytes that the pictures of files take in memory, by the first of them."""
    column = _image_column(tables[0].schema_arrow, name, files[0])
    row = next(iter(tables[0].iter_batches(1, columns=[column])), None) if tables[0].metadata.num_rows else None
    if row is None:
        return 0
    head = row.column(0)[0].as_py()
    first = picture(f"0 of {files[0]}", lambda: open_image(io.BytesIO(_content(head))), reading, Counter())
    return first.nbytes * sum(int(opened.metadata.num_rows) for opened in tables)


def image_columns(schema: Any) -> list[str]:
    """Columns of a parquet file that may hold encoded pictures: bytes, or structures that have some."""
    need("reading parquet", "pyarrow")
    import pyarrow as pa

    def holds(kind: Any) -> bool:
        if pa.types.is_struct(kind):
            return any(kind.field(i).name == "bytes" for i in range(kind.num_fields))
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    return [field.name for field in schema if holds(field.type)]


def _parts(place: Path) -> list[list[Path]]:
    """The files to train on, and those to test on, if there are any."""
    if place.is_file():
        return [[place]]
    found = sorted(place.rglob("*.parquet"), key=lambda p: natural_order(p.name)) if place.is_dir() else []
    if not found:
        raise ValueError(f"there is no parquet file {place}" if not place.is_dir() else f"{place} has no parquet files")
    parts = {word: [p for p in found if re.match(word, p.name)] for word in ("train", "test", "val")}
    _check_complete(found)
    if not parts["train"]:
        return [found]
    test = parts["test"] or parts["val"]
    return [parts["train"], test] if test else [parts["train"]]


def _check_complete(files: Sequence[Path]) -> None:
    """Refuse a set of shards train-00000-of-00004, ... of which some are missing.

    Raises:
        ValueError: Such a set; the message names the first that is missing, and counts those there are.
    """
    sets: dict[tuple[str, str], set[int]] = {}
    for file in files:
        if (found := re.match(r"(.*)-(\d+)-of-(\d+)\.", file.name)) is not None:
            sets.setdefault((str(file.parent / found[1]), found[3]), set()).add(int(found[2]))
    for (stem, count), known in sets.items():
        missing = sorted(set(range(int(count))) - known)
        if missing:
            first = f"{stem}-{missing[0]:0{len(count)}}-of-{count}"
            raise ValueError(f"{first} is missing: of {int(count)} shards there are {len(known)}")


def _opened(file: Path) -> Any:
    need("reading parquet", "pyarrow")
    from pyarrow import parquet as pq

    try:
        return pq.ParquetFile(file)
    except Exception as error:  # whatever a damaged file makes the library raise
        raise ValueError(f"{file} cannot be read as parquet: {one_line(error)}") from error


def _unpacked(opened: Any) -> int:
    """Bytes that a file takes unpacked, as it says itself."""
    meta = opened.metadata
    return sum(meta.row_group(i).total_byte_size for i in range(meta.num_row_groups))


def _read(opened: Any, file: Path, columns: list[str]) -> "Table":
    try:
        return opened.read(columns)
    except Exception as error:  # of damage
        raise ValueError(f"{file} cannot be read as parquet: {one_line(error)}") from error


def _image_column(schema: Any, name: str | None, file: Path) -> str:
    found = image_columns(schema)
    if name is None and len(found) == 1:
        return found[0]
    if name in found:
        return str(name)
    if name is not None and name in schema.names:
        raise ValueError(f"column {name!r} of {file} holds {schema.field(name).type}, expected encoded pictures")
    what = f"has no column {name!r}" if name is not None else f"has {len(found)} columns of pictures"
    raise ValueError(f"{file} {what}; available: {listed(schema.names)}: say which by image_column=NAME")


def _open(column: Any, i: int) -> "Image":
    row = column[i].as_py()
    path = row.get("path") if isinstance(row, dict) else None
    return open_image(io.BytesIO(_content(row)), PurePosixPath(path or "").suffix)


def _content(row: Any) -> bytes:
    """The encoded picture of a row.

    Raises:
        ValueError: A row without one.
    """
    path = row.get("path") if isinstance(row, dict) else None
    content: bytes | None = row.get("bytes") if isinstance(row, dict) else row
    if content is None and path:
        raise ValueError(f"the row holds no picture but a path, {path!r}, which is not opened: store the bytes")
    if content is None:
        raise ValueError("the row is empty")
    return content


def _labels(column: Any, name: str, file: Path) -> np.ndarray:
    where = f"labels in column {name!r} of {file}"
    values = column.to_pylist()
    kinds = {type(v) for v in values}
    if len(kinds) != 1 or not kinds <= {int, str}:
        missing = sum(v is None for v in values)
        raise ValueError(f"{where} must be integers or strings" + (f", {missing} are missing" if missing else ""))
    return as_labels(np.array(values), len(values), where)


def _declared_names(schema: Any, label: str | None, file: Path) -> tuple[str, ...] | None:
    """Names of the classes that the library of Hugging Face has noted in the file."""
    note = (schema.metadata or {}).get(b"huggingface") if label is not None else None
    if note is None:
        return None
    try:
        features = parse_json(note, file)["info"]["features"]
        names = features[label].get("names")
    except (DamagedFile, KeyError, TypeError, AttributeError):
        return None
    return tuple(map(str, names)) if isinstance(names, list) else None
