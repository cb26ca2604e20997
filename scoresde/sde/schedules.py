"""Forward SDEs in continuous time: VP, sub-VP, VE, cosine, EDM and rectified flow."""

import math
from abc import abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from scoresde.arguments import checked

if TYPE_CHECKING:
    pass
from scoresde.sde.base import SDE, as_time

__all__ = ["EDMSDE", "VESDE", "VPSDE", "CosineSDE", "FlowSDE", "SubVPSDE"]


class _Beta(SDE):
    """What is made of a rate β(t) ≥ 0 and its integral B(t) = ∫₀ᵗ β: α = e^{−B/2}, f = −β/2.

    α stays at the smallest normal number of the dtype where it would be less, so that x/α is finite; λ does not.
    """

    @abstractmethod
    def beta(self, t: Tensor) -> Tensor:
        """β(t), of the shape of `t`."""

    @abstractmethod
    def _integral(self, t: Tensor) -> Tensor:
        """B(t)."""

    @abstractmethod
    def _added(self, t: Tensor, s: Tensor) -> Tensor:
        """B(t) − B(s)."""

    @abstractmethod
    def _time_of_integral(self, integral: Tensor) -> Tensor:
        """The inverse of `_integral`."""

    def alpha(self, t: Tensor) -> Tensor:
        alpha = (-0.5 * self._integral(t)).exp()
        return alpha.clamp_min(torch.finfo(alpha.dtype).tiny)

    def drift_coefficient(self, t: Tensor) -> Tensor:
        return -0.5 * self.beta(t)


@checked
class _LinearBeta(_Beta):
    """β(t) = β_min + t (β_max − β_min)."""

    def __init__(
        self,
        beta_min: float = 0.1,
        beta_max: float = 20.0,
        t_min: float | None = None,
        t_max: float = 1.0,
    ) -> None:
        if not (0 <= beta_min <= beta_max and 0 < beta_max < math.inf):
            raise ValueError(
                f"expected 0 <= beta_min <= beta_max, and beta_max positive, got beta_min={beta_min}, "
                f"beta_max={beta_max}"
            )
        # Song et al. 2021, appendix C: 1e-5 to train and for likelihoods, 1e-3 to sample.
        super().__init__(1e-5 if t_min is None else t_min, t_max, 1e-3 if t_min is None else t_min)
        self.beta_min = beta_min
        self.beta_max = beta_max

    def beta(self, t: Tensor) -> Tensor:
        return self.beta_min + (self.beta_max - self.beta_min) * as_time(t)

    def _integral(self, t: Tensor) -> Tensor:
        t = as_time(t)
        return t * (self.beta_min + 0.5 * (self.beta_max - self.beta_min) * t)

    def _added(self, t: Tensor, s: Tensor) -> Tensor:
        return (t - s) * (self.beta_min + 0.5 * (self.beta_max - self.beta_min) * (t + s))

    def _time_of_integral(self, integral: Tensor) -> Tensor:
        # The root of a quadratic in its form without cancellation.
        slope = self.beta_max - self.beta_min
        root = (self.beta_min**2 + 2 * slope * integral).sqrt()
        # Where β_min and B are 0, so is the time.
        return 2 * integral / (self.beta_min + root).clamp_min(torch.finfo(root.dtype).tiny)


