"""Denoising diffusion restoration models (Kawar et al. 2022)."""

import math

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.inverse.denoising_chain import DenoisingChain
from scoresde.inverse.linear_gaussian import Coefficients
from scoresde.inverse.method import SolverMethod
from scoresde.inverse.problem import Measurement
from scoresde.numerics.values import positive, share
from scoresde.sampling import Solver
from scoresde.sampling.solver import Noise

__all__ = ["DDRM"]


@checked
class DDRM(SolverMethod):
    """A chain in the coordinates of the singular values, each by how its noise compares with that of the measurement.

    With z = x/α of noise s = σ/α, the denoised mean D, and for a singular value a the measured coefficient c̄ of noise
    v = σ_y/a, a step to noise level t draws the coefficient of z from (eq. 7 and 8)

        N(D + √(1 − η²) t (z − D)/s,  η² t²)              what is not measured
        N(D + √(1 − η²) t (c̄ − D)/v,  η² t²)              t < v
        N((1 − η_b) D + η_b c̄,  t² − η_b² v²)             t ≥ v

    The first state has the measured coefficients where its noise is at least v. What is not measured is worked on as
    what is orthogonal to the others, so that the null space needs no basis. Without noise and with η_b = 1, A x = y
    holds to round-off.

    Where v is above what the data vary by, the steps for t < v take the place of those that know of the state, and lose
    the data's own spread: on a blur of digits with noise 0.3 in [−1, 1] that is most of the error. So such a direction
    counts as not measured; the authors' blur drops its smallest singular values to the same end.

    It costs n + 1 evaluations for n steps. It is not right in the limit.

    Args:
        eta: The share η of fresh noise.
        eta_b: The share η_b of the measurement.
        cutoff: The noise v of a direction, in standard deviations of the data along it, above which it counts as not
            measured; None for all that A measures.

    Raises:
        ValueError: A share outside [0, 1], or a cutoff that is not positive.

    References:
        Kawar et al. 2022, Denoising diffusion restoration models, https://arxiv.org/abs/2201.11793
    """

    denoise = False
    needs_singular_values = True

    def __init__(self, eta: float = 0.85, eta_b: float = 1.0, cutoff: float | None = 1.0) -> None:
        self.eta, self.eta_b = share("eta", eta), share("eta_b", eta_b)
        if cutoff is not None:
            positive("cutoff", cutoff)
        self.cutoff = cutoff

    def solver(self, measurement: Measurement) -> Solver:
        return _DDRMSolver(self, measurement)


class _DDRMSolver(DenoisingChain):
    def __init__(self, method: DDRM, measurement: Measurement) -> None:
        self.method = method
        self._known = Coefficients(measurement)

    def begin(self, z: Tensor, s: float, noise: Noise) -> Tensor:
        known = self._known
        left = s**2 - known.deviation.to(z).square()
        given = known.measured.to(z) + left.clamp_min(0).sqrt() * known.basis.to_right(noise())
        return known.replaced(z, torch.where(left >= 0, given, known.basis.to_right(z)))

    def step(self, z: Tensor, mean: Tensor, s: float, t: float, noise: Noise) -> Tensor:
        eta, part, known = self.method.eta, self.method.eta_b, self._known
        fresh, keep = noise(), math.sqrt(1 - eta**2) * t
        after = torch.add(torch.add(mean, z - mean, alpha=keep / s), fresh, alpha=eta * t)
        deviation, measured = known.deviation.to(z), known.measured.to(z)
        there, moved = known.basis.to_right(mean), known.basis.to_right(fresh)
        off = measured - there
        fine = there + keep * off / deviation + eta * t * moved
        coarse = there + part * off + (t**2 - (part * deviation).square()).clamp_min(0).sqrt() * moved
        return known.replaced(after, torch.where(deviation > t, fine, coarse))

    def end(self, z: Tensor, mean: Tensor, s: float) -> Tensor:
        return torch.lerp(mean, self._known.kept(mean), self.method.eta_b)
