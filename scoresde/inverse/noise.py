"""The noise of measurements."""

import math
from abc import ABC, abstractmethod

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


class NoNoise(MeasurementNoise):
    """Measurements without noise: y = A(x)."""

    def draw(self, clean: Tensor, noise: Tensor) -> Tensor:
        return clean

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        raise ValueError("measurements without noise have no density: take GaussianNoise(std) with a small std")

    def variance(self, y: Tensor) -> Tensor:
        return y.new_zeros(())


@checked
class GaussianNoise(MeasurementNoise):
    """y = A(x) + N(0, std²).

    Args:
        std: The standard deviation, above 0, in the units of measurements.

    Raises:
        ValueError: A standard deviation that is not positive and finite.
    """

    def __init__(self, std: float) -> None:
        if not 0 < std < math.inf:
            raise ValueError(f"std is {std}, expected a positive number; measurements without noise are NoNoise()")
        self.std = float(std)

    def draw(self, clean: Tensor, noise: Tensor) -> Tensor:
        return clean + self.std * noise

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        error = (y - clean) / self.std
        constant = 0.5 * math.log(2 * math.pi) + math.log(self.std)
        return -(0.5 * error.square() + constant).flatten(1).sum(1)

    def variance(self, y: Tensor) -> Tensor:
        return y.new_full((), self.std**2)
