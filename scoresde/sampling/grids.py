"""Time grids: the times t_max = t_0 > t_1 > ... > t_n = t_min at which a solver's state is given.

A grid is made once per solve, in float64 on the CPU.
"""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import softplus

from scoresde.arguments import checked
from scoresde.sde import SDE, VPSDE
from scoresde.sde.coordinates import Angle, Coordinate, LogSNR, Straight, Time
from scoresde.statistics import Statistics

__all__ = [
    "DataStraight",
    "DiscreteTime",
    "ExplicitTimes",
    "Grid",
    "KarrasGrid",
    "QuadraticTime",
    "UniformAngle",
    "UniformLogSNR",
    "UniformStraight",
    "UniformTime",
    "UniformVariable",
    "VEGrid",
    "VPGrid",
]


@checked
class Grid(ABC):
    """A rule for the times of a solve.

    Args:
        steps: number of intervals, at least 1.
        t_min: where the grid ends; the SDE's `t_min_sampling` if not given.
        t_max: where the grid begins; the SDE's `t_noise` if not given.
    """

    def __init__(self, steps: int, t_min: float | None = None, t_max: float | None = None) -> None:
        if isinstance(steps, bool) or int(steps) != steps or steps < 1:
            raise ValueError(f"steps is {steps!r}, expected a whole number of at least 1")
        self.steps = int(steps)
        self.t_min = t_min
        self.t_max = t_max

    @abstractmethod
    def places(self, sde: SDE, t_min: float, t_max: float) -> Tensor:
        """The `steps + 1` times, decreasing, float64."""

    def __call__(self, sde: SDE, statistics: Statistics | None = None, exact: bool = False) -> Tensor:
        """The times `(steps + 1,)` for `sde`: float64, on the CPU, strictly decreasing.

        `statistics` are those of the data, and `exact` tells whether the score is that of a known density
        (`ScoreModel.exact`), for grids that depend on them.

        Raises:
            ValueError: a time outside the SDE's interval, or times that do not decrease.
        """
        t_min = sde.t_min_sampling if self.t_min is None else self.t_min
        std = None if statistics is None else float(statistics.std)
        t_max = sde.t_noise(std) if self.t_max is None else self.t_max
        _check(self, sde, torch.tensor([t_max, t_min], dtype=torch.float64), ["t_max", "t_min"])
        times = self.places(sde, t_min, t_max).double()
        _check(self, sde, times, [f"time {i}" for i in range(len(times))])
        return times

    def __repr__(self) -> str:
        values = [f"{k}={v!r}" for k, v in vars(self).items() if v is not None and not k.startswith("_")]
        return f"{type(self).__name__}({', '.join(values)})"


def _check(grid: Grid, sde: SDE, times: Tensor, names: list[str]) -> None:
    """ValueError that names the first time out of place: the times of a grid, or its two ends."""
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


def _spread(steps: int, first: float, last: float) -> Tensor:
    return torch.linspace(first, last, steps + 1, dtype=torch.float64)


def _uniform(coordinate: Coordinate, steps: int, sde: SDE, t_min: float, t_max: float) -> Tensor:
    """Times uniform in the coordinate's variable."""
    first, last = coordinate.variable(sde, torch.tensor([t_max, t_min], dtype=torch.float64)).tolist()
    return _pinned(coordinate.time(sde, _spread(steps, first, last)), t_min, t_max)


@checked
class UniformVariable(Grid):
    """Uniform in the time variable of any coordinate.

    Args:
        coordinate: whose variable; `NoiseLevel()` for uniform σ/α, for example.
    """

    def __init__(
        self, steps: int, coordinate: Coordinate, t_min: float | None = None, t_max: float | None = None
    ) -> None:
        super().__init__(steps, t_min, t_max)
        self.coordinate = coordinate

    def places(self, sde: SDE, t_min: float, t_max: float) -> Tensor:
        return _uniform(self.coordinate, self.steps, sde, t_min, t_max)


class UniformTime(Grid):
    """Uniform in t (Song et al. 2021)."""

    def places(self, sde: SDE, t_min: float, t_max: float) -> Tensor:
        return _uniform(Time(), self.steps, sde, t_min, t_max)


