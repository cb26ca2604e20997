"""Arrays that stay in their file, of which rows are read by their indices."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scoresde.data.open_files import OpenFile
from scoresde.data.rows import Rows, UnreadableData

__all__ = ["ArrayRows", "LazyArray", "SlicedArray", "StoredArray", "consecutive", "file_identity"]

_SAMPLED = 2**14  # bytes at the beginning, in the middle and at the end of a file that tell it from others


class LazyArray(ABC):
    """An array `(N, *shape)` that stays in its file.

    Args:
        path: The file, or the folder.
        shape: Its shape.
        dtype: Its type.
        where: What it is, for messages.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype, where: str) -> None:
        self.path, self.shape, self.dtype, self.where = path, shape, dtype, where

    @abstractmethod
    def take(self, indices: np.ndarray) -> np.ndarray:
        """The rows of some indices, `(n, *shape)`, in their order.

        Raises:
            UnreadableData: A file that ends before them, or is damaged.
        """

    @property
    def identity(self) -> str:
        """The file, its size and time, and the array in it, told without reading it."""
        return f"{file_identity(self.path)} {self.where.removesuffix(str(self.path))} {self.shape} {self.dtype}"


class StoredArray(LazyArray):
    """An array whose rows lie one after the other in a file, read from there without a map of it.

    A map would count as resident memory once its pages are used, and a file that is cut off under it would end the
    process.

    Args:
        path: The file.
        offset: Place of the first byte in it.
        shape: Its shape.
        dtype: Its type.
        where: What it is, for messages.

    Raises:
        UnreadableData: A file that ends before the array does.
    """

    def __init__(self, path: Path, offset: int, shape: tuple[int, ...], dtype: np.dtype, where: str) -> None:
        super().__init__(path, shape, dtype, where)
        self.offset = offset
        self._each = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
        self._file = OpenFile(path)
        if self._file.size < offset + shape[0] * self._each:
            raise self._cut_off(max(0, (self._file.size - offset) // max(1, self._each)))

    def take(self, indices: np.ndarray) -> np.ndarray:
        found = np.empty((len(indices), self._each), np.uint8)
        for places, first in consecutive(indices):
            count = len(places)
            straight = bool((np.diff(places) == 1).all())
            into = found[places[0] : places[0] + count] if straight else np.empty((count, self._each), np.uint8)
            if self._file.read_into(into, self.offset + first * self._each) < into.nbytes:
                raise self._cut_off(max(0, (self._file.size - self.offset) // max(1, self._each)))
            if not straight:
                found[places] = into
        return found.reshape(-1).view(self.dtype).reshape(len(indices), *self.shape[1:])

    def _cut_off(self, whole: int) -> UnreadableData:
        return UnreadableData(
            f"{self.where} is cut off: {self.path} has {self._file.size} bytes and the whole of {whole} of "
            f"{self.shape[0]} samples; copy it anew"
        )


class SlicedArray(LazyArray):
    """An array of a library that reads slices of it, such as chunked data sets of HDF5 and zarr.

    Args:
        path: The file or folder.
        shape: Its shape.
        dtype: Its type.
        where: What it is, for messages.
        read: Reads the rows from one index to before another.
    """

    def __init__(
        self,
        path: Path,
        shape: tuple[int, ...],
        dtype: np.dtype,
        where: str,
        read: Callable[[int, int], np.ndarray],
    ) -> None:
        super().__init__(path, shape, dtype, where)
        self._read = read

    def take(self, indices: np.ndarray) -> np.ndarray:
        found = np.empty((len(indices), *self.shape[1:]), self.dtype)
        for places, first in consecutive(indices):
            try:
                found[places] = self._read(first, first + len(places))
            except Exception as error:  # of a damaged or missing chunk, as each library raises it
                text = " ".join(str(error).split())[:300]
                raise UnreadableData(
                    f"{self.where} cannot be read at samples {first} to {first + len(places) - 1} of {self.shape[0]}: "
                    f"{text or type(error).__name__}"
                ) from error
        return found


class ArrayRows(Rows):
    """The rows of an array as samples of a type that torch has, with the axes that a model takes.

    Args:
        array: The array.
        shape: Shape of a sample.
        order: `(D,)`, the place in a row of the array of each value of a sample; None: they are in order.
    """

    def __init__(self, array: LazyArray, shape: tuple[int, ...], order: np.ndarray | None = None) -> None:
        kept = array.dtype if array.dtype.itemsize <= 8 else np.dtype(np.float64)
        if array.dtype.kind != "f":
            kept = np.dtype(np.uint8 if array.dtype == np.uint8 else np.int64)
        self._kept = kept.newbyteorder("=")
        dtype = torch.from_numpy(np.empty(0, self._kept)).dtype
        super().__init__((array.shape[0], *shape), dtype, f"samples of {array.where}")
        self.array, self.order = array, order

    def read(self, indices: np.ndarray) -> Tensor:
        values = self.array.take(indices)
        if self.order is not None:
            values = values.reshape(len(indices), -1)[:, self.order]
        return torch.from_numpy(np.ascontiguousarray(values.reshape(len(indices), *self.shape[1:]), self._kept))

    @property
    def identity(self) -> str:
        order = "" if self.order is None else hashlib.sha256(self.order.tobytes()).hexdigest()
        return f"{self.array.identity} {tuple(self.shape)} {order}"

    @property
    def place(self) -> Path:
        return self.array.path


def consecutive(indices: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    """The indices in pieces that lie one after the other in a file: their places in `indices`, and the first index."""
    if not len(indices):
        return
    order = np.argsort(indices, kind="stable")
    ordered = indices[order]
    for places in np.split(order, np.flatnonzero(np.diff(ordered) != 1) + 1):
        yield places, int(indices[places[0]])


def file_identity(path: Path) -> str:
    """A file or folder by its name, size and time, and a sample of a file's content."""
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file() and ".scoresde" not in p.parts)
        told = [f"{p.relative_to(path)} {p.stat().st_size} {p.stat().st_mtime_ns}" for p in files]
        return f"{path.name} {hashlib.sha256(chr(10).join(told).encode()).hexdigest()}"
    known, sampled = path.stat(), hashlib.sha256()
    with path.open("rb") as stream:
        for start in (0, known.st_size // 2, max(0, known.st_size - _SAMPLED)):
            stream.seek(start)
            sampled.update(stream.read(_SAMPLED))
    return f"{path.name} {known.st_size} {known.st_mtime_ns} {sampled.hexdigest()}"
