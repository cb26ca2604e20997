"""Singular value decompositions whose factors are functions, and that of a small matrix."""

import math
from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["MatrixSingularValues", "SingularValues", "positions_of", "small_enough", "spread"]

_RANK = 1e-10  # singular values below this part of the largest are 0
_LARGEST = 1024  # the smaller side of a matrix that is decomposed without being asked to
_NUMBERS = 2**22  # and how many numbers it has


class SingularValues(nn.Module):
    """A = U diag(s) Vᵀ with orthonormal columns of U and V, which are functions rather than matrices.

    Attributes:
        values: The R singular values `(R,)` float64, none of them 0. What of x is orthogonal to V is not measured.
    """

    values: Tensor

    @abstractmethod
    def to_right(self, x: Tensor) -> Tensor:
        """Vᵀ x of samples `(B, *shape)`, `(B, R)`."""

    @abstractmethod
    def from_right(self, coefficients: Tensor) -> Tensor:
        """V c of coefficients `(B, R)`, `(B, *shape)`."""

    @abstractmethod
    def to_left(self, y: Tensor) -> Tensor:
        """Uᵀ y of measurements `(B, *measured)`, `(B, R)`."""

    @abstractmethod
    def from_left(self, coefficients: Tensor) -> Tensor:
        """U c of coefficients `(B, R)`, `(B, *measured)`."""

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        """A⁺ y of measurements `(B, *measured)`, `(B, *shape)`."""
        return self.from_right(self.to_left(y) / self.values.to(y))

    def keep(self, values: Tensor, rounding: float = 0.0) -> Tensor:
        """Store the singular values that are not 0, and return their positions.

        Args:
            values: All singular values `(n,)`.
            rounding: What they may be wrong by, as a part of the largest.

        Returns:
            The positions `(R,)`.
        """
        values = values.double()
        kept = (values > max(_RANK, rounding) * values.max()).nonzero()[:, 0]
        self.register_buffer("values", values[kept])
        return kept


class MatrixSingularValues(SingularValues):
    """The decomposition of a matrix `(M, N)`, by LAPACK.

    Args:
        matrix: The matrix.
        shape: The shape of a sample, of N elements.
        measured: The shape of a measurement, of M elements.
        rounding: What the matrix may be wrong by, as a part of its norm.
    """

    left: Tensor
    right: Tensor

    def __init__(
        self, matrix: Tensor, shape: tuple[int, ...], measured: tuple[int, ...], rounding: float = 0.0
    ) -> None:
        super().__init__()
        left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
        kept = self.keep(values, rounding)
        self.register_buffer("left", left[:, kept])
        self.register_buffer("right", right[kept].T.contiguous())
        self.shape, self.measured = shape, measured

    def to_right(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.right.to(x)

    def from_right(self, coefficients: Tensor) -> Tensor:
        return (coefficients @ self.right.to(coefficients).T).reshape(-1, *self.shape)

    def to_left(self, y: Tensor) -> Tensor:
        return y.flatten(1) @ self.left.to(y)

    def from_left(self, coefficients: Tensor) -> Tensor:
        return (coefficients @ self.left.to(coefficients).T).reshape(-1, *self.measured)


def small_enough(shape: tuple[int, ...], measured: tuple[int, ...]) -> bool:
    """Whether LAPACK decomposes a matrix between these shapes within seconds."""
    sides = torch.Size(shape).numel(), torch.Size(measured).numel()
    return min(sides) <= _LARGEST and math.prod(sides) <= _NUMBERS


def positions_of(kept: Tensor, count: int) -> Tensor:
    """For each of `count` numbers, its position in `kept` `(R,)`; R for those that are not there: for `spread`."""
    positions = torch.full((count,), len(kept), dtype=torch.long)
    positions[kept] = torch.arange(len(kept))
    return positions


def spread(x: Tensor, positions: Tensor) -> Tensor:
    """The numbers x `(B, R)` at the places that they were kept from, and 0 elsewhere, `(B, count)`."""
    return F.pad(x, (0, 1)).index_select(1, positions)
