"""Phase retrieval: the moduli of Fourier coefficients."""

from collections.abc import Sequence

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.inverse.operator import Operator
from scoresde.numerics.values import at_least

__all__ = ["PhaseRetrieval"]


@checked
class PhaseRetrieval(Operator):
    """The moduli of the Fourier coefficients of a sample that zeros surround, without their phases.

        y = |F P x|

    with the unitary transform F of a sample that P extends with zeros. The sign of x, its mirror image and, as far as
    the zeros reach, its place do not change y.

    Args:
        shape: The shape of a sample, `(C, H, W)` or `(D,)`.
        oversampling: The size with the zeros, as a multiple of that of a sample along each axis.

    Raises:
        ValueError: An oversampling below 1.
    """

    def __init__(self, shape: Sequence[int], oversampling: float = 2.0) -> None:
        at_least("oversampling", oversampling, 1)
        shape = tuple(shape)
        pixels = shape[1:] if len(shape) > 1 else shape
        sizes = tuple(round(oversampling * size) for size in pixels)
        super().__init__(shape, (*shape[: len(shape) - len(sizes)], *sizes))
        self.sizes = sizes

    def measure(self, x: Tensor) -> Tensor:
        axes = tuple(range(-len(self.sizes), 0))
        moduli: Tensor = torch.fft.fftn(x, s=self.sizes, dim=axes, norm="ortho").abs()
        return moduli
