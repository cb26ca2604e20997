"""Sums and agreements over the processes that share the work of training."""

from accelerate import PartialState
from accelerate.utils import gather, reduce
from torch import Tensor

__all__ = ["in_batch_order", "largest", "total"]


def total(value: Tensor, processes: PartialState) -> Tensor:
    """Sum of a tensor over all processes, the same in each of them."""
    summed: Tensor = value if processes.num_processes == 1 else reduce(value, "sum")
    return summed


def largest(value: Tensor) -> int:
    """Largest of an integer `()` over all processes."""
    return int(gather(value[None]).max())


def in_batch_order(value: Tensor, processes: PartialState) -> Tensor:
    """The values `(N,)` of a whole batch in its order, from those `(N/P,)` of each of P processes.

    Of P processes each has every P-th sample of a batch.
    """
    if processes.num_processes == 1:
        return value
    gathered: Tensor = gather(value)
    return gathered.reshape(processes.num_processes, -1).T.flatten()
