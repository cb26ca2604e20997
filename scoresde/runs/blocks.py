"""How the samples of a command are divided: into blocks that processes share, whatever their number."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

__all__ = ["Block", "block_size", "blocks"]

_LEAST = 64  # samples of a block, below which a device is idle
_BLOCKS = 8  # that there are at least, if these are no smaller


@dataclass(frozen=True)
class Block:
    """Some samples of a command, one after the other.

    Attributes:
        first: Index of the first.
        count: Number of them.
        cond: Their conditions, by name.
        start: Data that they begin from, `(count, ...)`; None for noise.
    """

    first: int
    count: int
    cond: dict[str, Tensor]
    start: Tensor | None = None


def block_size(n: int, batch_size: int) -> int:
    """Number of samples that are worked on at once.

    It depends on neither the number of processes nor on what is there already, as the last bits of a product of
    matrices may depend on the size of a batch.

    Args:
        n: Number of samples in all.
        batch_size: The largest number.
    """
    return min(batch_size, max(-(-n // _BLOCKS), _LEAST))


def blocks(
    n: int, size: int, cond: Mapping[str, Tensor], start: Tensor | None = None, done: int = 0
) -> Iterator[Block]:
    """The blocks of n samples after those that are `done`.

    Args:
        n: Number of samples in all.
        size: Number of samples of a block; the last may have fewer.
        cond: Conditions of all samples, by name.
        start: Data that samples begin from, `(n, ...)`.
        done: Number of samples that are there already.
    """
    for first in range(done, n, size):
        rows = slice(first, min(first + size, n))
        # Copies, as a view is sent with all that it is a view of.
        own = {name: values[rows].clone() for name, values in cond.items()}
        yield Block(first, rows.stop - first, own, None if start is None else start[rows].clone())
