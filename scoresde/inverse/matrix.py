"""An operator that is given as a matrix."""

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.inverse.operator import LinearOperator, SingularValues

__all__ = ["MatrixOperator", "MatrixSingularValues"]

_RANK = 1e-10  # singular values below this part of the largest are 0


@checked
class MatrixOperator(LinearOperator):
    """y = A x for a matrix A, of samples as vectors.

    Args:
        matrix: The matrix `(M, N)`.
        shape: The shape of a sample, of N elements; `(N,)` if not given.

    Raises:
        ValueError: Something else than a matrix of finite numbers, or a shape of another number of elements.

    >>> operator = MatrixOperator(torch.tensor([[1.0, 1.0]]))
    >>> operator(torch.tensor([[2.0, 3.0]])), operator.adjoint(torch.ones(1, 1))
    (tensor([[5.]]), tensor([[1., 1.]]))
    """

    values: Tensor

    def __init__(self, matrix: Tensor, shape: tuple[int, ...] | None = None) -> None:
        matrix = matrix.double()
        if matrix.ndim != 2 or not matrix.numel() or not bool(matrix.isfinite().all()):
            raise ValueError(f"matrix has shape {tuple(matrix.shape)}, expected finite numbers of shape (M, N)")
        shape = (matrix.shape[1],) if shape is None else tuple(shape)
        if torch.Size(shape).numel() != matrix.shape[1]:
            raise ValueError(f"shape is {shape}, expected one of {matrix.shape[1]} elements, the columns of matrix")
        super().__init__(shape, (matrix.shape[0],))
        self.register_buffer("values", matrix)
        self._decomposed: MatrixSingularValues | None = None

    def measure(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.values.to(x).T

    def back(self, y: Tensor) -> Tensor:
        return (y @ self.values.to(y)).reshape(-1, *self.shape)

    @property
    def singular_values(self) -> SingularValues:
        if self._decomposed is None:
            self._decomposed = MatrixSingularValues(self.values, self.shape, self.measured)
        return self._decomposed


class MatrixSingularValues(SingularValues):
    """The decomposition of a matrix `(M, N)`, by LAPACK.

    Args:
        matrix: The matrix.
        shape: The shape of a sample.
        measured: The shape of a measurement.
    """

    left: Tensor
    right: Tensor

    def __init__(self, matrix: Tensor, shape: tuple[int, ...], measured: tuple[int, ...]) -> None:
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        kept = values > _RANK * values.max()
        self.values, self.left, self.right = values[kept], left[:, kept], right[kept].T
        self.shape, self.measured = shape, measured

    def to_right(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.right.to(x)

    def from_right(self, coefficients: Tensor) -> Tensor:
        return (coefficients @ self.right.to(coefficients).T).reshape(-1, *self.shape)

    def to_left(self, y: Tensor) -> Tensor:
        return y.flatten(1) @ self.left.to(y)

    def from_left(self, coefficients: Tensor) -> Tensor:
        return (coefficients @ self.left.to(coefficients).T).reshape(-1, *self.measured)
