"""Time grids that follow the spread of the data."""

import copy
import math

import torch
from torch import Tensor
from torch.nn.functional import softplus

from scoresde.arguments import checked
from scoresde.numerics.values import positive
from scoresde.sampling.grid import Grid, pinned, uniform_in
from scoresde.sampling.plain_rule import bend_level, plain_rule
from scoresde.score import StepRule
from scoresde.sde import SDE
from scoresde.sde.coordinates import Straight
from scoresde.statistics import Statistics

__all__ = ["DataStraight"]

_TABLE, _NEWTON = 1025, 4  # of the inverse of a blend: entries, and steps from there to round-off


@checked
class DataStraight(Grid):
    """Uniform in u = s/(d + s), s = σ/α, with d a fraction of the largest standard deviation of the data.

    The modes of the data part as the noise falls below that standard deviation, the largest in any direction. If the
    covariance is not known, 3 times the root mean square standard deviation stands for it, and 3 if that is not known
    either. A share of the steps may be spread evenly in log(1 + s/d) instead, which puts more at large noise, and one
    in the angle arctan(s/d), which puts fewer there:

        (1 − top) (1 − bend) u + (1 − top) bend arctan(s/d) + top log(1 + s/d)

    falls by equal amounts from step to step, with each variable scaled to go from 0 to 1.

    Without settings, fraction and top are those of the rule that `AutoAdams` follows.

    Args:
        steps: As for `Grid`.
        fraction: The fraction of the largest standard deviation; that of the rule if not given.
        t_min: As for `Grid`.
        t_max: As for `Grid`.
        top: The share of steps in log(1 + s/d). If not given, that of the rule, or 0 with a fraction that is given.
        bend: The share of the others in arctan(s/d), 0 if not given.

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
    ) -> None:
        super().__init__(steps, t_min, t_max)
        if fraction is not None:
            positive("fraction", fraction)
        for name, share in (("top", top), ("bend", bend)):
            if share is not None and not 0 <= share < 1:
                raise ValueError(f"{name} is {share}, expected a share from 0 to below 1")
        self.fraction = fraction
        self.top = top
        self.bend = bend
        self._known: Statistics | None = None

    def __call__(self, sde: SDE, statistics: Statistics | None = None) -> Tensor:
        grid = copy.copy(self)
        grid._known = statistics
        return super(DataStraight, grid).__call__(sde, statistics)

    def ruled(self, rule: StepRule) -> "DataStraight":
        """Return the grid with a rule that was measured; itself if it has settings of its own."""
        if any(v is not None for v in (self.fraction, self.top, self.bend)):
            return self
        return DataStraight(self.steps, rule.bend, self.t_min, self.t_max, rule.top)

    def _choices(self) -> tuple[float, float, float]:
        """Return fraction, top and bend."""
        if self.fraction is None:
            rule = plain_rule(self.steps)
            fraction, top = rule.bend, rule.top
        else:
            fraction, top = self.fraction, 0.0
        return fraction, top if self.top is None else self.top, 0.0 if self.bend is None else self.bend

    def places(self, sde: SDE, t_min: float, t_max: float) -> Tensor:
        fraction, top, bend = self._choices()
        scale = bend_level(fraction, self._known)
        coordinate = Straight(scale)
        if top == bend == 0:
            return uniform_in(coordinate, self.steps, sde, t_min, t_max)
        levels = -sde.log_snr(torch.tensor([t_min, t_max], dtype=torch.float64)) - math.log(scale)
        return pinned(coordinate.time(sde, _blend(self.steps, softplus(levels), top, bend)), t_min, t_max)


def _blend(steps: int, ends: Tensor, top: float, bend: float) -> Tensor:
    """Return u, evenly spread in a mean of u, arctan(u/(1 − u)) and y = −log(1 − u), from the largest y down.

    The weights are (1 − top)(1 − bend), (1 − top) bend and top, of variables that are scaled to go from 0 to 1.
    """

    def variables(y: Tensor) -> tuple[Tensor, Tensor]:
        """The three variables, and their derivatives by y, `(3, ...)` each."""
        odds = torch.expm1(y)
        slopes = torch.stack(((-y).exp(), (1 + odds) / (1 + odds.square()), torch.ones_like(y)))
        return torch.stack((-torch.expm1(-y), odds.atan(), y)), slopes

    low, high = variables(ends)[0].T
    shares = torch.tensor([(1 - top) * (1 - bend), (1 - top) * bend, top], dtype=torch.float64) / (high - low)

    # Newton's method in y, in which u near 1 keeps its digits, from and between the neighbours in a table.
    table = torch.linspace(float(ends[0]), float(ends[1]), _TABLE, dtype=torch.float64)
    values = shares @ (variables(table)[0] - low[:, None])
    wanted = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    after = torch.searchsorted(values, wanted).clamp(1, _TABLE - 1)
    left, right = table[after - 1], table[after]
    y = torch.lerp(left, right, (wanted - values[after - 1]) / (values[after] - values[after - 1]))
    for _ in range(_NEWTON):
        found, slopes = variables(y)
        y = torch.clamp(y - (shares @ (found - low[:, None]) - wanted) / (shares @ slopes), left, right)
    return -torch.expm1(-y)
