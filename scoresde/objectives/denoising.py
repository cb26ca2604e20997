"""Denoising score matching (Vincent 2011; Song et al. 2021, eq. 7)."""

from typing import Any

import torch
from torch import Tensor

from scoresde.objectives.base import Loss, Objective, _at_least_float32
from scoresde.score import Conditions, NetworkScore, ScoreModel
from scoresde.sde import expand_to

__all__ = ["DenoisingScoreMatching"]


class DenoisingScoreMatching(Objective):
    """E[w(t) ‖ε̂(x_t, t) − ε‖²/D] with x_t = α x₀ + σ ε.

    The error is a mean over the D values of a sample, not a sum. `per_sample` is the mean-square error of ε.

    For a `NetworkScore` the error is taken at the raw output F, against its target p x₀ + q ε:

        ε̂ − ε = b (F − p x₀ − q ε),    b = α/Δ = α/(α q − σ p),

    and b² joins the weight in closed form. That is the same number with nothing subtracted but F and its
    target, so that float32 keeps its accuracy where ε̂ and ε agree to many digits (EDM's at large σ).

    Args:
        weighting: `SigmaSquared()` if not given.
        times: `UniformTime()` if not given.
        stratified: see `Objective`.
    """

    def __call__(
        self,
        model: ScoreModel,
        x0: Tensor,
        generator: torch.Generator | None = None,
        *,
        u: Tensor | None = None,
        noise: Tensor | None = None,
        **cond: Any,
    ) -> Loss:
        sde = model.sde
        x0, conditions = _at_least_float32(x0), Conditions.of(cond, len(x0), x0.device)
        t, correction, noise = self._draw(model, x0, generator, u, noise)
        x = sde.perturb(x0, t, noise)
        if not isinstance(model, NetworkScore):
            return self._loss(model, t, correction, _mean_square(model.noise(x, t, **conditions) - noise))
        p, q = model.preconditioning.target(sde, t)
        alpha = sde.alpha(t)
        gain = (alpha / (alpha * q - sde.sigma(t) * p)) ** 2
        target = expand_to(p, x0) * x0 + expand_to(q, x0) * noise
        error = _mean_square(model.raw(x, t, **conditions) - target)
        return self._loss(model, t, correction, error, gain)


def _mean_square(x: Tensor) -> Tensor:
    """Mean over all but the first dimension, `(B,)`."""
    return _at_least_float32(x).square().flatten(1).mean(1)
