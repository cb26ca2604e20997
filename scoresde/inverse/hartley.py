"""The Hartley transform: a real, orthonormal Fourier transform that is its own inverse."""

import torch
from torch import Tensor

__all__ = ["hartley"]


def hartley(x: Tensor, axes: int) -> Tensor:
    """Re F x − Im F x for the unitary Fourier transform F along the last axes of x `(...)`, of the shape of x.

    Its basis vectors of the frequencies k and −k span what sine and cosine of k span. So it diagonalises every circular
    filter whose transfer function is real, and so equal at k and −k.

    Args:
        x: Real numbers.
        axes: The number of axes.

    >>> x = torch.tensor([1.0, 2.0, 4.0])
    >>> hartley(hartley(x, 1), 1)
    tensor([1., 2., 4.])
    """
    spectrum = torch.fft.fftn(x, dim=tuple(range(-axes, 0)), norm="ortho")
    real: Tensor = spectrum.real - spectrum.imag
    return real
