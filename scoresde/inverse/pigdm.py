"""Pseudo-inverse guidance (Song et al. 2023)."""

from torch import Tensor

from scoresde.arguments import checked
from scoresde.inverse.measured_covariance import isotropic_solution, posterior_variance
from scoresde.inverse.method import FieldMethod, Mean, pulled_back
from scoresde.inverse.operator import LinearOperator, Operator
from scoresde.inverse.problem import Measurement
from scoresde.numerics.values import positive
from scoresde.sampling import DataStraight, DPMSolverPP, Sampler
from scoresde.statistics import Statistics

__all__ = ["PiGDM"]


@checked
class PiGDM(FieldMethod):
    """The likelihood with x₀ given x_t taken as N(D, r² I) (Song et al. 2023, section 3.2).

        ∇ log p(y | x_t) ≈ (∂D/∂x)ᵀ Aᵀ (Σ_y + r² A Aᵀ)⁻¹ (y − A D),    r² = s² ρ²/(s² + ρ²),    ρ = σ/α

    where s is the standard deviation of the data. With the s of the data, r² is the variance of x₀ given x_t for data
    N(m, s² I), for which the method is exact. The paper has s = 1 for all data. Without noise it is guidance by the
    pseudo-inverse, (∂D/∂x)ᵀ (A⁺ y − A⁺ A D)/r². A step costs one evaluation and one gradient.

    Args:
        std: The standard deviation s in model space; that of the model's `statistics` if not given, and 1 where these
            are not known.

    Raises:
        ValueError: A standard deviation that is not positive.

    References:
        Song et al. 2023, Pseudoinverse-guided diffusion models for inverse problems,
            https://openreview.net/forum?id=9_gsMA8MRKQ
    """

    def __init__(self, std: float | None = None) -> None:
        if std is not None:
            positive("std", std)
        self.std = std

    def informed(self, statistics: Statistics | None, operator: Operator) -> "PiGDM":
        return self if self.std is not None or statistics is None else PiGDM(float(statistics.std))

    def pull(
        self, mean: Mean, x: Tensor, alpha: Tensor, sigma: Tensor, measurement: Measurement
    ) -> tuple[Tensor, Tensor]:
        operator = measurement.operator
        assert isinstance(operator, LinearOperator)
        denoised, transposed = pulled_back(mean, x)
        spread = posterior_variance(sigma / alpha, 1.0 if self.std is None else self.std)
        pulled = isotropic_solution(measurement, spread, measurement.residual(denoised))
        return denoised, transposed(operator.back(pulled))

    def sampler(self, steps: int) -> Sampler:
        return Sampler(DPMSolverPP(2, sde=True), DataStraight(steps))
