"""States that a sampler starts from: draws of the Gaussian at the first time, and how far given states are from it."""

import math
import warnings

import torch
from torch import Tensor

from scoresde.score import ScoreModel

__all__ = ["prior_distance", "prior_log_density", "prior_start", "warn_of_units"]

# Beyond this many standard deviations from noised data, a state seems to be in other units.
_MAX_DEVIATIONS = 5.0

# The relative error of a standard deviation at the start that is left as it is.
_TOLERANCE = 0.02


def prior_start(model: ScoreModel, noise: Tensor, t: Tensor) -> Tensor:
    """A draw at time t of the Gaussian with the data's mean and covariance, or of N(0, σ² I) if they are unknown.

    It has one variance, the mean of all, in every direction where that is within 2 % of the standard deviation there,
    as it is where σ is much larger than the data.

    Args:
        model: The score model.
        noise: `(B, ...)`, standard normal.
        t: The first time of the grid, a scalar.
    """
    alpha, sigma = float(model.sde.alpha(t)), float(model.sde.sigma(t))
    known = model.statistics
    if known is None:
        return sigma * noise
    mean = alpha * known.mean.to(noise).reshape(noise.shape[1:])
    spread = math.hypot(alpha * float(known.std), sigma)
    if alpha**2 * known.deviation() <= 2 * _TOLERANCE * spread**2:
        return spread * noise + mean
    return known.scaled(noise, lambda variances: (alpha**2 * variances + sigma**2).sqrt()) + mean


def prior_log_density(model: ScoreModel, x: Tensor, t: Tensor) -> Tensor:
    """The log-density `(B,)` float64, in nats, of the Gaussian of which `prior_start` draws at time t.

    Args:
        model: The score model.
        x: States `(B, ...)`.
        t: The first time of the grid, a scalar.
    """
    alpha, sigma = float(model.sde.alpha(t)), float(model.sde.sigma(t))
    known, state = model.statistics, x.double()
    if known is None:
        variances, z = torch.tensor([sigma**2], dtype=torch.float64), state / sigma
    else:
        centred = state - alpha * known.mean.to(state).reshape(x.shape[1:])
        spread = math.hypot(alpha * float(known.std), sigma)
        if alpha**2 * known.deviation() <= 2 * _TOLERANCE * spread**2:
            variances, z = torch.tensor([spread**2], dtype=torch.float64), centred / spread
        else:
            of_data = known.spectrum if known.covariance is not None else known.dct_variances
            assert of_data is not None  # or else the deviation is 0
            variances = alpha**2 * of_data + sigma**2
            z = known.scaled(centred, lambda variances: (alpha**2 * variances + sigma**2).rsqrt())
    size = x[0].numel()
    return -0.5 * (z.flatten(1).square().sum(1) + size * (variances.log().mean() + math.log(2 * math.pi)).to(z.device))


def prior_distance(model: ScoreModel, x: Tensor, t: Tensor) -> float:
    """The largest distance of an element of one state `(...)` from the mean at t, in standard deviations of all."""
    alpha, sigma = float(model.sde.alpha(t)), float(model.sde.sigma(t))
    state = x.double()
    known = model.statistics
    if known is None:
        return float(state.abs().max()) / sigma
    centred = state - alpha * known.mean.to(state).reshape(state.shape)
    return float(centred.abs().max()) / math.hypot(alpha * float(known.std), sigma)


def warn_of_units(model: ScoreModel, x: Tensor, t: Tensor) -> None:
    """Warn of states `(B, ...)` that are far from the model's noised data, as data in their own units are."""
    known = model.statistics
    if known is None or x.device.type != "cpu":  # reading a value of another device would wait for it
        return
    alpha, sigma = float(model.sde.alpha(t)), float(model.sde.sigma(t))
    centred = x.double() - alpha * known.mean.cpu().reshape(x.shape[1:])
    deviations = float(centred.square().mean().sqrt()) / math.hypot(alpha * float(known.std), sigma)
    if deviations > _MAX_DEVIATIONS:
        warnings.warn(
            f"x_init is {deviations:.2g} standard deviations from what the model expects at t = {float(t):.3g}: it is "
            "a state in model space, where noise is; model.to_model_space takes data there",
            UserWarning,
            stacklevel=6,  # past Request.of, Sampler.__call__, the check of its arguments and the wrapper of no_grad
        )
