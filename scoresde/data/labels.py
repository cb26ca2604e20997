"""Class labels of any kind as indices 0 .. K-1, with the names that the data set has for them."""

import re
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from scoresde.arguments import checked

__all__ = ["class_index", "index_classes", "listed", "natural_order"]

_SHOWN = 20  # names in a message


def natural_order(name: str) -> list[tuple[int, str]]:
    """A key to sort names by, class_2 before class_10."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", name)]


def index_classes(*parts: np.ndarray) -> tuple[list[Tensor], tuple[str, ...]]:
    """Indices of the classes in each of `parts`, int64 of the same shape, and the names of the classes.

    Integers count in their order, so that labels 1 .. 10 become indices 0 .. 9 with the names "1" .. "10", and
    0, 100, 200 become 0, 1, 2. Strings count in natural order. The classes are those of all parts together.

    Args:
        parts: Arrays of integers, or arrays of strings.

    Raises:
        ValueError: Labels of another type.
    """
    flat = [_plain(part).ravel() for part in parts]
    if len({values.dtype.kind in "US" for values in flat}) > 1:
        raise ValueError("some labels are integers and others are strings: give all of them in one way")
    found = np.unique(np.concatenate(flat))
    order = sorted(range(len(found)), key=lambda i: natural_order(str(found[i]))) if found.dtype.kind == "U" else None
    places = np.argsort(order) if order is not None else np.arange(len(found))
    names = tuple(str(found[i]) for i in (order if order is not None else range(len(found))))
    indices = [places[np.searchsorted(found, v)].reshape(p.shape) for v, p in zip(flat, parts, strict=True)]
    return [torch.from_numpy(i.astype(np.int64)) for i in indices], names


def _plain(labels: np.ndarray) -> np.ndarray:
    """Labels as int64 or as text."""
    if labels.dtype.kind == "S":
        try:
            return np.char.decode(labels, "utf-8")
        except UnicodeDecodeError as error:
            raise ValueError("labels are bytes that are not UTF-8 text") from error
    if labels.dtype.kind not in "iuU":
        raise ValueError(f"labels have dtype {labels.dtype}, expected integers or strings")
    if labels.dtype.kind == "U":
        return labels
    if labels.size and int(labels.max()) >= 2**63:
        raise ValueError(f"labels must be below 2**63, got {labels.max()}")
    return labels.astype(np.int64)


@checked
def class_index(label: int | str, names: Sequence[str]) -> int:
    """The index of a class that is given by its name, or by its index where no name is an integer.

    Raises:
        ValueError: No such class; the message lists those there are.
    """
    text, classes = str(label), f"one of the classes {listed(names)}"
    if text in names:
        return list(names).index(text)
    if tuple(names) == tuple(map(str, range(len(names)))):
        classes = f"0 to {len(names) - 1}"
    if isinstance(label, bool) or not text.removeprefix("-").isdecimal():
        raise ValueError(f"label is {label!r}, expected {classes}")
    number = int(text)
    numbered = [int(name) if name.isdecimal() else None for name in names]
    if any(n is not None for n in numbered):
        # Classes with numbers for names, such as 1 .. 10 or 001 .. 010: an index would be mistaken for one.
        if numbered.count(number) == 1:
            return numbered.index(number)
        raise ValueError(f"label is {label}, expected {classes}")
    if not 0 <= number < len(names):
        raise ValueError(f"label is {label}, expected 0 to {len(names) - 1}, or {classes}")
    return number


def listed(names: Sequence[str]) -> str:
    """Names for a message, cut short where there are many."""
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
