"""What lies beyond the ends of a row of numbers, and the matrices of filters along it."""

from typing import Literal, get_args

import torch
from torch import Tensor

from scoresde.numerics.values import one_of

__all__ = ["Boundary", "filter_matrix", "source"]

Boundary = Literal["circular", "reflect", "zero"]
"""The row repeats itself, is mirrored about its first and last number, or is followed by zeros."""


def source(index: Tensor, size: int, boundary: Boundary) -> Tensor:
    """The positions in a row of `size` numbers that positions before, in or behind it stand for; −1 for a zero.

    Raises:
        ValueError: A boundary that is not known.

    >>> source(torch.arange(-2, 5), 3, "reflect").tolist(), source(torch.arange(-2, 5), 3, "circular").tolist()
    ([2, 1, 0, 1, 2, 1, 0], [1, 2, 0, 1, 2, 0, 1])
    """
    one_of("boundary", boundary, get_args(Boundary))
    if boundary == "circular":
        return index % size
    if boundary == "reflect":
        period = max(2 * size - 2, 1)
        folded = index % period
        return torch.minimum(folded, period - folded) if size > 1 else torch.zeros_like(index)
    return torch.where((index >= 0) & (index < size), index, -1)


def filter_matrix(positions: Tensor, weights: Tensor, size: int, boundary: Boundary) -> Tensor:
    """The matrix `(n, size)` float64 of sums along a row.

    Args:
        positions: The positions `(n, k)` of the k terms of each of n sums; they may lie outside the row.
        weights: Their weights `(n, k)`.
        size: The length of the row.
        boundary: What lies outside.
    """
    at = source(positions, size, boundary)
    matrix = torch.zeros(len(positions), size + 1, dtype=torch.float64)
    matrix.scatter_add_(1, torch.where(at < 0, size, at), weights.double())
    return matrix[:, :size]