class QuadraticTime(Grid):
    """Uniform in √t (Song, Meng & Ermon 2021, appendix D.2)."""

    def places(self, sde: SDE, t_min: float, t_max: float) -> Tensor:
        return _pinned(_spread(self.steps, math.sqrt(t_max), math.sqrt(t_min)) ** 2, t_min, t_max)


class UniformLogSNR(Grid):
    """Uniform in λ = log(α/σ) (Lu et al. 2022a)."""

    def places(self, sde: SDE, t_min: float, t_max: float) -> Tensor:
        return _uniform(LogSNR(), self.steps, sde, t_min, t_max)


@checked
class UniformAngle(Grid):
    """Uniform in the angle θ = arctan(s/d), s = σ/α, in which the state turns from noise to data (Salimans & Ho 2022).

    Args:
        std: d > 0; the standard deviation of the data puts the angle's middle where signal and noise are equal.
    """

    def __init__(self, steps: int, std: float = 1.0, t_min: float | None = None, t_max: float | None = None) -> None:
        super().__init__(steps, t_min, t_max)
        self._coordinate = Angle(std)
        self.std = std

    def places(self, sde: SDE, t_min: float, t_max: float) -> Tensor:
        return _uniform(self._coordinate, self.steps, sde, t_min, t_max)


@checked
class UniformStraight(Grid):
    """Uniform in the straight interpolant's time u = s/(d + s), s = σ/α (Liu et al. 2022).

    Args:
        std: d > 0; 1 in rectified flow.
    """

    def __init__(self, steps: int, std: float = 1.0, t_min: float | None = None, t_max: float | None = None) -> None:
        super().__init__(steps, t_min, t_max)
        self._coordinate = Straight(std)
        self.std = std

    def places(self, sde: SDE, t_min: float, t_max: float) -> Tensor:
        return _uniform(self._coordinate, self.steps, sde, t_min, t_max)


# From so many steps on: fraction, top and bend of `DataStraight`.
_FOR_EXACT_SCORES = ((40, 0.2, 0.04, 0.5), (25, 0.27, 0.04, 0.5), (12, 0.3, 0.0, 0.0), (0, 1 / 3, 0.0, 0.0))
_FOR_NETWORKS = ((25, 0.25, 0.4, 0.0), (0, 1 / 3, 0.1, 0.0))


