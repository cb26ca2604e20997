"""Conditions of a batch, such as class labels: how they are given and checked."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from scoresde.arguments import shown
from scoresde.data.info import DataInfo
from scoresde.data.labels import class_index

__all__ = ["as_conditions"]


def as_conditions(
    cond: dict[str, Any], count: int, device: torch.device, info: DataInfo | None = None
) -> dict[str, Any]:
    """Conditions with NumPy arrays and lists of numbers as tensors on `device`, integers as int64; others as they are.

    `labels` may also be a single class, which all samples are then of, and names of the classes of `info`.

    Raises:
        ValueError: a tensor that has not one entry for each of `count` samples, or labels that are no classes.
    """
    found = {}
    for name, value in cond.items():
        if name == "labels":
            value = _as_labels(value, count, device, info)
        if isinstance(value, np.ndarray | list):
            array = np.asarray(value, dtype=None if _regular(value) else object)
            if array.dtype.kind in "iu":
                value = torch.from_numpy(array.astype(np.int64)).to(device)
            elif array.dtype.kind in "bf":
                value = torch.from_numpy(array.copy()).to(device)
                value = value.to(torch.get_default_dtype()) if value.is_floating_point() else value
        if isinstance(value, Tensor) and value.ndim and len(value) != count:
            raise ValueError(f"{name} has {len(value)} entries, expected one for each of the {count} samples")
        found[name] = value
    return found


def _as_labels(labels: Any, count: int, device: torch.device, info: DataInfo | None) -> Any:
    """Class indices `(count,)` int64 of names and of one class for all; what is no class as it is."""
    if isinstance(labels, list | tuple) and labels and all(isinstance(v, str) for v in labels):
        labels = np.asarray(labels)
    if isinstance(labels, str) or (isinstance(labels, np.ndarray) and labels.dtype.kind in "US"):
        if info is None or info.class_names is None:
            raise ValueError(
                f"labels are {shown(labels)}, and the model knows no names of classes: give indices from 0"
            )
        found = [class_index(str(v), info.class_names) for v in np.ravel(labels)]
        labels = found[0] if isinstance(labels, str) else np.asarray(found).reshape(labels.shape)
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
    """Whether NumPy makes an array of numbers of it."""
    return isinstance(value, np.ndarray) or all(isinstance(v, int | float | np.number | np.ndarray) for v in value)
