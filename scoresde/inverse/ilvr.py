"""Iterative latent variable refinement (Choi et al. 2021)."""

from scoresde.arguments import checked
from scoresde.inverse.method import SolverMethod
from scoresde.inverse.problem import Measurement
from scoresde.inverse.projection import MeasuredPart, ProjectedSteps
from scoresde.numerics.values import not_negative, positive
from scoresde.sampling import Ancestral, NoCorrector, Solver

__all__ = ["ILVR"]


@checked
class ILVR(SolverMethod):
    """Ancestral sampling whose low-pass content is that of a noised reference, step by step (Choi et al. 2021, eq. 9).

        x_s ← x'_s + φ(y_s) − φ(x'_s)

    for a step x'_s of DDPM, a reference with the noise of the time s, and a linear low-pass filter φ, down and up
    again. Here φ is A⁺ A of any operator with singular values, which `Downsampling` is an example of, so that the
    reference is known by y = A x alone: φ(y_s) = α A⁺ y + σ A⁺ A z. Measurements have no noise in the paper; if they
    have, it is a part of that of the reference. A step costs one evaluation.

    Args:
        last: The noise level σ/α below which steps are free of the reference, for more variety (the paper's range of
            conditioning steps); 0 for none.
        cutoff: The noise v of a direction, in standard deviations of the data along it, above which it counts as not
            measured; None for all that A measures.

    Raises:
        ValueError: A negative level, or a cutoff that is not positive.

    References:
        Choi et al. 2021, ILVR: conditioning method for denoising diffusion probabilistic models,
            https://arxiv.org/abs/2108.02938
    """

    needs_singular_values = True

    def __init__(self, last: float = 0.0, cutoff: float | None = 1.0) -> None:
        not_negative("last", last)
        self.last = last
        if cutoff is not None:
            positive("cutoff", cutoff)
        self.cutoff = cutoff

    def solver(self, measurement: Measurement) -> Solver:
        return ProjectedSteps(Ancestral(), NoCorrector(), MeasuredPart(measurement), self.last)
