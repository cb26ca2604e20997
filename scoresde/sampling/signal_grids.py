"""A time grid for problems of which the narrowest width is not known."""

import copy
import math

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.numerics.values import positive
from scoresde.sampling.grid import Grid, pinned
from scoresde.sde import SDE
from scoresde.statistics import Statistics

__all__ = ["DataLogSNR"]


@checked
class DataLogSNR(Grid):
    """Near uniform in λ = log(α/σ) from the spread of the data down to t_min, with few steps above.

    Modes part at about the spread of the data, and how narrow they are is seen only at noise below their own width,
    which a mean and a covariance do not tell. So the steps are of like length in λ over all levels s = σ/α below
    S = reach d, with d the largest standard deviation of the data (1 if it is not known), and slowly get longer, since
    what is left of the noise is the easier the lower it is: the times are uniform in (1/s + 1/S)^(−1/power). Above S
    the data are normal to all intents, and one or two steps cover it.

    Args:
        steps: As for `Grid`.
        reach: S in units of d.
        power: As ρ of `KarrasGrid`, with 7 there: the larger, the more even are steps in λ.
        t_min: As for `Grid`.
        t_max: As for `Grid`.

    >>> from scoresde.sde import EDMSDE
    >>> sde = EDMSDE(sigma_min=0.01, sigma_max=50.0)
    >>> DataLogSNR(4)(sde).round(decimals=3).tolist()  # no statistics, so d = 1
    [50.0, 1.862, 0.347, 0.064, 0.01]
    """

    def __init__(
        self,
        steps: int,
        reach: float = 6.0,
        power: float = 14.0,
        t_min: float | None = None,
        t_max: float | None = None,
    ) -> None:
        super().__init__(steps, t_min, t_max)
        positive("reach", reach)
        positive("power", power)
        self.reach = reach
        self.power = power
        self._widest = 1.0

    def __call__(self, sde: SDE, statistics: Statistics | None = None) -> Tensor:
        grid = copy.copy(self)
        grid._widest = 1.0 if statistics is None else statistics.largest_std
        return super(DataLogSNR, grid).__call__(sde, statistics)

    def places(self, sde: SDE, t_min: float, t_max: float) -> Tensor:
        floor = -math.log(self.reach * self._widest)
        ends = sde.log_snr(torch.tensor([t_max, t_min], dtype=torch.float64))
        first, last = (-torch.logaddexp(ends, torch.tensor(floor)) / self.power).exp().tolist()
        bent = -self.power * torch.linspace(first, last, self.steps + 1, dtype=torch.float64).log()
        # log(e^λ + 1/S) back to λ; the ends, where rounding may leave nothing, are set exactly
        lam = bent[1:-1] + torch.log(-torch.expm1(floor - bent[1:-1]))
        return pinned(sde.time(torch.cat((ends[:1], lam, ends[1:]))), t_min, t_max)
