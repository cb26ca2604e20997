"""Time grids of the literature: uniform in a coordinate, by noise levels, of discrete-time models, or explicit."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.numerics.values import one_of, positive
from scoresde.sampling.data_grids import DataStraight
from scoresde.sampling.grid import Grid, evenly, pinned, uniform_in
from scoresde.sde import SDE, VPSDE
from scoresde.sde.coordinates import Angle, Coordinate, LogSNR, Straight, Time

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
class UniformVariable(Grid):
    """Uniform in the variable of any coordinate.

    Args:
        steps: As for `Grid`.
        coordinate: The coordinate; `NoiseLevel()` for uniform σ/α, for example.
        t_min: As for `Grid`.
        t_max: As for `Grid`.
    """

    def __init__(
        self, steps: int, coordinate: Coordinate, t_min: float | None = None, t_max: float | None = None
    ) -> None:
        super().__init__(steps, t_min, t_max)
        self.coordinate = coordinate

    def places(self, sde: SDE, t_min: float, t_max: float) -> Tensor:
        return uniform_in(self.coordinate, self.steps, sde, t_min, t_max)


class UniformTime(Grid):
    """Uniform in t (Song et al. 2021).

    >>> UniformTime(4, t_min=0.2)(VPSDE()).round(decimals=3).tolist()
    [1.0, 0.8, 0.6, 0.4, 0.2]
    """

    def places(self, sde: SDE, t_min: float, t_max: float) -> Tensor:
        return uniform_in(Time(), self.steps, sde, t_min, t_max)


class QuadraticTime(Grid):
    """Uniform in √t (Song, Meng & Ermon 2021, appendix D.2)."""

    def places(self, sde: SDE, t_min: float, t_max: float) -> Tensor:
        return pinned(evenly(self.steps, math.sqrt(t_max), math.sqrt(t_min)) ** 2, t_min, t_max)


class UniformLogSNR(Grid):
    """Uniform in λ = log(α/σ) (Lu et al. 2022a)."""

    def places(self, sde: SDE, t_min: float, t_max: float) -> Tensor:
        return uniform_in(LogSNR(), self.steps, sde, t_min, t_max)


@checked
class UniformAngle(Grid):
    """Uniform in the angle θ = arctan(s/d), s = σ/α, in which the state turns from noise to data (Salimans & Ho 2022).

    Args:
        steps: As for `Grid`.
        std: The scale d; at the standard deviation of the data the angle is π/4 as signal and noise are equal.
        t_min: As for `Grid`.
        t_max: As for `Grid`.
    """

    def __init__(self, steps: int, std: float = 1.0, t_min: float | None = None, t_max: float | None = None) -> None:
        super().__init__(steps, t_min, t_max)
        self._coordinate = Angle(std)
        self.std = std

    def places(self, sde: SDE, t_min: float, t_max: float) -> Tensor:
        return uniform_in(self._coordinate, self.steps, sde, t_min, t_max)


@checked
class UniformStraight(Grid):
    """Uniform in the straight interpolant's time u = s/(d + s), s = σ/α (Liu et al. 2022).

    Args:
        steps: As for `Grid`.
        std: The scale d; 1 in rectified flow.
        t_min: As for `Grid`.
        t_max: As for `Grid`.
    """

    def __init__(self, steps: int, std: float = 1.0, t_min: float | None = None, t_max: float | None = None) -> None:
        super().__init__(steps, t_min, t_max)
        self._coordinate = Straight(std)
        self.std = std

    def places(self, sde: SDE, t_min: float, t_max: float) -> Tensor:
        return uniform_in(self._coordinate, self.steps, sde, t_min, t_max)


class VEGrid(UniformLogSNR):
    """Geometric in σ²/α²: EDM's discretisation of VE (Karras et al. 2022, table 1), the same as uniform λ."""


