"""Maps between the values a data set stores and the space the model works in, with their log-determinants.

A change of variables `x = T(raw)` turns a density over x into one over raw values,
`log p(raw) = log p(x) + log|det dT/d raw|`, so a likelihood needs the second term (`log_det`). Discrete
values are first made continuous by adding uniform noise (dequantisation); the expected log-density is then a
lower bound on the log-probability of the integers (Theis et al. 2016, "A note on the evaluation of generative
models", section 3.1).
"""

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from numbers import Integral
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from scoresde.arguments import checked

__all__ = ["Affine", "Discrete", "Identity", "Standardisation", "Standardise", "Transform", "continuous"]

Standardisation = Literal["auto", "none", "all", "channel", "value"]
"""What has a mean and a standard deviation of its own: see `continuous`."""

# Elements processed at once: 128 MiB in float64.
_VALUES = 2**24
# Root mean squares, and parts of 1, beyond which so many values are not standardised data, it seems.
_FAR, _SEVERAL = 20.0, 16
# Numbers of a transform that are written out.
_SHOWN = 8

Values = float | Sequence[Any] | np.ndarray | Tensor
"""One number for every dimension, or an array of numbers that broadcasts to a sample's shape."""


class Transform(ABC):
    """An invertible map between raw values `(B, *shape)` and model space `(B, *shape)`."""

    levels: int | None
    """How many integer values raw data can take; None for continuous data, where bits/dim is undefined."""

    @abstractmethod
    def check(self, raw: Tensor) -> None:
        """Raise ValueError, in one line, if `raw` holds values the transform is not defined for."""

    @abstractmethod
    def encode(self, raw: Tensor, noise: Tensor | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
        """Map raw values `(B, *shape)` to model space, in floating-point `dtype`."""

    @abstractmethod
    def decode(self, x: Tensor) -> Tensor:
        """Map model space `(B, *shape)` back to raw values."""

    @abstractmethod
    def log_det(self, shape: Sequence[int]) -> float:
        """log|det dx/d raw| in nats, summed over one sample of event shape `shape`."""

    def to_plain(self) -> dict[str, Any]:
        """The transform as JSON can hold it: its name under `transform`, and its numbers by their own names."""
        values = {f.name: _lists(getattr(self, f.name)) for f in fields(self)}  # type: ignore[arg-type]
        return {"transform": type(self).__name__, **values}

    @staticmethod
    def from_plain(plain: Any) -> "Transform":
        """The transform that `to_plain` described.

        Raises:
            ValueError: What describes no transform.
        """
        known: tuple[type[Transform], ...] = (Affine, Discrete, Identity, Standardise)
        name = plain.get("transform") if isinstance(plain, dict) else None
        chosen = next((c for c in known if c.__name__ == name), None)
        if chosen is None:
            raise ValueError(
                f"{str(name)[:40]!r} is no transform: expected one of {', '.join(c.__name__ for c in known)}"
            )
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


@dataclass(frozen=True)
class Discrete(Transform):
    """Integers 0 .. levels-1, as `levels` equal cells side by side on [low, high].

    `x = low + (raw + u) (high - low) / levels` with u in [0, 1): uniform noise, or 1/2, the cell's centre.

    Args:
        levels: Number of values, at least 2 (256 for 8-bit images).
        low: Lower end of the model's range.
        high: Upper end of the model's range.

    Raises:
        ValueError: Fewer than two levels, or an empty or infinite range.
    """

    levels: int
    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.levels, bool) or not isinstance(self.levels, Integral) or self.levels < 2:
            raise ValueError(f"levels must be an integer of at least 2, got {self.levels}")
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"low must be below high and both finite, got low={self.low}, high={self.high}")

    @classmethod
    def standardised(cls, raw: Tensor, levels: int) -> "Discrete":
        """The levels on a range in which `raw` `(N, *shape)`, dequantised, has mean 0 and standard deviation 1.

        For levels of which the data fill a small part: in [-1, 1] a model would have to learn a narrow band, whose
        place no preconditioning knows.

        Raises:
            ValueError: Values that are not levels.
        """
        cls(levels).check(raw)
        mean, std = _moments(raw, keep=0)
        # A uniform variable in a cell has mean 1/2 and variance 1/12.
        centre, scale = float(mean) + 0.5, math.sqrt(float(std) ** 2 + 1 / 12)
        return cls(levels, -centre / scale, (levels - centre) / scale)

    @property
    def _width(self) -> float:
        return (self.high - self.low) / self.levels

    def check(self, raw: Tensor) -> None:
        """Raise ValueError, naming the worst value, unless all of `raw` are integers 0 .. levels-1."""
        top = self.levels - 1
        if raw.numel() == 0 or (raw.dtype == torch.uint8 and top >= 255):
            return
        if raw.is_complex():
            raise ValueError(f"raw values must be integers 0..{top}, got dtype {raw.dtype}")
        least, most = (float(v) for v in torch.aminmax(raw))
        inside = least >= 0 and most <= top  # False when there is a NaN
        if inside and not (raw.is_floating_point() and bool((raw != raw.round()).any())):
            return
        values = raw.detach().double().flatten()
        if inside:
            badness = (values - values.round()).abs()
        else:
            badness = torch.maximum(-values, values - top).nan_to_num(nan=math.inf)
        worst = float(values[badness.argmax()])
        raise ValueError(
            f"raw values must be integers 0..{top} ({self.levels} levels), the worst value is {worst:g}; "
            "declare the right number of levels, or a continuous transform"
        )

    def encode(self, raw: Tensor, noise: Tensor | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
        """Map integers `(B, *shape)` into their cells.

        Noise closer to a cell's border than `dtype` can tell apart is moved inside it, so that `decode`
        returns `raw` always and not only almost always (in float32, 256 levels: the outer 1e-4 of a cell).

        Args:
            raw: Integers of any dtype, `(B, *shape)`.
            noise: u in [0, 1), of raw's shape; None for the centre of the cell.
            dtype: Floating-point type of the result.

        Raises:
            ValueError: Values that are not integers in range, noise of another shape or outside [0, 1], or a
                dtype too coarse to keep the levels apart.
        """
        if raw.device.type == "cpu":  # elsewhere a look would wait for the device; `Data` has looked
            self.check(raw)
        span = max(abs(self.low), abs(self.high), self.high - self.low) / (self.high - self.low)
        margin = 4 * torch.finfo(dtype).eps * self.levels * span
        if margin > 0.25:
            raise ValueError(f"{dtype} cannot tell {self.levels} levels apart on [{self.low}, {self.high}]")
        if noise is None:
            return self.low + (raw.to(dtype) + 0.5) * self._width
        if noise.shape != raw.shape:
            raise ValueError(f"noise must have raw's shape {tuple(raw.shape)}, got {tuple(noise.shape)}")
        if noise.device.type == "cpu" and not bool(((noise >= 0) & (noise <= 1)).all()):
            raise ValueError("dequantisation noise must lie in [0, 1): draw it with torch.rand, not randn")
        return self.low + (raw.to(dtype) + noise.to(dtype).clamp(margin, 1 - margin)) * self._width

    def decode(self, x: Tensor) -> Tensor:
        """Integers `(B, *shape)` of the cells x falls in, clipped; uint8 up to 256 levels, int32 above.

        Raises:
            ValueError: x holds NaN.
        """
        return self._cell(x).to(torch.uint8 if self.levels <= 256 else torch.int32)

    def to_unit(self, x: Tensor) -> Tensor:
        """Grey values in [0, 1] for pictures, `(B, *shape)`: the decoded level over the highest level.

        Raises:
            ValueError: x holds NaN.
        """
        return self._cell(x) / (self.levels - 1)

    def log_det(self, shape: Sequence[int]) -> float:
        """log|det dx/d(raw + u)| in nats: D log((high - low) / levels)."""
        return math.prod(shape) * math.log(self._width)

    def _cell(self, x: Tensor) -> Tensor:
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        if bool(x.isnan().any()):
            raise ValueError(f"cannot decode NaN: {int(x.isnan().sum())} of {x.numel()} values are NaN")
        return ((x - self.low) / self._width).floor().clamp(0, self.levels - 1)


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


def _lists(value: Any) -> Any:
    """Nested lists for nested sequences of any kind; what is no sequence as it is."""
    return [_lists(v) for v in value] if isinstance(value, Sequence) and not isinstance(value, str) else value


def _plain(value: Values, name: str) -> Any:
    """A float or nested tuples of floats: immutable, comparable, and writable into any configuration file."""
    tensor = torch.as_tensor(_lists(value), dtype=torch.float64)  # which knows lists, not every sequence
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
    def fit(cls, raw: Tensor, per: Literal["auto", "all", "channel", "value"] = "auto") -> "Standardise":
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
            per = "channel" if _channels_differ(*_moments(raw, keep=1)) else "all"
        mean, std = _moments(raw, keep={"all": 0, "channel": 1, "value": raw.ndim - 1}[per])
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
def continuous(raw: Tensor, standardise: Standardisation = "auto") -> Transform:
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


def _not_finite(raw: Tensor) -> int:
    """Number of values that are NaN or infinite, without a copy of data that may be on disk."""
    parts = raw.split(max(1, _VALUES // max(1, raw[:1].numel()))) if raw.ndim else (raw,)
    finite = (part.isfinite() for part in parts)
    return sum(0 if bool(part.all()) else int((~part).sum()) for part in finite)


def _channels_differ(mean: Tensor, std: Tensor) -> bool:
    """True if the moments of channels differ too much for one mean and standard deviation."""
    varying = std[std > 0]
    if len(varying) == 0:
        return False
    least = varying.min()
    return bool(varying.max() > 2 * least) or bool(mean.max() - mean.min() > least)


def _moments(raw: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """Mean and unbiased standard deviation over all axes of `(N, *shape)` but the first `keep` of a sample.

    float64, of one dimension for each axis of a sample from the first that is kept on, so that they broadcast; 0-dim
    where none is. The standard deviation of equal values is exactly 0. Batches are merged as in
    `scoresde.statistics`.
    """
    axes = [0, *range(1 + keep, raw.ndim)]
    each = math.prod(raw.shape[axis] for axis in axes[1:])
    if len(raw) * each < 2:
        raise ValueError(f"need at least 2 values to standardise, got {len(raw) * each}")
    count = 0
    mean, scatter, low, high = (torch.zeros((), dtype=torch.float64) for _ in range(4))
    for part in raw.split(max(1, _VALUES // max(1, raw[0].numel()))):
        values, n = part.double(), len(part) * each
        centre = values.mean(dim=axes, keepdim=True)
        delta = centre - mean
        scatter = (
            scatter + (values - centre).square().sum(dim=axes, keepdim=True) + delta**2 * (count * n / (count + n))
        )
        mean = mean + delta * (n / (count + n))
        least, most = values.amin(dim=axes, keepdim=True), values.amax(dim=axes, keepdim=True)
        low, high = (least, most) if count == 0 else (torch.minimum(low, least), torch.maximum(high, most))
        count += n
    # The rounding of the mean can leave equal values a spread just above 0.
    std = torch.where(low == high, torch.zeros_like(scatter), (scatter / (count - 1)).sqrt())
    return (mean.reshape(()), std.reshape(())) if keep == 0 else (mean[0].cpu(), std[0].cpu())
