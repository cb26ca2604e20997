"""Pairwise distances, and the blocks of rows in which they are computed."""

from collections.abc import Iterator

import torch
from torch import Tensor

__all__ = ["BLOCK", "largest_distance", "row_blocks", "squared_distances"]

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


def largest_distance(x: Tensor, samples: int | None = None, seed: int = 0) -> float:
    """The largest Euclidean distance between two of the rows of x `(N, F)`, or a lower bound from some of them.

    Args:
        x: The rows.
        samples: Number of rows that are compared with each other; the farthest of these are then compared with all
            rows, and the farthest row from those again. None, or a number of N or more, for all pairs.
        seed: Seed of the choice of the rows.

    >>> round(largest_distance(torch.tensor([[0.0, 0.0], [3.0, 4.0], [1.0, 0.0]])), 4)
    5.0
    """
    x = x - x.mean(0)
    if samples is None or samples >= len(x):
        return float(_farthest(x, x)[0])
    chosen = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:samples]
    some = x[chosen.to(x.device)]
    distance, pair = _farthest(some, some)
    ends = some[list(pair)]
    while True:  # each round is longer, and there are finitely many pairs
        found, (end, row) = _farthest(ends, x)
        if found <= distance:
            return float(distance)
        distance, ends = found, torch.stack((ends[end], x[row]))


def _farthest(x: Tensor, y: Tensor) -> tuple[float, tuple[int, int]]:
    """The largest distance of a row of x from one of y, and the two rows."""
    best, pair = -1.0, (0, 0)
    for rows in row_blocks(len(x), len(y)):
        squares = squared_distances(x[rows], y)
        place = int(squares.argmax())
        i, j = divmod(place, len(y))
        # Of the two rows themselves, as the squares have the round-off of large numbers.
        distance = float((x[rows][i].double() - y[j].double()).norm())
        if distance > best:
            best, pair = distance, (rows.start + i, j)
    return best, pair
