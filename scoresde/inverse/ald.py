"""Annealed Langevin dynamics with a measurement (Jalal et al. 2021)."""

from torch import Tensor

from scoresde.arguments import checked
from scoresde.inverse.measured_covariance import noise_variance
from scoresde.inverse.method import FieldMethod, Mean
from scoresde.inverse.operator import LinearOperator
from scoresde.inverse.problem import Measurement
from scoresde.numerics.values import not_negative, whole_number
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

    Args:
        anneal: γ.
        langevin: The number of Langevin steps at each noise level.

    Raises:
        ValueError: A negative ratio, or no step.

    References:
        Jalal et al. 2021, Robust compressed sensing MRI with deep generative priors, https://arxiv.org/abs/2108.01368
    """

    def __init__(self, anneal: float = 1.0, langevin: int = 3) -> None:
        not_negative("anneal", anneal)
        self.anneal, self.langevin = anneal, whole_number("langevin", langevin)

    def pull(
        self, mean: Mean, x: Tensor, alpha: Tensor, sigma: Tensor, measurement: Measurement
    ) -> tuple[Tensor, Tensor]:
        operator = measurement.operator
        assert isinstance(operator, LinearOperator)
        error = measurement.residual(x / alpha)
        widened = (self.anneal * sigma / alpha).square()
        if widened.ndim:
            widened = widened.reshape(-1, *[1] * (error.ndim - 1))
        return mean(x), operator.back(error / (noise_variance(measurement, error) + widened)) / alpha

    def sampler(self, steps: int) -> Sampler:
        levels = -(-steps // self.langevin)
        return Sampler(NCSNv2(steps=self.langevin), UniformLogSNR(max(1, levels - 1)))
