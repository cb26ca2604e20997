"""Time grids: the times t_max = t_0 > t_1 > ... > t_n = t_min at which a solver's state is given.

A grid is made once per solve, in float64 on the CPU.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from scoresde.sde import SDE

__all__ = [
    "DiscreteTime",
    "ExplicitTimes",
    "Grid",
    "KarrasGrid",
    "QuadraticTime",
    "UniformLogSNR",
    "UniformTime",
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

    def __call__(self, sde: SDE) -> Tensor:
        """The times `(steps + 1,)` for `sde`: float64, on the CPU, strictly decreasing.

        Raises:
            ValueError: a time outside the SDE's interval, or times that do not decrease.
        """
        t_min = sde.t_min_sampling if self.t_min is None else self.t_min
        t_max = sde.t_max if self.t_max is None else self.t_max
        sde.check_time(torch.tensor([t_min, t_max], dtype=torch.float64))
        times = self.places(sde, t_min, t_max).double()
        sde.check_time(times)
        if not bool((times.diff() < 0).all()):
            raise ValueError(f"the times of {self} do not decrease from step to step: {times.tolist()}")
        return times

    def __repr__(self) -> str:
        return f"{type(self).__name__}(steps={self.steps})"


def _spread(steps: int, first: float, last: float) -> Tensor:
    return torch.linspace(first, last, steps + 1, dtype=torch.float64)


class UniformTime(Grid):
    """Uniform in t (Song et al. 2021)."""

    def places(self, sde: SDE, t_min: float, t_max: float) -> Tensor:
        return _spread(self.steps, t_max, t_min)


class QuadraticTime(Grid):
    """Uniform in √t (Song, Meng & Ermon 2021, appendix D.2)."""

    def places(self, sde: SDE, t_min: float, t_max: float) -> Tensor:
        return _pinned(_spread(self.steps, math.sqrt(t_max), math.sqrt(t_min)) ** 2, t_min, t_max)


class UniformLogSNR(Grid):
    """Uniform in λ = log(α/σ) (Lu et al. 2022)."""

    def places(self, sde: SDE, t_min: float, t_max: float) -> Tensor:
        first, last = sde.log_snr(torch.tensor([t_max, t_min], dtype=torch.float64)).tolist()
        return _pinned(sde.time(_spread(self.steps, first, last)), t_min, t_max)


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
    """Every (train_steps/steps)-th of the times t_k = k/train_steps of a discrete-time model.

    Args:
        train_steps: number of noise levels that the model was trained on (1000 in Ho et al. 2020).
        spacing: `"trailing"` starts from the last level, `"leading"` ends at the first (Lin et al. 2024, table 2).
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
        if spacing not in ("trailing", "leading"):
            raise ValueError(f"spacing is {spacing!r}, expected 'trailing' or 'leading'")
        if not steps < train_steps:
            raise ValueError(f"steps is {steps}, expected fewer than train_steps = {train_steps}")
        self.train_steps = train_steps
        self.spacing = spacing

    def places(self, sde: SDE, t_min: float, t_max: float) -> Tensor:
        # steps + 1 of the levels 1 ... train_steps, so that the grid has `steps` intervals.
        stride = self.train_steps / (self.steps + 1)
        k = torch.arange(self.steps + 1, dtype=torch.float64)
        if self.spacing == "trailing":
            level = torch.round(self.train_steps - k * stride)
        else:
            level = (torch.floor(k * stride) + 1).flip(0)
        return (sde.t_max * level / self.train_steps).clamp(t_min, t_max)


class ExplicitTimes(Grid):
    """The given times, decreasing.

    Args:
        times: at least two times inside the SDE's interval.
    """

    def __init__(self, times: Sequence[float]) -> None:
        if len(times) < 2:
            raise ValueError(f"got {len(times)} times, expected at least two")
        super().__init__(len(times) - 1, float(times[-1]), float(times[0]))
        self.times = [float(t) for t in times]

    def places(self, sde: SDE, t_min: float, t_max: float) -> Tensor:
        return torch.tensor(self.times, dtype=torch.float64)


def _pinned(times: Tensor, t_min: float, t_max: float) -> Tensor:
    """The ends set exactly, where a change of variable and back leaves round-off."""
    times[0], times[-1] = t_max, t_min
    return times
