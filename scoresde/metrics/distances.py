"""Pairwise distances, and the blocks of rows in which they are computed."""

from collections.abc import Iterator

from torch import Tensor

__all__ = ["BLOCK", "row_blocks", "squared_distances"]

BLOCK = 2**20
"""Entries of a distance matrix held at once: 8 MiB in float64."""


def row_blocks(rows: int, columns: int) -> Iterator[slice]:
    """Slices of consecutive rows, each so short that its part of a matrix `(rows, columns)` fits in a block.

    >>> list(row_blocks(3, BLOCK // 2))
    [slice(0, 2, None), slice(2, 3, None)]
    """
    step = max(1, BLOCK // columns)
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """Squared distances ‖x_i − y_j‖² `(N, M)` of x `(N, F)` and y `(M, F)`, never negative.

    They are computed as ‖x‖² + ‖y‖² − 2 x·y, whose rounding error is of the order of the dtype's epsilon times the
    largest ‖x‖²: centre both sets first.
    """
    out = (x @ y.T).mul_(-2).add_(x.square().sum(1)[:, None]).add_(y.square().sum(1))
    return out.clamp_(min=0)
