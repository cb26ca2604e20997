"""Operators that are given as functions."""

import re
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.inverse.adjoint import check_adjoint
from scoresde.inverse.operator import LinearOperator, Operator
from scoresde.inverse.singular_values import SingularValues

__all__ = ["FunctionOperator", "NonlinearOperator"]

_TOLERANCES = {torch.float64: 1e-8, torch.float32: 1e-4}


@checked
class FunctionOperator(LinearOperator):
    """y = f(x) for a linear function f, with its adjoint by automatic differentiation unless that is given.

    The function, and its adjoint by the dot-product test, are tried on random samples. Singular values are known if the
    operator is small.

    Args:
        function: f of samples `(B, *shape)`, which gives `(B, *measured)`.
        shape: The shape of a sample.
        adjoint: fᵀ of measurements `(B, *measured)`; by automatic differentiation if not given.
        dtype: The dtype that f computes in, such as that of a network's weights; that of its argument if not given.

    Raises:
        ValueError: A function that is not linear, or mixes the samples of a batch, or an adjoint that is not its own.

    >>> operator = FunctionOperator(lambda x: x.cumsum(1), (3,))
    >>> operator.adjoint(torch.tensor([[0.0, 1.0, 0.0]]))
    tensor([[1., 1., 0.]])
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        shape: Sequence[int],
        adjoint: Callable[[Tensor], Tensor] | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(shape, _measured(function, shape, dtype or torch.float64))
        self.function, self.transposed, self.dtype = function, adjoint, dtype
        tolerance = _TOLERANCES.get(dtype or torch.float64, 1e-2)
        _check_linear(self, tolerance)
        check_adjoint(self, tolerance)

    def measure(self, x: Tensor) -> Tensor:
        return self.function(x.to(self.dtype or x.dtype)).to(x.dtype)

    def back(self, y: Tensor) -> Tensor:
        given = y.to(self.dtype or y.dtype)
        if self.transposed is not None:
            return self.transposed(given).to(y.dtype)
        at = given.new_zeros(len(y), *self.shape)
        pulled = torch.func.vjp(self.function, at)[1]
        x: Tensor = pulled(given)[0]
        return x.to(y.dtype)

    @property
    def singular_values(self) -> SingularValues | None:
        return self.decomposed()


@checked
class NonlinearOperator(Operator):
    """y = f(x) for any function f.

    Args:
        function: f of samples `(B, *shape)`, which gives `(B, *measured)`; differentiable for methods that ask for its
            gradient.
        shape: The shape of a sample.
        dtype: The dtype that f computes in, such as that of a network's weights; that of its argument if not given.

    Raises:
        ValueError: A function that gives something else than a tensor for each sample.
    """

    def __init__(
        self, function: Callable[[Tensor], Tensor], shape: Sequence[int], dtype: torch.dtype | None = None
    ) -> None:
        super().__init__(shape, _measured(function, shape, dtype or torch.float64))
        self.function, self.dtype = function, dtype

    def measure(self, x: Tensor) -> Tensor:
        return self.function(x.to(self.dtype or x.dtype)).to(x.dtype)


def _measured(function: Callable[[Tensor], Tensor], shape: Sequence[int], dtype: torch.dtype) -> tuple[int, ...]:
    """The shape of what a function gives for a sample."""
    with torch.no_grad():
        try:
            given = function(torch.zeros(2, *shape, dtype=dtype))
        except RuntimeError as error:
            hint = ": give its dtype, such as dtype=torch.float32" if re.search("dtype|scalar type", str(error)) else ""
            first = str(error).strip().partition("\n")[0]
            raise ValueError(f"function fails for samples of shape (2, {_text(shape)}){hint} ({first})") from error
    if not isinstance(given, Tensor) or given.ndim < 2 or len(given) != 2 or given.is_complex():
        got = f"{given.dtype} of shape {tuple(given.shape)}" if isinstance(given, Tensor) else type(given).__name__
        raise ValueError(f"function gives {got} for two samples, expected real numbers of shape (2, ...)")
    return tuple(given.shape[1:])


def _check_linear(operator: FunctionOperator, tolerance: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, *operator.shape, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        both, sums = operator.measure(x), operator.measure(x.sum(0, keepdim=True) * torch.ones_like(x))
        nothing, alone = operator.measure(torch.zeros_like(x)), operator.measure(x[:1])
    size = float(both.abs().max())
    if not bool(both.isfinite().all()):
        raise ValueError("function gives values that are not finite")
    if float(nothing.abs().max()) > tolerance * max(size, 1.0):
        raise ValueError(
            f"function is not linear: f(0) is not 0 but up to {float(nothing.abs().max()):.3g}; leave out what is added"
        )
    for other, expected, what in (
        (alone[0], both[0], "function mixes the samples of a batch: f of a sample differs"),
        (sums[0], both.sum(0), "function is not linear: f(a + b) and f(a) + f(b) differ"),
    ):
        error = float((other - expected).abs().max())
        if not error <= tolerance * size:
            raise ValueError(f"{what} by up to {error:.3g}, at values of up to {size:.3g}")


def _text(shape: Sequence[int]) -> str:
    return ", ".join(map(str, shape))
