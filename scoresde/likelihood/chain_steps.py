"""The steps of a chain at which the terms of its bound are evaluated."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scoresde.chains import ChainModel, GaussianChainModel
from scoresde.numerics.means import collapsed_variance
from scoresde.numerics.random import SampleNoise, Stream
from scoresde.numerics.values import at_least
from scoresde.sde.markov import check_of_steps

__all__ = ["ChosenSteps", "drawn_steps", "every_step", "step_weights"]

# Share of the draws at noise that is large against the data's spread, and how large that is.
_FAR_SHARE, _FAR = 0.125, 3.0


# Noises at step 1, whose term has no neighbour of its kind from which its variance could be told.
_AT_FIRST = 2


@dataclass(frozen=True)
class ChosenSteps:
    """The steps at which B samples are evaluated, n for each, and what their terms count for.

    Attributes:
        steps: Steps `(B, n)`, the first `begun` of which are step 1, and no others.
        shares: Factors `(B, n)` of the terms in the sum over t.
        begun: Number of noises at step 1.
        draws: Noises at each later step, where all are evaluated; 1 where steps are drawn.
    """

    steps: Tensor
    shares: Tensor
    begun: int
    draws: int

    def variance(self, weighted: Tensor) -> Tensor:
        """The variance `(B,)` of the sum of weighted terms `(B, n)`."""
        first, later = weighted[:, : self.begun], weighted[:, self.begun :]
        if self.draws == 1:
            return self.begun * first.var(1) + collapsed_variance(later)
        by_draw = later.reshape(len(later), self.draws, -1)
        return self.begun * first.var(1) + self.draws * by_draw.var(1).sum(1)


def every_step(total: int, draws: int, count: int) -> ChosenSteps:
    """Every step from 1 to T for each of `count` samples, with `draws` noises, and two at least at step 1.

    A chain of two steps has two noises at step 2, too, whose term has no neighbour.
    """
    draws = max(draws, _AT_FIRST) if total == 2 else draws
    begun = max(draws, _AT_FIRST)
    steps = torch.cat((torch.ones(begun, dtype=torch.int64), torch.arange(2, total + 1).repeat(draws)))
    shares = torch.cat((torch.full((begun,), 1 / begun), torch.full((len(steps) - begun,), 1 / draws)))
    return ChosenSteps(steps.expand(count, -1), shares.double().expand(count, -1), begun, draws)


def drawn_steps(
    model: ChainModel[Any], evaluations: int, weights: Tensor | None, seed: int, first: int, count: int
) -> ChosenSteps:
    """Stratified draws of steps for each of `count` samples.

    Args:
        model: The model of the reverse steps.
        evaluations: Number of evaluations for each sample.
        weights: Weights of the steps 1 ... T; those of `step_weights` if not given.
        seed: Seed of the draws.
        first: Index of the first sample.
        count: Number of samples.

    Raises:
        ValueError: Weights that are not a positive number for each step, or too few evaluations.
    """
    total, device = model.chain.steps, model.device
    at_least("evaluations", evaluations, _AT_FIRST + 2, ", two of them for step 1")
    weights = step_weights(model) if weights is None else weights.detach().to("cpu", torch.float64)
    check_of_steps("weights", weights, total)
    share = float(weights[0] / weights.sum())
    begun = min(max(_AT_FIRST, round(share * evaluations)), evaluations - 2)
    rest = evaluations - begun
    probs = weights[1:] / weights[1:].sum()
    ends = probs.cumsum(0)[:-1].to(device)
    indices = torch.arange(first, first + count)
    noise = SampleNoise(seed, indices, (rest,), torch.float64, device, stream=Stream.CHAIN_STEPS)
    places = (torch.arange(rest, device=device) + noise.uniform()) / rest
    later = torch.searchsorted(ends, places.contiguous(), right=True)
    steps = torch.cat((later.new_ones(count, begun), later + 2), 1)
    shares = 1 / (rest * probs.to(device)[later])
    return ChosenSteps(steps, torch.cat((shares.new_full((count, begun), 1 / begun), shares), 1), begun, 1)


def step_weights(model: ChainModel[Any]) -> Tensor:
    """Weights `(T,)` of the steps for drawing the terms of a bound, from the chain and the data's scale alone.

    For a Gaussian chain they are uniform in the log-SNR, as the terms nearly are, where the noise is smaller than 3
    times the data's spread; an eighth of the draws is for more noise than that. Those of another chain are equal.
    """
    chain = model.chain
    if not isinstance(model, GaussianChainModel):
        return torch.ones(chain.steps, dtype=torch.float64)
    log_snr = chain.log_snr(torch.arange(1, chain.steps + 1)).detach()
    length = log_snr[:-1] - log_snr[1:]
    statistics = model.model.statistics
    spread = 1.0 if statistics is None else statistics.largest_std
    far = log_snr[1:] < -math.log(_FAR * spread)
    if bool(far.any()) and not bool(far.all()):
        length[far] *= _FAR_SHARE / (1 - _FAR_SHARE) * length[~far].sum() / length[far].sum()
    # Step 1 begins without noise; its term is about as noisy as that of the next step.
    return torch.cat((length[:1], length))
