"""Compressed sensing: fewer random combinations of the numbers of a sample than there are numbers."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.inverse.hartley import hartley
from scoresde.inverse.matrix import MatrixOperator
from scoresde.inverse.operator import LinearOperator
from scoresde.inverse.singular_values import SingularValues, positions_of, spread

__all__ = ["CompressedSensing", "RandomProjection"]


@checked
class CompressedSensing(MatrixOperator):
    """y = A x for a matrix of independent N(0, 1/M) (Candès & Tao 2006), so that E‖A x‖² = ‖x‖².

    Args:
        shape: The shape of a sample.
        count: The number M of measurements.
        seed: The seed of the matrix.

    Raises:
        ValueError: A number of measurements that is not between 1 and that of the numbers of a sample.
    """

    def __init__(self, shape: Sequence[int], count: int, seed: int = 0) -> None:
        size = _check_count(shape, count)
        generator = torch.Generator().manual_seed(seed)
        matrix = torch.randn(count, size, generator=generator, dtype=torch.float64) / math.sqrt(count)
        super().__init__(matrix, tuple(shape))


@checked
class RandomProjection(LinearOperator):
    """M numbers of an orthogonal transform of a sample: compressed sensing for large samples, without a matrix.

    The numbers of a sample get random signs, then the Hartley transform, of which a random part is measured. All
    singular values are 1.

    Args:
        shape: The shape of a sample.
        count: The number M of measurements.
        seed: The seed of signs and choice.

    Raises:
        ValueError: A number of measurements that is not between 1 and that of the numbers of a sample.
    """

    signs: Tensor
    kept: Tensor
    positions: Tensor

    def __init__(self, shape: Sequence[int], count: int, seed: int = 0) -> None:
        size = _check_count(shape, count)
        super().__init__(shape, (count,))
        generator = torch.Generator().manual_seed(seed)
        signs = 2.0 * torch.randint(2, (size,), generator=generator).double() - 1
        kept = torch.randperm(size, generator=generator)[:count].sort().values
        self.register_buffer("signs", signs)
        self.register_buffer("kept", kept)
        self.register_buffer("positions", positions_of(kept, size))
        self._values = ProjectionSingularValues(self)

    def measure(self, x: Tensor) -> Tensor:
        return hartley(x.flatten(1) * self.signs.to(x), 1).index_select(1, self.kept)

    def back(self, y: Tensor) -> Tensor:
        return (hartley(spread(y, self.positions), 1) * self.signs.to(y)).reshape(-1, *self.shape)

    @property
    def singular_values(self) -> SingularValues:
        return self._values


class ProjectionSingularValues(SingularValues):
    """Those of rows of an orthogonal matrix A: U is the identity, and V = Aᵀ.

    Args:
        operator: The operator.
    """

    def __init__(self, operator: RandomProjection) -> None:
        super().__init__()
        self.register_buffer("values", torch.ones(operator.measured, dtype=torch.float64))
        # Not a submodule of what it is a submodule of.
        self._operator = [operator]

    def to_right(self, x: Tensor) -> Tensor:
        return self._operator[0].measure(x)

    def from_right(self, coefficients: Tensor) -> Tensor:
        return self._operator[0].back(coefficients)

    def to_left(self, y: Tensor) -> Tensor:
        return y

    def from_left(self, coefficients: Tensor) -> Tensor:
        return coefficients


def _check_count(shape: Sequence[int], count: int) -> int:
    size = math.prod(shape)
    if not 1 <= count <= size:
        raise ValueError(f"count is {count}, expected 1 to {size}, the numbers of a sample")
    return size
