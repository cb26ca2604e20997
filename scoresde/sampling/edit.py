"""Sampling from part of the way: data with noise as the start (SDEdit)."""

from typing import Any

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.numerics.random import SampleNoise
from scoresde.numerics.values import fraction
from scoresde.sampling.grids import ExplicitTimes
from scoresde.sampling.sampler import Sampler
from scoresde.sampling.samples import Samples
from scoresde.score import ScoreModel

__all__ = ["edit"]


@checked
def edit(
    sampler: Sampler,
    model: ScoreModel,
    x: Tensor,
    strength: float,
    *,
    seed: int = 0,
    first: int = 0,
    **options: Any,
) -> Samples:
    """Samples near given data: these with noise, from which the sampler goes on (Meng et al. 2022, algorithm 1).

    The start is α x + σ ε at a time of the sampler's grid, after which a share `strength` of its steps is left. So the
    strength is that of the change: near 0 the data come back, and at 1 hardly anything of them is left.

    Args:
        sampler: The sampler.
        model: The score model.
        x: The data `(B, ...)`, in the data's own units, or in model space if these are discrete.
        strength: The share of the steps, more than 0 and at most 1; at least one step is taken.
        seed: The seed of the noise; sample i is a function of the seed, of i and of its x alone.
        first: The index of the first sample.
        **options: Further arguments of the sampler, and the conditions.

    Raises:
        ValueError: A strength outside its range, or as the sampler.

    >>> from scoresde.sampling import EDMHeun, KarrasGrid
    >>> from scoresde.score import GaussianMixtureScore
    >>> from scoresde.sde import EDMSDE
    >>> model = GaussianMixtureScore([0.5, 0.5], [[1.0], [-1.0]], [0.01, 0.01], EDMSDE())
    >>> sampler = Sampler(EDMHeun(), KarrasGrid(20))
    >>> for strength in (0.05, 0.25, 1.0):  # from 0.6 towards the nearer mode, and to both
    ...     out = edit(sampler, model, torch.full((1000, 1), 0.6), strength)
    ...     print(strength, round(out.x.mean().item(), 1), round(out.x.std().item(), 1))
    0.05 0.6 0.0
    0.25 0.8 0.1
    1.0 0.0 1.0

    References:
        Meng et al. 2022, SDEdit: guided image synthesis and editing with stochastic differential equations,
            https://arxiv.org/abs/2108.01073
    """
    fraction("strength", strength)
    times = sampler.grid(model.sde, model.step_statistics)
    steps = len(times) - 1
    left = times[steps - max(round(strength * steps), 1) :]
    known = model.on_device(model.to_model_space(x))
    known = known.to(torch.promote_types(known.dtype, torch.float32))
    indices = torch.arange(first, first + len(known))
    # The draw that a start from the prior would be made of, which the sampler's own noise does not repeat.
    noise = SampleNoise(seed, indices, tuple(known.shape[1:]), known.dtype, known.device)()
    alpha, sigma = float(model.sde.alpha(left[0])), float(model.sde.sigma(left[0]))
    rest = Sampler(sampler.solver, ExplicitTimes(left.tolist()), sampler.denoise, sampler.noise)
    return rest(model, x_init=alpha * known + sigma * noise, seed=seed, first=first, **options)
