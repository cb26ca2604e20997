"""From the arrays of a file to a data set: the kind of their values, their labels, and the part to test on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from scoresde.arguments import as_tensor
from scoresde.data.affine import Standardisation, continuous, transform_from_plain
from scoresde.data.base import Data, check_seed, split_indices
from scoresde.data.cache import Cache
from scoresde.data.conditions import checked_conditions, of_rows
from scoresde.data.labels import index_classes, listed
from scoresde.data.rows import Rows, Values, is_lazy, taken
from scoresde.data.transforms import Discrete, Transform
from scoresde.storage.limits import check_memory, gib, memory_limit

__all__ = ["Levels", "Split", "array_data", "as_labels", "assembled", "discrete", "fixed", "to_tensor"]

Split = Literal["random", "last"]
"""Which samples are held out: drawn at random, or the last ones, for which nothing is copied."""

_PIXEL_LEVELS = 256  # more are standardised: counts and detector readings fill a part of their range


@dataclass(frozen=True)
class Levels:
    """The kind of the values: integers of so many levels, or continuous; see `scoresde.data.arrays`.

    Raises:
        ValueError: One end of a range, or a range without levels.
    """

    levels: int | None = None
    low: float | None = None
    high: float | None = None
    standardise: Standardisation = "auto"

    def __post_init__(self) -> None:
        if (self.low is None) != (self.high is None):
            raise ValueError(f"low is {self.low} and high is {self.high}: give both ends of the model's range, or none")

    def of(self, x: np.ndarray, where: str) -> "Levels":
        """These settings with the 256 levels of uint8 filled in.

        Raises:
            ValueError: A type that holds no numbers, integers of an unknown number of levels, or options that do not
                fit the type.
        """
        if x.dtype.kind not in "uif":
            raise ValueError(f"{where} has dtype {x.dtype}, expected integers or floating point{_way_out(x.dtype)}")
        levels = self.levels
        if x.dtype.kind in "ui" and levels is None:
            if x.dtype != np.uint8:
                raise ValueError(
                    f"{where} has dtype {x.dtype}: give levels=, the number of values 0..levels-1"
                    f"{_proposed_levels(x)}, or save floating point if the values are measurements"
                )
            levels = 256
        if levels is not None and self.standardise in ("channel", "value"):
            raise ValueError(
                f"standardise={self.standardise} is for continuous values, and the {levels} levels of {where} have one "
                "scale"
            )
        if levels is None and self.low is not None:
            raise ValueError(
                f"low={self.low} and high={self.high} are of discrete data: give levels=, or leave them out"
            )
        return Levels(levels, self.low, self.high, self.standardise)

    def transform(self) -> Callable[[Values], Transform]:
        """The transform as a function of the training data."""
        if self.levels is None:
            return partial(continuous, standardise=self.standardise)
        if self.low is not None and self.high is not None:
            return fixed(Discrete(self.levels, self.low, self.high))
        if self.levels <= _PIXEL_LEVELS or self.standardise == "none":
            return fixed(Discrete(self.levels))
        return partial(Discrete.standardised, levels=self.levels)


def fixed(transform: Transform) -> Callable[[Values], Transform]:
    """A transform that does not depend on the training data."""
    return lambda _: transform


def discrete(levels: int) -> Callable[[Values], Transform]:
    """The transform of pixels of so many levels."""
    return Levels(levels).transform()


def _way_out(dtype: np.dtype) -> str:
    if dtype == np.bool_:
        return ": save it as uint8, x.astype('uint8'), and give levels=2"
    if dtype.kind == "c":
        return ": save the real and the imaginary part as channels, numpy.stack([x.real, x.imag], 1)"
    return ""


def _proposed_levels(x: np.ndarray) -> str:
    """Bits that the values fit in, for a message."""
    if not x.size or x.min() < 0:
        return ""
    bits = max(1, int(x.max()).bit_length())
    return f" (the largest here is {x.max()}: levels={2**bits}, say)" if bits <= 16 else ""


def array_data(
    name: str,
    parts: Sequence[np.ndarray | Rows],
    labels: Sequence[np.ndarray],
    class_names: Sequence[str] | None,
    levels: Levels,
    test_size: int | float,
    seed: int,
    split: Split = "random",
    conditions: Sequence[Mapping[str, np.ndarray]] = (),
) -> Data:
    """A data set of one array that is split, or of a training and a test array.

    Args:
        name: Name of the data set.
        parts: One or two arrays `(N, *shape)` of numbers, or samples that are read when they are asked for.
        labels: Their classes, see `as_labels`, or nothing.
        class_names: Names of the classes 0, 1, ... that labels are indices of; None: labels are names themselves.
        levels: The kind of the values, as `Levels.of` completes it.
        test_size: Test samples of a single array, as a count (int) or a fraction (float).
        seed: Seed of the split.
        split: Which samples of a single array are held out.
        conditions: Conditions of each part by name, or nothing; see `Data`.

    Raises:
        ValueError: Labels that are no indices of `class_names`, or values that fail the checks of `Data`.
    """
    indices: list[Tensor] = []
    names = None
    if labels and class_names is None:
        indices, names = index_classes(*labels)
    elif labels and class_names is not None:
        names = tuple(map(str, class_names))
        for y in labels:
            if y.dtype.kind not in "ui" or (y.size and not 0 <= int(y.min()) <= int(y.max()) < len(names)):
                raise ValueError(
                    f"{name}: labels must be integers 0..{len(names) - 1}, the indices of {listed(names)}, got dtype "
                    f"{y.dtype}{f', {y.min()} to {y.max()}' if y.dtype.kind in 'ui' else ''}"
                )
        indices = [torch.from_numpy(y.astype(np.int64)) for y in labels]
    values = [x if isinstance(x, Rows) else to_tensor(x) for x in parts]
    given = [{key: as_tensor(key, c) for key, c in part.items()} for part in conditions]
    return assembled(name, values, indices, names, levels.transform(), test_size, seed, split, given)


def as_labels(labels: np.ndarray, count: int, where: str) -> np.ndarray:
    """Labels of any usual kind as `(N,)` integers or strings.

    Args:
        labels: `(N,)`, `(N, 1)` or `(1, N)` integers, strings, or floating-point values that are integers; or rows
            `(N, K)` of zeros and a single one.
        count: Number of samples.
        where: Name of the labels, for messages.

    Raises:
        ValueError: Anything else.
    """
    found = labels
    if found.ndim == 2 and 1 in found.shape and found.size == count:
        found = found.reshape(-1)
    elif found.ndim == 2 and len(found) == count and found.dtype.kind in "uifb" and _is_one_hot(found):
        found = found.argmax(1)
    if found.dtype.kind == "b" or (found.dtype.kind == "f" and found.size and _are_integers(found)):
        found = found.astype(np.int64)
    if found.shape != (count,) or found.dtype.kind not in "iuUS":
        raise ValueError(f"{where} must be {count} integers or strings, got shape {labels.shape}, dtype {labels.dtype}")
    return found


def _are_integers(x: np.ndarray) -> bool:
    return bool((np.isfinite(x) & (x == x.round())).all())


def _is_one_hot(x: np.ndarray) -> bool:
    return bool(((x == 0) | (x == 1)).all()) and bool((x.sum(1) == 1).all())


def assembled(
    name: str,
    values: Sequence[Values],
    labels: Sequence[Tensor],
    class_names: tuple[str, ...] | None,
    transform: Callable[[Values], Transform],
    test_size: int | float,
    seed: int,
    split: Split = "random",
    conditions: Sequence[Mapping[str, Tensor]] = (),
) -> Data:
    """The data set of two parts, or of a single one that is split, with the transform of its training part.

    Raises:
        ValueError: A split that cannot be made, or values that fail the checks of `Data`.
    """
    rows = None
    if split not in ("random", "last"):
        raise ValueError(f"split is {split!r}, expected random or last")
    if len(values) == 1:
        whole = values[0]
        check_seed(seed)
        places = split_indices(len(whole), test_size, seed)
        held = checked_conditions(conditions[0], len(whole), name) if conditions else None
        if split == "last":
            count = len(places[0])
            places = (torch.arange(count), torch.arange(count, len(whole)))
            values = [whole[:count], whole[count:]] if isinstance(whole, Tensor) else [taken(whole, i) for i in places]
            labels = [part for y in labels for part in (y[:count], y[count:])]
        else:
            if isinstance(whole, Tensor) and whole.nbytes > memory_limit():  # a view of a file
                raise ValueError(
                    f"{name} takes {gib(whole.nbytes)}, which a random split would copy into memory: give a test array "
                    "of its own (test_key=, test_path=), or split=last to hold out the last samples"
                )
            values, labels = [taken(whole, i) for i in places], [y[i] for y in labels for i in places]
            rows = torch.cat(places)
        conditions = [] if held is None else [of_rows(held, i) or {} for i in places]
    try:
        fitted = _fitted(transform, values[0])
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    return Data(
        name=name,
        train=values[0],
        test=values[1],
        transform=fitted,
        train_labels=labels[0] if labels else None,
        test_labels=labels[1] if labels else None,
        class_names=class_names,
        rows=rows,
        train_conditions=conditions[0] if conditions else None,
        test_conditions=conditions[1] if conditions else None,
    )


def _fitted(transform: Callable[[Values], Transform], values: Values) -> Transform:
    """The transform of training data; of those that are read when they are asked for it is kept beside them."""
    if not is_lazy(values) or not isinstance(transform, partial):  # any other does not look at the data
        return transform(values)
    cache = Cache(values, transform.func.__qualname__, transform.keywords)
    known = cache.value("transform")
    if known is not None:
        try:
            return transform_from_plain(known)
        except ValueError:  # of another version
            pass
    found: Transform = transform(values)
    cache.keep_value("transform", found.to_plain())
    return found


def to_tensor(x: np.ndarray) -> Tensor:
    """A tensor of a type that torch has; it lacks other byte orders, long double and some unsigned integers.

    Raises:
        ValueError: A conversion that takes more than the limit of memory.
    """
    if x.dtype.kind == "f":
        dtype = x.dtype.newbyteorder("=") if x.dtype.itemsize <= 8 else np.dtype(np.float64)
    else:
        dtype = np.dtype(np.uint8) if x.dtype == np.uint8 else np.dtype(np.int64)
    if x.dtype == dtype and x.nbytes > memory_limit():  # a view of a file, which stays one
        return torch.from_numpy(x)
    check_memory(x.size * dtype.itemsize, f"converting an array of shape {x.shape} from {x.dtype} to {dtype}")
    made = np.ascontiguousarray(x, dtype=dtype)
    return torch.from_numpy(made if made.flags.writeable else made.copy())
