"""Computed tomography: sums of an image along lines."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.inverse.operator import LinearOperator
from scoresde.inverse.singular_values import SingularValues

__all__ = ["Radon"]


@checked
class Radon(LinearOperator):
    """Parallel-beam projections `(C, angles, bins)`, in units of pixels.

    Each pixel is a point, whose value is divided between the two bins of the detector next to its projection. The
    detector is as long as the diagonal of the image. Singular values are known of small images.

    Args:
        shape: The shape of a sample, `(C, H, W)`.
        angles: The number of angles, evenly between 0° and 180°.

    Raises:
        ValueError: Samples that are no images, or no angles.
    """

    bins: Tensor
    weights: Tensor

    def __init__(self, shape: Sequence[int], angles: int = 16) -> None:
        if len(shape) != 3:
            raise ValueError(f"samples have shape {tuple(shape)}, expected images, (C, H, W)")
        if angles < 1:
            raise ValueError(f"angles is {angles}, expected at least 1")
        _, height, width = shape
        count = math.ceil(math.hypot(height - 1, width - 1)) + 2
        super().__init__(shape, (shape[0], angles, count))
        turns = torch.arange(angles, dtype=torch.float64) * math.pi / angles
        rows = torch.arange(height, dtype=torch.float64) - (height - 1) / 2
        columns = torch.arange(width, dtype=torch.float64) - (width - 1) / 2
        along = (columns * turns.cos()[:, None])[:, None, :] + (rows * turns.sin()[:, None])[:, :, None]
        place = along.flatten(1) + (count - 1) / 2
        left = place.floor().clamp(0, count - 2)
        start = torch.arange(angles)[:, None] * count
        self.register_buffer("bins", torch.stack([left.long() + start, left.long() + 1 + start]).flatten(1))
        self.register_buffer("weights", torch.stack([left + 1 - place, place - left]).flatten(1))

    def measure(self, x: Tensor) -> Tensor:
        channels, angles, count = self.measured
        pixels = x.reshape(-1, x.shape[-2] * x.shape[-1])
        out = x.new_zeros(len(pixels), angles * count)
        for bins, weights in zip(self.bins, self.weights.to(x), strict=True):
            out = out.index_add(1, bins, pixels.repeat(1, angles) * weights)
        return out.reshape(-1, channels, angles, count)

    def back(self, y: Tensor) -> Tensor:
        _, angles, _ = self.measured
        rows = y.reshape(-1, y.shape[-2] * y.shape[-1])
        weights = self.weights.to(y)
        pixels = rows.index_select(1, self.bins[0]) * weights[0] + rows.index_select(1, self.bins[1]) * weights[1]
        return pixels.reshape(len(rows), angles, -1).sum(1).reshape(-1, *self.shape)

    @property
    def singular_values(self) -> SingularValues | None:
        return self.decomposed()
