"""Time grids: the times t_max = t_0 > t_1 > ... > t_n = t_min at which a solver's state is given.

A grid is made once per solve, in float64 on the CPU.
"""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from scoresde.sampling.coordinates import Angle, Coordinate, LogSNR, Straight, Time
from scoresde.sde import SDE, VPSDE
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


class Grid(ABC):
    """A rule for the times of a solve.

    Args:
        steps: number of intervals, at least 1.
        t_min: where the grid ends; the SDE's `t_min_sampling` if not given.
        t_max: where the grid begins; the SDE's `t_max` if not given.
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

    def __call__(self, sde: SDE, statistics: Statistics | None = None) -> Tensor:
        """The times `(steps + 1,)` for `sde`: float64, on the CPU, strictly decreasing.

        `statistics` are those of the data, for grids that depend on them.

        Raises:
            ValueError: a time outside the SDE's interval, or times that do not decrease.
        """
        t_min = sde.t_min_sampling if self.t_min is None else self.t_min
        t_max = sde.t_max if self.t_max is None else self.t_max
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
    """Uniform in λ = log(α/σ) (Lu et al. 2022)."""

    def places(self, sde: SDE, t_min: float, t_max: float) -> Tensor:
        return _uniform(LogSNR(), self.steps, sde, t_min, t_max)


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


class DataStraight(Grid):
    """Uniform in u = s/(d + s), with d a part of the largest standard deviation of the data in any direction.

    As the noise falls below that, the modes of the data part. Where the covariance is not known, d is the root mean
    square standard deviation, and 1 where nothing is.

    Where there is more noise, an exact score is as smooth in u as anywhere, but a network, which is told log s, is not:
    of many steps a few are spread evenly in log(1 + s/d) instead.

    Args:
        fraction: of the largest standard deviation. If not given, a third below 12 steps, 0.3 below 40 and 0.25 from
            there, which was found to serve a ring in the plane and a mixture in 64 dimensions alike.
        top: the share of steps in log(1 + s/d). If not given, 0, but 0.04 from 25 steps on with a fraction that is not
            given: with a network of digits 0.43 of the error remain at 50 steps and 0.22 at 100, on the ring 1.12 and
            1.06, and 0.45 at 200.
    """

    def __init__(
        self,
        steps: int,
        fraction: float | None = None,
        t_min: float | None = None,
        t_max: float | None = None,
        top: float | None = None,
    ) -> None:
        super().__init__(steps, t_min, t_max)
        if fraction is not None and not 0 < fraction < math.inf:
            raise ValueError(f"fraction is {fraction}, expected a positive number")
        if top is not None and not 0 <= top < 1:
            raise ValueError(f"top is {top}, expected a share from 0 to below 1")
        self.fraction = fraction
        self.top = top
        self._known: Statistics | None = None

    def __call__(self, sde: SDE, statistics: Statistics | None = None) -> Tensor:
        grid = copy.copy(self)
        grid._known = statistics
        return super(DataStraight, grid).__call__(sde)

    def places(self, sde: SDE, t_min: float, t_max: float) -> Tensor:
        known = self._known
        scale = 1.0 if known is None else float(known.std)
        if known is not None and known.covariance is not None:
            found = 1 / 3 if self.steps < 12 else 0.3 if self.steps < 40 else 0.25
            scale = (found if self.fraction is None else self.fraction) * known.largest_std
        top = self.top
        if top is None:
            top = 0.04 if self.steps >= 25 and self.fraction is None else 0.0
        coordinate = Straight(scale)
        if top == 0:
            return _uniform(coordinate, self.steps, sde, t_min, t_max)
        first, last = coordinate.variable(sde, torch.tensor([t_max, t_min], dtype=torch.float64)).tolist()
        return _pinned(coordinate.time(sde, _with_top(self.steps, first, last, top)), t_min, t_max)


def _with_top(steps: int, first: float, last: float, top: float) -> Tensor:
    """u from `first` to `last`, evenly spread in the mean of u and −log(1 − u) with the weights 1 − top and top."""
    low, high = -math.log1p(-last), -math.log1p(-first)

    def place(y: Tensor) -> Tensor:
        return (1 - top) * (-torch.expm1(-y) - last) / (first - last) + top * (y - low) / (high - low)

    # Bisection in y = −log(1 − u), in which u near 1 keeps its digits.
    wanted = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    left, right = torch.full_like(wanted, low), torch.full_like(wanted, high)
    for _ in range(55):
        middle = (left + right) / 2
        below = place(middle) < wanted
        left, right = torch.where(below, middle, left), torch.where(below, right, middle)
    return -torch.expm1(-(left + right) / 2)


class VEGrid(UniformLogSNR):
    """Geometric in σ²/α²: EDM's discretisation of VE (Karras et al. 2022, table 1), the same as uniform λ."""


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
