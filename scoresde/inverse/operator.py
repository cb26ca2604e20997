"""What is measured of a sample: operators, their adjoints, and their composition."""

import copy
import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from scoresde.inverse.singular_values import MatrixSingularValues, SingularValues, small_enough

__all__ = ["Composed", "LinearOperator", "LinearlyComposed", "Operator", "SingularValues"]


class Operator(nn.Module):
    """A map y = A(x) from samples to what is measured of them.

    A subclass gives `measure`. An operator has no learned parameters; tensors that it needs are float64 buffers, cast
    to the dtype of what they are applied to, and move with `.to(device)`.

    Args:
        shape: The shape `(...)` of a sample.
        measured: The shape `(...)` of a measurement.

    Attributes:
        shape: The shape of a sample.
        measured: The shape of a measurement.
    """

    def __init__(self, shape: Sequence[int], measured: Sequence[int]) -> None:
        super().__init__()
        self.shape, self.measured = tuple(shape), tuple(measured)
        for name, given in (("shape", self.shape), ("measured", self.measured)):
            if not given or min(given) < 1:
                raise ValueError(f"{name} is {given}, expected a shape with at least one element")

    @abstractmethod
    def measure(self, x: Tensor) -> Tensor:
        """A(x) of samples `(B, *shape)` whose shape was checked, `(B, *measured)`; differentiable where A is."""

    def forward(self, x: Tensor) -> Tensor:
        """A(x) of samples `(B, *shape)`, `(B, *measured)`.

        Raises:
            ValueError: Samples of another shape.
        """
        _check("x", x, self.shape, "samples")
        return self.measure(x)

    @property
    def device(self) -> torch.device:
        """The device of the operator's tensors; the CPU if it has none."""
        return next((b.device for b in self.buffers()), torch.device("cpu"))

    def prepared(self, device: torch.device, dtype: torch.dtype) -> "Operator":
        """The operator with its tensors on a device and in a dtype, so that no step has to convert them."""
        floats = (b for b in self.buffers() if b.is_floating_point() or b.is_complex())
        if all(b.device == device for b in self.buffers()) and all(b.dtype == dtype for b in floats):
            return self
        return copy.deepcopy(self).to(device, dtype)

    def __matmul__(self, inner: "Operator") -> "Operator":
        """The operator that applies `inner` first."""
        if isinstance(self, LinearOperator) and isinstance(inner, LinearOperator):
            return LinearlyComposed(self, inner)
        return Composed(self, inner)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({_text(self.shape)} to {_text(self.measured)})"


class LinearOperator(Operator):
    """A linear map y = A x with its adjoint Aᵀ.

    A subclass gives `measure` and `back`, and `singular_values` where they are known in closed form. For an operator
    that is often small, these may be `decomposed()`.
    """

    def __init__(self, shape: Sequence[int], measured: Sequence[int]) -> None:
        super().__init__(shape, measured)
        self._decomposed: SingularValues | None = None

    @abstractmethod
    def back(self, y: Tensor) -> Tensor:
        """Aᵀ y of measurements `(B, *measured)` whose shape was checked, `(B, *shape)`."""

    def adjoint(self, y: Tensor) -> Tensor:
        """Aᵀ y of measurements `(B, *measured)`, `(B, *shape)`.

        Raises:
            ValueError: Measurements of another shape.
        """
        _check("y", y, self.measured, "measurements")
        return self.back(y)

    @property
    def singular_values(self) -> SingularValues | None:
        """The singular value decomposition; None where it is not known."""
        return None

    def matrix(self) -> Tensor:
        """The matrix `(M, N)` float64 on the CPU, of a sample and a measurement as vectors: for small operators."""
        wide = math.prod(self.measured) < math.prod(self.shape)
        given = self.measured if wide else self.shape
        eye = torch.eye(math.prod(given), dtype=torch.float64, device=self.device).reshape(-1, *given)
        rows = (self.back(eye) if wide else self.measure(eye)).flatten(1).cpu()
        return rows if wide else rows.T

    def decomposed(self) -> SingularValues | None:
        """The decomposition of the operator's matrix by LAPACK, made once; None for a large operator."""
        if self._decomposed is None and small_enough(self.shape, self.measured):
            # A matrix of numbers that were rounded to float32 has no rank below that rounding.
            rounding = max((torch.finfo(b.dtype).eps for b in self.buffers() if b.is_floating_point()), default=0.0)
            found = MatrixSingularValues(self.matrix(), self.shape, self.measured, 100 * rounding)
            self._decomposed = found.to(self.device)
        return self._decomposed


class Composed(Operator):
    """A(B(x)) of operators A and B: `A @ B`.

    Args:
        outer: A.
        inner: B, whose measurements have the shape of A's samples.

    Raises:
        ValueError: Shapes that do not fit.
    """

    def __init__(self, outer: Operator, inner: Operator) -> None:
        super().__init__(inner.shape, outer.measured)
        _check_chain(outer, inner)
        self.outer, self.inner = outer, inner

    def measure(self, x: Tensor) -> Tensor:
        return self.outer.measure(self.inner.measure(x))

    def __repr__(self) -> str:
        return f"{self.outer!r} @ {self.inner!r}"


class LinearlyComposed(Composed, LinearOperator):
    """A B x of linear operators A and B: `A @ B`. Its singular values are known if it is small.

    Args:
        outer: A.
        inner: B, whose measurements have the shape of A's samples.

    Raises:
        ValueError: Shapes that do not fit.
    """

    outer: LinearOperator
    inner: LinearOperator

    def back(self, y: Tensor) -> Tensor:
        return self.inner.back(self.outer.back(y))

    @property
    def singular_values(self) -> SingularValues | None:
        return self.decomposed()


def _check_chain(outer: Operator, inner: Operator) -> None:
    if outer.shape != inner.measured:
        raise ValueError(
            f"{outer!r} @ {inner!r} do not fit: the first is for samples of shape {outer.shape}, and the second gives "
            f"{inner.measured}"
        )


def _check(name: str, given: Tensor, shape: tuple[int, ...], what: str) -> None:
    if given.ndim < 1 or tuple(given.shape[1:]) != shape:
        raise ValueError(
            f"{name} has shape {tuple(given.shape)}, expected {what} of shape (B, {', '.join(map(str, shape))})"
        )


def _text(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))
