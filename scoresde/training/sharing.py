"""Sums and agreements over the processes that share the work of training."""

from accelerate import PartialState
from accelerate.utils import gather, reduce
from torch import Tensor

__all__ = ["largest", "total"]


def total(value: Tensor, processes: PartialState) -> Tensor:
    """Sum of a tensor over all processes, the same in each of them."""
    summed: Tensor = value if processes.num_processes == 1 else reduce(value, "sum")
    return summed


def largest(value: Tensor) -> int:
    """Largest of an integer `()` over all processes."""
    return int(gather(value[None]).max())
