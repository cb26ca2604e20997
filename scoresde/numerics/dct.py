"""The orthonormal discrete cosine transform of type II of images and signals (Ahmed, Natarajan & Rao 1974).

Neighbouring pixels of natural images are alike, and the covariance of a stationary field is nearly diagonal in this
basis. A variance for each coefficient then describes the field where a covariance matrix would be too large.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["DCT", "dct_matrix"]


def dct_matrix(size: int) -> Tensor:
    """The matrix `(n, n)` float64 whose rows k are the basis: √(2/n) cos(π k (j + 1/2)/n), and √(1/n) for k = 0.

    >>> matrix = dct_matrix(8)
    >>> bool((matrix @ matrix.T - torch.eye(8)).abs().max() < 1e-15)
    True
    """
    k, j = torch.arange(size)[:, None], torch.arange(size)
    # Reduced to one period in integers, so that large products lose no digits.
    turns = (k * (2 * j + 1)) % (4 * size)
    matrix = (turns.double() * (math.pi / (2 * size))).cos() * math.sqrt(2 / size)
    matrix[0] = math.sqrt(1 / size)
    return matrix


class DCT:
    """The transform over height and width of every channel of `(..., H, W)`, or over the last of fewer than 3 axes.

    It is a product with one small matrix for each axis.

    Args:
        shape: Shape of one sample; D elements in all.
        device: Device of the matrices.
    """

    def __init__(self, shape: Sequence[int], device: torch.device | str = "cpu") -> None:
        self.shape = tuple(shape)
        axes = self.shape[-2:] if len(self.shape) > 2 else self.shape[-1:]
        self.matrices = [dct_matrix(n).to(device) for n in axes]

    def to(self, device: torch.device) -> "DCT":
        """The same transform on another device."""
        return DCT(self.shape, device)

    def __call__(self, x: Tensor) -> Tensor:
        """Coefficients `(n, D)` of x `(n, D)`, the samples flattened."""
        return self._applied(x, [m.to(x.dtype) for m in self.matrices])

    def inverse(self, coefficients: Tensor) -> Tensor:
        """Samples x `(n, D)` from their coefficients `(n, D)`."""
        return self._applied(coefficients, [m.mT.to(coefficients.dtype) for m in self.matrices])

    def _applied(self, x: Tensor, matrices: list[Tensor]) -> Tensor:
        if not matrices:
            return x
        *down, across = matrices
        result = x.reshape(len(x), *self.shape) @ across.mT
        for matrix in down:
            result = matrix @ result
        return result.reshape(x.shape)
