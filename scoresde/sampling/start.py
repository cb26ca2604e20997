"""States that a sampler starts from: draws of the Gaussian at the first time, and how far given states are from it."""

import math
import warnings

import torch
from torch import Tensor

from scoresde.score import ScoreModel

__all__ = ["prior_distance", "prior_start", "warn_of_units"]

# Beyond this many standard deviations from noised data, a state seems to be in other units.
_MAX_DEVIATIONS = 5.0


def prior_start(model: ScoreModel, noise: Tensor, t: Tensor) -> Tensor:
    """A draw at time t of the Gaussian with the data's mean and variance, or of N(0, σ² I) if they are unknown.

    Args:
        model: The score model.
        noise: `(B, ...)`, standard normal.
        t: The first time of the grid, a scalar.
    """
    alpha, sigma = float(model.sde.alpha(t)), float(model.sde.sigma(t))
    if model.statistics is None:
        return sigma * noise
    std = float(model.statistics.std)
    return math.hypot(alpha * std, sigma) * noise + alpha * model.statistics.mean.to(noise).reshape(noise.shape[1:])


def prior_distance(model: ScoreModel, x: Tensor, t: Tensor) -> float:
    """The largest distance of an element of one state `(...)` from the mean of `prior_start`, in its deviations."""
    state = x[None].double()
    zero = torch.zeros_like(state)
    mean = prior_start(model, zero, t)
    return float(((state - mean) / (prior_start(model, zero + 1, t) - mean)).abs().max())


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
