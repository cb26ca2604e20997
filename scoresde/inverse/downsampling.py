"""Images of fewer pixels: super-resolution."""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.inverse.boundaries import Boundary, filter_matrix
from scoresde.inverse.separable import SeparableOperator
from scoresde.numerics.values import at_least, one_of

__all__ = ["Downsampling"]

Filter = Literal["cubic", "lanczos", "linear", "average"]


@checked
class Downsampling(SeparableOperator):
    """A sample at a fraction of its pixels, behind the filter that keeps higher frequencies out.

    Args:
        shape: The shape of a sample, `(C, H, W)` or `(D,)`.
        factor: How many pixels become one, along each axis.
        filter: The filter, stretched by the factor: "cubic" (Keys 1981, with a = −1/2), "lanczos" (of three lobes),
            "linear", or "average", the mean of the pixels that become one.
        boundary: What lies beyond the edges: "circular", "reflect" or "zero".

    Raises:
        ValueError: A factor that does not divide the size of the sample, or a filter or boundary that is not known.
    """

    def __init__(
        self, shape: Sequence[int], factor: int = 4, filter: Filter = "cubic", boundary: Boundary = "reflect"
    ) -> None:
        at_least("factor", factor, 1)
        one_of("filter", filter, _FILTERS)
        sizes = tuple(shape[1:] if len(shape) > 1 else shape)
        if any(size % factor for size in sizes):
            raise ValueError(f"factor {factor} does not divide the size {'×'.join(map(str, sizes))} of a sample")
        matrices = [_matrix(size, factor, filter, boundary) for size in sizes]
        super().__init__(shape, [*[None] * (len(shape) - len(sizes)), *matrices])
        self.factor, self.filter, self.boundary = factor, filter, boundary


def _matrix(size: int, factor: int, name: str, boundary: Boundary) -> Tensor:
    kernel, radius = _FILTERS[name]
    centres = factor * (torch.arange(size // factor, dtype=torch.float64) + 0.5) - 0.5
    reach = math.ceil(radius * factor)
    positions = centres.floor().long()[:, None] + torch.arange(-reach, reach + 1)
    weights = kernel((positions - centres[:, None]) / factor)
    return filter_matrix(positions, weights / weights.sum(1, keepdim=True), size, boundary)


def _cubic(u: Tensor) -> Tensor:
    u = u.abs()
    near, far = 1.5 * u**3 - 2.5 * u**2 + 1, -0.5 * u**3 + 2.5 * u**2 - 4 * u + 2
    return torch.where(u < 1, near, torch.where(u < 2, far, 0.0))


def _lanczos(u: Tensor) -> Tensor:
    return torch.where(u.abs() < 3, torch.sinc(u) * torch.sinc(u / 3), 0.0)


def _linear(u: Tensor) -> Tensor:
    return (1 - u.abs()).clamp_min(0)


def _average(u: Tensor) -> Tensor:
    return (u.abs() < 0.5).double()


_FILTERS: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "cubic": (_cubic, 2),
    "lanczos": (_lanczos, 3),
    "linear": (_linear, 1),
    "average": (_average, 0.5),
}
