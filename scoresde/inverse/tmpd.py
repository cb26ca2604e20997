"""Tweedie moment projected diffusion (Boys et al. 2023)."""

import torch
from torch import Tensor

from scoresde.inverse.measured_covariance import noise_variance
from scoresde.inverse.method import FieldMethod, Mean, pulled_back
from scoresde.inverse.operator import LinearOperator
from scoresde.inverse.problem import Measurement
from scoresde.sampling import DataStraight, DPMSolverPP, Sampler

__all__ = ["TMPD"]


class TMPD(FieldMethod):
    """The likelihood with the row sums of the covariance of A x₀ given x_t as a diagonal (Boys et al. 2023).

    With V = Cov[x₀ | x_t] = (σ²/α) ∂D/∂x and the vector 1 of ones,

        ∇ log p(y | x_t) ≈ (∂D/∂x)ᵀ Aᵀ diag(Σ_y + A V Aᵀ 1)⁻¹ (y − A D).

    The row sums are those of the paper's algorithm, for one product with the Jacobian; a step costs one evaluation and
    two products. They are exact where A V Aᵀ is diagonal, as it is for a mask and data of independent elements. Those
    that are negative, which variances are not, count as 0.

    Where elements of A x₀ vary against each other, as pixels of images do, the sums of some are far below their
    variances or negative, and with little noise the pull along them is too strong for any number of steps: on the
    pixels of digits behind a mask with noise 0.05 in [−1, 1] samples diverge, where the diagonal of A V Aᵀ, which
    costs a product for each number measured, keeps them. `MMPS` is for such data.

    References:
        Boys et al. 2023, Tweedie moment projected diffusions for inverse problems, https://arxiv.org/abs/2310.06721
    """

    def pull(
        self, mean: Mean, x: Tensor, alpha: Tensor, sigma: Tensor, measurement: Measurement
    ) -> tuple[Tensor, Tensor]:
        operator = measurement.operator
        assert isinstance(operator, LinearOperator)
        denoised, transposed = pulled_back(mean, x)
        error = measurement.residual(denoised)
        spread = sigma.square() / alpha * transposed(operator.back(torch.ones_like(error)))
        variance = noise_variance(measurement, error) + operator.measure(spread).clamp_min(0)
        least = torch.finfo(error.dtype).tiny  # without noise, where a row sum is not positive
        weighted = torch.where(variance > least, error / variance, 0.0)
        return denoised, transposed(operator.back(weighted))

    def sampler(self, steps: int) -> Sampler:
        return Sampler(DPMSolverPP(2, sde=True), DataStraight(steps))
