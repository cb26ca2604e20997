"""Operators that act along each axis of a sample by itself."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.inverse.operator import LinearOperator
from scoresde.inverse.singular_values import SingularValues, positions_of, spread

__all__ = ["SeparableOperator"]


@checked
class SeparableOperator(LinearOperator):
    """A = A₁ ⊗ … ⊗ A_n: a matrix for each axis of a sample.

    The singular values are the products of those of the matrices, which LAPACK decomposes one by one, so that they are
    known for large images too.

    Args:
        shape: The shape of a sample, of n axes.
        matrices: For each axis, the matrix that is applied along it, or None for the identity.

    Raises:
        ValueError: Another number of matrices than axes, or a matrix that does not fit its axis.

    >>> operator = SeparableOperator((1, 2, 2), [None, None, torch.tensor([[0.5, 0.5]])])
    >>> operator(torch.tensor([[[[1.0, 3.0], [5.0, 7.0]]]])).tolist()
    [[[[2.0], [6.0]]]]
    """

    def __init__(self, shape: Sequence[int], matrices: Sequence[Tensor | None]) -> None:
        if len(matrices) != len(shape):
            raise ValueError(f"there are {len(matrices)} matrices for the {len(shape)} axes of samples of {shape}")
        for axis, matrix in enumerate(matrices):
            if matrix is not None and (matrix.ndim != 2 or matrix.shape[1] != shape[axis]):
                raise ValueError(
                    f"the matrix for axis {axis} has shape {tuple(matrix.shape)}, expected (M, {shape[axis]})"
                )
        measured = [n if m is None else len(m) for n, m in zip(shape, matrices, strict=True)]
        super().__init__(shape, measured)
        self.axes = [axis for axis, matrix in enumerate(matrices) if matrix is not None]
        for axis in self.axes:
            matrix = matrices[axis]
            assert matrix is not None
            self.register_buffer(f"matrix{axis}", matrix.double())

    def measure(self, x: Tensor) -> Tensor:
        for axis in self.axes:
            x = along(x, axis, self.along_axis(axis))
        return x

    def back(self, y: Tensor) -> Tensor:
        for axis in self.axes:
            y = along(y, axis, self.along_axis(axis).T)
        return y

    def along_axis(self, axis: int) -> Tensor:
        """The matrix that is applied along an axis."""
        matrix: Tensor = getattr(self, f"matrix{axis}")
        return matrix

    @property
    def singular_values(self) -> SingularValues:
        if self._decomposed is None:
            self._decomposed = SeparableSingularValues(self)
        return self._decomposed


class SeparableSingularValues(SingularValues):
    """The decomposition of a separable operator, by those of its matrices.

    Args:
        operator: The operator.
    """

    kept: Tensor
    positions: Tensor

    def __init__(self, operator: SeparableOperator) -> None:
        super().__init__()
        self.axes = operator.axes
        device = operator.device
        sizes = list(operator.shape)
        product = torch.ones((), dtype=torch.float64)
        for axis, size in enumerate(operator.shape):
            values = torch.ones(size, dtype=torch.float64)
            if axis in self.axes:
                matrix = operator.along_axis(axis).double().cpu()
                left, values, right = torch.linalg.svd(matrix, full_matrices=False)
                self.register_buffer(f"left{axis}", left.to(device))
                self.register_buffer(f"right{axis}", right.T.contiguous().to(device))
                sizes[axis] = len(values)
            product = product[..., None] * values
        kept = self.keep(product.flatten())
        self.sizes = sizes
        self.register_buffer("kept", kept)
        self.register_buffer("positions", positions_of(kept, math.prod(sizes)))
        self.to(device)

    def to_right(self, x: Tensor) -> Tensor:
        return self._coefficients(x, "right")

    def from_right(self, coefficients: Tensor) -> Tensor:
        return self._combined(coefficients, "right")

    def to_left(self, y: Tensor) -> Tensor:
        return self._coefficients(y, "left")

    def from_left(self, coefficients: Tensor) -> Tensor:
        return self._combined(coefficients, "left")

    def _coefficients(self, x: Tensor, side: str) -> Tensor:
        for axis in self.axes:
            x = along(x, axis, getattr(self, f"{side}{axis}").T)
        x = x.flatten(1)
        return x if len(self.kept) == x.shape[1] else x.index_select(1, self.kept)

    def _combined(self, coefficients: Tensor, side: str) -> Tensor:
        whole = len(self.kept) == len(self.positions)
        x = (coefficients if whole else spread(coefficients, self.positions)).reshape(-1, *self.sizes)
        for axis in self.axes:
            x = along(x, axis, getattr(self, f"{side}{axis}"))
        return x


def along(x: Tensor, axis: int, matrix: Tensor) -> Tensor:
    """A matrix `(m, n)` applied along an axis of samples `(B, ...)`, which has n elements."""
    return (x.movedim(axis + 1, -1) @ matrix.to(x).T).movedim(-1, axis + 1)