class VariancePreserving(_Beta):
    """σ² = 1 − α²: λ = −log(e^B − 1)/2, written so that e^B need not be a number."""

    def sigma(self, t: Tensor) -> Tensor:
        return (-torch.expm1(-self._integral(t))).sqrt()

    def log_snr(self, t: Tensor) -> Tensor:
        integral = self._integral(t)
        return -0.5 * (integral + (-torch.expm1(-integral)).log())

    def time(self, log_snr: Tensor) -> Tensor:
        log_snr = as_time(log_snr)
        return self._time_of_integral(torch.logaddexp(torch.zeros_like(log_snr), -2 * log_snr))

    def diffusion(self, t: Tensor) -> Tensor:
        return self.beta(t).sqrt()

    def transition(self, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        added = self._added(as_time(t), as_time(s))
        return (-0.5 * added).exp(), (-torch.expm1(-added)).sqrt()


class VPSDE(VariancePreserving, _LinearBeta):
    """Variance preserving: α = e^{−B/2}, σ² = 1 − e^{−B}, β linear in t (Song et al. 2021, eq. 11 and 33)."""


class SubVPSDE(_LinearBeta):
    """Sub-VP: α = e^{−B/2}, σ = 1 − e^{−B} (Song et al. 2021, eq. 12 and appendix B)."""

    def sigma(self, t: Tensor) -> Tensor:
        return -torch.expm1(-self._integral(t))

    def log_snr(self, t: Tensor) -> Tensor:
        # α/σ = 1 / (2 sinh(B/2))
        integral = self._integral(t)
        return -(0.5 * integral + (-torch.expm1(-integral)).log())

    def time(self, log_snr: Tensor) -> Tensor:
        # B = 2 arsinh(e^{−λ}/2), whose exponential is only taken where it is small
        level = -as_time(log_snr)
        below, above = level.clamp(max=0), level.clamp(min=0)
        small = torch.asinh(0.5 * below.exp())
        large = above + (0.5 * (1 + (1 + 4 * (-2 * above).exp()).sqrt())).log()
        return self._time_of_integral(2 * torch.where(level > 0, large, small))

    def diffusion(self, t: Tensor) -> Tensor:
        return (self.beta(t) * -torch.expm1(-2 * self._integral(t))).sqrt()

    def transition(self, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        # b² = (1 − a²)(1 − e^{−B(t) − B(s)})
        t, s = as_time(t), as_time(s)
        added = self._added(t, s)
        both = self._integral(t) + self._integral(s)
        return (-0.5 * added).exp(), (torch.expm1(-added) * torch.expm1(-both)).sqrt()


@checked
class VESDE(SDE):
    """Variance exploding: α = 1, σ = σ_min (σ_max/σ_min)^t (Song et al. 2021, eq. 9 and 30)."""

    def __init__(
        self, sigma_min: float = 0.01, sigma_max: float = 50.0, t_min: float = 0.0, t_max: float = 1.0
    ) -> None:
        if not 0 < sigma_min < sigma_max:
            raise ValueError(f"expected 0 < sigma_min < sigma_max, got sigma_min={sigma_min}, sigma_max={sigma_max}")
        super().__init__(t_min, t_max)
        self.sigma_min = sigma_min
        self.sigma_max = sigma_max

    @property
    def _log_ratio(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(as_time(t))

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_min * (self._log_ratio * as_time(t)).exp()

    def log_snr(self, t: Tensor) -> Tensor:
        return -math.log(self.sigma_min) - self._log_ratio * as_time(t)

    def time(self, log_snr: Tensor) -> Tensor:
        return (-math.log(self.sigma_min) - as_time(log_snr)) / self._log_ratio

    def drift_coefficient(self, t: Tensor) -> Tensor:
        return torch.zeros_like(as_time(t))

    def diffusion(self, t: Tensor) -> Tensor:
        return self.sigma(t) * math.sqrt(2 * self._log_ratio)


@checked
class CosineSDE(SDE):
    """Cosine schedule: α = cos θ(t) / cos θ(0), θ = (π/2) (t + s)/(1 + s), σ² = 1 − α².

    Nichol & Dhariwal 2021, eq. 17. The signal vanishes at t = 1, so λ is clipped at `log_snr_min`:
    `t_max` is the time at which it is reached and the kernel stays as it is after that. The default leaves
    the signal that VP's default leaves (α(1) = e^−5.025).
    """

    def __init__(
        self,
        s: float = 0.008,
        log_snr_min: float = -5.0,
        t_min: float | None = None,
        t_max: float | None = None,
    ) -> None:
        if not 0 < s < 1:
            raise ValueError(f"expected an offset s between 0 and 1, got {s}")
        self.s = s
        self._end = 1.0
        self._end = float(self.time(torch.tensor(log_snr_min, dtype=torch.float64)))
        self.log_snr_min = log_snr_min
        super().__init__(
            1e-5 if t_min is None else t_min,
            self._end if t_max is None else t_max,
            1e-3 if t_min is None else t_min,
        )

    @property
    def _theta0(self) -> float:
        return 0.5 * math.pi * self.s / (1 + self.s)

    def _angles(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(θ(t) − θ(0), π/2 − θ(t)), each without cancellation."""
        t = as_time(t).clamp(max=self._end)
        unit = 0.5 * math.pi / (1 + self.s)
        return unit * t, unit * (1 - t)

    def _sine_product(self, t: Tensor) -> Tensor:
        """cos² θ(0) − cos² θ(t) = sin(θ − θ₀) sin(θ + θ₀)."""
        rise, _ = self._angles(t)
        return rise.sin() * (rise + 2 * self._theta0).sin()

    def alpha(self, t: Tensor) -> Tensor:
        return self._angles(t)[1].sin() / math.cos(self._theta0)

    def sigma(self, t: Tensor) -> Tensor:
        return self._sine_product(t).sqrt() / math.cos(self._theta0)

    def log_snr(self, t: Tensor) -> Tensor:
        return self._angles(t)[1].sin().log() - 0.5 * self._sine_product(t).log()

    def time(self, log_snr: Tensor) -> Tensor:
        log_snr = as_time(log_snr)
        cos0, sin0 = math.cos(self._theta0), math.sin(self._theta0)
        signal, noise = torch.sigmoid(2 * log_snr), torch.sigmoid(-2 * log_snr)
        cos, sin = signal.sqrt() * cos0, (noise * cos0**2 + sin0**2).sqrt()
        # θ − θ₀ from its sine and cosine; the sine as a quotient, since θ and θ₀ nearly agree at small t.
        rise = torch.atan2(noise * cos0**2 / (sin * cos0 + cos * sin0), cos * cos0 + sin * sin0)
        return (rise * (1 + self.s) / (0.5 * math.pi)).clamp(max=self._end)

    def drift_coefficient(self, t: Tensor) -> Tensor:
        rate = 0.5 * math.pi / (1 + self.s)
        rise, rest = self._angles(t)
        # Half a unit of float32 above the end still counts as the end.
        moving = as_time(t) <= self._end * (1 + 1e-6)
        return -rate * (rise + self._theta0).sin() / rest.sin() * moving

    def diffusion(self, t: Tensor) -> Tensor:
        return (-2 * self.drift_coefficient(t)).sqrt()


@checked
class EDMSDE(SDE):
    """α = 1, σ = t, with t from `sigma_min` to `sigma_max` (Karras et al. 2022, table 1)."""

    def __init__(self, sigma_min: float = 0.002, sigma_max: float = 80.0) -> None:
        if not 0 < sigma_min < sigma_max:
            raise ValueError(f"expected 0 < sigma_min < sigma_max, got sigma_min={sigma_min}, sigma_max={sigma_max}")
        super().__init__(sigma_min, sigma_max)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(as_time(t))

    def sigma(self, t: Tensor) -> Tensor:
        return as_time(t)

    def log_snr(self, t: Tensor) -> Tensor:
        return -as_time(t).log()

    def time(self, log_snr: Tensor) -> Tensor:
        return (-as_time(log_snr)).exp()

    def drift_coefficient(self, t: Tensor) -> Tensor:
        return torch.zeros_like(as_time(t))

    def diffusion(self, t: Tensor) -> Tensor:
        return (2 * as_time(t)).sqrt()


@checked
class FlowSDE(SDE):
    """Straight interpolant of rectified flow: α = 1 − t, σ = t (Liu et al. 2022; Lipman et al. 2023).

    The drift −x/(1 − t) is singular at t = 1, where no signal is left, so the interval ends just before.
    """

    def __init__(self, t_min: float = 1e-3, t_max: float = 0.999) -> None:
        if not 0 < t_min < t_max < 1:
            raise ValueError(f"expected 0 < t_min < t_max < 1, got t_min={t_min}, t_max={t_max}")
        super().__init__(t_min, t_max)

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - as_time(t)

    def sigma(self, t: Tensor) -> Tensor:
        return as_time(t)

    def log_snr(self, t: Tensor) -> Tensor:
        t = as_time(t)
        return torch.log1p(-t) - t.log()

    def time(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-as_time(log_snr))

    def drift_coefficient(self, t: Tensor) -> Tensor:
        return -1 / (1 - as_time(t))

    def diffusion(self, t: Tensor) -> Tensor:
        t = as_time(t)
        return (2 * t / (1 - t)).sqrt()
