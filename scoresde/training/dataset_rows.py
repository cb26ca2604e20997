"""The samples of a map-style data set of torch, read when they are asked for."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scoresde.data.rows import Rows, UnreadableData

__all__ = ["DatasetRows"]


class DatasetRows(Rows):
    """The samples of a data set whose items are x or (x, label); called from several threads.

    An item must be the same whenever it is read: what a data set draws at random is not a function of the seed and the
    step.

    Args:
        dataset: The data set, with a length.
        samples: Makes samples `(n, *shape)` of n items.

    Raises:
        ValueError: A first item that cannot be read, or is no sample.
    """

    def __init__(self, dataset: Any, samples: Callable[[list[Any]], Tensor]) -> None:
        self._dataset, self._samples = dataset, samples
        first = samples([dataset[0]])
        super().__init__((len(dataset), *first.shape[1:]), first.dtype, f"items of a {type(dataset).__name__}")

    def read(self, indices: np.ndarray) -> Tensor:
        items = []
        for index in indices.tolist():
            try:
                items.append(self._dataset[index])
            except Exception as error:  # whatever a data set of the user raises
                text = " ".join(str(error).split())[:300]
                raise UnreadableData(
                    f"item {index} of {len(self)} of data cannot be read: {type(error).__name__}: {text}"
                ) from error
        if not items:
            return torch.empty((0, *self.shape[1:]), dtype=self.dtype)
        try:
            made = self._samples(items)
        except ValueError as error:
            raise UnreadableData(f"items {_shown(indices)} of data: {error}") from error
        if made.shape[1:] != self.shape[1:] or made.dtype != self.dtype:
            raise UnreadableData(
                f"items {_shown(indices)} of data are {tuple(made.shape[1:])} of {made.dtype}, and the first is "
                f"{tuple(self.shape[1:])} of {self.dtype}"
            )
        return made


def _shown(indices: np.ndarray) -> str:
    few = ", ".join(map(str, indices[:3].tolist()))
    return few + (", ..." if len(indices) > 3 else "")
