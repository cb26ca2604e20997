"""What is measured of a sample: operators, their adjoints and their singular values."""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["LinearOperator", "Operator", "SingularValues"]


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

    def __repr__(self) -> str:
        return f"{type(self).__name__}({_text(self.shape)} to {_text(self.measured)})"


class LinearOperator(Operator):
    """A linear map y = A x with its adjoint Aᵀ.

    A subclass gives `measure` and `back`, and `singular_values` where they are known in closed form.
    """

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
    def singular_values(self) -> "SingularValues | None":
        """The singular value decomposition; None where it is not known."""
        return None

    def matrix(self) -> Tensor:
        """The matrix `(M, N)` float64 on the CPU, of a sample and a measurement as vectors: for small operators."""
        count = torch.Size(self.shape).numel()
        eye = torch.eye(count, dtype=torch.float64, device=_device(self)).reshape(count, *self.shape)
        return self.measure(eye).reshape(count, -1).T.cpu()


class SingularValues:
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


def _check(name: str, given: Tensor, shape: tuple[int, ...], what: str) -> None:
    if given.ndim < 1 or tuple(given.shape[1:]) != shape:
        raise ValueError(
            f"{name} has shape {tuple(given.shape)}, expected {what} of shape (B, {', '.join(map(str, shape))})"
        )


def _device(operator: Operator) -> torch.device:
    return next((b.device for b in operator.buffers()), torch.device("cpu"))


def _text(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))