@checked
class DataStraight(Grid):
    """Uniform in u = s/(d + s), with d a part of the largest standard deviation of the data in any direction.

    As the noise falls below that, the modes of the data part. Where the covariance is not known, d is the root mean
    square standard deviation, and 1 where nothing is.

    Where there is more noise, an exact score is as smooth in u as anywhere, but a network, which is told log s, is not:
    a share of the steps is spread evenly in log(1 + s/d) instead. Of many steps along an exact score, some are even in
    the angle arctan(s/d), which puts fewer there.

    The values taken where none is given were found on a ring in the plane and on a mixture in 64 dimensions, whose
    scores are exact, and on two networks trained on 8x8 digits.

    Args:
        fraction: of the largest standard deviation. If not given: for networks a third, and 0.25 from 25 steps; for
            exact scores a third, 0.3 from 12 steps, 0.27 from 25 and 0.2 from 40.
        top: the share of steps in log(1 + s/d). If not given: 0 with a fraction that is; for networks 0.1, and 0.4
            from 25 steps; for exact scores 0, and 0.04 from 25 steps.
        bend: the share, of the others, in arctan(s/d). If not given: 0, but 0.5 from 25 steps along an exact score
            with a fraction that is not given.
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
        if fraction is not None and not 0 < fraction < math.inf:
            raise ValueError(f"fraction is {fraction}, expected a positive number")
        for name, share in (("top", top), ("bend", bend)):
            if share is not None and not 0 <= share < 1:
                raise ValueError(f"{name} is {share}, expected a share from 0 to below 1")
        self.fraction = fraction
        self.top = top
        self.bend = bend
        self._known: Statistics | None = None
        self._exact = False

    def __call__(self, sde: SDE, statistics: Statistics | None = None, exact: bool = False) -> Tensor:
        grid = copy.copy(self)
        grid._known, grid._exact = statistics, exact
        return super(DataStraight, grid).__call__(sde, statistics)

    def _choices(self) -> tuple[float, float, float]:
        """fraction, top and bend."""
        if self.fraction is None:
            table = _FOR_EXACT_SCORES if self._exact else _FOR_NETWORKS
            fraction, top, bend = next(values for least, *values in table if self.steps >= least)
        else:
            fraction, top, bend = self.fraction, 0.0, 0.0
        return fraction, top if self.top is None else self.top, bend if self.bend is None else self.bend

    def places(self, sde: SDE, t_min: float, t_max: float) -> Tensor:
        known = self._known
        fraction, top, bend = self._choices()
        scale = 1.0 if known is None else float(known.std)
        if known is not None and known.covariance is not None:
            scale = fraction * known.largest_std
        coordinate = Straight(scale)
        if top == bend == 0:
            return _uniform(coordinate, self.steps, sde, t_min, t_max)
        levels = -sde.log_snr(torch.tensor([t_min, t_max], dtype=torch.float64)) - math.log(scale)
        return _pinned(coordinate.time(sde, _blend(self.steps, softplus(levels), top, bend)), t_min, t_max)


def _blend(steps: int, ends: Tensor, top: float, bend: float) -> Tensor:
    """u, evenly spread in a mean of u, arctan(u/(1 − u)) and y = −log(1 − u), between the smallest y and the largest.

    The weights are (1 − top)(1 − bend), (1 − top) bend and top, of variables that go from 0 to 1.
    """

    def variables(y: Tensor) -> Iterator[tuple[float, Tensor]]:
        yield (1 - top) * (1 - bend), -torch.expm1(-y)
        yield (1 - top) * bend, torch.expm1(y).atan()
        yield top, y

    bounds = [v for _, v in variables(ends)]

    def place(y: Tensor) -> Tensor:
        return sum(
            (w * (v - low) / (high - low) for (w, v), (low, high) in zip(variables(y), bounds, strict=True)),
            start=torch.zeros_like(y),
        )

    # Bisection in y = −log(1 − u), in which u near 1 keeps its digits.
    wanted = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    left, right = (ends[i].expand_as(wanted) for i in (0, 1))
    for _ in range(55):
        middle = (left + right) / 2
        below = place(middle) < wanted
        left, right = torch.where(below, middle, left), torch.where(below, right, middle)
    return -torch.expm1(-(left + right) / 2)


class VEGrid(UniformLogSNR):
    """Geometric in σ²/α²: EDM's discretisation of VE (Karras et al. 2022, table 1), the same as uniform λ."""


@checked
class VPGrid(Grid):
    """Uniform in the t at which the VP SDE has the same σ/α: EDM's discretisation of VP (Karras et al. 2022, table 1).

    Their ε_s is where t_min falls: 1e-3 under `VPSDE` itself, where this is `UniformTime`.

    Args:
        beta_min: of that VP SDE.
        beta_max: of that VP SDE; their β_d is beta_max − beta_min.
    """

    def __init__(
        self,
        steps: int,
        beta_min: float = 0.1,
        beta_max: float = 20.0,
        t_min: float | None = None,
        t_max: float | None = None,
    ) -> None:
        super().__init__(steps, t_min, t_max)
        self._vp = VPSDE(beta_min, beta_max)
        self.beta_min = beta_min
        self.beta_max = beta_max

    def places(self, sde: SDE, t_min: float, t_max: float) -> Tensor:
        ends = sde.log_snr(torch.tensor([t_max, t_min], dtype=torch.float64))
        first, last = self._vp.time(ends).tolist()
        return _pinned(sde.time(self._vp.log_snr(_spread(self.steps, first, last))), t_min, t_max)


