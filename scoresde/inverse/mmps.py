"""Moment matching posterior sampling (Rozet et al. 2024)."""

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.inverse.measured_covariance import (
    NormalCovariance,
    isotropic_solution,
    noise_variance,
    posterior_variance,
)
from scoresde.inverse.method import FieldMethod, Mean, pulled_back
from scoresde.inverse.operator import LinearOperator, Operator
from scoresde.inverse.problem import Measurement
from scoresde.numerics.conjugate_gradients import conjugate_gradients
from scoresde.numerics.values import at_least
from scoresde.sampling import DataStraight, DPMSolverPP, Sampler
from scoresde.statistics import Statistics

__all__ = ["MMPS"]


@checked
class MMPS(FieldMethod):
    """The likelihood with the covariance of x₀ given x_t, from the Jacobian of the denoised mean.

    With V = Cov[x₀ | x_t] = (σ²/α) ∂D/∂x,

        ∇ log p(y | x_t) ≈ (∂D/∂x)ᵀ Aᵀ (Σ_y + A V Aᵀ)⁻¹ (y − A D),

    the gradient of N(y; A D, Σ_y + A V Aᵀ) with V held fixed. It is exact for normal data. The inverse is by
    `iterations` steps of conjugate gradients from 0, each a product of a vector with the Jacobian. Those products are
    also what the gradient is made of, so that a step costs one evaluation and `iterations` products, one less than
    where the gradient is a backward pass of its own.

    With `precondition`, the steps are those of the system that has V of normal data with the model's `statistics`
    inverted: exact after one iteration where noise is larger than what parts the modes of the data.

    Args:
        iterations: The number of conjugate-gradient steps.
        precondition: Whether the steps are preconditioned by the moments of the data; without effect where they are not
            known.
        symmetrise: Whether V is the mean of the Jacobian and its transpose, which that of a network is not, at one
            forward product more for each iteration.

    Raises:
        ValueError: No iteration.

    References:
        Rozet et al. 2024, Learning diffusion priors from observations by expectation maximization,
            https://arxiv.org/abs/2405.13712
    """

    def __init__(self, iterations: int = 1, precondition: bool = True, symmetrise: bool = False) -> None:
        at_least("iterations", iterations, 1)
        self.iterations, self.precondition, self.symmetrise = iterations, precondition, symmetrise
        self._std: float | None = None
        self._normal: NormalCovariance | None = None

    def informed(self, statistics: Statistics | None, operator: Operator) -> "MMPS":
        if not self.precondition or statistics is None:
            return self
        known = MMPS(self.iterations, self.precondition, self.symmetrise)
        known._std, known._normal = float(statistics.std), NormalCovariance.of(statistics, operator)
        return known

    def pull(
        self, mean: Mean, x: Tensor, alpha: Tensor, sigma: Tensor, measurement: Measurement
    ) -> tuple[Tensor, Tensor]:
        operator = measurement.operator
        assert isinstance(operator, LinearOperator)
        denoised, transposed = pulled_back(mean, x)
        gain = sigma.square() / alpha
        variance = noise_variance(measurement, measurement.y.to(x))

        def spread(v: Tensor) -> Tensor:
            product = transposed(v)
            if self.symmetrise:
                product = 0.5 * (product + torch.func.jvp(mean, (x,), (v,))[1])
            return gain * product

        def applied(u: Tensor) -> tuple[Tensor, Tensor]:
            moved = spread(operator.back(u))
            return variance * u + operator.measure(moved), moved

        _, correction = conjugate_gradients(
            applied,
            measurement.residual(denoised),
            self.iterations,
            self._preconditioner(sigma / alpha, measurement, variance),
            floor=lambda u: variance * u,
        )
        return denoised, correction / gain

    def _preconditioner(self, level: Tensor, measurement: Measurement, variance: Tensor) -> Mean | None:
        """The inverse of Σ_y + A V Aᵀ with the V of normal data; None if nothing is known of the data."""
        normal, std = self._normal, self._std
        if std is None:
            return None
        if normal is not None:
            return lambda error: normal.solve(error, level, variance)
        spread = posterior_variance(level, std)
        return lambda error: isotropic_solution(measurement, spread, error)

    def sampler(self, steps: int) -> Sampler:
        return Sampler(DPMSolverPP(2, sde=True), DataStraight(steps))
