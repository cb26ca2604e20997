"""The noise of measurements: its contract, Gaussian noise, and none."""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.numerics.values import Value

__all__ = ["GaussianNoise", "MeasurementNoise", "NoNoise"]


class MeasurementNoise(Value, ABC):
    """The law p(y | clean) of a measurement y, given the value A(x) that it would have without noise."""

    @abstractmethod
    def draw(self, clean: Tensor, noise: Tensor) -> Tensor:
        """Measurements `(B, ...)` of values A(x) `(B, ...)`, from standard normal noise of that shape."""

    @abstractmethod
    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        """log p(y | clean) in nats, `(B,)`, of measurements and values of the same shape `(B, ...)`."""

    def variance(self, y: Tensor) -> Tensor | None:
        """The variance of each number of measurements `(B, ...)`, of a shape that broadcasts to it: that of Gaussian
        noise, or an estimate of it from y; None where the noise is far from Gaussian."""
        return None

    def covariance(self, measured: Sequence[int]) -> Tensor | None:
        """The covariance `(M, M)` float64 of the M numbers of a measurement, whatever y is; None if the noise is not
        Gaussian.

        Args:
            measured: The shape of a measurement.
        """
        return None

    def prepared(self, device: torch.device, dtype: torch.dtype) -> "MeasurementNoise":
        """The noise with its tensors on a device and in a dtype, so that no step has to convert them."""
        return self

    def check(self, measured: Sequence[int]) -> None:
        """Check that the noise is one for measurements.

        Args:
            measured: The shape of a measurement.

        Raises:
            ValueError: Measurements of another shape.
        """

    def check_values(self, y: Tensor) -> None:
        """Check that measurements `(B, ...)` are possible.

        Raises:
            ValueError: Values that have the probability 0.
        """


class NoNoise(MeasurementNoise):
    """Measurements without noise: y = A(x)."""

    def draw(self, clean: Tensor, noise: Tensor) -> Tensor:
        return clean

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        raise ValueError("measurements without noise have no density: take GaussianNoise(std) with a small std")

    def variance(self, y: Tensor) -> Tensor:
        return y.new_zeros(())

    def covariance(self, measured: Sequence[int]) -> Tensor:
        count = math.prod(measured)
        return torch.zeros(count, count, dtype=torch.float64)


@checked
class GaussianNoise(MeasurementNoise):
    """y = A(x) + N(0, std²), independent for each number.

    Args:
        std: The standard deviation, above 0, in the units of measurements: one for all numbers, or a tensor of a shape
            that broadcasts to that of a measurement.

    Raises:
        ValueError: A standard deviation that is not positive and finite.
    """

    def __init__(self, std: float | Tensor) -> None:
        values = torch.as_tensor(std, dtype=torch.float64)
        wrong = values[~((values > 0) & (values < math.inf))]
        if len(wrong):
            raise ValueError(
                f"std is {float(wrong[0]):g}, expected a positive number; measurements without noise are NoNoise()"
            )
        self.std = values if values.ndim else float(std)

    def draw(self, clean: Tensor, noise: Tensor) -> Tensor:
        return clean + self._std(noise) * noise

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        std = self._std(y)
        error = (y - clean) / std
        constant = 0.5 * math.log(2 * math.pi) + (std.log() if isinstance(std, Tensor) else math.log(std))
        return -(0.5 * error.square() + constant).flatten(1).sum(1)

    def variance(self, y: Tensor) -> Tensor:
        std = self._std(y)
        return std.square() if isinstance(std, Tensor) else y.new_full((), std**2)

    def covariance(self, measured: Sequence[int]) -> Tensor:
        std = torch.as_tensor(self.std, dtype=torch.float64).cpu()
        return torch.diag(std.square().expand(tuple(measured)).flatten())

    def prepared(self, device: torch.device, dtype: torch.dtype) -> MeasurementNoise:
        if not isinstance(self.std, Tensor):
            return self
        moved = copy.copy(self)
        moved.std = self.std.to(device, dtype)
        return moved

    def check(self, measured: Sequence[int]) -> None:
        if isinstance(self.std, Tensor):
            try:
                self.std.expand(tuple(measured))
            except RuntimeError:
                raise ValueError(
                    f"std has shape {tuple(self.std.shape)}, which does not broadcast to that of a measurement, "
                    f"{tuple(measured)}"
                ) from None

    def _std(self, like: Tensor) -> Tensor | float:
        return self.std.to(like) if isinstance(self.std, Tensor) else self.std

    def __repr__(self) -> str:
        if not isinstance(self.std, Tensor):
            return super().__repr__()
        low, high = float(self.std.min()), float(self.std.max())
        return f"GaussianNoise(std={low:g} to {high:g}, of shape {tuple(self.std.shape)})"