@checked
class KarrasGrid(Grid):
    """Uniform in (σ/α)^(1/ρ) (Karras et al. 2022, eq. 5).

    Args:
        rho: ρ; 7 in the paper. Larger values put more steps at small noise.
    """

    def __init__(self, steps: int, rho: float = 7.0, t_min: float | None = None, t_max: float | None = None) -> None:
        super().__init__(steps, t_min, t_max)
        if not rho > 0:
            raise ValueError(f"rho is {rho}, expected a positive number")
        self.rho = rho

    def places(self, sde: SDE, t_min: float, t_max: float) -> Tensor:
        ends = -sde.log_snr(torch.tensor([t_max, t_min], dtype=torch.float64)) / self.rho
        first, last = ends.exp().tolist()
        return _pinned(sde.time(-self.rho * _spread(self.steps, first, last).log()), t_min, t_max)


@checked
class DiscreteTime(Grid):
    """Some of the times t_k = k t_max/train_steps, k = 1 ... train_steps, of a discrete-time model, each at most once.

    S = steps + 1 levels k give `steps` intervals; at the last level the sampler's denoising step is the paper's
    last step, so that `steps` intervals and that step are together its S sampling steps, each one evaluation. The
    grid therefore ends at its lowest level and not at t_min: at k = 1 with `"leading"` and `"linspace"`, at
    train_steps/S with `"trailing"`. Levels outside [t_min, t_max] are left out before the S are chosen.

    Args:
        train_steps: number of noise levels T that the model was trained on (1000 in Ho et al. 2020).
        spacing: as in Lin et al. 2024, table 2: `"trailing"`, every (T/S)-th level down from the last; `"leading"`,
            every ⌊T/S⌋-th up from the first, which does not start from pure noise; `"linspace"`, evenly from the
            last level to the first.
    """

    def __init__(
        self,
        steps: int,
        train_steps: int = 1000,
        spacing: str = "trailing",
        t_min: float | None = None,
        t_max: float | None = None,
    ) -> None:
        super().__init__(steps, t_min, t_max)
        if spacing not in ("trailing", "leading", "linspace"):
            raise ValueError(f"spacing is {spacing!r}, expected 'trailing', 'leading' or 'linspace'")
        if not steps < train_steps:
            raise ValueError(f"steps is {steps}, expected fewer than train_steps = {train_steps}")
        self.train_steps = train_steps
        self.spacing = spacing

    def places(self, sde: SDE, t_min: float, t_max: float) -> Tensor:
        # A hair of slack: t_min and t_max may be levels, and carry round-off.
        unit = sde.t_max / self.train_steps
        low, high = max(1, math.ceil(t_min / unit - 1e-6)), math.floor(t_max / unit + 1e-6)
        count, wanted = high - low + 1, self.steps + 1
        if count < wanted:
            raise ValueError(
                f"{self} needs {wanted} of the {self.train_steps} levels, but {max(count, 0)} are between "
                f"t_min={t_min:g} and t_max={t_max:g}: take fewer steps"
            )
        k = torch.arange(wanted, dtype=torch.float64)
        if self.spacing == "trailing":
            level = torch.round(high - k * (count / wanted))
        elif self.spacing == "leading":
            level = (low + k * (count // wanted)).flip(0)
        else:
            level = torch.round(high - k * ((count - 1) / self.steps))
        return (unit * level).clamp(t_min, t_max)


@checked
class ExplicitTimes(Grid):
    """The given times, decreasing.

    Args:
        times: at least two times inside the SDE's interval.
    """

    def __init__(self, times: Sequence[float]) -> None:
        if len(times) < 2:
            raise ValueError(f"got {len(times)} times, expected at least two")
        super().__init__(len(times) - 1, float(times[-1]), float(times[0]))
        self._times = [float(t) for t in times]

    @property
    def times(self) -> list[float]:
        return list(self._times)

    def places(self, sde: SDE, t_min: float, t_max: float) -> Tensor:
        return torch.tensor(self._times, dtype=torch.float64)


def _pinned(times: Tensor, t_min: float, t_max: float) -> Tensor:
    """The ends set exactly, where a change of variable and back leaves round-off."""
    times[0], times[-1] = t_max, t_min
    return times
