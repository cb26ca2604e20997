"""Some of the Fourier coefficients of a sample, as in magnetic resonance imaging."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.inverse.hartley import hartley
from scoresde.inverse.operator import LinearOperator
from scoresde.inverse.singular_values import SingularValues, positions_of, spread
from scoresde.numerics.values import at_least, fraction

__all__ = ["FourierSampling", "line_mask"]


@checked
class FourierSampling(LinearOperator):
    """Real and imaginary parts, `(C, 2, K)` or `(2, K)`, of K coefficients of the unitary Fourier transform.

    Samples are real, so that the coefficients at k and −k say the same: where one of them is measured, the singular
    values of its sine and cosine are 1/√2, and where both are, 1. The imaginary part is always 0 where k = −k.

    Args:
        shape: The shape of a sample, `(C, H, W)` or `(D,)`.
        mask: True where a coefficient is measured, `(H, W)` or `(D,)`, with frequency 0 at the first place, as in
            `torch.fft`.

    Raises:
        ValueError: A mask of another shape, or one that is False everywhere.
    """

    kept: Tensor
    positions: Tensor

    def __init__(self, shape: Sequence[int], mask: Tensor) -> None:
        shape = tuple(shape)
        pixels = shape[1:] if len(shape) > 1 else shape
        if tuple(mask.shape) != pixels:
            raise ValueError(f"mask has shape {tuple(mask.shape)}, expected that of the pixels, {pixels}")
        mask = mask.bool().cpu()
        kept = mask.flatten().nonzero()[:, 0]
        if not len(kept):
            raise ValueError("mask is False everywhere, so that nothing is measured")
        super().__init__(shape, (*shape[: len(shape) - len(pixels)], 2, len(kept)))
        self.ndim, self.pixels = len(pixels), pixels
        self.register_buffer("kept", kept)
        self.register_buffer("positions", positions_of(kept, math.prod(pixels)))
        self._values = FourierSingularValues(self, mask)

    def measure(self, x: Tensor) -> Tensor:
        axes = tuple(range(-self.ndim, 0))
        spectrum = torch.fft.fftn(x, dim=axes, norm="ortho").flatten(-self.ndim)
        both = torch.stack([spectrum.real, spectrum.imag], dim=-2)
        return both.index_select(-1, self.kept)

    def back(self, y: Tensor) -> Tensor:
        axes = tuple(range(-self.ndim, 0))
        whole = spread(y.reshape(-1, y.shape[-1]), self.positions).reshape(*y.shape[:-1], *self.pixels)
        real, imaginary = whole.unbind(-self.ndim - 1)
        x: Tensor = torch.fft.ifftn(torch.complex(real, imaginary), dim=axes, norm="ortho").real
        return x

    @property
    def singular_values(self) -> SingularValues:
        return self._values


class FourierSingularValues(SingularValues):
    """Those of Fourier coefficients: V is the Hartley basis, and U = A V / s.

    Args:
        operator: The operator.
        mask: Its mask.
    """

    kept: Tensor
    positions: Tensor

    def __init__(self, operator: FourierSampling, mask: Tensor) -> None:
        super().__init__()
        mirrored = mask
        for axis in range(mask.ndim):
            mirrored = mirrored.index_select(axis, -torch.arange(mask.shape[axis]) % mask.shape[axis])
        values = (0.5 * (mask.double() + mirrored.double())).sqrt()
        channels = math.prod(operator.shape) // mask.numel()
        kept = self.keep(values.expand(channels, *values.shape).flatten())
        self.register_buffer("kept", kept)
        self.register_buffer("positions", positions_of(kept, math.prod(operator.shape)))
        self.shape, self.ndim = operator.shape, operator.ndim
        # Not a submodule of what it is a submodule of.
        self._operator = [operator]

    def to_right(self, x: Tensor) -> Tensor:
        return hartley(x, self.ndim).flatten(1).index_select(1, self.kept)

    def from_right(self, coefficients: Tensor) -> Tensor:
        return hartley(spread(coefficients, self.positions).reshape(-1, *self.shape), self.ndim)

    def to_left(self, y: Tensor) -> Tensor:
        return self.to_right(self._operator[0].back(y)) / self.values.to(y)

    def from_left(self, coefficients: Tensor) -> Tensor:
        return self._operator[0].measure(self.from_right(coefficients / self.values.to(coefficients)))


def line_mask(size: Sequence[int], share: float = 0.25, centre: float = 0.08, seed: int = 0) -> Tensor:
    """A mask `(H, W)` or `(D,)` of whole lines: the lowest frequencies, and a random part of the others.

    Args:
        size: The size of the image, (H, W), of which columns are measured, or that of a vector, (D,).
        share: The part of the lines that is measured, at least one.
        centre: The part of the lines that is measured at the lowest frequencies.
        seed: The seed of the choice.

    Raises:
        ValueError: A share that is not above 0 and at most 1, or is below `centre`.

    >>> line_mask((1, 8), share=0.5, centre=0.4).int().tolist()
    [[1, 1, 0, 0, 0, 0, 1, 1]]
    """
    fraction("share", share)
    at_least("share", share, centre, ", the part at the centre")
    lines = size[-1]
    count = max(1, round(share * lines))
    frequency = torch.minimum(torch.arange(lines), lines - torch.arange(lines))
    order = torch.rand(lines, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 1
    order = torch.where(2 * frequency <= max(centre * lines - 1, 0), frequency / lines, order)
    mask = torch.zeros(lines, dtype=torch.bool)
    mask[order.argsort()[:count]] = True
    return mask.expand(*size).clone()
