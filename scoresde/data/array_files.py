"""Files of named arrays: what each array is called and how large it is, before anything of it is read."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scoresde.data.labels import listed
from scoresde.data.lazy_arrays import LazyArray
from scoresde.storage.limits import check_memory, memory_limit

__all__ = ["ArrayFile", "Header", "one_line", "read_arrays"]


@dataclass(frozen=True)
class Header:
    """Shape and type of an array that was not read yet.

    Args:
        shape: The shape.
        dtype: The type, of kind "O" for what is no array of numbers or text.
    """

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def size(self) -> int:
        """Bytes that the array takes in memory."""
        return math.prod(self.shape) * self.dtype.itemsize


class ArrayFile(ABC):
    """A file, or a folder, of named arrays.

    Args:
        path: The file.
    """

    single = False
    """Whether the file holds one array, which has no name of its own."""
    samples_last = False
    """Whether the last axis of an array may be that of the samples, as in MATLAB."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def names(self) -> list[str]:
        """Names of the arrays, in the order of the file."""

    @abstractmethod
    def header(self, name: str) -> Header:
        """Shape and type of one array.

        Raises:
            ValueError: A damaged array, or one of objects.
        """

    @abstractmethod
    def read(self, name: str) -> np.ndarray:
        """One array.

        Raises:
            ValueError: A damaged array, or one of objects.
        """

    def mapped(self, name: str) -> np.ndarray | None:
        """One array as a view of the file, of which the operating system reads what is used; None if there is none."""
        return None

    def lazy(self, name: str) -> LazyArray | None:
        """One array of which rows are read when they are asked for; None if the format does not allow that.

        Raises:
            ValueError: A damaged array.
        """
        return None

    def where(self, name: str) -> str:
        """The array, for messages."""
        return f"the array of {self.path}" if self.single else f"array {name!r} of {self.path}"

    def refusal(self, name: str) -> ValueError:
        """The error for an array that is damaged or holds objects."""
        return ValueError(
            f"{self.where(name)} is damaged or holds objects, which are not read: save it as an array of numbers"
        )


def read_arrays(file: ArrayFile, names: Sequence[str], views: bool = True) -> list[np.ndarray]:
    """The arrays of these names.

    Args:
        file: The file.
        names: Names of arrays.
        views: Whether an array that takes more than the limit of memory is a view of its file, where the format allows
            that.

    Raises:
        ValueError: An array that is not there, damaged, or not of numbers or text, or arrays that together take more
            than `scoresde.storage.limits` allows: what they declare is added up before anything is read.
    """
    known, total = file.names(), 0
    mapped: dict[str, np.ndarray] = {}
    for name in names:
        if name not in known:
            raise ValueError(f"{file.path} has no array {name!r}; available: {listed(known) or 'none'}")
        header = file.header(name)
        if header.dtype.kind == "O":
            raise file.refusal(name)
        if views and header.size > memory_limit() and (view := file.mapped(name)) is not None:
            mapped[name] = view
            continue
        total += header.size
        check_memory(total, file.where(name))
    return [mapped[name] if name in mapped else file.read(name) for name in names]


def one_line(error: BaseException) -> str:
    """The message of another library's error, in one line that is not too long."""
    return " ".join(str(error).split())[:300] or type(error).__name__
