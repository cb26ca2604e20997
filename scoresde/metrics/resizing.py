"""How images are brought to the size that a published network was trained for.

Features depend on it: another rule changes a Fréchet distance by more than most models differ (Parmar et al. 2022).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["resized_bicubic", "resized_pytorch", "resized_tensorflow"]


def resized_tensorflow(x: Tensor, size: int) -> Tensor:
    """Bilinear as in TensorFlow 1: pixel i of the result lies at i H / size of the image, whose corner is pixel 0.

    Nothing is filtered before an image is made smaller. The reference statistics of score_sde and EDM were made so.

    Args:
        x: Images `(B, C, H, W)`.
        size: Height and width of the result.
    """
    for axis in (2, 3):
        length = x.shape[axis]
        # In float32, as TensorFlow computes the places.
        place = torch.arange(size, dtype=torch.float32, device=x.device) * (length / size)
        low = place.floor().long().clamp(max=length - 1)
        high = (low + 1).clamp(max=length - 1)
        share = (place - low).to(x.dtype).view([-1 if k == axis else 1 for k in range(4)])
        below, above = x.index_select(axis, low), x.index_select(axis, high)
        x = below + (above - below) * share
    return x


def resized_pytorch(x: Tensor, size: int) -> Tensor:
    """Bilinear between the centres of pixels, without a filter, as pytorch-fid does.

    Args:
        x: Images `(B, C, H, W)`.
        size: Height and width of the result.
    """
    return F.interpolate(x, size=(size, size), mode="bilinear", align_corners=False)


def resized_bicubic(x: Tensor, size: int) -> Tensor:
    """Bicubic with a filter where images become smaller, as DINOv2's and CLIP's own preprocessing.

    Args:
        x: Images `(B, C, H, W)`.
        size: Height and width of the result.
    """
    if x.shape[-2:] == (size, size):
        return x
    return F.interpolate(x, size=(size, size), mode="bicubic", antialias=True)
