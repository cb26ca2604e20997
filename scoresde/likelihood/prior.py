"""The density of codes at t_max."""

import math

import torch
from torch import Tensor

from scoresde.likelihood.flow import Flow
from scoresde.likelihood.scaling import CovarianceScaling

__all__ = ["prior_log_prob"]


def prior_log_prob(flow: Flow, z: Tensor, prior: str) -> Tensor:
    """The log-density `(b,)` of codes z `(b, D)`, in nats.

    Args:
        flow: The flow that maps data to codes.
        z: Codes.
        prior: `"matched"`, the density N(α m, α² Σ + σ² I) with Σ as far as the model knows it; or `"plain"`,
            N(0, σ² I).
    """
    sde, statistics = flow.model.sde, flow.model.statistics
    t = torch.tensor(flow.t_max, dtype=torch.float64)
    alpha, sigma = float(sde.alpha(t)), float(sde.sigma(t))
    if prior == "plain" or statistics is None:
        return -0.5 * (z**2 / sigma**2 + math.log(2 * math.pi * sigma**2)).sum(1)
    spread = CovarianceScaling().spread(statistics, flow.size).to(flow.device)
    centred, variance = z - alpha * flow.mean, (alpha**2 * spread.values + sigma**2)[None]
    square = (centred * spread.apply(1 / variance, centred)).sum(1)
    return -0.5 * (square + spread.trace((2 * math.pi * variance).log()))
