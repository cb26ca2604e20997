"""Data sets from tables: CSV, TSV and parquet files, of which every row is a sample."""

import csv
import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scoresde.data.affine import Standardisation
from scoresde.data.array_files import one_line
from scoresde.data.assembling import Levels, Split, array_data, as_labels
from scoresde.data.base import Data
from scoresde.data.labels import listed
from scoresde.data.layout import reshaped
from scoresde.data.places import located
from scoresde.data.trees import uncompressed
from scoresde.extras import need
from scoresde.storage.limits import check_memory

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["table"]

_log = logging.getLogger(__name__)

_MANY = 64  # columns of integers 0..255 that are likely to be pixels
_INDEX = ("", "Unnamed: 0", "__index_level_0__")  # what pandas calls the column of row names that it has written


def table(
    path: str,
    columns: Sequence[str] | None = None,
    label_column: str | None = None,
    test_path: str | None = None,
    test_size: int | float = 0.1,
    seed: int = 0,
    split: Split = "random",
    separator: str | None = None,
    levels: int | None = None,
    low: float | None = None,
    high: float | None = None,
    standardise: Standardisation = "auto",
    shape: Sequence[int] | None = None,
    condition_columns: Sequence[str] | None = None,
) -> Data:
    """The numbers of a table, a sample a row: `(N, columns)`, continuous and standardised unless `levels` is given.

    Args:
        path: A file .csv, .tsv, .txt or .data, which may be gzipped, or .parquet.
        columns: Names of the columns to use, in this order; None for all but the labels and conditions. Columns of a
            file without a head are called "0", "1", ...
        label_column: Name of the column of classes, integers or strings; None for no labels.
        test_path: A second file of the same columns, which holds the test samples.
        test_size: Test samples, as a count (int) or a fraction (float), where there is no second file.
        seed: Seed of the random split.
        split: Which rows are held out: `"random"`, or `"last"`, the last ones.
        separator: Character between the cells of a row; None: the tab, semicolon, comma or blanks of the first line.
        levels: Number of integer values, 0 .. levels-1; None for measurements.
        low: Lower end of the range of the model that the levels are mapped to.
        high: Upper end of that range.
        standardise: What has a mean and a standard deviation of its own; see `scoresde.data.arrays`.
        shape: Shape of a sample, where the columns of a row are the pixels of a picture.
        condition_columns: Names of the columns that make the `vector` of a row, its condition.

    Raises:
        ValueError: A file or column that is not there, damage, more than the limit of memory, cells that are empty or
            no numbers, or values that fail the checks of `Data`.
    """
    kind = Levels(levels, low, high, standardise)
    files = {"path": path, "test_path": test_path}
    frames = [_read(p, separator, name) for name, p in files.items() if p is not None]
    given = [str(c) for c in condition_columns or ()]
    used = _columns(frames[0], path, columns, label_column, given)
    parts, targets, conditions = [], [], []
    for frame, file in zip(frames, (path, test_path), strict=False):
        missing = [c for c in (*used, *given, *([label_column] if label_column else [])) if c not in frame]
        if missing:
            raise ValueError(f"{file} has no column {missing[0]!r}, which {path} has; available: {listed(list(frame))}")
        parts.append(_numbers(frame, used, str(file), levels))
        if label_column is not None:
            targets.append(_labels(frame, label_column, str(file)))
        if given:
            conditions.append({"vector": _numbers(frame, given, str(file), None)})
    first = parts[0]
    if levels is None and first.shape[1] >= _MANY and _are_pixels(first):
        _log.warning(
            "%s: %d columns of integers 0..255, taken as measurements (data.levels=256 and data.shape=[1,H,W] make "
            "pictures)", path, first.shape[1]
        )  # fmt: skip
    kind = kind.of(first, f"the table {path}")
    shaped = [reshaped(x, shape, f"the table {path}") for x in parts]
    name = Path(path).name.split(".")[0]
    return array_data(name, shaped, targets, None, kind, test_size, seed, split, conditions)


