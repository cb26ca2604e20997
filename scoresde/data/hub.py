"""Pictures read by the Hugging Face `datasets` library: hub names, local parquet files, image folders."""

import io
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from scoresde.data.assembling import assembled, discrete
from scoresde.data.base import Data
from scoresde.data.conditions import vector_of
from scoresde.data.hub_errors import explained
from scoresde.data.images import Fit, Frames, Reading, Resample, Source, images_to_tensor, open_image
from scoresde.data.labels import index_classes, listed
from scoresde.data.lazy_arrays import file_identity
from scoresde.data.picture_rows import PictureRows, pictures_stay
from scoresde.data.rows import InMemory, Values

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["huggingface"]


def huggingface(
    path: str,
    image_column: str = "image",
    label_column: str | None = None,
    split_train: str = "train",
    split_test: str | None = None,
    test_size: int | float = 0.1,
    size: int | Sequence[int] | None = None,
    channels: int = 3,
    seed: int = 0,
    resample: Resample = "lanczos",
    config: str | None = None,
    data_files: str | Sequence[str] | Mapping[str, Any] | None = None,
    data_dir: str | None = None,
    revision: str | None = None,
    cache_dir: str | None = None,
    fit: Fit = "crop",
    background: str | None = None,
    bits: int | None = None,
    frames: Frames = "first",
    condition_columns: Sequence[str] | None = None,
    in_memory: InMemory = "auto",
) -> Data:
    """Pictures from `datasets.load_dataset`, as 8-bit values `(C, H, W)`, 256 levels.

    Local data: `path="parquet"` with `data_files`, or `path="imagefolder"` with `data_dir`. Tables must hold the
    pictures themselves: a row that names a file elsewhere is refused, since it may come from a stranger.

    Args:
        path: Name on the hub, or one of the library's file formats.
        image_column: Column of pictures: an image feature, or encoded bytes.
        label_column: Column of classes, integers or strings; None for no labels. The order of classes is that of the
            column's own list if it has one, else that of the integers, or natural order.
        split_train: Split to train on.
        split_test: Split to test on; None takes `test_size` samples out of the training split.
        test_size: Test samples, as a count (int) or a fraction (float).
        size: Side, or height and width, to which every picture is resized; None if all have one size already.
        channels: 3 for RGB, 1 for grey; 4 or 2 with opacity.
        seed: Of the random split.
        resample: Filter used for resizing, "lanczos" or "box".
        config: Name of the data set's configuration, where it has several.
        data_files: Files to read: one, several, or several for each split.
        data_dir: Folder to read.
        revision: Branch, tag or commit on the hub.
        cache_dir: Where the library keeps its files; None for its default.
        fit: "crop" to cut out the middle before resizing, or "stretch".
        background: Colour that transparent pictures are put on; None drops transparency if `channels` has none.
        bits: Bits of a channel, 8 or 16; None: 8, and grey pictures of more are refused.
        frames: "first" or "refuse", for animations.
        condition_columns: Columns of numbers that make the `vector` of a row, its condition.
        in_memory: Whether pictures are decoded at once and held in memory, or decoded when they are asked for, from the
            library's files, which it maps into memory.

    Raises:
        ImportError: `datasets` is not installed.
        ValueError: A data set or column that is not there, a picture that cannot be read, sizes that differ
            while `size` is None, more than the limits, or labels that are neither integers nor strings.
    """
    load = _loader(path, config, data_files, data_dir, revision, cache_dir)
    reading = Reading(size, channels, resample, fit, background, bits, frames)
    folders = [*_folders(path, data_files, data_dir), *_caches(cache_dir)]

    given = [str(name) for name in condition_columns or ()]
    if len(set(given)) < len(given) or set(given) & {image_column, label_column}:
        raise ValueError(
            f"condition_columns is {given}, expected different names, without those of pictures and labels"
        )
    values: list[Values] = []
    targets: list[np.ndarray] = []
    declared: list[tuple[str, ...] | None] = []
    conditions: list[dict[str, Tensor]] = []
    for split in (split_train, split_test):
        if split is None:
            continue
        dataset, where = load(split), f"split {split!r} of {path}"
        for column in (image_column, *given):
            _need_column(dataset, column, where)
        if given:
            conditions.append({"vector": vector_of({name: dataset[name][:] for name in given}, where)})
        if label_column is not None:
            labels, names = _labels(dataset, label_column, where)
            targets.append(labels)
            declared.append(names)
        values.append(_values(dataset, _sources(dataset, image_column, where, folders), where, reading, in_memory))
    indices, class_names = _classes(targets, declared, path)
    name, transform = f"{path}/{config}" if config else path, discrete(reading.levels)
    return assembled(name, values, indices, class_names, transform, test_size, seed, conditions=conditions)


def _values(dataset: "Dataset", sources: Sequence[Source], where: str, reading: Reading, in_memory: InMemory) -> Values:
    """The pictures of a split, in memory or decoded when they are asked for."""
    source = sources.__getitem__
    if not pictures_stay(in_memory, len(sources), source, reading):
        return images_to_tensor(sources, reading)
    files = [Path(file["filename"]) for file in dataset.cache_files]
    fingerprint = dataset._fingerprint
    identity = (lambda: "\n".join([fingerprint, *map(file_identity, files)])) if files else None
    return PictureRows(len(sources), source, reading, where, files[0] if files else None, identity)


