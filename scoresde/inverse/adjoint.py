"""The dot-product test of an adjoint."""

import torch

from scoresde.arguments import checked
from scoresde.inverse.operator import LinearOperator, Operator

__all__ = ["check_adjoint", "check_own_adjoints"]

_PAIRS = 8
_OURS = __name__.partition(".")[0]


@checked
def check_adjoint(operator: LinearOperator, tolerance: float = 1e-4, seed: int = 0) -> None:
    """Check that ⟨A x, y⟩ = ⟨x, Aᵀ y⟩ for random x and y, in float64.

    Args:
        operator: The operator.
        tolerance: The largest difference between the two, as a part of the size that they typically have. The default
            allows for operators that compute in float32.
        seed: The seed of x and y.

    Raises:
        ValueError: Shapes, or numbers, of the adjoint that are not those of one.

    >>> from scoresde.inverse import MatrixOperator
    >>> check_adjoint(MatrixOperator([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))
    """
    generator = torch.Generator().manual_seed(seed)
    device = operator.device
    with torch.no_grad():
        x = torch.randn(_PAIRS, *operator.shape, generator=generator, dtype=torch.float64).to(device)
        y = torch.randn(_PAIRS, *operator.measured, generator=generator, dtype=torch.float64).to(device)
        forward, back = operator(x), operator.adjoint(y)
    for name, given, expected in (("A x", forward, y), ("Aᵀ y", back, x)):
        if given.shape != expected.shape:
            raise ValueError(f"{operator!r}: {name} has shape {tuple(given.shape)}, expected {tuple(expected.shape)}")
    left = (forward.double() * y).flatten(1).sum(1)
    right = (x * back.double()).flatten(1).sum(1)
    size = float(torch.maximum(left.abs(), right.abs()).square().mean().sqrt())
    errors = (left - right).abs()
    worst = int(errors.nan_to_num(torch.inf).argmax())
    error = float(errors[worst]) / size if size else 0.0
    if not error <= tolerance:
        raise ValueError(
            f"the adjoint of {operator!r} fails the dot-product test: ⟨Ax, y⟩ = {float(left[worst]):.6g}, "
            f"⟨x, Aᵀy⟩ = {float(right[worst]):.6g} (relative difference {error:.1g})"
        )


def check_own_adjoints(operator: Operator) -> None:
    """The dot-product test for each linear operator in an operator that is of a class of the user's own.

    Raises:
        ValueError: An adjoint that fails it.
    """
    for part in operator.modules():
        if isinstance(part, LinearOperator) and type(part).__module__.partition(".")[0] != _OURS:
            check_adjoint(part)