@checked
class VPGrid(Grid):
    """Uniform in the t at which the VP SDE has the same σ/α: EDM's discretisation of VP (Karras et al. 2022, table 1).

    The paper's ε_s is the time of the VP SDE at t_min: 1e-3 under `VPSDE` itself, under which this is `UniformTime`.

    Args:
        steps: As for `Grid`.
        beta_min: β of that VP SDE at 0.
        beta_max: β of that VP SDE at 1; the paper's β_d is beta_max − beta_min.
        t_min: As for `Grid`.
        t_max: As for `Grid`.
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
        return pinned(sde.time(self._vp.log_snr(evenly(self.steps, first, last))), t_min, t_max)


@checked
class KarrasGrid(Grid):
    """Uniform in s^{1/ρ}, s = σ/α (Karras et al. 2022, eq. 5):

        s_i = (s_max^{1/ρ} + (i/n) (s_min^{1/ρ} − s_max^{1/ρ}))^ρ,    i = 0, ..., n.

    Args:
        steps: As for `Grid`; the n of the formula, and one less than the paper's N, which counts levels.
        rho: The exponent ρ; 7 in the paper. Larger values put more steps at small noise.
        t_min: As for `Grid`.
        t_max: As for `Grid`.

    >>> from scoresde.sde import EDMSDE
    >>> KarrasGrid(4)(EDMSDE()).round(decimals=3).tolist()  # σ = t in this SDE
    [80.0, 17.528, 2.515, 0.17, 0.002]

    References:
        Karras et al. 2022, Elucidating the design space of diffusion-based generative models,
            https://arxiv.org/abs/2206.00364
    """

    def __init__(self, steps: int, rho: float = 7.0, t_min: float | None = None, t_max: float | None = None) -> None:
        super().__init__(steps, t_min, t_max)
        positive("rho", rho, finite=False)
        self.rho = rho

    def places(self, sde: SDE, t_min: float, t_max: float) -> Tensor:
        ends = -sde.log_snr(torch.tensor([t_max, t_min], dtype=torch.float64)) / self.rho
        first, last = ends.exp().tolist()
        return pinned(sde.time(-self.rho * evenly(self.steps, first, last).log()), t_min, t_max)


@checked
class DiscreteTime(Grid):
    """Some of the times t_k = k t_max/train_steps, k = 1 ... train_steps, of a discrete-time model, each at most once.

    S = steps + 1 levels k give `steps` intervals; at the last level the sampler's denoising step is the paper's
    last step, so that `steps` intervals and that step are together its S sampling steps, each one evaluation. The
    grid therefore ends at its lowest level and not at t_min: at k = 1 with `"leading"` and `"linspace"`, at
    train_steps/S with `"trailing"`. Levels outside [t_min, t_max] are left out before the S are chosen.

    Args:
        steps: As for `Grid`.
        train_steps: The number T of noise levels that the model was trained on (1000 in Ho et al. 2020).
        spacing: `"trailing"`, every (T/S)-th level down from the last; `"leading"`, every ⌊T/S⌋-th up from the first,
            which does not start from pure noise; or `"linspace"`, evenly from the last level to the first (Lin et al.
            2024, table 2).
        t_min: As for `Grid`.
        t_max: As for `Grid`.

    >>> [round(1000 * t) for t in DiscreteTime(4)(VPSDE()).tolist()]
    [1000, 800, 600, 400, 200]

    References:
        Lin et al. 2024, Common diffusion noise schedules and sample steps are flawed,
            https://arxiv.org/abs/2305.08891
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
        one_of("spacing", spacing, ("trailing", "leading", "linspace"))
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
    """The times that are given, decreasing.

    Args:
        times: At least two times inside the SDE's interval.
    """

    def __init__(self, times: Sequence[float]) -> None:
        if len(times) < 2:
            raise ValueError(f"got {len(times)} times, expected at least two")
        super().__init__(len(times) - 1, float(times[-1]), float(times[0]))
        self._times = [float(t) for t in times]

    @property
    def times(self) -> list[float]:
        """The times."""
        return list(self._times)

    def places(self, sde: SDE, t_min: float, t_max: float) -> Tensor:
        return torch.tensor(self._times, dtype=torch.float64)
