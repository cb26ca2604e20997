"""Restart sampling: back up to a higher noise level and down again, several times (Xu et al. 2023).

Going up adds fresh noise by the forward SDE, which contracts the errors made so far; going down is the
probability-flow ODE, whose own errors are small.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.sampling.grids import KarrasGrid
from scoresde.sampling.runge_kutta import EDMHeun
from scoresde.sampling.solver import Noise, Solver
from scoresde.score import ScoreModel
from scoresde.sde import SDE

__all__ = ["Restart", "RestartInterval"]


@checked
@dataclass(frozen=True)
class RestartInterval:
    """Where to restart, in noise levels s = σ/α of x/α (σ of Xu et al. 2023), and how often.

    Attributes:
        low: the level after which the state goes up again; the nearest level of the grid below `high` is taken.
        high: the level up to which it goes.
        steps: steps of the ODE on the way down, on a Karras grid; one less than the paper's N_restart, which counts
            levels.
        repeats: how many times; the paper's K.
        rho: ρ of that grid.
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
            value = getattr(self, name)
            if isinstance(value, bool) or int(value) != value or value < 1:
                raise ValueError(f"{name} of a restart interval is {value!r}, expected a whole number of at least 1")
        if not self.rho > 0:
            raise ValueError(f"rho of a restart interval is {self.rho}, expected a positive number")

    def place(self, sde: SDE, times: Tensor) -> tuple[int, Tensor]:
        """The index in `times` of the level to restart from, and the times `(steps + 1,)` of the way down to it.

        Raises:
            ValueError: the interval's `high` is above the SDE's noise levels, or not above the grid's last.
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
    # Below any noise level, but finite: the distance to −∞ would be the same from everywhere.
    return torch.tensor(max(level, 1e-300), dtype=torch.float64).log()


@checked
class Restart(Solver):
    """An ODE solver on the grid, with restarts (Xu et al. 2023, section 3.1).

    Whenever the state has come down to an interval's low level, it is taken up to the high one by the forward
    SDE's kernel, and down again by the solver, `repeats` times. The noise is white and each sample's own. A
    solver's evaluations on the way down count as those on the grid; a multistep solver starts anew at each.

    Args:
        intervals: where to restart, in any order.
        solver: of the probability-flow ODE, on a fixed grid; `EDMHeun` if not given.
    """

    def __init__(self, intervals: Sequence[RestartInterval], solver: Solver | None = None) -> None:
        if not intervals:
            raise ValueError("no interval to restart in: give at least one, or use the inner solver alone")
        self.intervals = list(intervals)
        self.solver = EDMHeun() if solver is None else solver

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
