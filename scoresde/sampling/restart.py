"""Restart sampling: back up to a higher noise level and down again, several times (Xu et al. 2023).

Going up adds fresh noise by the forward SDE, which contracts the errors made so far; going down is the
probability-flow ODE, whose own errors are small.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.numerics.values import Value, positive, whole_number
from scoresde.sampling.grids import KarrasGrid
from scoresde.sampling.runge_kutta import EDMHeun
from scoresde.sampling.solver import Noise, Solver
from scoresde.score import ScoreModel
from scoresde.sde import SDE

__all__ = ["Restart", "RestartInterval"]


@checked
@dataclass(frozen=True)
class RestartInterval:
    """An interval of noise levels s = σ/α of x/α (σ of Xu et al. 2023) in which a sampler restarts.

    Attributes:
        low: The level from which the state goes up again; the nearest level of the grid below `high` is taken.
        high: The level up to which the state goes.
        steps: The number of ODE steps on the way down, on a Karras grid; one less than the paper's N_restart, which
            counts levels.
        repeats: The number of repetitions, the paper's K.
        rho: The exponent ρ of that grid.

    Raises:
        ValueError: Levels that are not 0 <= low < high, or other settings below 1 or not positive.
    """

    low: float
    high: float
    steps: int
    repeats: int = 1
    rho: float = 7.0

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high:
            raise ValueError(f"a restart interval has low={self.low}, high={self.high}, expected 0 <= low < high")
        for name in ("steps", "repeats"):
            whole_number(f"{name} of a restart interval", getattr(self, name))
        positive("rho of a restart interval", self.rho, finite=False)

    def place(self, sde: SDE, times: Tensor) -> tuple[int, Tensor]:
        """Return the index in `times` of the level to restart from, and the times of the way down to it.

        Args:
            sde: The SDE.
            times: The times of the grid, `(n + 1,)`.

        Returns:
            The index, and the times `(steps + 1,)`.

        Raises:
            ValueError: A level `high` that is above those of the SDE, or not above the last one of the grid.
        """
        level = sde.noise_level(times)
        top = float(sde.noise_level(torch.tensor(sde.t_max, dtype=torch.float64)))
        if self.high > top * (1 + 1e-9) or self.high <= float(level[-1]):
            raise ValueError(
                f"a restart goes up to σ/α = {self.high:g}, expected more than {float(level[-1]):g}, where the grid "
                f"ends, and at most {top:g}, where {sde} begins"
            )
        below = level[1:] < self.high
        # From the end, so that low = 0 is the last level.
        distance = torch.where(below, (level[1:].log() - _log(self.low)).abs(), torch.inf)
        index = len(times) - 1 - int(distance.flip(0).argmin())
        start = sde.time(-torch.tensor(self.high, dtype=torch.float64).log()).clamp(max=sde.t_max)
        grid = KarrasGrid(self.steps, self.rho, t_min=float(times[index]), t_max=float(start))
        return index, grid(sde)


def _log(level: float) -> Tensor:
    # A finite number below any noise level stands for 0: all would have the same distance from −∞.
    return torch.tensor(max(level, 1e-300), dtype=torch.float64).log()


@checked
class Restart(Value, Solver):
    """An ODE solver on the grid, with restarts (Xu et al. 2023, section 3.1).

    When the state has come down to the low level t of an interval, it is taken up to the high one, u, by the kernel of
    the forward SDE, and down again by the solver, `repeats` times:

        x_u = (α_u/α_t) x_t + √(σ_u² − (α_u/α_t)² σ_t²) z,    x_t ← the ODE from x_u, in `steps` steps.

    The noise is white and each sample's own. Evaluations on the way down count as those on the grid; a multistep solver
    starts anew at each.

    Args:
        intervals: The intervals, in any order.
        solver: The solver of the probability-flow ODE, on a fixed grid; `EDMHeun` if not given.

    Raises:
        ValueError: No interval; at the solve, one that is outside the grid.

    >>> from scoresde.sampling import Sampler
    >>> from scoresde.score import GaussianMixtureScore
    >>> from scoresde.sde import EDMSDE
    >>> model = GaussianMixtureScore(torch.ones(2), torch.tensor([[-1.0], [1.0]]), torch.tensor([0.1, 0.2]), EDMSDE())
    >>> restarted = Restart([RestartInterval(low=0.05, high=0.3, steps=3, repeats=2)])
    >>> Sampler(restarted, KarrasGrid(17))(model, shape=(5, 1)).nfe  # 2 · (17 + 2 · 3) + 1
    47

    References:
        Xu et al. 2023, Restart sampling for improving generative processes, https://arxiv.org/abs/2306.14878
    """

    def __init__(self, intervals: Sequence[RestartInterval], solver: Solver | None = None) -> None:
        if not intervals:
            raise ValueError("no interval to restart in: give at least one, or use the inner solver alone")
        self.intervals = list(intervals)
        self.solver = EDMHeun() if solver is None else solver

    @property
    def draws_white(self) -> bool:
        # The restarts' own draws are the same on every grid.
        return self.solver.stochastic and self.solver.draws_white

    def general(self) -> "Restart":
        return Restart(self.intervals, self.solver.general())

    def solve(self, model: ScoreModel, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        ways: dict[int, list[Tensor]] = {len(times) - 1: []}
        for interval in self.intervals:
            index, way = interval.place(model.sde, times)
            ways.setdefault(index, []).extend([way] * interval.repeats)
        start = 0
        for stop in sorted(ways):
            states = self.solver.solve(model, x, times[start : stop + 1], noise)
            for i, state in enumerate(states, start + 1):
                x = state
                if i < stop:
                    yield x
            for way in ways[stop]:
                signal, spread = (float(c) for c in model.sde.transition(way[0], way[-1]))
                x = torch.add(signal * x, noise(), alpha=spread)
                for state in self.solver.solve(model, x, way, noise):
                    x = state
            yield x
            start = stop
