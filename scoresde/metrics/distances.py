"""Pairwise distances and the blocks of rows they are computed in."""

from collections.abc import Iterator

from torch import Tensor

BLOCK = 2**20
"""Entries of a distance matrix held at once: 8 MiB in float64."""


def row_blocks(rows: int, columns: int) -> Iterator[slice]:
    """Slices of consecutive rows, each so short that its part of a (rows, columns) matrix fits in a block."""
    step = max(1, BLOCK // columns)
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """‖x_i − y_j‖² for x (N, F) and y (M, F), as (N, M), never negative.

    By the expansion ‖x‖² + ‖y‖² − 2 x·y, whose rounding error is of the order of the dtype's epsilon times
    the largest ‖x‖²: centre both sets first.
    """
    out = (x @ y.T).mul_(-2).add_(x.square().sum(1)[:, None]).add_(y.square().sum(1))
    return out.clamp_(min=0)
