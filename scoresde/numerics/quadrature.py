"""Gauss-Legendre quadrature, and Lagrange's polynomials at its nodes."""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

__all__ = ["gauss_legendre", "lagrange", "panels"]


@lru_cache(maxsize=32)
def gauss_legendre(count: int) -> tuple[Tensor, Tensor]:
    """Nodes in (−1, 1), increasing, and weights of Gauss-Legendre quadrature, `(count,)` each, in float64.

    Polynomials up to degree 2 `count` − 1 are integrated exactly. Every call with the same count returns the same
    tensors, which are not to be written to.

    >>> nodes, weights = gauss_legendre(3)
    >>> round(float(weights @ nodes**4), 12) == round(2 / 5, 12)
    True
    """
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return torch.from_numpy(nodes), torch.from_numpy(weights)


def panels(count: int, number: int) -> tuple[Tensor, Tensor]:
    """Nodes in (0, 1) and weights that sum to 1, `(number · count,)` each: a Gauss rule on each of equal panels.

    Args:
        count: The number of nodes in a panel.
        number: The number of panels.
    """
    nodes, weights = gauss_legendre(count)
    unit = ((torch.arange(number)[:, None] + 0.5 * (nodes + 1)) / number).flatten()
    return unit, weights.repeat(number) / (2 * number)


def lagrange(points: Tensor, used: Tensor, at: Tensor) -> Tensor:
    """Lagrange's polynomials through some of the points of each row.

    With u the points of a row that are used, the polynomial of u_j is

        L_j(v) = ∏_{k≠j} (v − u_k)/(u_j − u_k),

    so that Σ_j L_j(v) f(u_j) interpolates f. The polynomial of a point that is not used is 1: mask it.

    Args:
        points: The points, `(n, k)`; those of a row that are used are distinct.
        used: Whether a point is used, `(n, k)`.
        at: The values v to evaluate at, `(n, m)`.

    Returns:
        The values `(n, k, m)`.

    >>> points = torch.tensor([[0.0, 1.0, 2.0]])
    >>> lagrange(points, torch.tensor([[True, True, False]]), torch.tensor([[0.25]]))[0, :2, 0].tolist()
    [0.75, 0.25]
    """
    # Factors of a point with itself, or with one that is not used, are 1.
    absent = ~(used[:, :, None] & used[:, None, :]) | torch.eye(points.shape[1], dtype=torch.bool)
    gaps = (points[:, :, None] - points[:, None, :]).masked_fill(absent, 1)
    factors = ((at[:, None] - points[:, :, None])[:, None] / gaps[..., None]).masked_fill(absent[..., None], 1)
    return factors.prod(2)
