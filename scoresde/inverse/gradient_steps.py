"""Ancestral steps, each followed by a step down the gradient of a misfit of the denoised mean."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from scoresde.inverse.problem import Measurement
from scoresde.inverse.projection import MeasuredPart
from scoresde.sampling import Noise, Solver
from scoresde.score import ScoreModel

__all__ = ["GradientSteps"]

Misfit = Callable[[Measurement, Tensor], Tensor]
"""A number for each sample `(B,)`, of measurements and denoised means `(B, ...)`."""


class GradientSteps(Solver):
    """A step of DDPM from the denoised mean D, then x ← x − ζ ∇ₓ m(D) with a misfit m, then what is measured replaced.

    Args:
        measurement: The measurements of the samples, in model space.
        misfit: The misfit.
        step: The step size ζ.
        part: What is measured, by coefficients; None to replace nothing.
    """

    def __init__(self, measurement: Measurement, misfit: Misfit, step: float, part: MeasuredPart | None = None) -> None:
        self.measurement, self.misfit, self.step, self.part = measurement, misfit, step, part

    @property
    def draws_white(self) -> bool:
        return True

    def solve(self, model: ScoreModel, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        sde, old, new = model.sde, times[:-1], times[1:]
        a, b = sde.transition(old, new)
        level = sde.sigma(old)
        ratio = sde.sigma(new) / level
        # x_s = α_s b²/σ² D + a σ_s²/σ² x + b σ_s/σ z, as Ancestral has it.
        on_data = (sde.alpha(new) * (b / level).square()).tolist()
        on_state, spread = (a * ratio.square()).tolist(), (b * ratio).tolist()
        mean = model.prediction(old, torch.ones_like(old), torch.zeros_like(old))
        alphas, sigmas = sde.alpha(new).tolist(), sde.sigma(new).tolist()
        for i in range(len(new)):

            def misfit(state: Tensor, i: int = i) -> tuple[Tensor, Tensor]:
                denoised = mean(state, i)
                return self.misfit(self.measurement, denoised).sum(), denoised

            gradient, denoised = torch.func.grad(misfit, has_aux=True)(x)
            x = on_data[i] * denoised + on_state[i] * x + spread[i] * noise() - self.step * gradient
            if self.part is not None:
                x = self.part.replaced(x, alphas[i], sigmas[i], noise())
            yield x
