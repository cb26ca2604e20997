"""Functions as operators: their adjoints by automatic differentiation, and which are refused."""

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from scoresde.inverse import FunctionOperator, MatrixOperator, NonlinearOperator
from tests.problems import F64

MATRIX = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=F64)


def multiplied(x: Tensor) -> Tensor:
    return x.flatten(1) @ MATRIX.to(x).T


def test_a_function_is_the_matrix_that_it_multiplies_by() -> None:
    operator, exact = FunctionOperator(multiplied, (2, 2)), MatrixOperator(MATRIX, (2, 2))
    torch.testing.assert_close(operator.matrix(), exact.matrix())
    y = torch.randn(5, 3, generator=torch.Generator().manual_seed(1), dtype=F64)
    torch.testing.assert_close(operator.adjoint(y), exact.adjoint(y))
    assert operator.adjoint(y.float()).dtype == torch.float32
    values, known = operator.singular_values, exact.singular_values
    assert values is not None
    torch.testing.assert_close(values.values, known.values)


def test_an_adjoint_is_differentiable_and_linear_in_its_argument() -> None:
    operator = FunctionOperator(multiplied, (2, 2))
    x = torch.randn(2, 2, 2, generator=torch.Generator().manual_seed(2), dtype=F64)
    gradient = torch.func.grad(lambda z: 0.5 * operator.adjoint(operator(z)).square().sum())(x)
    gram = MATRIX.T @ MATRIX
    torch.testing.assert_close(gradient.flatten(1), x.flatten(1) @ gram @ gram)


def test_a_layer_in_float32_is_an_operator() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(1, 2, 3, stride=2, bias=False).requires_grad_(False)
    operator = FunctionOperator(layer, (1, 7, 7), dtype=torch.float32)
    assert operator.measured == (2, 3, 3)
    assert operator(torch.ones(1, 1, 7, 7, dtype=F64)).dtype == F64
    with pytest.raises(ValueError, match="give its dtype, such as dtype=torch.float32") as error:
        FunctionOperator(layer, (1, 7, 7))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FunctionOperator(lambda x: x + 1, (3,)), "function is not linear: f(0) is not 0 but up to 1"),
        (lambda: FunctionOperator(torch.sin, (3,)), "function is not linear: f(a + b) and f(a) + f(b) differ"),
        (lambda: FunctionOperator(lambda x: x - x.mean(0), (3,)), "function mixes the samples of a batch"),
        (lambda: FunctionOperator(torch.sum, (3,)), "function gives torch.float64 of shape () for two samples"),
        (lambda: FunctionOperator(torch.fft.fft, (3,)), "function gives torch.complex128 of shape (2, 3) for two"),
        (
            lambda: FunctionOperator(lambda x: 2 * x, (3,), adjoint=lambda y: y),
            "the adjoint of FunctionOperator(3 to 3) fails the dot-product test: ⟨Ax, y⟩ = ",
        ),
        (
            lambda: FunctionOperator(lambda x: x[:, :2], (3,), adjoint=lambda y: y),
            "FunctionOperator(3 to 2): Aᵀ y has shape (8, 2), expected (8, 3)",
        ),
        (lambda: FunctionOperator(lambda x: x.detach(), (3,)), "fails the dot-product test"),
        (lambda: NonlinearOperator(lambda x: [x], (3,)), "function gives list for two samples"),  # type: ignore[arg-type,return-value]
    ],
)
def test_bad_functions_are_refused_in_one_line(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        make()
    assert "\n" not in str(error.value)
