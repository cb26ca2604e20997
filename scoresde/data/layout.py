"""The order of an array's axes: samples first, then channels, then those of a picture."""

import logging
import math
from collections.abc import Sequence

import numpy as np

__all__ = ["channels_first", "reshaped", "samples_first"]

_log = logging.getLogger(__name__)


def samples_first(x: np.ndarray, samples_last: bool | None, count: int | None, where: str) -> np.ndarray:
    """A view of an array with the axis of samples first, the others in their order.

    Args:
        x: `(N, *shape)` or `(*shape, N)`.
        samples_last: Which of them. None: the axis that is as long as there are labels; without labels, the last of
            what must be pictures `(H, W, C, N)`, as in MATLAB.
        count: Number of labels, or None.
        where: Name of the array, for messages.

    Raises:
        ValueError: No axis as long as there are labels, or both the first and the last.
    """
    if samples_last is None and x.ndim > 1:
        first, last = x.shape[0], x.shape[-1]
        if count is None:
            samples_last = x.ndim == 4 and x.shape[2] in (1, 3, 4) and min(x.shape[:2]) > 4
        elif first == last == count:
            raise ValueError(
                f"{where} has shape {x.shape} and there are {count} labels: say whether its last axis is that of the "
                "samples, by samples_last=true or false"
            )
        else:
            samples_last = last == count
        if samples_last:
            _log.warning(
                "%s has shape %s: its last axis is taken for that of the samples (data.samples_last=false: the first)",
                where, x.shape
            )  # fmt: skip
    return np.moveaxis(x, -1, 0) if samples_last else x


def reshaped(x: np.ndarray, shape: Sequence[int] | None, where: str) -> np.ndarray:
    """Flat rows `(N, D)` as samples of a shape, in the order of C, whose last axis changes fastest.

    Raises:
        ValueError: A shape that is not of positive integers, or of another number of elements than a row.
    """
    if shape is None:
        if x.ndim == 2 and x.dtype == np.uint8 and (side := _side(x.shape[1])) > 0:
            _log.warning(
                "%s has rows of %d bytes, taken as vectors (data.shape=[3,%d,%d] makes colour pictures of them)",
                where, x.shape[1], side, side
            )  # fmt: skip
        return x
    sizes = tuple(shape)
    if not sizes or not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in sizes):
        raise ValueError(f"shape is {list(shape)}, expected positive integers, such as [3,32,32]")
    if math.prod(x.shape[1:]) != math.prod(sizes):
        raise ValueError(
            f"{where} has samples of {math.prod(x.shape[1:])} values, shape {x.shape[1:]}, which shape={list(shape)} "
            f"({math.prod(sizes)} values) does not hold"
        )
    return x.reshape(len(x), *sizes)


def _side(values: int) -> int:
    """The side of square pictures of three colours with so many values, 0 if there are none of at least 8 × 8."""
    side = math.isqrt(values // 3)
    return side if side >= 8 and 3 * side * side == values else 0


def channels_first(x: np.ndarray, channels_last: bool | None, pictures: bool, where: str) -> np.ndarray:
    """An array with the axis of channels before those of a picture, `(N, C, H, W)`.

    Args:
        x: `(N, *shape)`.
        channels_last: Whether x is `(N, H, W, C)`, or `(N, H, W)`. None: as its shape says, if only one reading
            makes sense, which is then said; arrays of other than 3 or 4 axes stay as they are.
        pictures: Whether values are levels of pixels, so that `(N, H, W)` is pictures of one channel.
        where: What x is, for messages.

    Raises:
        ValueError: x has no such axes, or both readings make sense.
    """
    if channels_last is not None and not isinstance(channels_last, bool):
        raise ValueError(f"channels_last is {channels_last!r}, expected true, false, or null to go by the shape")
    if channels_last and x.ndim not in (3, 4):
        raise ValueError(f"{where}: channels_last needs (N, H, W, C) or (N, H, W), got shape {x.shape}")
    if x.ndim == 4 and channels_last is None:
        channels_last = _is_last(x.shape, where)
    elif x.ndim == 3 and channels_last is None and pictures:
        channels_last = True
        _log.warning(
            "%s has shape %s: taken as pictures of one channel (data.channels_last=false: as it is)", where, x.shape
        )
    if not channels_last:
        return x
    return x[:, None] if x.ndim == 3 else x.transpose(0, 3, 1, 2)


def _is_last(shape: tuple[int, ...], where: str) -> bool:
    """True if the last axis of `(N, a, b, c)` must be that of channels.

    An axis of channels has at most four entries, or is the one beside a square picture. Where that fits the last
    axis alone, the picture must be twice as long and wide at least as there are channels, to be sure.
    """
    a, b, c = shape[1:]
    first = a <= 4 or b == c
    last = a == b > 1 or (b != c <= 4 and min(a, b) >= c)
    if not last:
        return False
    if first or min(a, b) < 2 * c:
        raise ValueError(
            f"{where} has shape {shape}: it may be {a} channels of {b}×{c}, or {c} channels of {a}×{b}; say which, by "
            "channels_last=false for the first, data.channels_last=true for the second"
        )
    _log.warning(
        "%s has shape %s: taken as pictures of %d×%d with %d channels, as by data.channels_last=true "
        "(data.channels_last=false: as it is)", where, shape, a, b, c
    )  # fmt: skip
    return True
