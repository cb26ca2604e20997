"""Manifold constrained gradients (Chung et al. 2022)."""

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.inverse.gradient_steps import GradientSteps
from scoresde.inverse.method import SolverMethod
from scoresde.inverse.problem import Measurement
from scoresde.inverse.projection import MeasuredPart
from scoresde.numerics.values import positive
from scoresde.sampling import Solver

__all__ = ["MCG"]


@checked
class MCG(SolverMethod):
    """A gradient of the misfit through the model, then a projection onto what is measured (Chung et al. 2022).

        x ← x' − ζ ∇ₓ ‖y − A D(x)‖²/‖y − A D(x)‖,    then Vᵀ x ← α c̄ + √(σ² − α² v²) z

    for a step x' of DDPM and the coefficients c̄ = Uᵀ y/s of A = U diag(s) Vᵀ. The projection is that of `Projection`;
    the gradient, of the paper's normalised step size, keeps what is not measured in line with it. Values without noise
    are kept exactly. A step costs one evaluation and one gradient.

    Args:
        step: The step size ζ.
        cutoff: The noise v of a direction, in standard deviations of the data along it, above which it counts as not
            measured; None for all that A measures.

    Raises:
        ValueError: A step size or a cutoff that is not positive.

    References:
        Chung et al. 2022, Improving diffusion models for inverse problems using manifold constraints,
            https://arxiv.org/abs/2206.00941
    """

    needs_singular_values = True

    def __init__(self, step: float = 0.5, cutoff: float | None = 1.0) -> None:
        positive("step", step)
        self.step = step
        if cutoff is not None:
            positive("cutoff", cutoff)
        self.cutoff = cutoff

    def solver(self, measurement: Measurement) -> Solver:
        return GradientSteps(measurement, misfit_norm, self.step, MeasuredPart(measurement))


def misfit_norm(measurement: Measurement, denoised: Tensor) -> Tensor:
    """2 ‖y − A(D)‖, whose gradient is that of ‖y − A(D)‖², divided by ‖y − A(D)‖; `(B,)`."""
    length: Tensor = 2 * torch.linalg.vector_norm(measurement.residual(denoised).flatten(1), dim=1)
    return length
