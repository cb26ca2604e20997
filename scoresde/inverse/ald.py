"""Annealed Langevin dynamics with a measurement (Jalal et al. 2021)."""

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.inverse.measured_covariance import noise_variance
from scoresde.inverse.method import FieldMethod, Mean
from scoresde.inverse.operator import LinearOperator
from scoresde.inverse.problem import Measurement
from scoresde.numerics.values import not_negative, positive, whole_number
from scoresde.sampling import NCSNv2, Sampler, UniformLogSNR

__all__ = ["ALD"]


@checked
class ALD(FieldMethod):
    """Annealed Langevin dynamics, with the likelihood of the noised state itself (Jalal et al. 2021, eq. 3).

    Of the state x_t/α, whose noise has the standard deviation ρ = σ/α, y is measured with more noise, γ² ρ²:

        ∇ log p(y | x_t) ≈ Aᵀ (Σ_y + γ² ρ² I)⁻¹ (y − A x_t/α)/α.

    γ is the ratio of the paper's annealed term to the noise level; with γ = 1 this is exact where the data are flat and
    A Aᵀ = I. No gradient goes through the model, so that a step costs one evaluation. `draw` has `langevin` of its
    steps at each noise level, and rounds their number up to a multiple of that.

    The step size knows of the prior's curvature alone. Where the largest singular value of A is well above γ, as it is
    for random projections of many numbers, that of the likelihood is larger and the dynamics diverge at any number of
    steps. The authors' code has another pull in place of the equation, of the same direction and of the length of the
    score times a factor, 5 in their experiments: `relative` is that factor. It does not diverge, and samples nothing
    that can be named.

    Args:
        anneal: γ.
        langevin: The number of Langevin steps at each noise level.
        relative: The length of the pull in lengths of the prior's score; None for that of the equation.

    Raises:
        ValueError: A negative ratio, a factor that is not positive, or no step.

    References:
        Jalal et al. 2021, Robust compressed sensing MRI with deep generative priors, https://arxiv.org/abs/2108.01368
    """

    def __init__(self, anneal: float = 1.0, langevin: int = 3, relative: float | None = None) -> None:
        not_negative("anneal", anneal)
        if relative is not None:
            positive("relative", relative)
        self.anneal, self.langevin, self.relative = anneal, whole_number("langevin", langevin), relative

    def pull(
        self, mean: Mean, x: Tensor, alpha: Tensor, sigma: Tensor, measurement: Measurement
    ) -> tuple[Tensor, Tensor]:
        operator = measurement.operator
        assert isinstance(operator, LinearOperator)
        error = measurement.residual(x / alpha)
        widened = (self.anneal * sigma / alpha).square()
        if widened.ndim:
            widened = widened.reshape(-1, *[1] * (error.ndim - 1))
        denoised = mean(x)
        pull = operator.back(error / (noise_variance(measurement, error) + widened)) / alpha
        if self.relative is not None:
            score = (alpha * denoised - x) / sigma.square()
            pull = pull * (self.relative * _length(score) / _length(pull).clamp_min(torch.finfo(x.dtype).tiny))
        return denoised, pull

    def sampler(self, steps: int) -> Sampler:
        levels = -(-steps // self.langevin)
        return Sampler(NCSNv2(steps=self.langevin), UniformLogSNR(max(1, levels - 1)))


def _length(x: Tensor) -> Tensor:
    """The lengths of samples `(B, ...)`, in a shape that broadcasts to them."""
    length: Tensor = torch.linalg.vector_norm(x.flatten(1), dim=1)
    return length.reshape(-1, *[1] * (x.ndim - 1))
