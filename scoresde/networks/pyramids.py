"""Small images beside the features of a U-Net: of its input on the way down and of its output on the way up.

They are what NCSN++ adds to DDPM++ (Song et al. 2021, appendix H), "progressive growing" there.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from scoresde.networks.layers import convolution, group_norm, zeroed
from scoresde.networks.resampling import BlurredConvolution, Resample

__all__ = ["InputResidual", "InputSkip", "OutputSkip"]


class InputSkip(nn.Module):
    """Add the halved input, mapped to the features' channels, to the features.

    The module maps features h `(B, width, ...)` and the image `(B, channels, ...)` of twice their sizes to the new
    features and the halved image.
    """

    def __init__(self, dims: int, channels: int, width: int, taps: Sequence[float]) -> None:
        super().__init__()
        self.down = Resample(dims, taps, "down")
        self.conv = convolution(dims, channels, width, size=1)

    def forward(self, h: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        image = self.down(image)
        return self.conv(image) + h, image


class InputResidual(nn.Module):
    """Halve the pyramid by a learned convolution and add the features, which the sum replaces.

    The module maps features h `(B, width, ...)` and the pyramid `(B, channels, ...)` of twice their sizes to the sum,
    twice.
    """

    def __init__(self, dims: int, channels: int, width: int, taps: Sequence[float], skip_scale: float) -> None:
        super().__init__()
        self.down = BlurredConvolution(dims, channels, width, taps)
        self.skip_scale = skip_scale

    def forward(self, h: Tensor, pyramid: Tensor) -> tuple[Tensor, Tensor]:
        pyramid = self.down(pyramid) + h
        if self.skip_scale != 1:
            pyramid = pyramid * self.skip_scale
        return pyramid, pyramid


class OutputSkip(nn.Module):
    """An image from the features of a level, added to the doubled image of the level below.

    The module maps features h `(B, width, ...)` and the image `(B, channels, ...)` of half their sizes, or None at the
    coarsest level, to the image `(B, channels, ...)` of their sizes.
    """

    def __init__(
        self, dims: int, width: int, channels: int, taps: Sequence[float], groups: int | None, eps: float
    ) -> None:
        super().__init__()
        self.norm = group_norm(width, groups, eps)
        self.output = zeroed(convolution(dims, width, channels))
        self.up = Resample(dims, taps, "up")

    def forward(self, h: Tensor, image: Tensor | None) -> Tensor:
        out: Tensor = self.output(F.silu(self.norm(h)))
        return out if image is None else out + self.up(image)
