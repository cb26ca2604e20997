"""Products with the Jacobian J of a field at many points, and the diagonal of J, by automatic differentiation."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

__all__ = ["Function", "jacobian_diagonal", "jacobian_products"]

Function = Callable[[Tensor], Tensor]
"""A field from `(n, ...)` to the same shape, each point by itself."""


def jacobian_products(function: Function, x: Tensor, probes: Tensor) -> tuple[Tensor, Tensor]:
    """The field, of the shape of x, and products Jᵀu `(n, K, D)` with probes u `(n, K, D)` at points x `(n, ...)`.

    >>> x, u = torch.tensor([[1.0, 2.0]]), torch.tensor([[[1.0, 0.0], [1.0, 1.0]]])
    >>> values, products = jacobian_products(lambda x: x**2, x, u)
    >>> values.tolist(), products.tolist()
    ([[1.0, 4.0]], [[[2.0, 0.0], [2.0, 4.0]]])
    """
    count = probes.shape[1]
    shaped = probes.reshape(*probes.shape[:2], *x.shape[1:])
    if count == 1:
        with _without_autocast(x):
            values, pull = torch.func.vjp(function, x)  # type: ignore[misc]
            return _detached(values), _detached(pull(shaped[:, 0])[0].flatten(1)[:, None])
    with _without_autocast(x), sdpa_kernel(SDPBackend.MATH):
        values, pull = torch.func.vjp(function, x)  # type: ignore[misc]
        (products,) = torch.func.vmap(pull, in_dims=1, out_dims=1)(shaped)
    return _detached(values), _detached(products.flatten(2))


def jacobian_diagonal(
    function: Function, x: Tensor, units: Tensor | None = None, forward: bool = False, chunk: int | None = None
) -> tuple[Tensor, Tensor]:
    """The field at points x `(n, ...)`, of their shape, and the diagonal entries of J, `(D, n)`.

    Args:
        function: The field.
        x: The points.
        units: Indices `(k,)` of the entries, for the result `(k, n)`; all entries if not given.
        forward: Whether to use Jacobian-vector products in place of vector-Jacobian products.
        chunk: Number of products that are computed at once; all if not given.
    """
    indices = torch.arange(x[0].numel(), device=x.device)

    # Each is made when it is needed, since all of them are a D × D matrix.
    def vector(i: Tensor) -> Tensor:
        return (indices == i).to(x.dtype).reshape(x.shape[1:])

    # The fused attention kernels have no batching rule for their derivative.
    with _without_autocast(x), sdpa_kernel(SDPBackend.MATH):
        if forward:
            values = function(x)

            def entry(i: Tensor) -> Tensor:
                unit = vector(i)
                column: Tensor = torch.func.jvp(function, (x,), (unit.expand_as(x),))[1]
                return (column * unit).flatten(1).sum(1)

        else:
            values, pull = torch.func.vjp(function, x)  # type: ignore[misc]

            def entry(i: Tensor) -> Tensor:
                unit = vector(i)
                row: Tensor = pull(unit.expand_as(x))[0]
                return (row * unit).flatten(1).sum(1)

        entries = torch.func.vmap(entry, chunk_size=chunk)(indices if units is None else units)
        return _detached(values), _detached(entries)


def _detached(result: Tensor) -> Tensor:
    """The result, without the graph that a derivative leaves behind unless gradients are enabled."""
    return result if torch.is_grad_enabled() else result.detach()


def _without_autocast(x: Tensor) -> AbstractContextManager[None]:
    """A context without torch.autocast, in which batched derivatives of normalisation layers mix dtypes."""
    if torch.is_autocast_enabled(x.device.type):
        return torch.autocast(x.device.type, enabled=False)
    return nullcontext()
