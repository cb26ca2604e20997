"""Samples that are read when they are asked for, with the few members of a tensor that the rest of the package uses.

The samples of a `Data` are a tensor in memory, or `Rows`: a length, a shape and a type, and a function that reads the
samples of some indices. Both give the same values to the bit, so that it is a question of memory and time alone which
of them a run is trained on.
"""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, TypeGuard

import numpy as np
import torch
from torch import Tensor

from scoresde.storage.limits import check_memory, memory_limit

__all__ = ["InMemory", "Rows", "Selected", "UnreadableData", "Values", "blocks", "is_lazy", "reads_lazily", "taken"]

InMemory = Literal["auto"] | bool
"""Whether samples are held in memory; "auto": if they take at most the limit `SCORESDE_MEMORY`."""


class UnreadableData(ValueError):
    """Samples that could be read before, or should be there, cannot be read: a file that is cut off, say."""


class Rows(ABC):
    """Samples `(N, *shape)` that are read when they are asked for.

    A subclass reads samples by their indices, in any order, from several threads at once. Slices, indices and masks
    give tensors in memory; `select` and `split` do not read more than is asked of them.

    Args:
        shape: N, and the shape of a sample.
        dtype: Type of the tensors that are read.
        where: What they are, for messages.
    """

    device = torch.device("cpu")

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, where: str) -> None:
        self.shape, self.dtype, self.where = torch.Size(shape), dtype, where

    @abstractmethod
    def read(self, indices: np.ndarray) -> Tensor:
        """The samples of some indices, `(n, *shape)`, in their order, as a tensor of its own.

        Args:
            indices: `(n,)` int64 in 0 .. N-1.

        Raises:
            UnreadableData: They cannot be read; the message names the file and the sample.
        """

    @property
    def identity(self) -> str | None:
        """What the samples are, told without reading them: files with sizes and times, and how these are read.

        None where that is not known. The same text stands for the same samples.
        """
        return None

    @property
    def place(self) -> Path | None:
        """The file or folder that they are read from, beside which results about them may be kept."""
        return None

    @property
    def ndim(self) -> int:
        """Number of axes, with that of the samples."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes that all of them take in memory."""
        return self.numel() * self.dtype.itemsize

    def numel(self) -> int:
        """Number of values of all samples together."""
        return math.prod(self.shape)

    def is_floating_point(self) -> bool:
        """Whether values are floating point."""
        return self.dtype.is_floating_point

    def is_complex(self) -> bool:
        """Whether values are complex."""
        return self.dtype.is_complex

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int | slice | Tensor | np.ndarray) -> Tensor:
        """Samples in memory: one by its index, several by a slice, by indices or by a mask.

        Raises:
            IndexError: An index that no sample has.
            ValueError: More than the limit of memory.
            UnreadableData: As for `read`.
        """
        if isinstance(index, int | np.integer):
            return self.read(self._indices(np.array([index])))[0]
        chosen = self._indices(np.arange(len(self))[index] if isinstance(index, slice) else np.asarray(index))
        check_memory(len(chosen) * math.prod(self.shape[1:]) * self.dtype.itemsize, f"{len(chosen)} of {self.where}")
        return self.read(chosen)

    def _indices(self, given: np.ndarray) -> np.ndarray:
        chosen = given.nonzero()[0] if given.dtype == np.bool_ else given.astype(np.int64)
        count = len(self)
        if chosen.size and not -count <= int(chosen.min()) <= int(chosen.max()) < count:
            raise IndexError(f"index {int(chosen.max())} is out of range for {self.where}, which are {count}")
        return np.where(chosen < 0, chosen + count, chosen)

    def split(self, size: int) -> Iterator[Tensor]:
        """All samples, so many at a time."""
        for start in range(0, len(self), size):
            yield self.read(np.arange(start, min(start + size, len(self))))

    def select(self, indices: Tensor) -> "Rows":
        """Some of the samples, which are still read when they are asked for."""
        return Selected(self, self._indices(indices.numpy()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.where}, shape {tuple(self.shape)}, {self.dtype})"


Values = Rows | Tensor
"""Samples `(N, *shape)`, in memory or not."""


class Selected(Rows):
    """Some of the samples of others.

    Args:
        rows: These others.
        indices: `(n,)` indices.
    """

    def __init__(self, rows: Rows, indices: np.ndarray) -> None:
        self.rows: Rows = rows
        self.indices = indices
        if isinstance(rows, Selected):
            self.rows, self.indices = rows.rows, rows.indices[indices]
        super().__init__((len(indices), *rows.shape[1:]), rows.dtype, rows.where)

    def read(self, indices: np.ndarray) -> Tensor:
        return self.rows.read(self.indices[indices])

    @property
    def identity(self) -> str | None:
        own = self.rows.identity
        return None if own is None else f"{own} {hashlib.sha256(self.indices.tobytes()).hexdigest()}"

    @property
    def place(self) -> Path | None:
        return self.rows.place


def is_lazy(values: Values) -> TypeGuard[Rows]:
    """Whether samples are read when they are asked for."""
    return isinstance(values, Rows)


def reads_lazily(in_memory: InMemory, size: float) -> bool:
    """Whether samples that take so many bytes are to be read when they are asked for.

    Raises:
        ValueError: A choice that there is not.
    """
    if in_memory not in ("auto", True, False):
        raise ValueError(f"in_memory is {in_memory!r}, expected auto, true or false")
    return size > memory_limit() if in_memory == "auto" else not in_memory


def blocks(values: Values, size: int) -> Iterator[Tensor]:
    """All samples in their order, so many at a time."""
    yield from torch.split(values, size) if isinstance(values, Tensor) else values.split(size)


def taken(values: Values, indices: Tensor) -> Values:
    """The samples of some indices, or of a mask: in memory if the others are."""
    return values[indices] if isinstance(values, Tensor) else values.select(indices)
