"""Gradient accumulation: a batch in parts, one after the other, with the numbers of the whole batch.

The loss of a batch is a mean over its samples, and so is its gradient. Every random number of a part is the one that
the whole batch would have at the same place: what is drawn for a part is drawn for the whole batch from the same seed,
and the part takes its rows.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from scoresde.objectives import Loss
from scoresde.training.batches import Batch

__all__ = ["accumulated", "parts"]

# These multiply their input by a random factor.
_FACTORS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, torch.dropout)
_DRAWS = (torch.rand, torch.randn)


def parts(size: int, number: int) -> Iterator[slice]:
    """The rows of each of `number` parts of a batch of `size` samples, as equal in size as they can be."""
    edges = [round(size * k / number) for k in range(number + 1)]
    return (slice(a, b) for a, b in pairwise(edges) if b > a)


def accumulated(
    batch: Batch,
    number: int,
    loss_of: Callable[[Batch], Loss],
    unsynchronised: Callable[[], AbstractContextManager[Any]] = nullcontext,
    own_draws: bool = False,
) -> Loss:
    """The loss of a batch, whose gradients are added to the parameters' by `number` passes over its parts.

    Args:
        batch: Batch.
        number: Number of parts.
        loss_of: The loss of a batch.
        unsynchronised: Makes the context of all passes but the last, in which processes do not share gradients.
        own_draws: Let the network draw its own numbers for each part, dropout's and those of dropped labels. For a
            compiled network, which draws where nothing else can.

    Returns:
        The loss of the whole batch; detached.
    """
    if number == 1:
        loss = loss_of(batch)
        torch.autograd.backward(loss.value)
        return loss._replace(value=loss.value.detach())
    size, seed = len(batch.x0), batch.generator.initial_seed()
    losses = []
    for rows in parts(size, number):
        part = Batch(
            batch.x0[rows],
            batch.u[rows],
            batch.noise[rows],
            {name: value[rows] for name, value in batch.conditions.items()},
            batch.generator,
        )
        if not own_draws:
            torch.manual_seed(seed)
            batch.generator.manual_seed(seed)
        share = len(part.x0) / size
        # The passes back too, in which checkpointed activations are computed again.
        draws = nullcontext() if own_draws else _OfWhole(rows, size, batch.x0.shape[1:])
        with draws, unsynchronised() if rows.stop < size else nullcontext():
            loss = loss_of(part)
            value = loss.value * share
            torch.autograd.backward(value)
        losses.append(loss._replace(value=value.detach()))
    return _joined(losses)


def _joined(losses: Sequence[Loss]) -> Loss:
    value = torch.stack([loss.value for loss in losses]).sum()
    return Loss(value, *(_concatenated([loss[k] for loss in losses]) for k in range(1, len(losses[0]))))


def _concatenated(values: Sequence[Any]) -> Any:
    return None if values[0] is None else torch.cat(list(values))


class _OfWhole(TorchFunctionMode):
    """Draws for some rows of a batch are drawn for the whole batch, and the rows taken.

    Args:
        rows: The rows.
        size: Number of samples of the whole batch.
        sample: Shape of a sample.
    """

    def __init__(self, rows: slice, size: int, sample: Sequence[int]) -> None:
        super().__init__()
        self.rows, self.size, self.sample = rows, size, tuple(sample)

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _DRAWS:
            shape = _shape(args, kwargs)
            options = {key: value for key, value in kwargs.items() if key != "size"}
            if tuple(shape[1:]) == (self.rows.stop - self.rows.start, *self.sample):  # several draws for each sample
                return func((shape[0], self.size, *self.sample), **options)[:, self.rows]
            if self._is_part(shape):
                return func((self.size, *shape[1:]), **options)[self.rows]
        if func is torch.Tensor.random_ and self._is_part(args[0].shape):
            return args[0].new_empty((self.size, *args[0].shape[1:])).random_(*args[1:], **kwargs)[self.rows]
        if func in _FACTORS and args and isinstance(args[0], Tensor) and self._is_part(args[0].shape):
            x = args[0]
            kwargs = {key: value for key, value in kwargs.items() if key != "inplace"}
            return x * func(_ones(x, self.size), *args[1:3], **kwargs)[self.rows]
        return func(*args, **kwargs)

    def _is_part(self, shape: Sequence[int]) -> bool:
        return len(shape) > 0 and shape[0] == self.rows.stop - self.rows.start


def _shape(args: Sequence[Any], kwargs: dict[str, Any]) -> Sequence[int]:
    size = args if args else (kwargs.get("size", ()),)
    return size[0] if len(size) == 1 and isinstance(size[0], Sequence) else size


def _ones(like: Tensor, size: int) -> Tensor:
    """Ones `(size, ...)` in the memory format of `like`, by which the order of draws goes."""
    ones = like.new_ones((size, *like.shape[1:]))
    if like.ndim == 4 and like.is_contiguous(memory_format=torch.channels_last) and not like.is_contiguous():
        ones = ones.contiguous(memory_format=torch.channels_last)
    return ones
