"""RePaint (Lugmayr et al. 2022)."""

import math

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.inverse.denoising_chain import DenoisingChain
from scoresde.inverse.linear_gaussian import Coefficients
from scoresde.inverse.method import SolverMethod
from scoresde.inverse.problem import Measurement
from scoresde.numerics.values import positive, whole_number
from scoresde.sampling import Solver
from scoresde.sampling.solver import Noise

__all__ = ["RePaint"]


@checked
class RePaint(SolverMethod):
    """The model's own steps, with what is measured replaced by the noised measurement, and steps taken again.

    With z = x/α of noise s = σ/α and the denoised mean D, a step to noise level t is one of DDPM (eq. 8),

        z' = D + (t²/s²)(z − D) + t √(1 − t²/s²) ξ,

    in which what A measures is replaced by A⁺ y + t ξ', with fresh noise. The two parts do not know of each other. So
    after every j-th step the state goes back by j steps, with noise, and takes them again, r times in all
    (algorithm 1). It is published for masks without noise; here A is any operator that knows its singular values. With
    noise, in a direction in which A⁺ y has noise v, the fresh noise has variance t² − v², and below t = v the state
    is the model's. Without noise A x = y holds to round-off.

    It costs about n r + 1 evaluations for n steps. It is not right in the limit.

    Args:
        jump_length: The length j of a jump, in steps.
        resamplings: The number r of times that steps are taken.
        cutoff: The noise v of a direction, in standard deviations of the data along it, above which it counts as not
            measured; None for all that A measures.

    Raises:
        ValueError: Less than one, or a cutoff that is not positive.

    References:
        Lugmayr et al. 2022, RePaint: inpainting using denoising diffusion probabilistic models,
            https://arxiv.org/abs/2201.09865
    """

    denoise = False
    needs_singular_values = True

    def __init__(self, jump_length: int = 10, resamplings: int = 10, cutoff: float | None = 1.0) -> None:
        self.jump_length = whole_number("jump_length", jump_length)
        self.resamplings = whole_number("resamplings", resamplings)
        if cutoff is not None:
            positive("cutoff", cutoff)
        self.cutoff = cutoff

    def solver(self, measurement: Measurement) -> Solver:
        return _RePaintSolver(self, measurement)


class _RePaintSolver(DenoisingChain):
    def __init__(self, method: RePaint, measurement: Measurement) -> None:
        self.jump_length, self.jumps = method.jump_length, method.resamplings
        self._known = Coefficients(measurement)

    def step(self, z: Tensor, mean: Tensor, s: float, t: float, noise: Noise) -> Tensor:
        ratio, known = (t / s) ** 2, self._known
        after = torch.add(torch.lerp(mean, z, ratio), noise(), alpha=t * math.sqrt(1 - ratio))
        left = t**2 - known.deviation.to(z).square()
        given = known.measured.to(z) + left.clamp_min(0).sqrt() * known.basis.to_right(noise())
        return known.replaced(after, torch.where(left >= 0, given, known.basis.to_right(after)))

    def end(self, z: Tensor, mean: Tensor, s: float) -> Tensor:
        return self._known.kept(mean)
