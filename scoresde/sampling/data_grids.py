"""Time grids that follow the spread of the data."""

import copy
from typing import NamedTuple

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.numerics.values import positive
from scoresde.sampling.grid import Grid, pinned, uniform_in
from scoresde.sampling.plain_rule import bend_level, narrow_level, plain_rule
from scoresde.score import StepRule
from scoresde.sde import SDE
from scoresde.sde.coordinates import Straight
from scoresde.statistics import Statistics

__all__ = ["DataStraight"]

_TABLE, _NEWTON = 1025, 4  # of the inverse of a blend: entries, and steps from there to round-off
_NARROW = 1 / 3  # up to this share of d, directions count as narrow


@checked
class DataStraight(Grid):
    """Uniform in u = s/(d + s), s = σ/α, with d a fraction of the largest standard deviation of the data.

    The modes of the data part as the noise falls below that standard deviation, the largest in any direction. If the
    covariance is not known, 3 times the root mean square standard deviation stands for it, and 3 if that is not known
    either. A share of the steps may be spread evenly in log(1 + s/d) instead, which puts more at large noise, and one
    in the angle arctan(s/d), which puts fewer there. Where modes of the data are narrow in some directions, the field
    bends again as the noise falls to that width, where there may be no other step. So a share of all is spread evenly
    in s/(w + s), with w the standard deviation that a tenth of the principal directions of the data do not exceed:

        (1 − narrow) ((1 − top) (1 − bend) u + (1 − top) bend arctan(s/d) + top log(1 + s/d)) + narrow s/(w + s)

    falls by equal amounts from step to step, with each variable scaled to go from 0 to 1. That share is 0 if w is not
    known or more than d/3, and w is at least twice the last level.

    Without settings, fraction, top and narrow are those of the rule that `AutoAdams` follows.

    Args:
        steps: As for `Grid`.
        fraction: The fraction of the largest standard deviation; that of the rule if not given.
        t_min: As for `Grid`.
        t_max: As for `Grid`.
        top: The share of steps in log(1 + s/d). If not given, that of the rule, or 0 with a fraction that is given.
        bend: The share of the others in arctan(s/d), 0 if not given.
        narrow: The share of all in s/(w + s). If not given, that of the rule, or 0 with a fraction that is given.

    >>> from scoresde.sde import EDMSDE
    >>> times = DataStraight(4, fraction=1 / 3)(EDMSDE(sigma_min=0.01, sigma_max=9.0))  # no statistics, so d = 1
    >>> (times / (1 + times)).diff().round(decimals=4).tolist()
    [-0.2225, -0.2225, -0.2225, -0.2225]
    """

    def __init__(
        self,
        steps: int,
        fraction: float | None = None,
        t_min: float | None = None,
        t_max: float | None = None,
        top: float | None = None,
        bend: float | None = None,
        narrow: float | None = None,
    ) -> None:
        super().__init__(steps, t_min, t_max)
        if fraction is not None:
            positive("fraction", fraction)
        for name, share in (("top", top), ("bend", bend), ("narrow", narrow)):
            if share is not None and not 0 <= share < 1:
                raise ValueError(f"{name} is {share}, expected a share from 0 to below 1")
        self.fraction = fraction
        self.top = top
        self.bend = bend
        self.narrow = narrow
        self._known: Statistics | None = None

    def __call__(self, sde: SDE, statistics: Statistics | None = None) -> Tensor:
        grid = copy.copy(self)
        grid._known = statistics
        return super(DataStraight, grid).__call__(sde, statistics)

    def ruled(self, rule: StepRule) -> "DataStraight":
        """Return the grid with a rule that was measured; itself if it has settings of its own."""
        if any(v is not None for v in (self.fraction, self.top, self.bend, self.narrow)):
            return self
        return DataStraight(self.steps, rule.bend, self.t_min, self.t_max, rule.top, narrow=rule.narrow or None)

    def _choices(self) -> tuple[float, float, float, float]:
        """Return fraction, top, bend and narrow."""
        if self.fraction is None:
            rule = plain_rule(self.steps)
            fraction, top, narrow = rule.bend, rule.top, rule.narrow
        else:
            fraction, top, narrow = self.fraction, 0.0, 0.0
        given = (top if self.top is None else self.top, 0.0 if self.bend is None else self.bend)
        return fraction, *given, narrow if self.narrow is None else self.narrow

    def places(self, sde: SDE, t_min: float, t_max: float) -> Tensor:
        fraction, top, bend, narrow = self._choices()
        scale = bend_level(fraction, self._known)
        coordinate = Straight(scale)
        levels = sde.noise_level(torch.tensor([t_min, t_max], dtype=torch.float64)) / scale
        width = narrow_level(self._known) / scale
        if width > _NARROW:
            narrow, width = 0.0, 1.0  # a variable of no weight, which is to be finite
        if top == bend == narrow == 0:
            return uniform_in(coordinate, self.steps, sde, t_min, t_max)
        shares = Shares(top, bend, narrow, max(width, 2 * float(levels[0])))
        return pinned(coordinate.time(sde, _blend(self.steps, levels.log1p(), shares)), t_min, t_max)


class Shares(NamedTuple):
    """The shares of a `DataStraight`, and the width w in units of d."""

    top: float
    bend: float
    narrow: float
    width: float

    def weights(self) -> Tensor:
        """The weights of the four variables, which add up to 1, `(4,)`."""
        others = 1 - self.narrow
        straight = others * (1 - self.top)
        weights = (straight * (1 - self.bend), straight * self.bend, others * self.top, self.narrow)
        return torch.tensor(weights, dtype=torch.float64)

    def variables(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """The four variables at y = log(1 + s/d), and their derivatives by y, `(4, ...)` each."""
        odds, up = torch.expm1(y), y.exp()
        near = self.width + odds
        slopes = ((-y).exp(), up / (1 + odds.square()), torch.ones_like(y), up * self.width / near.square())
        return torch.stack((-torch.expm1(-y), odds.atan(), y, odds / near)), torch.stack(slopes)


def _blend(steps: int, ends: Tensor, shares: Shares) -> Tensor:
    """Return u, evenly spread in the mean of the variables, each scaled to go from 0 to 1, from the largest y down."""
    low, high = shares.variables(ends)[0].T
    weights = shares.weights() / (high - low)

    # Newton's method in y, in which u near 1 keeps its digits, from and between the neighbours in a table.
    # The table is even in log(s/d), in which all variables are smooth.
    levels = ends.expm1().log10()
    table = torch.logspace(float(levels[0]), float(levels[1]), _TABLE, dtype=torch.float64).log1p()
    table[0], table[-1] = ends
    values = weights @ (shares.variables(table)[0] - low[:, None])
    wanted = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    after = torch.searchsorted(values, wanted).clamp(1, _TABLE - 1)
    left, right = table[after - 1], table[after]
    y = torch.lerp(left, right, (wanted - values[after - 1]) / (values[after] - values[after - 1]))
    for _ in range(_NEWTON):
        found, slopes = shares.variables(y)
        y = torch.clamp(y - (weights @ (found - low[:, None]) - wanted) / (weights @ slopes), left, right)
    return -torch.expm1(-y)
