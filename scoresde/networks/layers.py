"""Layers for signals, images and volumes alike, and how their weights start."""

from typing import Any, TypeVar

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["convolution", "group_norm", "largest_divisor", "mean_pool", "nearest", "xavier", "zeroed"]

Layer = TypeVar("Layer", bound=nn.Module)

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_DRAWN = (nn.Linear, nn.Embedding, *_CONVOLUTIONS)
_POOLS = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)


def convolution(dims: int, inputs: int, outputs: int, size: int = 3, **options: Any) -> nn.Module:
    """A convolution over 1, 2 or 3 dimensions; with stride 1 it keeps their sizes unless `padding` is given."""
    options.setdefault("padding", size // 2)
    return _CONVOLUTIONS[dims - 1](inputs, outputs, size, **options)


def mean_pool(x: Tensor) -> Tensor:
    """Means of 2 neighbours along each dimension of `(B, C, ...)`; the last of an odd number is averaged alone."""
    return _POOLS[x.ndim - 3](x, 2, ceil_mode=True)


def nearest(x: Tensor) -> Tensor:
    """Every value of `(B, C, ...)` twice along each dimension."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def group_norm(channels: int, groups: int | None = None, eps: float = 1e-5, affine: bool = True) -> nn.GroupNorm:
    """Group normalisation, by default with at most 32 groups of, if possible, at least 4 channels.

    Where min(32, channels // 4) divides the channels, that is the number of groups, as in score_sde and EDM.

    Raises:
        ValueError: A number of groups that does not divide the channels.
    """
    if groups is None:
        groups = largest_divisor(channels, min(32, channels // 4))
    if groups < 1 or channels % groups:
        raise ValueError(f"{channels} channels do not divide into {groups} groups: choose other channels or groups")
    return nn.GroupNorm(groups, channels, eps=eps, affine=affine)


def largest_divisor(number: int, limit: int) -> int:
    """The largest divisor of a number that is at most the limit, or 1."""
    return max(divisor for divisor in range(1, max(limit, 1) + 1) if number % divisor == 0)


def zeroed(module: Layer) -> Layer:
    """The module with parameters of 0, which `xavier` leaves alone."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    module.starts_at_zero = True  # type: ignore[assignment]
    return module


def xavier(network: nn.Module) -> None:
    """Draw weights anew as score_sde does: uniform of variance 2/(fan in + fan out), with biases of 0."""
    for module in network.modules():
        if isinstance(module, _DRAWN) and not hasattr(module, "starts_at_zero"):
            nn.init.xavier_uniform_(module.weight)
            if getattr(module, "bias", None) is not None:
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
