"""Diffusion posterior sampling (Chung et al. 2023)."""

from typing import Any

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.inverse.gradient_steps import GradientSteps
from scoresde.inverse.mcg import misfit_norm
from scoresde.inverse.method import FieldMethod, Mean
from scoresde.inverse.problem import Measurement
from scoresde.inverse.units import in_model_space
from scoresde.numerics.values import positive
from scoresde.sampling import DDPM, DataStraight, Sampler, Samples
from scoresde.score import ScoreModel

__all__ = ["DPS"]


@checked
class DPS(FieldMethod):
    """The likelihood of the denoised mean in place of that of the state (Chung et al. 2023).

        ∇ log p(y | x_t) ≈ w ∇ₓ log p(y | A(D(x_t)))

    is the field (eq. 11) that `posterior` adds. It is stiff where noise is larger than that of the measurements, so
    that the paper's algorithm takes steps of a bounded length instead, each after one of DDPM:

        x ← x' − ζ ∇ₓ ‖y − A(D(x))‖²/‖y − A(D(x))‖.

    `draw` does so where `step` is given. Both work with any operator that is differentiable, at one evaluation and one
    gradient a step; the field needs noise of a differentiable density.

    Args:
        step: The step size ζ of the paper's algorithm; None to draw from the field.
        scale: The weight w of the field; 1 is the likelihood.

    Raises:
        ValueError: A step size or a weight that is not positive.

    References:
        Chung et al. 2023, Diffusion posterior sampling for general noisy inverse problems,
            https://arxiv.org/abs/2209.14687
    """

    needs_linear = False
    needs_variance = False

    def __init__(self, step: float | None = 0.5, scale: float = 1.0) -> None:
        if step is not None:
            positive("step", step)
        positive("scale", scale)
        self.step, self.scale = step, scale

    def pull(
        self, mean: Mean, x: Tensor, alpha: Tensor, sigma: Tensor, measurement: Measurement
    ) -> tuple[Tensor, Tensor]:
        def likelihood(state: Tensor) -> tuple[Tensor, Tensor]:
            denoised = mean(state)
            return measurement.log_likelihood(denoised).sum(), denoised

        gradient, denoised = torch.func.grad(likelihood, has_aux=True)(x)
        return denoised, self.scale * gradient

    def sampler(self, steps: int) -> Sampler:
        return Sampler(DDPM(), DataStraight(steps))

    def draw(
        self, model: ScoreModel, measurement: Measurement, steps: int, *, seed: int = 0, first: int = 0, **cond: Any
    ) -> Samples:
        if self.step is None:
            return super().draw(model, measurement, steps, seed=seed, first=first, **cond)
        self.check(model, measurement)
        solver = GradientSteps(in_model_space(measurement, model), misfit_norm, self.step)
        shape = (len(measurement), *measurement.operator.shape)
        return Sampler(solver, DataStraight(steps))(model, shape, seed=seed, first=first, **cond)
