"""Values: how they are broadcast, checked and shown."""

from torch import Tensor

__all__ = ["expand_to"]


def expand_to(coefficient: Tensor, x: Tensor) -> Tensor:
    """Shape a coefficient `()` or `(B,)` so that it multiplies `x` of shape `(B, ...)`, in the dtype of `x`.

    A scalar on the CPU stays there: PyTorch passes it to a kernel on any device without synchronising.
    """
    if coefficient.ndim == 0:
        return coefficient.to(x.dtype)
    if coefficient.shape != x.shape[:1]:
        raise ValueError(
            f"t has shape {tuple(coefficient.shape)}, expected () or ({x.shape[0]},) for x of shape {tuple(x.shape)}"
        )
    return coefficient.to(x).reshape(-1, *[1] * (x.ndim - 1))
