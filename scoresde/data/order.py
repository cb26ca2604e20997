"""The order of training samples as a pure function of the step: training resumes anywhere with no state."""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

__all__ = ["batch_indices", "epoch_order"]


def epoch_order(n: int, epoch: int, seed: int) -> Tensor:
    """The permutation of 0 .. n-1 in which epoch `epoch` visits the samples; int64, `(n,)`.

    Raises:
        ValueError: n below 1, or a negative epoch or seed.
    """
    return _permutation(n, epoch, seed).clone()


def batch_indices(n: int, batch_size: int, step: int, seed: int) -> Tensor:
    """Samples of batch number `step` of an endless stream of shuffled epochs; int64, `(batch_size,)`.

    Batches are cut from the epochs laid end to end and cross their borders, so every batch is full, every
    sample comes once per epoch, and `batch_size` may exceed n.

    Raises:
        ValueError: n or batch_size below 1, or a negative step or seed.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if step < 0:
        raise ValueError(f"step must not be negative, got {step}")
    if n < 1:
        raise ValueError(f"n must be at least 1 sample, got {n}")
    epoch, start = divmod(step * batch_size, n)
    parts = [_permutation(n, epoch, seed)[start : start + batch_size]]
    missing = batch_size - len(parts[0])
    while missing > 0:
        epoch += 1
        parts.append(_permutation(n, epoch, seed)[:missing])
        missing -= len(parts[-1])
    return torch.cat(parts)


@lru_cache(maxsize=4)
def _permutation(n: int, epoch: int, seed: int) -> Tensor:
    if n < 1:
        raise ValueError(f"n must be at least 1 sample, got {n}")
    if epoch < 0 or seed < 0:
        raise ValueError(f"epoch and seed must not be negative, got epoch={epoch}, seed={seed}")
    # Seeded by the pair: seed + epoch would make seed 1 follow seed 0 one epoch behind.
    return torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(n).astype(np.int64))
