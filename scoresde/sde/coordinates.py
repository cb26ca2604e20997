"""Coordinates in which the probability-flow ODE is integrated: a scaled state, a time variable, a prediction.

With y = x/n(t) and a variable w(t), the ODE reads dy/dw = P, where P = p(t) x₀ + q(t) ε is the prediction that the
model is asked for. A polynomial in w is exact for P only as far as P is one, so the choice decides how much a step can
cover. With s = σ/α, the noise level of x/α, and d the standard deviation of the data:

    class           y                   w               P
    `Time`          x                   t               dx/dt
    `NoiseLevel`    x/α                 s               ε
    `LogSNR`        x/α                 λ = −log s      −s ε
    `SignalLevel`   x/σ                 1/s             x₀
    `Angle`         x/(α √(d² + s²))    arctan(s/d)     (d ε − (s/d) x₀)/√(d² + s²)
    `Straight`      x/(d α + σ)         s/(d + s)       ε − x₀/d
    `LevelRatio`    x/(α √(d² + s²))    log (s + a d)/(s + b d)     that of `Angle`, times dθ/dw
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.numerics.values import Value, positive
from scoresde.sde.base import SDE

__all__ = ["Angle", "Coordinate", "LevelRatio", "LogSNR", "NoiseLevel", "SignalLevel", "Straight", "Time"]


class Coordinate(Value, ABC):
    """A scaled state y = x/norm and a variable w, with dy/dw = E[p x₀ + q ε | x] for (p, q) = target.

    All methods take and return float64 tensors of any shape.
    """

    @abstractmethod
    def norm(self, sde: SDE, t: Tensor) -> Tensor:
        """Scale n(t) > 0 of the state."""

    @abstractmethod
    def variable(self, sde: SDE, t: Tensor) -> Tensor:
        """Variable w(t), strictly monotone."""

    @abstractmethod
    def time(self, sde: SDE, w: Tensor) -> Tensor:
        """The inverse of `variable`."""

    @abstractmethod
    def rate(self, sde: SDE, t: Tensor) -> Tensor:
        """Derivative dw/dλ."""

    @abstractmethod
    def target(self, sde: SDE, t: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients (p, q) of the prediction."""


