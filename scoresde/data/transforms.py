"""Maps between the values a data set stores and the space the model works in, with their log-determinants.

A change of variables `x = T(raw)` turns a density over x into one over raw values,
`log p(raw) = log p(x) + log|det dT/d raw|`, so a likelihood needs the second term (`log_det`). Discrete
values are first made continuous by adding uniform noise (dequantisation); the expected log-density is then a
lower bound on the log-probability of the integers (Theis et al. 2016, "A note on the evaluation of generative
models", section 3.1).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scoresde.data.rows import Rows, blocks

__all__ = ["Discrete", "Transform"]

# Elements processed at once: 128 MiB in float64.
VALUES_AT_ONCE = 2**24


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

    @property
    def resolution(self) -> float:
        """Standard deviation in model space of what rounding to levels leaves open; 0 for continuous data."""
        return 0.0

    def to_plain(self) -> dict[str, Any]:
        """The transform as JSON can hold it: its name under `transform`, and its numbers by their own names."""
        values = {f.name: as_lists(getattr(self, f.name)) for f in fields(self)}  # type: ignore[arg-type]
        return {"transform": type(self).__name__, **values}


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
    def standardised(cls, raw: Rows | Tensor, levels: int) -> "Discrete":
        """The levels on a range in which `raw` `(N, *shape)`, dequantised, has mean 0 and standard deviation 1.

        For levels of which the data fill a small part: in [-1, 1] a model would have to learn a narrow band, whose
        place no preconditioning knows.

        Raises:
            ValueError: Values that are not levels.
        """
        for part in blocks(raw, len(raw) if isinstance(raw, Tensor) else 4096):
            cls(levels).check(part)
        mean, std = moments(raw, keep=0)
        # A uniform variable in a cell has mean 1/2 and variance 1/12.
        centre, scale = float(mean) + 0.5, math.sqrt(float(std) ** 2 + 1 / 12)
        return cls(levels, -centre / scale, (levels - centre) / scale)

    @property
    def _width(self) -> float:
        return (self.high - self.low) / self.levels

    @property
    def resolution(self) -> float:
        """Standard deviation of a uniform variable in a cell, width/√12."""
        return self._width / math.sqrt(12)

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


def as_lists(value: Any) -> Any:
    """Nested lists for nested sequences of any kind; what is no sequence as it is."""
    return [as_lists(v) for v in value] if isinstance(value, Sequence) and not isinstance(value, str) else value


def moments(raw: Rows | Tensor, keep: int) -> tuple[Tensor, Tensor]:
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
    for part in blocks(raw, max(1, VALUES_AT_ONCE // max(1, math.prod(raw.shape[1:])))):
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
