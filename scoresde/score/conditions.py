"""Conditions of a batch, such as class labels: how they are given, checked, and divided with the batch."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scoresde.arguments import as_tensor, shown
from scoresde.data.info import DataInfo
from scoresde.data.labels import class_index

__all__ = ["Conditions", "as_conditions"]


_AXES = {"vector": 1, "tokens": 2, "mask": 1, "image": 0}
"""Dimensions of the conditions of one sample by name; an image has those of the sample."""


class Conditions(Mapping[str, Any]):
    """The conditions of a batch: values by name, as `model.noise(x, t, **conditions)` takes them.

    A tensor with a dimension has one entry for each sample. Any other value holds for all samples.

    >>> batch = Conditions.of({"labels": [0, 1, 2], "scale": 1.5}, count=3)
    >>> dict(batch.rows(1, 3))
    {'labels': tensor([1, 2]), 'scale': 1.5}
    >>> batch.repeat(2)["labels"].tolist(), batch.repeat(2, each=True)["labels"].tolist()
    ([0, 1, 2, 0, 1, 2], [0, 0, 1, 1, 2, 2])

    Args:
        values: The values as a model takes them; `Conditions.of` converts and checks what a user gives.
        count: Number of samples.
    """

    def __init__(self, values: Mapping[str, Any], count: int) -> None:
        self._values = dict(values)
        self.count = count

    @classmethod
    def of(
        cls,
        values: Mapping[str, Any],
        count: int,
        device: torch.device | str = "cpu",
        info: DataInfo | None = None,
        shape: Sequence[int] | None = None,
    ) -> "Conditions":
        """Conditions from keyword arguments; args and errors are those of `as_conditions`."""
        return cls(as_conditions(dict(values), count, torch.device(device), info, shape), count)

    @classmethod
    def in_turn(cls, values: Mapping[str, Any], rows: Tensor) -> "Conditions":
        """The conditions of samples `rows` `(b,)`, of which sample i has the entry i mod n of a tensor of n entries.

        >>> Conditions.in_turn({"labels": torch.tensor([3, 5])}, torch.arange(3))["labels"].tolist()
        [3, 5, 3]
        """
        found = {k: _entries(v, rows % len(v) if isinstance(v, Tensor) and v.ndim else rows) for k, v in values.items()}
        return cls(found, len(rows))

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Conditions({', '.join(f'{k}={shown(v)}' for k, v in self.items())}; {self.count} samples)"

    def rows(self, start: int, stop: int) -> "Conditions":
        """The conditions of the samples from `start` up to `stop`."""
        return self.select(slice(start, stop))

    def select(self, rows: Tensor | slice) -> "Conditions":
        """The conditions of some samples.

        Args:
            rows: Indices `(b,)` in the batch, which may repeat, on any device; or a slice.
        """
        count = len(range(self.count)[rows]) if isinstance(rows, slice) else len(rows)
        return Conditions({name: _entries(value, rows) for name, value in self.items()}, count)

    def repeat(self, times: int, each: bool = False) -> "Conditions":
        """The conditions of a repeated batch: repeated as a whole, or each sample in turn if `each`."""
        rows = torch.arange(self.count)
        return self.select(rows.repeat_interleave(times) if each else rows.repeat(times))


def _entries(value: Any, rows: Tensor | slice) -> Any:
    if not isinstance(value, Tensor) or value.ndim == 0:
        return value
    return value[rows] if isinstance(rows, slice) else value[rows.to(value.device)]


def as_conditions(
    cond: dict[str, Any],
    count: int,
    device: torch.device,
    info: DataInfo | None = None,
    shape: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Conditions with NumPy arrays and lists of numbers as tensors on `device`, integers as int64; others as they are.

    Args:
        cond: The values by name. `labels` may also be a single class, then that of all samples, and names of classes; a
            `vector`, `tokens` with a `mask` and an `image` may be those of one sample, then of all.
        count: Number of samples.
        device: Device of the tensors that are made.
        info: Facts about the data, with the names of the classes.
        shape: Shape of a sample, which tells an image of one sample from those of several; None if not known.

    Raises:
        ValueError: A tensor without one entry for each of `count` samples, or labels that are not among the classes.
    """
    converted = {}
    for name, value in cond.items():
        if name == "labels":
            value = _as_labels(value, count, device, info)
        if name in _AXES and isinstance(value, list | tuple):
            value = as_tensor(name, value).to(torch.bool if name == "mask" else torch.get_default_dtype())
        if isinstance(value, np.ndarray | list):
            array = np.asarray(value, dtype=None if _regular(value) else object)
            if array.dtype.kind in "iu":
                value = torch.from_numpy(array.astype(np.int64)).to(device)
            elif array.dtype.kind in "bf":
                value = torch.from_numpy(array.copy()).to(device)
                value = value.to(torch.get_default_dtype()) if value.is_floating_point() else value
        if isinstance(value, Tensor) and name in _AXES:
            value = _of_all(name, value.to(device), count, _AXES[name] or len(shape or ()))
        if isinstance(value, Tensor) and value.ndim and len(value) != count:
            raise ValueError(f"{name} has {len(value)} entries, expected one for each of the {count} samples")
        converted[name] = value
    return converted