def _loader(
    path: str, config: str | None, data_files: Any, data_dir: str | None, revision: str | None, cache_dir: str | None
) -> Callable[[str], "Dataset"]:
    """A function that loads a split by its name."""
    try:
        import datasets
    except ImportError as error:
        raise ImportError("huggingface needs the package datasets: pip install scoresde[huggingface]") from error
    if path in ("pandas", "sql", "spark", "generator"):
        # Readers that unpickle or run what they read; a configuration may come from a stranger.
        raise ValueError(f"path is {path!r}, a reader that can run code: use parquet, imagefolder, json or a name")

    def load(split: str) -> "Dataset":
        try:
            # A split by name is a map-style Dataset, whatever the data set's type.
            return datasets.load_dataset(
                path,
                name=config,
                split=split,
                data_files=_builtin(data_files),
                data_dir=data_dir,
                revision=revision,
                cache_dir=cache_dir,
            )
        except Exception as error:  # of the library, of the files, and of whatever lies between here and the hub
            raise ValueError(f"cannot load split {split!r} of data set {path!r}: {explained(error, path)}") from error

    return load


def _folders(path: str, data_files: Any, data_dir: str | None) -> list[str]:
    """Folders whose pictures the user has named, so that rows may be paths into them."""
    if path != "imagefolder":
        return []
    named = [data_dir] if data_dir is not None else []
    pending = [data_files]
    while pending:
        value = pending.pop()
        if isinstance(value, Mapping):
            pending += value.values()
        elif isinstance(value, str):
            place = Path(value)
            while "*" in str(place) or "[" in str(place):
                place = place.parent
            named.append(str(place if place.is_dir() else place.parent))
        elif isinstance(value, Sequence):
            pending += value
    return named


def _caches(cache_dir: str | None) -> list[str]:
    """Folders that the library downloads and extracts into."""
    import datasets
    from huggingface_hub import constants

    places = (cache_dir, datasets.config.HF_DATASETS_CACHE, constants.HF_HUB_CACHE)
    return [str(place) for place in places if place is not None]


def _sources(dataset: "Dataset", column: str, where: str, folders: Sequence[str]) -> list[tuple[str, Any]]:
    """A name and a function that opens it for each picture, as `images_to_tensor` takes them."""
    import datasets

    feature = dataset.features[column]
    if not isinstance(feature, datasets.Image):
        # Text is refused: it would be opened as a path, and the file may come from a stranger.
        encoded = (isinstance(feature, dict) and "bytes" in feature) or getattr(feature, "dtype", "") in (
            "binary",
            "large_binary",
        )
        if not encoded:
            raise ValueError(f"column {column!r} of {where} holds {feature}, expected images or encoded bytes")
    # A table holds its pictures; a folder of them is read as a table of paths, into it or into a copy of it.
    folders = folders if getattr(dataset.info, "builder_name", None) == "imagefolder" else ()
    # The library would open any format, any file and any address that a row names.
    dataset = dataset.cast_column(column, datasets.Image(decode=False)).select_columns([column])

    def open_row(i: int) -> Any:
        row = dataset[i][column]
        if row is None or (row["bytes"] is None and not row["path"]):
            raise ValueError("the row is empty")
        suffix = Path(row["path"] or "").suffix
        if row["bytes"] is not None:
            return open_image(io.BytesIO(row["bytes"]), suffix)
        # Links in a folder of the user's own lead where they please; ".." does not.
        file = os.path.abspath(row["path"])
        if not any(Path(file).is_relative_to(os.path.abspath(folder)) for folder in folders):
            raise ValueError(
                f"the row holds no picture but a path, {row['path']!r}: store the bytes, or use path=imagefolder with "
                "data_dir"
            )
        return open_image(Path(file), suffix)

    return [(f"{i} of {where}", partial(open_row, i)) for i in range(len(dataset))]


def _labels(dataset: "Dataset", column: str, where: str) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """The labels as they are, and the names of the classes if the column declares them."""
    import datasets

    _need_column(dataset, column, where)
    feature = dataset.features[column]
    values = dataset[column][:]
    kinds = {type(v) for v in values}
    if len(kinds) != 1 or not kinds <= {int, str}:
        raise ValueError(f"labels in column {column!r} of {where} must be integers or strings, got {feature}")
    names = tuple(feature.names) if isinstance(feature, datasets.ClassLabel) else None
    if names is not None and min(values) < 0:
        raise ValueError(f"labels in column {column!r} of {where} are -1 in places: those samples have no class")
    return np.array(values), names


def _classes(
    labels: Sequence[np.ndarray], names: Sequence[tuple[str, ...] | None], path: str
) -> tuple[list[Tensor], tuple[str, ...] | None]:
    """Indices of the classes in each split, and their names; nothing without labels."""
    if not labels:
        return [], None
    if len(set(names)) > 1:
        given = "; ".join("none declared" if n is None else listed(n) for n in names)
        raise ValueError(f"the splits of {path} have different classes: {given}")
    if names[0] is None:
        return index_classes(*labels)
    return [torch.from_numpy(y.astype(np.int64)) for y in labels], names[0]


def _need_column(dataset: "Dataset", column: str, where: str) -> None:
    if column not in dataset.column_names:
        raise ValueError(f"{where} has no column {column!r}; available: {', '.join(dataset.column_names)}")


def _builtin(value: Any) -> Any:
    """`value` in plain dicts and lists: all that `load_dataset` takes, where configurations bring others."""
    if isinstance(value, Mapping):
        return {str(k): _builtin(v) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_builtin(v) for v in value]
    return value
