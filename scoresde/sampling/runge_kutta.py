"""Explicit Runge-Kutta methods for the probability-flow ODE on a fixed grid."""

from collections.abc import Iterator

import torch
from torch import Tensor

from scoresde.sampling.sampler import Noise, Solver
from scoresde.score import ScoreModel

__all__ = ["Euler", "Heun"]


class Euler(Solver):
    """x ← x + Δt v(x, t): first order, one evaluation a step (Song et al. 2021, eq. 13)."""

    def solve(self, model: ScoreModel, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        for t, dt in zip(times, times.diff().tolist(), strict=False):
            x = torch.add(x, model.velocity(x, t), alpha=dt)
            yield x


class Heun(Solver):
    """The trapezoidal rule with an Euler predictor: second order, two evaluations a step.

    The deterministic part of Karras et al. 2022, algorithm 1, here in t under any SDE.
    """

    def solve(self, model: ScoreModel, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        for i, dt in enumerate(times.diff().tolist()):
            first = model.velocity(x, times[i])
            second = model.velocity(torch.add(x, first, alpha=dt), times[i + 1])
            x = torch.add(x, first + second, alpha=0.5 * dt)
            yield x