def _of_all(name: str, value: Tensor, count: int, axes: int) -> Tensor:
    """A condition `(count, ...)` from one with a row for each sample, or from that of all, with a row or without.

    Args:
        name: Its name, for messages.
        value: The condition.
        count: Number of samples.
        axes: Dimensions of the condition of one sample; 0 if not known.
    """
    if value.is_floating_point() and value.device.type == "cpu" and not bool(value.isfinite().all()):
        raise ValueError(f"{name} has values that are NaN or infinite, expected finite ones")
    if axes and value.ndim == axes:
        return value.expand(count, *value.shape)
    return value.expand(count, *value.shape[1:]) if axes and value.ndim == axes + 1 and len(value) == 1 else value


def _as_labels(labels: Any, count: int, device: torch.device, info: DataInfo | None) -> Any:
    """Class indices `(count,)` int64 from names, indices or one class for all; anything else as it is."""
    if isinstance(labels, list | tuple) and labels and all(isinstance(v, str) for v in labels):
        labels = np.asarray(labels)
    if isinstance(labels, str) or (isinstance(labels, np.ndarray) and labels.dtype.kind in "US"):
        if info is None or info.class_names is None:
            raise ValueError(
                f"labels are {shown(labels)}, and the model knows no names of classes: give indices from 0"
            )
        indices = [class_index(str(v), info.class_names) for v in np.ravel(labels)]
        labels = indices[0] if isinstance(labels, str) else np.asarray(indices).reshape(labels.shape)
    integer = isinstance(labels, Tensor) and not (labels.is_floating_point() or labels.dtype == torch.bool)
    if (isinstance(labels, int | np.integer) and not isinstance(labels, bool)) or (integer and labels.ndim == 0):
        labels = torch.full((count,), int(labels), dtype=torch.int64, device=device)
    elif integer:
        labels = labels.to(device, torch.int64)
    elif isinstance(labels, list | tuple | np.ndarray) and _regular(labels):
        array = np.asarray(labels)
        labels = torch.from_numpy(array.astype(np.int64)).to(device) if array.dtype.kind in "iu" else array
    known = None if info is None else info.num_classes
    if known is not None and isinstance(labels, Tensor) and labels.device.type == "cpu" and labels.ndim == 1:
        wrong = labels[(labels < 0) | (labels >= known)]
        if len(wrong):
            raise ValueError(f"labels hold {wrong[0].item()}, expected 0 to {known - 1}")
    return labels


def _regular(value: Any) -> bool:
    """True for an array, and for a list that NumPy makes an array of numbers of."""
    return isinstance(value, np.ndarray) or all(isinstance(v, int | float | np.number | np.ndarray) for v in value)
