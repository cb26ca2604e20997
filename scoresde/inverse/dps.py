"""Diffusion posterior sampling (Chung et al. 2023)."""

from collections.abc import Callable

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.inverse.method import FieldMethod
from scoresde.inverse.problem import Measurement
from scoresde.sampling import DDPM, DataStraight, Sampler

__all__ = ["DPS"]


@checked
class DPS(FieldMethod):
    """The likelihood of the denoised mean in place of that of the state (Chung et al. 2023, eq. 11).

        ∇ log p(y | x_t) ≈ ∇ₓ log p(y | A(D(x_t)))

    It works with any operator and noise that are differentiable, at one evaluation and one gradient a step.

    References:
        Chung et al. 2023, Diffusion posterior sampling for general noisy inverse problems,
            https://arxiv.org/abs/2209.14687
    """

    needs_linear = False
    needs_variance = False

    def pull(
        self,
        mean: Callable[[Tensor], Tensor],
        x: Tensor,
        alpha: Tensor,
        sigma: Tensor,
        measurement: Measurement,
    ) -> tuple[Tensor, Tensor]:
        def likelihood(state: Tensor) -> tuple[Tensor, Tensor]:
            denoised = mean(state)
            return measurement.log_likelihood(denoised).sum(), denoised

        gradient, denoised = torch.func.grad(likelihood, has_aux=True)(x)
        return denoised, gradient

    def sampler(self, steps: int) -> Sampler:
        return Sampler(DDPM(), DataStraight(steps))
