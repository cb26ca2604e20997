"""A fixed number of preconditioned conjugate-gradient steps for each row of a batch, which waits for no value."""

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["conjugate_gradients"]

Applied = Callable[[Tensor], tuple[Tensor, Tensor]]
"""H p of directions p `(B, ...)`, and anything else that is linear in p, `(B, ...)`."""


def conjugate_gradients(
    applied: Applied,
    right: Tensor,
    iterations: int,
    preconditioned: Callable[[Tensor], Tensor] | None = None,
    floor: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Solve H u = b for each row of a batch, from u = 0 (Hestenes & Stiefel 1952).

    Every row has steps of its own size, and stays as it is from where its residual is round-off, so that it does not
    depend on its batch mates.

    Args:
        applied: H p, and C p for another linear map C that is computed on the way.
        right: b `(B, ...)`.
        iterations: The number of products with H.
        preconditioned: M⁻¹ r of residuals, for a positive definite M near H; the residuals themselves if not given.
        floor: F p for a matrix F that H is known to be at least, which bounds the steps where an inexact H is not.

    Returns:
        The solution u, and C u.

    >>> diagonal = torch.tensor([[1.0, 4.0]])
    >>> u, twice = conjugate_gradients(lambda p: (diagonal * p, 2 * p), torch.tensor([[1.0, 1.0]]), 2)
    >>> u, twice
    (tensor([[1.0000, 0.2500]]), tensor([[2.0000, 0.5000]]))
    """
    found, carried = torch.zeros_like(right), None
    residual, goal = right, torch.finfo(right.dtype).eps ** 2 * _dot(right, right)
    step = residual if preconditioned is None else preconditioned(residual)
    direction, square = step, _dot(residual, step)
    for left in range(iterations, 0, -1):
        image, also = applied(direction)
        curvature = _dot(direction, image)
        if floor is not None:
            curvature = torch.maximum(curvature, _dot(direction, floor(direction)))
        going = (curvature > 0) & (_dot(residual, residual) > goal)
        size = torch.where(going, square / curvature, 0.0)
        found = found + _wide(size, right) * direction
        more = _wide(size, also) * also
        carried = more if carried is None else carried + more
        if left == 1:
            break
        residual = residual - _wide(size, right) * image
        step = residual if preconditioned is None else preconditioned(residual)
        after = _dot(residual, step)
        direction = step + _wide(torch.where(going, after / square, 0.0), right) * direction
        square = after
    assert carried is not None
    return found, carried


def _dot(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).flatten(1).sum(1)


def _wide(size: Tensor, x: Tensor) -> Tensor:
    return size.reshape(-1, *[1] * (x.ndim - 1))
