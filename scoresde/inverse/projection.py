"""Controllable generation by projection (Song et al. 2021, appendix I)."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.inverse.measured_covariance import noise_variance
from scoresde.inverse.method import SolverMethod
from scoresde.inverse.operator import LinearOperator
from scoresde.inverse.problem import Measurement
from scoresde.numerics.values import positive
from scoresde.sampling import (
    Corrector,
    DataStraight,
    Grid,
    Langevin,
    Noise,
    NoPredictor,
    Predictor,
    PredictorCorrector,
    ReverseDiffusion,
    Solver,
)
from scoresde.score import ScoreModel

__all__ = ["MeasuredPart", "Projection"]


@checked
class Projection(SolverMethod):
    """Predictor-corrector sampling in which what is measured is replaced, after every step, by itself with noise.

    With A = U diag(s) Vᵀ the coefficients c = Vᵀ x decouple what is measured, c̄ = Uᵀ y/s, from what is not. After each
    step of the predictor and of the corrector, at the time t of the new state,

        Vᵀ x ← α c̄ + √(σ² − α² v²) z,

    where v is the standard deviation of c̄ and a negative variance counts as 0. For a mask this is the paper's
    inpainting (I.2), and for grey-scale its colourisation (I.3), whose orthogonal matrix has V as its first column;
    any operator with singular values is decoupled alike. Values without noise are kept exactly. A step costs an
    evaluation for the predictor and one for each step of the corrector.

    Args:
        predictor: The predictor.
        corrector: The corrector; `Langevin()` if not given.
        cutoff: The noise v of a direction, in standard deviations of the data along it, above which it counts as not
            measured; None for all that A measures.

    Raises:
        ValueError: A cutoff that is not positive.

    References:
        Song et al. 2021, Score-based generative modeling through stochastic differential equations,
            https://arxiv.org/abs/2011.13456
    """

    needs_singular_values = True

    def __init__(
        self, predictor: Predictor | None = None, corrector: Corrector | None = None, cutoff: float | None = 1.0
    ) -> None:
        self.predictor = ReverseDiffusion() if predictor is None else predictor
        self.corrector = Langevin() if corrector is None else corrector
        PredictorCorrector(self.predictor, self.corrector)  # for its check
        if cutoff is not None:
            positive("cutoff", cutoff)
        self.cutoff = cutoff

    def solver(self, measurement: Measurement) -> Solver:
        return ProjectedSteps(self.predictor, self.corrector, MeasuredPart(measurement))

    def grid(self, steps: int) -> Grid:
        """`steps` evaluations are shared among the predictor and the corrector."""
        each = self.corrector.steps + (not isinstance(self.predictor, NoPredictor))
        return DataStraight(max(1, steps // each))


class MeasuredPart:
    """What is measured of samples, by its coefficients c̄ = Uᵀ y/s and their standard deviation v = σ_y/s.

    Args:
        measurement: The measurements, in model space, of an operator that knows its singular values.
    """

    def __init__(self, measurement: Measurement) -> None:
        operator = measurement.operator
        assert isinstance(operator, LinearOperator)
        values = operator.singular_values
        assert values is not None
        self.values = values
        y = measurement.y
        scale = values.values.to(y)
        self.coefficients = values.to_left(y) / scale
        # Of uncorrelated noise of several variances, the mean is that of the coefficients on average.
        variance = noise_variance(measurement, y)
        variance = variance.flatten(1).mean(1, keepdim=True) if variance.ndim else variance
        self.variance = variance / scale.square()

    def replaced(self, x: Tensor, alpha: float, sigma: float, z: Tensor) -> Tensor:
        """The state x with what is measured replaced by itself at α and σ, with the noise z of the shape of x."""
        left = (sigma**2 - alpha**2 * self.variance.to(x)).clamp_min(0).sqrt()
        wanted = alpha * self.coefficients.to(x) + left * self.values.to_right(z)
        return x + self.values.from_right(wanted - self.values.to_right(x))


class ProjectedSteps(Solver):
    """Steps of a predictor and a corrector, each followed by a replacement of what is measured.

    Args:
        predictor: The predictor.
        corrector: The corrector.
        part: What is measured.
        last: The noise level σ/α below which nothing is replaced any more.
    """

    def __init__(self, predictor: Predictor, corrector: Corrector, part: MeasuredPart, last: float = 0.0) -> None:
        self.predictor, self.corrector, self.part, self.last = predictor, corrector, part, last

    @property
    def draws_white(self) -> bool:
        return True

    def solve(self, model: ScoreModel, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        sde, new = model.sde, times[1:]
        step = self.predictor.step(model, times)
        score = model.prediction(new, torch.zeros_like(new), -1 / sde.sigma(new))
        alphas, sigmas = sde.alpha(new).tolist(), sde.sigma(new).tolist()
        sizes = self.corrector.step_sizes(model, times).tolist()
        ahead = self.corrector.ahead
        moves = not isinstance(self.predictor, NoPredictor)

        def replaced(state: Tensor, i: int) -> Tensor:
            if sigmas[i] < self.last * alphas[i]:
                return state
            return self.part.replaced(state, alphas[i], sigmas[i], noise())

        for i in range(len(new)):
            if moves:
                mean, factor = step(x, i)
                x = replaced(mean + factor * noise(), i)
            for _ in range(self.corrector.steps):
                z, root = noise(), math.sqrt(2 * sizes[i])
                pull = score(torch.add(x, z, alpha=ahead * root) if ahead else x, i)
                x = replaced(torch.add(x, pull, alpha=sizes[i]).add_(z, alpha=root), i)
            yield x
