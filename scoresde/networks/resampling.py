"""Halving and doubling of features: by pooling, by filters with a few taps, and by learned convolutions."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scoresde.networks.layers import convolution, mean_pool, nearest

__all__ = ["BlurredConvolution", "ConvDown", "ConvUp", "Pool", "Repeat", "Resample"]

_LOW = (torch.bfloat16, torch.float16)
_CONVOLVE = (F.conv1d, F.conv2d, F.conv3d)
_TRANSPOSED = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)


class _Filter(nn.Module):
    """A filter with the same taps along each dimension, applied to every channel alone, with zeros outside."""

    taps: Tensor

    def __init__(self, dims: int, taps: Sequence[float]) -> None:
        super().__init__()
        # On the CPU, so that a network on the meta device has them too. They are constants: not in the state dict.
        line = torch.tensor(taps, dtype=torch.float64, device="cpu")
        kernel = line / line.sum()
        for _ in range(dims - 1):
            kernel = kernel[..., None] * (line / line.sum())
        self.register_buffer("taps", kernel.float(), persistent=False)
        self.dims = dims
        self.size = len(taps)

    def filtered(self, x: Tensor, up: bool = False, **options: Any) -> Tensor:
        """The depthwise convolution with the filter; transposed, with a gain of 2 along each dimension, if `up`."""
        if x.device.type == "cpu" and (x.dtype in _LOW or torch.is_autocast_enabled("cpu")):
            # CPUs have no fast depthwise convolution of 16 bits: it takes 5 to 20 times as long as that of 32.
            with torch.autocast("cpu", enabled=False):
                return self._filtered(x.float() if x.dtype in _LOW else x, up, **options).to(x.dtype)
        return self._filtered(x, up, **options)

    def _filtered(self, x: Tensor, up: bool, **options: Any) -> Tensor:
        taps = self.taps.to(x.dtype) * (2**self.dims if up else 1)
        kernel = taps.expand(x.shape[1], 1, *self.taps.shape)
        return (_TRANSPOSED if up else _CONVOLVE)[self.dims - 1](x, kernel, groups=x.shape[1], **options)


class Resample(_Filter):
    """Halve or double features by a filter: [1, 1] averages and repeats, [1, 3, 3, 1] is smoother (Song et al. 2021).

    Halving convolves with the normalised taps and keeps every other value; doubling puts zeros between values and
    convolves with 2 taps along each dimension, so that a constant stays constant away from the edge. The module maps
    features `(B, C, ...)` to `(B, C, ...)` of half or twice the sizes.

    Args:
        dims: Number of dimensions, 1 to 3.
        taps: The filter along each dimension, with an even number of taps.
        direction: "down" halves, "up" doubles.
    """

    def __init__(self, dims: int, taps: Sequence[float], direction: Literal["up", "down"]) -> None:
        super().__init__(dims, taps)
        self.direction = direction
        # The same as means and repetition, which are faster.
        self.plain = self.size == 2 and taps[0] == taps[1]

    def forward(self, x: Tensor) -> Tensor:
        padding = (self.size - 1) // 2
        if self.direction == "down":
            return mean_pool(x) if self.plain else self.filtered(x, stride=2, padding=padding)
        return nearest(x) if self.plain else self.filtered(x, up=True, stride=2, padding=padding)


class BlurredConvolution(_Filter):
    """A convolution of size 3 and stride 2 on features smoothed by a filter, as of the input pyramid of NCSN++.

    Args:
        dims: Number of dimensions, 1 to 3.
        inputs: Channels before.
        outputs: Channels after.
        taps: The filter along each dimension.
    """

    def __init__(self, dims: int, inputs: int, outputs: int, taps: Sequence[float]) -> None:
        super().__init__(dims, taps)
        self.conv = convolution(dims, inputs, outputs, stride=2, padding=0)

    def forward(self, x: Tensor) -> Tensor:
        padding = 1 + (self.size - 1) // 2
        out: Tensor = self.conv(self.filtered(x, padding=padding))
        return out


class Pool(nn.Module):
    """Half the sizes by means of neighbours; the last of an odd number is averaged alone."""

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        return mean_pool(h)


class Repeat(nn.Module):
    """Twice the sizes by nearest neighbours."""

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        return nearest(h)


class ConvDown(nn.Module):
    """Half the sizes by a convolution of size 3 and stride 2 (Ho et al. 2020).

    Args:
        dims: Number of dimensions, 1 to 3.
        channels: Channels before and after.
        padding: "end" adds a zero after the last value of each dimension, "both" one at either end.
    """

    def __init__(self, dims: int, channels: int, padding: Literal["end", "both"]) -> None:
        super().__init__()
        self.ends = (0, 1) * dims if padding == "end" else None
        self.conv = convolution(dims, channels, channels, stride=2, padding=0 if padding == "end" else 1)

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        out: Tensor = self.conv(h if self.ends is None else F.pad(h, self.ends))
        return out


class ConvUp(nn.Module):
    """Twice the sizes by nearest neighbours and a convolution of size 3 (Ho et al. 2020)."""

    def __init__(self, dims: int, channels: int) -> None:
        super().__init__()
        self.conv = convolution(dims, channels, channels)

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        out: Tensor = self.conv(nearest(h))
        return out
