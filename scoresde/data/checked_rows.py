"""Samples that are compared with what a transform takes whenever they are read."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scoresde.data.rows import Rows, UnreadableData
from scoresde.data.transforms import Transform

__all__ = ["CheckedRows"]


class CheckedRows(Rows):
    """Samples in the type that `Data` keeps them in, of which every part is checked as it is read.

    Args:
        rows: The samples.
        transform: The transform whose values they must be.
        where: What they are, for messages.
    """

    def __init__(self, rows: Rows, transform: Transform, where: str) -> None:
        inner: Rows = rows.rows if isinstance(rows, CheckedRows) else rows
        levels = transform.levels
        dtype = inner.dtype if levels is None else torch.uint8 if levels <= 256 else torch.int32
        super().__init__(tuple(inner.shape), dtype, inner.where)
        self.rows: Rows = inner
        self.transform, self._name = transform, where

    def read(self, indices: np.ndarray) -> Tensor:
        values = self.rows.read(indices)
        try:
            self.transform.check(values)
        except ValueError as error:
            raise UnreadableData(f"{self._name}: {error}") from error
        return values.to(self.dtype)

    def select(self, indices: Tensor) -> Rows:
        return CheckedRows(self.rows.select(indices), self.transform, self._name)

    @property
    def identity(self) -> str | None:
        own = self.rows.identity
        return None if own is None else f"{own} {self.dtype}"

    @property
    def place(self) -> Path | None:
        return self.rows.place
