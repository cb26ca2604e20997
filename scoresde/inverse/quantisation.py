"""Lossy compression: the quantised cosine transform of blocks, as in JPEG."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.inverse.operator import Operator

__all__ = ["BlockQuantisation"]

_SIZE = 8
# The steps of luminance that the standard gives as an example (ITU-T T.81, table K.1), for the quality 50.
_STEPS = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)


@checked
class BlockQuantisation(Operator):
    """An image as JPEG stores it: the cosine transform of each block of 8×8 pixels, rounded to multiples of a step.

    All channels are taken as luminance, without subsampling, and there are no losses after the rounding. An image whose
    size is no multiple of 8 is extended by its last rows and columns.

    Args:
        shape: The shape of a sample, `(C, H, W)`.
        quality: The quality from 1 to 100, by which the Independent JPEG Group scales the standard's steps.
        low: The value of black, which JPEG has as 0.
        high: The value of white, which JPEG has as 255.
        straight_through: Whether the gradient passes the rounding as if there were none; it is 0 otherwise.

    Raises:
        ValueError: Samples that are no images, a quality outside 1 to 100, or an empty range.
    """

    cosines: Tensor
    steps: Tensor

    def __init__(
        self,
        shape: Sequence[int],
        quality: int = 10,
        low: float = -1.0,
        high: float = 1.0,
        straight_through: bool = True,
    ) -> None:
        if len(shape) != 3:
            raise ValueError(f"samples have shape {tuple(shape)}, expected images, (C, H, W)")
        if not 1 <= quality <= 100:
            raise ValueError(f"quality is {quality}, expected 1 to 100")
        if not low < high:
            raise ValueError(f"low is {low} and high is {high}, expected low < high")
        super().__init__(shape, shape)
        self.quality, self.low, self.high, self.straight_through = quality, low, high, straight_through
        scale = 5000 / quality if quality < 50 else 200 - 2 * quality
        steps = ((torch.tensor(_STEPS, dtype=torch.float64) * scale + 50) / 100).floor().clamp(1, 255)
        k, n = torch.arange(_SIZE, dtype=torch.float64)[:, None], torch.arange(_SIZE, dtype=torch.float64)
        cosines = torch.cos(math.pi / _SIZE * (n + 0.5) * k) * math.sqrt(2 / _SIZE)
        cosines[0] /= math.sqrt(2)
        self.register_buffer("cosines", cosines)
        self.register_buffer("steps", steps)
        for name, size in (("rows", shape[1]), ("columns", shape[2])):
            self.register_buffer(name, torch.arange(-(-size // _SIZE) * _SIZE).clamp_max(size - 1))

    def measure(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        levels = 255 * (x - self.low) / (self.high - self.low) - 128
        whole = levels.index_select(-2, self.get_buffer("rows")).index_select(-1, self.get_buffer("columns"))
        blocks = whole.unflatten(-1, (-1, _SIZE)).unflatten(-3, (-1, _SIZE)).transpose(-3, -2)
        cosines, steps = self.cosines.to(x), self.steps.to(x)
        counts = cosines @ blocks @ cosines.T / steps
        rounded = counts.round()
        if self.straight_through:
            rounded = counts + (rounded - counts).detach()
        decoded: Tensor = cosines.T @ (rounded * steps) @ cosines
        image: Tensor = decoded.transpose(-3, -2).flatten(-4, -3).flatten(-2)[..., :height, :width]
        return (image + 128) / 255 * (self.high - self.low) + self.low
