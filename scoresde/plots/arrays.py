"""Arrays that figures are given: checked, converted to NumPy, and the ranges that show them."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from torch import Tensor

Array: TypeAlias = Tensor | np.ndarray | Sequence[Any]


def as_numbers(values: Array, name: str, ndim: int, allow_nan: bool = False) -> np.ndarray:
    """The values as a finite float64 array of `ndim` dimensions with at least one element.

    Args:
        values: The values.
        name: The subject of messages.
        ndim: The number of dimensions.
        allow_nan: Whether NaN is accepted.

    Raises:
        ValueError: Anything else.
    """
    try:
        if isinstance(values, Tensor):
            values = values.detach().cpu().double().numpy()
        x = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} must be an array of numbers, got {type(values).__name__}") from error
    if x.ndim != ndim or x.size == 0:
        raise ValueError(f"{name} must have {ndim} dimensions and at least one value, got shape {x.shape}")
    if not (np.isfinite(x) | (np.isnan(x) & allow_nan)).all():
        raise ValueError(f"{name} has values that are not finite")
    return x


def as_images(values: Array, name: str, ndim: int) -> np.ndarray:
    """The values as images `(..., C, H, W)` of `ndim` dimensions, with C = 1 or 3.

    Raises:
        ValueError: Another shape, or values that are not finite.
    """
    x = as_numbers(values, name, ndim)
    if x.shape[-3] not in (1, 3):
        shape = "(N, C, H, W)" if ndim == 4 else "(T, N, C, H, W)"
        raise ValueError(f"{name} must be {shape} with C = 1 or 3, got shape {x.shape}")
    return x


def as_points(values: Array, name: str) -> np.ndarray:
    """The values as points in the plane, `(N, 2)`.

    Raises:
        ValueError: Another shape, or values that are not finite.
    """
    x = as_numbers(values, name, 2)
    if x.shape[1] != 2:
        raise ValueError(f"{name} must be points (N, 2), got shape {x.shape}")
    return x


def as_states(values: Array, times: Array, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The values as images `(T, N, C, H, W)` or points `(T, N, 2)`, and their times `(T,)`.

    Raises:
        ValueError: Another shape, values that are not finite, or another number of times.
    """
    shape = tuple(getattr(values, "shape", ())) or np.shape(values)
    if len(shape) not in (3, 5):
        raise ValueError(f"{name} must be images (T, N, C, H, W) or points (T, N, 2), got shape {tuple(shape)}")
    x = as_images(values, name, 5) if len(shape) == 5 else as_numbers(values, name, 3)
    if x.ndim == 3 and x.shape[2] != 2:
        raise ValueError(f"{name} must be images (T, N, C, H, W) or points (T, N, 2), got shape {x.shape}")
    t = as_numbers(times, "times", 1)
    if len(t) != len(x):
        raise ValueError(f"times must have one value for each of the {len(x)} {name}, got {len(t)}")
    return x, t


def fitted_range(x: np.ndarray) -> tuple[np.ndarray, bool]:
    """Images `(T, ...)` mapped to [0, 1] at each time, and whether the range of any time was widened for it."""
    away = np.abs(x - 0.5).reshape(len(x), -1)
    half = np.maximum(np.quantile(away, 0.98, axis=1), 0.5)
    scaled = 0.5 + (x - 0.5) * (0.5 / half).reshape(-1, 1, 1, 1, 1)
    return scaled, bool((half > 0.5 * 1.02).any())


def short_number(value: float, digits: int = 3) -> str:
    """A number with a few digits; an integer from 100 on."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.{digits}g}"


def window_of(x: np.ndarray, coverage: float = 0.995, flattest: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """The centre and the half sides, `(D,)` each, of a box that holds most of the points `(N, D)`.

    Args:
        x: The points.
        coverage: The fraction of each coordinate's values that the box holds.
        flattest: The least ratio of a side to the longest.
    """
    low, high = np.quantile(x, ((1 - coverage) / 2, (1 + coverage) / 2), axis=0)
    half = np.maximum((high - low) / 2, flattest * max(high - low) / 2)
    return (low + high) / 2, 1.08 * half if half.max() > 0 else np.ones(2)


def running_mean(y: np.ndarray, half: int) -> np.ndarray:
    """The mean of the 2 half + 1 values around each value, or of fewer near the ends."""
    total = np.concatenate([[0.0], y.cumsum()])
    i = np.arange(len(y))
    first, last = np.maximum(i - half, 0), np.minimum(i + half, len(y) - 1)
    mean: np.ndarray = (total[last + 1] - total[first]) / (last + 1 - first)
    return mean
