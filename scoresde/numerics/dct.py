"""The orthonormal discrete cosine transform of type II of images and signals (Ahmed, Natarajan & Rao 1974).

Values of natural images that are near each other are alike, and the covariance of a stationary field is nearly diagonal
in this basis, which few numbers then describe where a covariance matrix would be too large.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["DCT", "dct_matrix"]


def dct_matrix(size: int) -> Tensor:
    """`(size, size)` float64 whose rows are the basis: √(2/n) cos(π k (j + 1/2)/n), and √(1/n) for k = 0."""
    k, j = torch.arange(size)[:, None], torch.arange(size)
    # Reduced to one period in whole numbers, so that large products lose no digits.
    turns = (k * (2 * j + 1)) % (4 * size)
    matrix = (turns.double() * (math.pi / (2 * size))).cos() * math.sqrt(2 / size)
    matrix[0] = math.sqrt(1 / size)
    return matrix


class DCT:
    """The transform over height and width of every channel of `(..., H, W)`, or over the last of fewer than 3 axes.

    By products with one small matrix for each axis: n numbers of memory traffic for each of the state's, where the
    sides have n.

    Args:
        shape: of one sample; D numbers in all.
        device: of the matrices.
    """

    def __init__(self, shape: Sequence[int], device: torch.device | str = "cpu") -> None:
        self.shape = tuple(shape)
        axes = self.shape[-2:] if len(self.shape) > 2 else self.shape[-1:]
        self.matrices = [dct_matrix(n).to(device) for n in axes]

    def to(self, device: torch.device) -> "DCT":
        return DCT(self.shape, device)

    def __call__(self, x: Tensor) -> Tensor:
        """Coefficients `(n, D)` of x `(n, D)`, the samples flattened."""
        return self._applied(x, [m.to(x.dtype) for m in self.matrices])

    def inverse(self, coefficients: Tensor) -> Tensor:
        """x `(n, D)` of its coefficients `(n, D)`."""
        return self._applied(coefficients, [m.mT.to(coefficients.dtype) for m in self.matrices])

    def _applied(self, x: Tensor, matrices: list[Tensor]) -> Tensor:
        if not matrices:
            return x
        *down, across = matrices
        result = x.reshape(len(x), *self.shape) @ across.mT
        for matrix in down:
            result = matrix @ result
        return result.reshape(x.shape)
