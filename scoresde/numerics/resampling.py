"""Systematic resampling: copies of weighted particles, as many of each as its weight says, rounded up or down."""

import torch
from torch import Tensor

__all__ = ["effective_share", "systematic"]


def systematic(weights: Tensor, start: Tensor, count: int) -> Tensor:
    """Indices of the particles that are taken, `(..., count)` int64, increasing.

    Particle i of weight w_i is taken ⌊n w_i⌋ or ⌈n w_i⌉ times, and n w_i times on average over the start (Kitagawa
    1996).

    >>> systematic(torch.tensor([0.5, 0.1, 0.4]), torch.tensor(0.7), 4).tolist()
    [0, 0, 2, 2]

    Args:
        weights: Weights `(..., P)`, at least 0 and not all 0; their sum counts as 1.
        start: Draws of a uniform number in [0, 1), `(...)`, one for each set of weights.
        count: The number n of particles to take.
    """
    places = (start[..., None] + torch.arange(count, dtype=weights.dtype, device=weights.device)) / count
    ends = weights.cumsum(-1)
    found = torch.searchsorted(ends / ends[..., -1:], places.contiguous(), right=True)
    # Round-off at the end must not take a particle of no weight.
    order = torch.arange(weights.shape[-1], device=weights.device)
    return found.minimum(torch.where(weights > 0, order, 0).amax(-1, keepdim=True))


def effective_share(log_weights: Tensor) -> Tensor:
    """Effective sample size of weights `(..., P)` as a share of P, (Σ w)²/(P Σ w²): from 1/P to 1, `(...)`."""
    size = log_weights.shape[-1]
    return (2 * log_weights.logsumexp(-1) - (2 * log_weights).logsumexp(-1)).exp() / size
