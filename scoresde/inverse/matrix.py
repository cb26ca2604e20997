"""An operator that is given as a matrix."""

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.inverse.operator import LinearOperator
from scoresde.inverse.singular_values import MatrixSingularValues, SingularValues

__all__ = ["MatrixOperator"]


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

    def measure(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.values.to(x).T

    def back(self, y: Tensor) -> Tensor:
        return (y @ self.values.to(y)).reshape(-1, *self.shape)

    @property
    def singular_values(self) -> SingularValues:
        if self._decomposed is None:
            self._decomposed = MatrixSingularValues(self.values, self.shape, self.measured)
        return self._decomposed
