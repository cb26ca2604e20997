"""Decoupled annealing posterior sampling (Zhang et al. 2025)."""

from collections.abc import Iterator

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.inverse.langevin import NearPoint
from scoresde.inverse.linear_gaussian import LinearGaussian
from scoresde.inverse.method import SolverMethod
from scoresde.inverse.problem import Measurement
from scoresde.numerics.values import positive, whole_number
from scoresde.sampling import DDIM, KarrasGrid, Solver
from scoresde.sampling.solver import Noise
from scoresde.score import ScoreModel

__all__ = ["DAPS"]


@checked
class DAPS(SolverMethod):
    """Samples of x₀ given the state and the measurement, to which the noise of the next level is added.

    With z = x/α of noise s = σ/α, a step to noise level t is (algorithm 1)

        x̂₀ from z by the probability-flow ODE,    x₀ ~ N(x₀; x̂₀, s² I) p(y | A(x₀)),    z' = x₀ + t ξ.

    So one step may change what the steps before have settled. x₀ is drawn by Langevin dynamics, here with a test of
    acceptance and a step that follows it, so that there is no step size to set; or exactly, where operator and noise
    are linear and Gaussian. Where the posterior of x₀ given z is not that Gaussian, it is not right in the limit.

    It costs n m evaluations for n steps and m of the ODE, and as many gradients of the likelihood as Langevin steps,
    which do not go through the model.

    Args:
        ode_steps: The number m of steps of the ODE, of one evaluation each.
        langevin_steps: The number of Langevin steps, for any operator and noise that are differentiable; None for exact
            draws.
        step: The first Langevin step in units of s².

    Raises:
        ValueError: Less than one step, or a step that is not positive.

    References:
        Zhang et al. 2025, Improving diffusion inverse problem solving with decoupled noise annealing,
            https://arxiv.org/abs/2407.01521
    """

    denoise = False

    def __init__(self, ode_steps: int = 5, langevin_steps: int | None = 100, step: float = 0.1) -> None:
        self.ode_steps = whole_number("ode_steps", ode_steps)
        self.langevin_steps = None if langevin_steps is None else whole_number("langevin_steps", langevin_steps)
        positive("step", step)
        self.step = float(step)

    @property
    def needs_linear(self) -> bool:  # type: ignore[override]
        return self.langevin_steps is None

    @property
    def needs_variance(self) -> bool:  # type: ignore[override]
        return self.langevin_steps is None

    @property
    def needs_density(self) -> bool:  # type: ignore[override]
        return self.langevin_steps is not None

    def solver(self, measurement: Measurement) -> Solver:
        return _DAPSSolver(self, measurement)


class _DAPSSolver(Solver):
    def __init__(self, method: DAPS, measurement: Measurement) -> None:
        self.method = method
        self._measurement = measurement

    def solve(self, model: ScoreModel, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        sde, method = model.sde, self.method
        alpha, level = sde.alpha(times).tolist(), sde.noise_level(times).tolist()
        ends = times.tolist()
        exact = LinearGaussian(self._measurement) if method.langevin_steps is None else None
        chain = NearPoint(self._measurement, method.langevin_steps or 0, method.step)
        flow, last = DDIM(), len(times) - 1
        for i in range(last):
            way = KarrasGrid(method.ode_steps, t_min=ends[-1], t_max=ends[i])(sde)
            for state in flow.solve(model, x, way, noise):
                x = state
            x = x / alpha[-1]
            x = chain.draw(x, x, level[i], noise) if exact is None else exact.draw(x, level[i], noise)
            if i + 1 < last:
                x = alpha[i + 1] * torch.add(x, noise(), alpha=level[i + 1])
                yield x
        yield x
