"""Weights of a chain's steps from the noise of the terms of a few samples."""

from typing import Any

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.chains import ChainModel, GaussianChainModel
from scoresde.likelihood.chain_bits import Decoder
from scoresde.likelihood.chain_bound import chain_terms
from scoresde.likelihood.chain_steps import ChosenSteps
from scoresde.likelihood.dequantisation import DiscreteTransform
from scoresde.numerics.values import at_least

__all__ = ["pilot_weights"]

# How much of a term's mean counts as noise. Within a stratum the mean changes too, the more so the less the weights
# follow it, and without stratification all of it would count (Nichol & Dhariwal 2021, eq. 18). On digits the error is
# flat from 0.1 to 0.5.
_OF_MEAN = 0.3


@checked
@torch.no_grad()
def pilot_weights(
    model: ChainModel[Any],
    x: Tensor,
    transform: DiscreteTransform | None = None,
    *,
    levels: int = 24,
    seed: int = 0,
    batch_size: int = 1024,
    control: bool = True,
    **cond: Any,
) -> Tensor:
    """Weights `(T,)` of the steps by the size of the noise of their terms, for the draws of `chain_bound`.

    The terms of some steps, evenly spread in log-SNR (in t for discrete chains), are evaluated with two noises for each
    of a few samples. Half of the mean square of their differences is the variance of a term, to which a part of its
    squared mean is added, and the logarithm is interpolated. That takes two evaluations for each sample and each of
    these steps. Take training data for it: weights from the samples and the noises of a bound would bias that bound.

    Args:
        model: The model of the reverse steps.
        x: A few samples `(B, ...)`, 16 or so: pixels if there is a transform.
        transform: The transform of pixels, if the weights are for `chain_bits_per_dim`.
        levels: Number of steps to evaluate, of which the first is always one.
        seed: Seed of the noise.
        batch_size: Number of states to evaluate at once.
        control: As for `chain_bound`, for which the weights are.
        **cond: Conditions of the model.

    Raises:
        ValueError: Fewer than two levels, or as `chain_bound`.

    References:
        Nichol & Dhariwal 2021, Improved denoising diffusion probabilistic models, https://arxiv.org/abs/2102.09672
    """
    at_least("levels", levels, 2)
    x = x.to(model.device)
    data = model.to_model_space(x) if transform is None else transform.encode(x)
    place = _places(model)
    wanted = torch.linspace(float(place[0]), float(place[-1]), levels, dtype=torch.float64)
    steps = torch.unique(torch.searchsorted(place, wanted).clamp(0, len(place) - 1) + 1)
    twice = torch.cat((steps, steps))
    chosen = ChosenSteps(twice.expand(len(data), -1), torch.ones(len(data), len(twice), dtype=torch.float64), 1, 1)
    decoder = None if transform is None else Decoder(x, transform)
    values = chain_terms(model, data, chosen, decoder, seed, 0, batch_size, control, False, cond).values.cpu()
    a, b = values[:, : len(steps)], values[:, len(steps) :]
    variance = 0.5 * (a - b).square().mean(0) + (_OF_MEAN * 0.5 * (a + b).mean(0)).square()
    # The control may leave nothing to be drawn at some steps; the others must not lose all of theirs to them.
    noise = 0.5 * variance.clamp_min(1e-12 * float(variance.max()) + 1e-300).log()
    # Step 1 has a term of another kind, so that it is no point of the line through the others.
    later = noise if len(steps) < 3 else noise[1:]
    line = _interpolated(place[1:], place[steps[-len(later) :] - 1], later)
    return torch.cat((noise[:1], line)).exp()


def _places(model: ChainModel[Any]) -> Tensor:
    """Increasing places `(T,)` of the steps, by which their noise changes evenly."""
    t = torch.arange(1, model.chain.steps + 1)
    return -model.chain.log_snr(t).detach() if isinstance(model, GaussianChainModel) else t.double()


def _interpolated(at: Tensor, points: Tensor, values: Tensor) -> Tensor:
    """The values at places `(n,)`, linear between points and constant beyond."""
    i = torch.searchsorted(points, at).clamp(1, len(points) - 1)
    share = ((at - points[i - 1]) / (points[i] - points[i - 1])).clamp(0, 1)
    return torch.lerp(values[i - 1], values[i], share)