class Time(Coordinate):
    """The state x in t; P is the probability-flow velocity (Song et al. 2021, eq. 13)."""

    def norm(self, sde: SDE, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def variable(self, sde: SDE, t: Tensor) -> Tensor:
        return t

    def time(self, sde: SDE, w: Tensor) -> Tensor:
        return w

    def rate(self, sde: SDE, t: Tensor) -> Tensor:
        # g² = −2 σ² dλ/dt
        return -2 * (sde.sigma(t) / sde.diffusion(t)) ** 2

    def target(self, sde: SDE, t: Tensor) -> tuple[Tensor, Tensor]:
        # dα/dt and dσ/dt
        drift, sigma = sde.drift_coefficient(t), sde.sigma(t)
        return drift * sde.alpha(t), drift * sigma + sde.diffusion(t) ** 2 / (2 * sigma)


class NoiseLevel(Coordinate):
    """The state x/α in s; P is the noise prediction (Song, Meng & Ermon 2021, eq. 14; Karras et al. 2022, eq. 4)."""

    def norm(self, sde: SDE, t: Tensor) -> Tensor:
        return sde.alpha(t)

    def variable(self, sde: SDE, t: Tensor) -> Tensor:
        return sde.noise_level(t)

    def time(self, sde: SDE, w: Tensor) -> Tensor:
        return sde.time(-w.log())

    def rate(self, sde: SDE, t: Tensor) -> Tensor:
        return -sde.noise_level(t)

    def target(self, sde: SDE, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(t), torch.ones_like(t)


class LogSNR(Coordinate):
    """The state x/α in λ = log(α/σ); P = −s ε."""

    def norm(self, sde: SDE, t: Tensor) -> Tensor:
        return sde.alpha(t)

    def variable(self, sde: SDE, t: Tensor) -> Tensor:
        return sde.log_snr(t)

    def time(self, sde: SDE, w: Tensor) -> Tensor:
        return sde.time(w)

    def rate(self, sde: SDE, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def target(self, sde: SDE, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(t), -sde.noise_level(t)


class SignalLevel(Coordinate):
    """The state x/σ in 1/s = α/σ; P is the data prediction (Lu et al. 2022b, eq. 8)."""

    def norm(self, sde: SDE, t: Tensor) -> Tensor:
        return sde.sigma(t)

    def variable(self, sde: SDE, t: Tensor) -> Tensor:
        return sde.log_snr(t).exp()

    def time(self, sde: SDE, w: Tensor) -> Tensor:
        return sde.time(w.log())

    def rate(self, sde: SDE, t: Tensor) -> Tensor:
        return sde.log_snr(t).exp()

    def target(self, sde: SDE, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), torch.zeros_like(t)


@checked
class Angle(Coordinate):
    """The state x/(α √(d² + s²)) in θ = arctan(s/d); P = (d ε − (s/d) x₀)/√(d² + s²).

    With d the standard deviation of the data, the state keeps unit variance, P is the output that EDM's
    preconditioning has a network learn (Karras et al. 2022, table 1), and for normal data P is 0. With d = 1,
    P is the velocity of Salimans & Ho 2022.

    Args:
        std: Standard deviation d of the data, positive.

    Raises:
        ValueError: A standard deviation that is not positive and finite.
    """

    def __init__(self, std: float = 1.0) -> None:
        positive("std", std)
        self.std = std

    def norm(self, sde: SDE, t: Tensor) -> Tensor:
        return torch.hypot(self.std * sde.alpha(t), sde.sigma(t))

    def variable(self, sde: SDE, t: Tensor) -> Tensor:
        return torch.atan2(sde.sigma(t), self.std * sde.alpha(t))

    def time(self, sde: SDE, w: Tensor) -> Tensor:
        return sde.time(-(self.std * w.tan()).log())

    def rate(self, sde: SDE, t: Tensor) -> Tensor:
        return -0.5 * (2 * self.variable(sde, t)).sin()

    def target(self, sde: SDE, t: Tensor) -> tuple[Tensor, Tensor]:
        angle = self.variable(sde, t)
        return -angle.sin() / self.std, angle.cos()


@checked
class Straight(Coordinate):
    """The state x/(d α + σ) in u = s/(d + s); P = ε − x₀/d, the straight interpolant's velocity (Liu et al. 2022).

    Args:
        std: Standard deviation d of the data, positive; 1 in rectified flow.

    Raises:
        ValueError: A standard deviation that is not positive and finite.
    """

    def __init__(self, std: float = 1.0) -> None:
        positive("std", std)
        self.std = std

    def norm(self, sde: SDE, t: Tensor) -> Tensor:
        return self.std * sde.alpha(t) + sde.sigma(t)

    def variable(self, sde: SDE, t: Tensor) -> Tensor:
        return torch.sigmoid(-sde.log_snr(t) - math.log(self.std))

    def time(self, sde: SDE, w: Tensor) -> Tensor:
        return sde.time(torch.log1p(-w) - w.log() - math.log(self.std))

    def rate(self, sde: SDE, t: Tensor) -> Tensor:
        u = self.variable(sde, t)
        return -u * (1 - u)

    def target(self, sde: SDE, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.full_like(t, -1 / self.std), torch.ones_like(t)


@checked
class LevelRatio(Coordinate):
    """The state of `Angle` in w = log (s + a d)/(s + b d), which is log s between a d and b d and flat outside.

    Far below the width of the data and far above it hardly anything moves, and log s would spend steps there. Between,
    the steps are those of log s, in which networks are smooth.

    Args:
        std: Standard deviation d of the data, positive.
        low: The level a from which on w is like log s, in standard deviations.
        high: The level b up to which it is.

    Raises:
        ValueError: A standard deviation that is not positive and finite, or levels that are not positive or do not
            increase.
    """

    def __init__(self, std: float = 1.0, low: float = 0.1, high: float = 3.0) -> None:
        positive("std", std)
        positive("low", low)
        positive("high", high)
        if not low < high:
            raise ValueError(f"low is {low}, expected less than high = {high}")
        self.std, self.low, self.high = std, low, high

    def norm(self, sde: SDE, t: Tensor) -> Tensor:
        return torch.hypot(self.std * sde.alpha(t), sde.sigma(t))

    def variable(self, sde: SDE, t: Tensor) -> Tensor:
        level = sde.noise_level(t) / self.std
        # Of (s + a d)/(s + b d) = 1 − (b − a) d/(s + b d), which loses nothing where s is large.
        return torch.log1p(-(self.high - self.low) / (level + self.high))

    def time(self, sde: SDE, w: Tensor) -> Tensor:
        level = (self.high - self.low) / -torch.expm1(w) - self.high
        return sde.time(-(self.std * level).log())

    def rate(self, sde: SDE, t: Tensor) -> Tensor:
        level = sde.noise_level(t) / self.std
        return -level * (self.high - self.low) / ((level + self.low) * (level + self.high))

    def target(self, sde: SDE, t: Tensor) -> tuple[Tensor, Tensor]:
        level = sde.noise_level(t) / self.std
        # dθ/dw over √(1 + s²/d²)
        scale = (level + self.low) * (level + self.high) / ((self.high - self.low) * (1 + level**2) ** 1.5)
        return -level * scale / self.std, scale
