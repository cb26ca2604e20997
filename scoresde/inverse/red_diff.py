"""RED-diff: regularisation by denoising diffusion (Mardani et al. 2024)."""

from collections.abc import Iterator

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.inverse.linear_gaussian import LinearGaussian
from scoresde.inverse.method import SolverMethod
from scoresde.inverse.operator import LinearOperator
from scoresde.inverse.problem import Measurement
from scoresde.numerics.values import not_negative, positive
from scoresde.sampling import Solver
from scoresde.sampling.solver import Noise
from scoresde.score import ScoreModel

__all__ = ["REDDiff"]

_BETAS = (0.9, 0.99)  # of Adam, as the authors have them
_SMALL = 1e-8


@checked
class REDDiff(SolverMethod):
    """A point that fits the measurement and that the model's noise predictions leave where it is.

    It minimises over μ, by Adam, one noise level s = σ/α at a time from the largest to the smallest (algorithm 1),

        ½ |y − A(μ)|² + λ s (ε̂(α μ + σ ε) − ε)ᵀ μ,

    where the gradient does not go through ε̂. It is the variational posterior of a point mass: an estimate near a mode,
    whose scatter over seeds is that of the optimisation and not that of the posterior.

    It costs n + 1 evaluations for n steps, without gradients of the model, for any operator that is differentiable. It
    takes no note of how large the noise is. It starts from the denoised mean of pure noise, which a linear measurement
    moves as it would the mean of a Gaussian with the data's standard deviation. (The authors start from A⁺ y, in which
    small singular values blow the noise up to where Adam does not come back from.)

    Args:
        weight: λ, how much the model counts.
        rate: The learning rate of Adam, in the units of model space.

    Raises:
        ValueError: A negative weight, or a rate that is not positive.

    References:
        Mardani et al. 2024, A variational perspective on solving inverse problems with diffusion models,
            https://arxiv.org/abs/2305.04391
    """

    denoise = False
    needs_linear = False
    needs_variance = False
    is_estimate = True

    def __init__(self, weight: float = 0.25, rate: float = 0.1) -> None:
        not_negative("weight", weight)
        positive("rate", rate)
        self.weight, self.rate = float(weight), float(rate)

    def solver(self, measurement: Measurement) -> Solver:
        return _REDDiffSolver(self, measurement)


class _REDDiffSolver(Solver):
    def __init__(self, method: REDDiff, measurement: Measurement) -> None:
        self.method = method
        self._measurement = measurement

    def solve(self, model: ScoreModel, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        sde, (first, second) = model.sde, _BETAS
        alpha, sigma = sde.alpha(times).tolist(), sde.sigma(times).tolist()
        zero = torch.zeros_like(times)
        predict = model.prediction(times, zero, zero + 1)
        point = self._start(model, x, times)
        momentum, square = torch.zeros_like(x), torch.zeros_like(x)
        for i in range(len(times) - 1):
            fresh = noise()
            off = predict(torch.add(alpha[i] * point, fresh, alpha=sigma[i]), i) - fresh
            gradient = torch.add(self._misfit(point), off, alpha=self.method.weight * sigma[i] / alpha[i])
            momentum = torch.lerp(gradient, momentum, first)
            square = torch.lerp(gradient.square(), square, second)
            mean, spread = momentum / (1 - first ** (i + 1)), square / (1 - second ** (i + 1))
            point = torch.addcdiv(point, mean, spread.sqrt() + _SMALL, value=-self.method.rate)
            yield point

    def _start(self, model: ScoreModel, x: Tensor, times: Tensor) -> Tensor:
        mean, measurement = model.denoise(x, times[0]), self._measurement
        linear = isinstance(measurement.operator, LinearOperator)
        if not linear or measurement.noise.variance(measurement.y) is None:
            return mean
        return LinearGaussian(measurement, one_variance=True).mean(mean, model.data_std)

    def _misfit(self, point: Tensor) -> Tensor:
        """∇ ½ |y − A(μ)|²."""
        operator = self._measurement.operator
        if isinstance(operator, LinearOperator):
            return -operator.back(self._measurement.residual(point))
        value = lambda state: 0.5 * self._measurement.residual(state).square().sum()  # noqa: E731
        gradient: Tensor = torch.func.grad(value)(point)
        return gradient
