"""The contract of time grids: the times t_max = t_0 > t_1 > ... > t_n = t_min at which a solver's state is given.

A grid is made once per solve, in float64 on the CPU.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.numerics.values import Value, described, whole_number
from scoresde.sde import SDE
from scoresde.sde.coordinates import Coordinate
from scoresde.statistics import Statistics

__all__ = ["Grid", "evenly", "pinned", "uniform_in"]


@checked
class Grid(Value, ABC):
    """A rule for the times of a solve; two of the same settings are equal.

    Args:
        steps: The number of intervals, at least 1.
        t_min: The time at which the grid ends; the SDE's `t_min_sampling` if not given.
        t_max: The time at which the grid begins; the SDE's `t_noise` if not given.
    """

    def __init__(self, steps: int, t_min: float | None = None, t_max: float | None = None) -> None:
        self.steps = whole_number("steps", steps)
        self.t_min = t_min
        self.t_max = t_max

    @abstractmethod
    def places(self, sde: SDE, t_min: float, t_max: float) -> Tensor:
        """Return the `steps + 1` times from t_max down to t_min, in float64."""

    @torch.no_grad()
    def __call__(self, sde: SDE, statistics: Statistics | None = None) -> Tensor:
        """Return the times `(steps + 1,)` for an SDE: in float64, on the CPU, strictly decreasing.

        Args:
            sde: The SDE.
            statistics: The moments of the data, for grids that depend on them.

        Raises:
            ValueError: A time outside the SDE's interval, or times that do not decrease.
        """
        t_min = sde.t_min_sampling if self.t_min is None else self.t_min
        std = None if statistics is None else float(statistics.std)
        t_max = sde.t_noise(std) if self.t_max is None else self.t_max
        _check(self, sde, torch.tensor([t_max, t_min], dtype=torch.float64), ["t_max", "t_min"])
        times = self.places(sde, t_min, t_max).double()
        _check(self, sde, times, [f"time {i}" for i in range(len(times))])
        return times

    def __repr__(self) -> str:
        return described(self, without_none=True)


def _check(grid: Grid, sde: SDE, times: Tensor, names: list[str]) -> None:
    """Raise a ValueError that names the first time that is outside the interval or does not decrease."""
    slack = 1e-6  # of `SDE.check_time`
    falls = times.diff() < 0
    least, most = sde.t_min * (1 - slack), sde.t_max * (1 + slack)
    if bool(falls.all()) and most >= times[0].item() and times[-1].item() >= least:
        return
    inside = (times >= least) & (times <= most)
    if not bool(inside.all()):
        i = int((~inside).to(torch.int8).argmax())
        raise ValueError(
            f"{names[i]} of {grid} is {times[i].item():g}, outside [{sde.t_min:g}, {sde.t_max:g}] of {sde}: "
            "give times inside, or set t_min and t_max of the SDE"
        )
    i = int((~falls).to(torch.int8).argmax())
    raise ValueError(
        f"the times of {grid} do not decrease: {names[i]} is {times[i].item():.9g}, "
        f"{names[i + 1]} is {times[i + 1].item():.9g}"
    )


def evenly(steps: int, first: float, last: float) -> Tensor:
    """Return `steps + 1` numbers from first to last at equal distances, in float64."""
    return torch.linspace(first, last, steps + 1, dtype=torch.float64)


def uniform_in(coordinate: Coordinate, steps: int, sde: SDE, t_min: float, t_max: float) -> Tensor:
    """Return the times `(steps + 1,)` that are uniform in the variable of a coordinate."""
    first, last = coordinate.variable(sde, torch.tensor([t_max, t_min], dtype=torch.float64)).tolist()
    return pinned(coordinate.time(sde, evenly(steps, first, last)), t_min, t_max)


def pinned(times: Tensor, t_min: float, t_max: float) -> Tensor:
    """Set the ends of the times exactly, since a change of variable and back leaves round-off."""
    times[0], times[-1] = t_max, t_min
    return times
