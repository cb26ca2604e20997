"""Denoising score matching.

References:
    A connection between score matching and denoising autoencoders (Vincent 2011),
    https://doi.org/10.1162/NECO_a_00142
    Score-based generative modeling through stochastic differential equations (Song et al. 2021), eq. 7,
    https://arxiv.org/abs/2011.13456
"""

from typing import Any

import torch
from torch import Tensor

from scoresde.objectives.base import Loss, Objective
from scoresde.objectives.tensors import at_least_float32, mean_square
from scoresde.score import Conditions, ScoreModel

__all__ = ["DenoisingScoreMatching"]


class DenoisingScoreMatching(Objective):
    """E[w(t) ‖ε̂(x_t, t) − ε‖²/D] with x_t = α x₀ + σ ε.

    The error is a mean over the D elements of a sample, not a sum. `per_sample` is the mean-square error of ε.

    The error is taken where the model has it without cancellation (`ScoreModel.noise_residual`): for a network at the
    raw output F, against its target p x₀ + q ε.

    Args:
        weighting: Weight of an error at each noise level; `SigmaSquared()` if not given.
        times: Distribution of the times; `UniformTime()` if not given.
        stratified: Spread the noise levels of a batch evenly; see `Objective`.
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
        x0, conditions = at_least_float32(x0), Conditions.of(cond, len(x0), x0.device)
        t, correction, noise = self._draw(model, x0, generator, u, noise)
        x = model.sde.perturb(x0, t, noise)
        residual, factor = model.noise_residual(x, t, x0, noise, **conditions)
        return self._loss(model, t, correction, mean_square(residual), None if factor is None else factor**2)
