"""Affine maps of continuous values: standardised by the moments of the data, or as given."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.data.rows import Rows, blocks
from scoresde.data.transforms import VALUES_AT_ONCE, Discrete, Transform, as_lists, moments

__all__ = ["Affine", "Identity", "Standardisation", "Standardise", "continuous", "transform_from_plain"]

Standardisation = Literal["auto", "none", "all", "channel", "value"]
"""What has a mean and a standard deviation of its own: see `continuous`."""
# Root mean squares, and parts of 1, beyond which so many values are not standardised data, it seems.
_FAR, _SEVERAL = 20.0, 16
# Numbers of a transform that are written out.
_SHOWN = 8
Values = float | Sequence[Any] | np.ndarray | Tensor
"""One number for every dimension, or an array of numbers that broadcasts to a sample's shape."""


class _Continuous(Transform):
    """`x = (raw - shift) / scale`, elementwise; subclasses name the two numbers."""

    levels = None
    _shift: Tensor
    _scale: Tensor

    def check(self, raw: Tensor) -> None:
        """Raise ValueError unless every value of `raw` is finite."""
        bad = _not_finite(raw)
        if bad:
            raise ValueError(f"values must be finite, {bad} of {raw.numel()} are NaN or infinite")

    def encode(self, raw: Tensor, noise: Tensor | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
        """Map values `(B, *shape)` to model space, computed in float64: 273.15 is not a number of float32.

        Raises:
            ValueError: Values that are not finite, noise (continuous values are not dequantised), or a shift
                or scale that does not broadcast to a sample's shape.
        """
        if noise is not None:
            raise ValueError("continuous data takes no dequantisation noise; leave noise at None")
        if raw.device.type == "cpu":  # elsewhere a look would wait for the device; `Data` has looked
            self.check(raw)
        shift, scale = self._fitted(raw.shape[1:])
        return ((raw.double() - shift.to(raw.device)) / scale.to(raw.device)).to(dtype)

    def decode(self, x: Tensor) -> Tensor:
        """Raw values `scale x + shift`, `(B, *shape)`, computed in float64.

        In x's dtype, or in float64 where the shift is so large that the steps of x's dtype would be more than a
        thousandth of the scale.
        """
        shift, scale = self._fitted(x.shape[1:])
        step = torch.finfo(x.dtype).eps * shift.abs()
        dtype = torch.float64 if bool((step > 1e-3 * scale.abs()).any()) else x.dtype
        return (x.double() * scale.to(x.device) + shift.to(x.device)).to(dtype)

    def log_det(self, shape: Sequence[int]) -> float:
        """log|det dx/d raw| in nats: minus the sum of log|scale| over a sample."""
        return -float(self._fitted(shape)[1].abs().log().expand(tuple(shape)).sum())

    def _fitted(self, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
        for value in (self._shift, self._scale):
            fits = value.ndim <= len(shape) and all(
                a in (1, b) for a, b in zip(reversed(value.shape), reversed(shape), strict=False)
            )
            if not fits:
                raise ValueError(
                    f"{type(self).__name__} of shape {tuple(value.shape)} does not broadcast to samples of "
                    f"shape {tuple(shape)}"
                )
        return self._shift, self._scale


def _plain(value: Values, name: str) -> Any:
    """A float or nested tuples of floats: immutable, comparable, and writable into any configuration file."""
    tensor = torch.as_tensor(as_lists(value), dtype=torch.float64)  # which knows lists, not every sequence
    if not bool(tensor.isfinite().all()):
        raise ValueError(f"{name} must be finite, got {value if tensor.ndim == 0 else 'NaN or infinite entries'}")

    def freeze(v: Any) -> Any:
        return tuple(freeze(w) for w in v) if isinstance(v, list) else float(v)

    return freeze(tensor.tolist())


@checked
@dataclass(frozen=True)
class Affine(_Continuous):
    """Continuous data, `x = (raw - shift) / scale`.

    Args:
        shift: One number, or an array or nested sequences that broadcast to a sample's shape.
        scale: The same; no entry may be 0.

    Raises:
        ValueError: A scale of 0, or NaN or infinite numbers.
    """

    shift: Values
    scale: Values

    def __post_init__(self) -> None:
        for name in ("shift", "scale"):
            object.__setattr__(self, name, _plain(getattr(self, name), name))
        if bool((self._scale == 0).any()):
            raise ValueError("scale must not be 0: the transform would have no inverse")

    @cached_property
    def _shift(self) -> Tensor:  # type: ignore[override]
        return torch.as_tensor(self.shift, dtype=torch.float64)

    @cached_property
    def _scale(self) -> Tensor:  # type: ignore[override]
        return torch.as_tensor(self.scale, dtype=torch.float64)


@checked
@dataclass(frozen=True, repr=False)
class Standardise(_Continuous):
    """Continuous data, centred and scaled to unit variance: `x = (raw - mean) / std`.

    Args:
        mean: One number, or an array or nested sequences that broadcast to a sample's shape.
        std: The same; every entry positive.

    Raises:
        ValueError: A standard deviation of 0 (constant data) or below, or NaN or infinite numbers.
    """

    mean: Values
    std: Values

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            object.__setattr__(self, name, _plain(getattr(self, name), name))
        if bool((self._scale <= 0).any()):
            raise ValueError(f"std must be positive, got {float(self._scale.min()):g}: constant data has no scale")

    @classmethod
    def fit(cls, raw: Rows | Tensor, per: Literal["auto", "all", "channel", "value"] = "auto") -> "Standardise":
        """The transform that gives `raw` `(N, *shape)` mean 0 and standard deviation 1.

        What is constant is centred and keeps its unit, with a warning.

        Args:
            raw: Values of any floating-point type.
            per: What the mean and the standard deviation are of; see `continuous`.

        Raises:
            ValueError: Constant data, fewer than two values, or values that are not finite.
        """
        names = ("auto", "all", "channel", "value")
        if per not in names:
            raise ValueError(f"per is {per!r}, expected one of {', '.join(names)}")
        if raw.ndim < 2:
            raise ValueError(f"data to standardise must be (N, *shape), got shape {tuple(raw.shape)}")
        bad = _not_finite(raw)
        if bad:
            raise ValueError(f"values must be finite, {bad} of {raw.numel()} are NaN or infinite")
        if per == "auto":
            per = "channel" if _channels_differ(*moments(raw, keep=1)) else "all"
        mean, std = moments(raw, keep={"all": 0, "channel": 1, "value": raw.ndim - 1}[per])
        constant = std == 0
        if bool(constant.all()):
            raise ValueError("std must be positive, got 0: constant data has no scale")
        if bool(constant.any()):
            which = constant.flatten().nonzero()[:, 0].tolist()
            warnings.warn(
                f"{len(which)} of {constant.numel()} {per}s of the data are constant (number "
                f"{', '.join(map(str, which[:5]))}{', ...' if len(which) > 5 else ''}): they are centred and not "
                "scaled, and a density over them is unbounded; leave them out of the data",
                UserWarning,
                stacklevel=2,
            )
            std = torch.where(constant, torch.ones_like(std), std)
        return cls(mean, std)

    def decode(self, x: Tensor) -> Tensor:
        """Raw values, as for every continuous transform; with a warning where x is not of the size of model space."""
        if x.device.type == "cpu" and len(x) >= _SEVERAL:
            size = float(x.detach().double().square().mean().sqrt())
            if size > _FAR or size < 1 / _FAR:
                warnings.warn(
                    f"values of root mean square {size:.2g} are decoded, where standardised data have 1: samples of a "
                    "model that has this transform are decoded already",
                    UserWarning,
                    stacklevel=2,
                )
        return super().decode(x)

    def __repr__(self) -> str:
        if self._scale.numel() <= _SHOWN and self._shift.numel() <= _SHOWN:
            return f"Standardise(mean={self.mean!r}, std={self.std!r})"
        ranges = (f"{name} {float(v.min()):.4g} to {float(v.max()):.4g}" for name, v in self._named())
        return f"Standardise({', '.join(ranges)} of shape {tuple(self._scale.shape)})"

    def _named(self) -> list[tuple[str, Tensor]]:
        return [("mean", self._shift), ("std", self._scale)]

    @cached_property
    def _shift(self) -> Tensor:  # type: ignore[override]
        return torch.as_tensor(self.mean, dtype=torch.float64)

    @cached_property
    def _scale(self) -> Tensor:  # type: ignore[override]
        return torch.as_tensor(self.std, dtype=torch.float64)


@dataclass(frozen=True)
class Identity(_Continuous):
    """Continuous data that is already in model space: `x = raw`."""

    _shift = torch.zeros((), dtype=torch.float64)
    _scale = torch.ones((), dtype=torch.float64)

    def decode(self, x: Tensor) -> Tensor:
        """x itself."""
        return x


@checked
def continuous(raw: Rows | Tensor, standardise: Standardisation = "auto") -> Transform:
    """The transform of continuous data `(N, *shape)` into model space: standardised, unless that is not wanted.

    Noise levels, networks and solvers are made for data about 0 of standard deviation 1, and the same noise is
    added to every value of a sample.

    Args:
        raw: The training data.
        standardise: `"all"`, one mean and one standard deviation of all values; `"channel"`, one of each entry of the
            first axis of a sample (of each value, where a sample is a vector); `"value"`, one of each value;
            `"none"`, the data as they are; `"auto"`, by channel where the standard deviations of channels differ by
            more than a factor of 2 or their means by more than the smallest of these, so that one noise does not fit
            all of them, and else one of all values, which keeps distances and angles.

    Raises:
        ValueError: Another name, or as `Standardise.fit`.
    """
    if standardise not in get_args(Standardisation):
        raise ValueError(f"standardise is {standardise!r}, expected one of {', '.join(get_args(Standardisation))}")
    return Identity() if standardise == "none" else Standardise.fit(raw, standardise)


def _not_finite(raw: Rows | Tensor) -> int:
    """Number of values that are NaN or infinite, without a copy of data that may be on disk."""
    if isinstance(raw, Tensor) and raw.ndim == 0:
        return int(not raw.isfinite())
    parts = blocks(raw, max(1, VALUES_AT_ONCE // max(1, math.prod(raw.shape[1:]))))
    finite = (part.isfinite() for part in parts)
    return sum(0 if bool(part.all()) else int((~part).sum()) for part in finite)


def _channels_differ(mean: Tensor, std: Tensor) -> bool:
    """True if the moments of channels differ too much for one mean and standard deviation."""
    varying = std[std > 0]
    if len(varying) == 0:
        return False
    least = varying.min()
    return bool(varying.max() > 2 * least) or bool(mean.max() - mean.min() > least)


def transform_from_plain(plain: Any) -> Transform:
    """The transform that `Transform.to_plain` described.

    Raises:
        ValueError: `plain` describes no transform.
    """
    known: tuple[type[Transform], ...] = (Affine, Discrete, Identity, Standardise)
    name = plain.get("transform") if isinstance(plain, dict) else None
    chosen = next((c for c in known if c.__name__ == name), None)
    if chosen is None:
        raise ValueError(f"{str(name)[:40]!r} is no transform: expected one of {', '.join(c.__name__ for c in known)}")
    values = {key: value for key, value in plain.items() if key != "transform"}
    expected = [f.name for f in fields(chosen)]  # type: ignore[arg-type]
    if sorted(values) != sorted(expected):
        raise ValueError(f"{name} is described by {', '.join(expected) or 'its name alone'}, got {sorted(values)}")
    try:
        return chosen(**values)
    except ValueError as error:
        raise ValueError(f"{name} of {', '.join(expected)}: {' '.join(str(error).split())[:200]}") from error
    except (TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{name} of {', '.join(expected)}: expected numbers, got {str(values)[:100]}") from error