def _read(path: str, separator: str | None, argument: str) -> "DataFrame":
    need("reading tables", "pandas", "pyarrow")
    import pandas as pd

    file = located(path, argument)
    if not file.is_file():
        raise ValueError(f"there is no file {path}")
    with file.open("rb") as stream:
        parquet = stream.read(4) == b"PAR1"
    try:
        if parquet:
            from pyarrow import parquet as pq

            # Unpacked size of the columns, as the file declares it.
            meta = pq.ParquetFile(file).metadata
            check_memory(sum(meta.row_group(i).total_byte_size for i in range(meta.num_row_groups)), path)
            frame = pd.read_parquet(file)
        else:
            content = uncompressed(file)
            check_memory(4 * len(content), path)  # "1," becomes eight bytes
            head = content[: content.find(b"\n") if b"\n" in content else None].decode("utf-8-sig", "replace").strip()
            between = separator or _separator(head)
            cells = head.split() if between == r"\s+" else next(csv.reader([head], delimiter=between), [])
            frame = pd.read_csv(
                io.BytesIO(content),
                sep=between,
                header=None if cells and all(map(_is_number, cells)) else 0,
                skipinitialspace=True,
                low_memory=False,
                encoding="utf-8-sig",
            )
    except ValueError as error:
        if "memory" in str(error):
            raise
        raise ValueError(f"{path} cannot be read as a table: {one_line(error)}") from error
    except Exception as error:  # whatever a damaged file makes these libraries raise
        raise ValueError(f"{path} cannot be read as a table: {one_line(error)}") from error
    frame.columns = [str(name) for name in frame.columns]
    if frame.columns.has_duplicates:
        raise ValueError(f"{path} has several columns {frame.columns[frame.columns.duplicated()][0]!r}: rename them")
    if frame.empty:
        raise ValueError(f"{path} has no rows")
    for name in _INDEX:
        if name in frame and len(frame.columns) > 1 and _counts_rows(frame[name]):
            _log.warning("%s: the first column, which numbers the rows, is left out", path)
            frame = frame.drop(columns=name)
    return frame


def _counts_rows(values: Any) -> bool:
    return values.dtype.kind in "iu" and bool((np.diff(values.to_numpy()) == 1).all())


def _separator(head: str) -> str:
    return next((mark for mark in ("\t", ";", ",") if mark in head), r"\s+")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _columns(
    frame: "DataFrame", path: str, columns: Sequence[str] | None, label_column: str | None, given: Sequence[str]
) -> list[str]:
    known = list(frame)
    used = [c for c in known if c not in (label_column, *given)] if columns is None else [str(c) for c in columns]
    for name in (*used, *given, *([label_column] if label_column is not None else [])):
        if name not in known:
            raise ValueError(f"{path} has no column {name!r}; available: {listed(known)}")
    if not used or len(set(used)) < len(used) or label_column in used:
        raise ValueError(
            f"columns is {list(columns or [])}, expected different names, without that of the labels, of "
            f"{listed(known)}"
        )
    if len(set(given)) < len(given) or set(given) & {*used, label_column}:
        raise ValueError(
            f"condition_columns is {list(given)}, expected different names, without those of samples and labels, of "
            f"{listed(known)}"
        )
    return used


def _numbers(frame: "DataFrame", columns: Sequence[str], path: str, levels: int | None) -> np.ndarray:
    """`(N, columns)` floating-point values, or integers where there are levels."""
    made = []
    for name in columns:
        values = frame[name]
        _refuse_missing(values, name, path)
        dtype: Any = values.dtype
        kind = getattr(dtype, "kind", "O")
        if kind == "O" and type(values.iloc[0]).__name__ == "Decimal":
            values, kind = values.astype(float), "f"
        if kind not in "biuf":
            example = str(values.iloc[0])[:40]
            what = "dates" if kind in "mM" else "text" if isinstance(values.iloc[0], str) else str(dtype)
            raise ValueError(
                f"column {name!r} of {path} holds {what}, such as {example!r}, not numbers: leave it out by "
                f"columns=[...], or make it the label by label_column={name}"
            )
        made.append(values.to_numpy(dtype=np.float32 if str(dtype) in ("float32", "Float32") else np.float64))
    stacked = np.stack(made, axis=1)
    if levels is not None:
        if bool((stacked != np.rint(stacked)).any()):
            raise ValueError(f"levels={levels} is for integers, and {path} has other numbers")
        return stacked.astype(np.int64)
    return stacked


def _labels(frame: "DataFrame", name: str, path: str) -> np.ndarray:
    values = frame[name]
    _refuse_missing(values, name, path)
    if str(values.dtype) in ("category", "string", "object", "str"):
        texts: np.ndarray = values.astype(str).to_numpy(dtype=str)
        return texts
    return as_labels(values.to_numpy(), len(values), f"labels in column {name!r} of {path}")


def _refuse_missing(values: Any, name: str, path: str) -> None:
    missing = values.isna()
    if missing.any():
        row = int(missing.to_numpy().argmax())
        raise ValueError(
            f"column {name!r} of {path} has {int(missing.sum())} missing values, the first in row {row + 1}: leave the "
            "column out by columns=[...], or fill or remove them, as by pandas.read_csv(...).dropna()"
        )


def _are_pixels(x: np.ndarray) -> bool:
    return bool(((x >= 0) & (x <= 255) & (x == np.rint(x))).all())
