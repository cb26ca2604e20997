"""DiffPIR: a denoiser and a proximal point in turn (Zhu et al. 2023)."""

import math

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.inverse.denoising_chain import DenoisingChain
from scoresde.inverse.linear_gaussian import LinearGaussian
from scoresde.inverse.method import SolverMethod
from scoresde.inverse.problem import Measurement
from scoresde.numerics.values import positive, share
from scoresde.sampling import Solver
from scoresde.sampling.solver import Noise

__all__ = ["DiffPIR"]


@checked
class DiffPIR(SolverMethod):
    """The denoised mean is replaced by the point that fits the measurement and is near it.

    With z = x/α of noise s = σ/α and the denoised mean D, a step to noise level t is (eq. 11 to 14)

        D̂ = argmin |y − A x|²/σ_y² + (λ/s²) |x − D|²,    ε̂ = (z − D̂)/s,    z' = D̂ + t (√(1 − ζ) ε̂ + √ζ ξ).

    D̂ is the mean of N(D, s²/λ) given y: by singular values, or by conjugate gradients. Without noise it is the nearest
    point to D with A x = y.

    It costs n + 1 evaluations for n steps. It is not right in the limit.

    Args:
        weight: λ, how much the denoised mean counts.
        zeta: The share ζ of fresh noise, in variance. Both are those of the authors' deblurring.

    Raises:
        ValueError: A weight that is not positive, or a share outside [0, 1].

    References:
        Zhu et al. 2023, Denoising diffusion models for plug-and-play image restoration,
            https://arxiv.org/abs/2305.08995
    """

    denoise = False

    def __init__(self, weight: float = 1.0, zeta: float = 0.1) -> None:
        positive("weight", weight)
        self.weight, self.zeta = float(weight), share("zeta", zeta)

    def solver(self, measurement: Measurement) -> Solver:
        return _DiffPIRSolver(self, measurement)


class _DiffPIRSolver(DenoisingChain):
    def __init__(self, method: DiffPIR, measurement: Measurement) -> None:
        self.method = method
        self._given = LinearGaussian(measurement)

    def step(self, z: Tensor, mean: Tensor, s: float, t: float, noise: Noise) -> Tensor:
        zeta, near = self.method.zeta, self.end(z, mean, s)
        return torch.add(near, z - near, alpha=math.sqrt(1 - zeta) * t / s).add_(noise(), alpha=math.sqrt(zeta) * t)

    def end(self, z: Tensor, mean: Tensor, s: float) -> Tensor:
        return self._given.mean(mean, s / math.sqrt(self.method.weight))
