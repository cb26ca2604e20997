"""The denoising diffusion null-space model (Wang et al. 2023)."""

import math

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.inverse.denoising_chain import DenoisingChain
from scoresde.inverse.linear_gaussian import Coefficients
from scoresde.inverse.method import SolverMethod
from scoresde.inverse.problem import Measurement
from scoresde.numerics.values import positive, share, whole_number
from scoresde.sampling import Solver
from scoresde.sampling.solver import Noise

__all__ = ["DDNM"]


@checked
class DDNM(SolverMethod):
    """What is measured is taken from the measurement, the rest, in the null space of A, from the model.

    With z = x/α of noise s = σ/α, the denoised mean D, and ε = (z − D)/s, a step to noise level t is (eq. 11 to 13)

        D̂ = D + Λ A⁺ (y − A D),    z' = D̂ + t (√(1 − η²) ε + η ξ).

    Without noise Λ is 1, and A x = y holds to round-off. With noise of deviation σ_y (DDNM+, appendix I), in the
    direction of the singular value a, where A⁺ y has noise v = σ_y/a, the correction and the noise of z' are

        Λ = 1                 noise √(t² − v²) ξ    where t ≥ v
        Λ = √(1 − η²) t/v     noise η t ξ           where t < v

    so that it is t in all. These are the steps of `DDRM` with η_b = 1: with noise, the two differ by the state that
    they start from, and by time travel. Where v is large, as behind a blur, little of y is then used.

    It costs n + 1 evaluations for n steps, and more with time travel: every `travel_length` steps are taken
    `travel_repeats` times. It is not right in the limit.

    Args:
        eta: The share η of fresh noise, from 0 to 1.
        travel_length: The length of a jump back, in steps.
        travel_repeats: How often the steps of a jump are taken.
        cutoff: The noise v of a direction, in standard deviations of the data along it, above which it counts as not
            measured; None for all that A measures.

    Raises:
        ValueError: A share outside [0, 1], less than one step, or a cutoff that is not positive.

    References:
        Wang et al. 2023, Zero-shot image restoration using denoising diffusion null-space model,
            https://arxiv.org/abs/2212.00490
    """

    denoise = False
    needs_singular_values = True

    def __init__(
        self, eta: float = 0.85, travel_length: int = 1, travel_repeats: int = 1, cutoff: float | None = 1.0
    ) -> None:
        self.eta = share("eta", eta)
        self.travel_length = whole_number("travel_length", travel_length)
        self.travel_repeats = whole_number("travel_repeats", travel_repeats)
        if cutoff is not None:
            positive("cutoff", cutoff)
        self.cutoff = cutoff

    def solver(self, measurement: Measurement) -> Solver:
        return _DDNMSolver(self, measurement)


class _DDNMSolver(DenoisingChain):
    def __init__(self, method: DDNM, measurement: Measurement) -> None:
        self.method = method
        self.jump_length, self.jumps = method.travel_length, method.travel_repeats
        self._known = Coefficients(measurement)

    def step(self, z: Tensor, mean: Tensor, s: float, t: float, noise: Noise) -> Tensor:
        eta, known, fresh = self.method.eta, self._known, noise()
        keep = math.sqrt(1 - eta**2)
        free = torch.add(keep / s * (z - mean), fresh, alpha=eta)
        deviation, moved, there = known.deviation.to(z), known.basis.to_right(fresh), known.basis.to_right(free)
        off = known.measured.to(z) - known.basis.to_right(mean)
        coarse = off + (t**2 - deviation.square()).clamp_min(0).sqrt() * moved
        fine = keep * t / deviation * off + eta * t * moved
        # Without noise, the noise of the state is kept in part in what is measured too.
        given = torch.where(deviation == 0, off + t * there, torch.where(deviation > t, fine, coarse))
        return torch.add(mean, free, alpha=t) + known.basis.from_right(given - t * there)

    def end(self, z: Tensor, mean: Tensor, s: float) -> Tensor:
        return self._known.kept(mean)
