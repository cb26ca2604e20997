"""Clipping: values beyond the range of a sensor."""

from collections.abc import Sequence

from torch import Tensor

from scoresde.arguments import checked
from scoresde.inverse.operator import Operator
from scoresde.numerics.values import positive

__all__ = ["Clipping"]


@checked
class Clipping(Operator):
    """y = clip(s x, low, high): an image that is too bright for a sensor, as in high dynamic range imaging.

    Its gradient is 0 where a value is clipped.

    Args:
        shape: The shape of a sample.
        low: The smallest value.
        high: The largest value.
        scale: The number s that samples are multiplied by.

    Raises:
        ValueError: A range that is empty, or a scale that is not positive.
    """

    def __init__(self, shape: Sequence[int], low: float = -1.0, high: float = 1.0, scale: float = 2.0) -> None:
        if not low < high:
            raise ValueError(f"low is {low} and high is {high}, expected low < high")
        positive("scale", scale)
        super().__init__(shape, shape)
        self.low, self.high, self.scale = low, high, scale

    def measure(self, x: Tensor) -> Tensor:
        return (self.scale * x).clamp(self.low, self.high)
