"""Noise for a batch, and sums over the elements of each sample."""

import torch
from torch import Tensor

__all__ = ["at_least_float32", "dot", "mean_square", "normal"]


def normal(shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal draws in the dtype and on the device of `like`, drawn on the generator's device."""
    device = like.device if generator is None else generator.device
    return torch.randn(shape, generator=generator, device=device, dtype=like.dtype).to(like.device)


def at_least_float32(x: Tensor) -> Tensor:
    """x in its dtype, or in float32 if that is half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def mean_square(x: Tensor) -> Tensor:
    """The mean of x² over the elements of each sample, `(B,)`."""
    return at_least_float32(x).square().flatten(1).mean(1)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """The sum of a b over the elements of each sample, `(B,)`."""
    return at_least_float32(a * b).flatten(1).sum(1)
