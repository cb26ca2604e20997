"""Langevin dynamics with a test of acceptance, for the law of samples near a point given measurements of any kind."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from scoresde.inverse.problem import Measurement
from scoresde.sampling.solver import Noise

__all__ = ["NearPoint"]

_ACCEPTED = 0.574  # the share of accepted steps at which the chain moves fastest (Roberts & Rosenthal 1998)
_RATE = 1.5  # of the change of the logarithm of the step by a test, in the first half of the steps


class NearPoint:
    """Draws of p(x) ∝ N(x; z, r² I) p(y | A(x)), for any operator and noise that are differentiable.

    The steps are x' = x + h ∇ log p(x) + √(2h) ξ with a Metropolis test (MALA), so that the law is kept at any h. Each
    sample has a step of its own, which begins at `share` r² and follows the accepted share in the first half of the
    steps; in the second it stays.

    Args:
        measurement: The measurements.
        steps: The number of steps, of one gradient of the likelihood each.
        share: The first step in units of r².
    """

    def __init__(self, measurement: Measurement, steps: int, share: float) -> None:
        self.measurement, self.steps, self.share = measurement, steps, share
        self._log_step: Tensor | None = None

    def draw(self, x: Tensor, z: Tensor, spread: float, noise: Noise) -> Tensor:
        """The state of a chain from x after its steps, `(B, ...)`.

        Args:
            x: Where the chain starts, `(B, ...)`.
            z: The point, `(B, ...)`.
            spread: r.
            noise: Draws of standard normal noise of the shape of x.
        """

        def density(state: Tensor) -> tuple[Tensor, Tensor]:
            value = self.measurement.log_likelihood(state) - _square(state - z) / (2 * spread**2)
            return value.sum(), value

        gradient: Callable[[Tensor], tuple[Tensor, Tensor]] = torch.func.grad(density, has_aux=True)
        rows = (-1, *[1] * (x.ndim - 1))
        # From one call to the next the law is nearly the same in units of r², and so is the step.
        log_step = self._log_step
        if log_step is None:
            log_step = torch.full((len(x),), math.log(self.share), dtype=x.dtype, device=x.device)
        slope, value = gradient(x)
        width, chances = x[0].numel(), x
        for k in range(self.steps):
            size = (spread**2 * log_step.exp()).reshape(rows)
            fresh = noise()
            there = x + size * slope + (2 * size).sqrt() * fresh
            slope_there, value_there = gradient(there)
            back = _square(x - there - size * slope_there) / (4 * size.flatten())
            ratio = value_there - value - back + 0.5 * _square(fresh)
            if k % width == 0:  # uniform numbers from normal ones, which belong to the sample as all noise does
                chances = torch.special.log_ndtr(noise().flatten(1))
            accepted = chances[:, k % width] < ratio  # False for NaN, where the likelihood is not defined
            taken = accepted.reshape(rows)
            x, slope = torch.where(taken, there, x), torch.where(taken, slope_there, slope)
            value = torch.where(accepted, value_there, value)
            if 2 * k < self.steps:
                rate = _RATE / (1 + k) ** 0.5
                log_step = log_step + rate * (ratio.clamp(max=0).exp().nan_to_num(0.0) - _ACCEPTED)
        self._log_step = log_step
        return x


def _square(x: Tensor) -> Tensor:
    return x.square().flatten(1).sum(1)
