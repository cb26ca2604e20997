"""Forward SDEs whose scales are elementary functions of time: VE, EDM and rectified flow."""

import math

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.sde.base import SDE, as_time

__all__ = ["EDMSDE", "VESDE", "FlowSDE"]


@checked
class VESDE(SDE):
    """Variance exploding: the signal stays and the noise grows geometrically (Song et al. 2021, eq. 9 and 30).

        α(t) = 1
        σ(t) = σ_min (σ_max/σ_min)^t
        λ(t) = −log σ_min − t log(σ_max/σ_min)
        t(λ) = −(λ + log σ_min)/log(σ_max/σ_min)
        f(t) = 0
        g(t) = σ √(2 log(σ_max/σ_min))

    Args:
        sigma_min: Noise scale σ at t = 0.
        sigma_max: Noise scale σ at t = 1, about the largest distance of two samples.
        t_min: Smallest time that is integrated.
        t_max: Largest time that is integrated.

    Raises:
        ValueError: Noise scales or times that are out of order.

    References:
        Song et al. 2021, Score-based generative modeling through stochastic differential equations,
            https://arxiv.org/abs/2011.13456
    """

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

    def scales(self, log_snr: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(as_time(log_snr)), (-as_time(log_snr)).exp()

    def drift_coefficient(self, t: Tensor) -> Tensor:
        return torch.zeros_like(as_time(t))

    def diffusion(self, t: Tensor) -> Tensor:
        return self.sigma(t) * math.sqrt(2 * self._log_ratio)


@checked
class EDMSDE(SDE):
    """The SDE of EDM, whose time is the noise scale, from `sigma_min` to `sigma_max` (Karras et al. 2022, table 1).

        α(t) = 1
        σ(t) = t
        λ(t) = −log t
        t(λ) = e^{−λ}
        f(t) = 0
        g(t) = √(2 t)

    Args:
        sigma_min: Smallest σ that is trained and integrated, also `t_min`.
        sigma_max: Largest σ, where sampling starts, also `t_max`.

    Raises:
        ValueError: Noise scales that are out of order.

    References:
        Karras et al. 2022, Elucidating the design space of diffusion-based generative models,
            https://arxiv.org/abs/2206.00364
    """

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

    def scales(self, log_snr: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(as_time(log_snr)), (-as_time(log_snr)).exp()

    def drift_coefficient(self, t: Tensor) -> Tensor:
        return torch.zeros_like(as_time(t))

    def diffusion(self, t: Tensor) -> Tensor:
        return (2 * as_time(t)).sqrt()


@checked
class FlowSDE(SDE):
    """Straight interpolant of rectified flow (Liu et al. 2022; Lipman et al. 2023).

        α(t) = 1 − t
        σ(t) = t
        λ(t) = log((1 − t)/t)
        t(λ) = 1/(1 + e^λ)
        f(t) = −1/(1 − t)
        g(t) = √(2 t/(1 − t))

    The drift is singular at t = 1, where no signal is left, so the interval ends just before.

    Args:
        t_min: Smallest time that is integrated; at t = 0 there is no noise.
        t_max: Largest time that is integrated; at t = 1 there is no signal.

    Raises:
        ValueError: Times that are out of order, or not between 0 and 1.

    References:
        Liu et al. 2022, Flow straight and fast: learning to generate and transfer data with rectified flow,
            https://arxiv.org/abs/2209.03003
        Lipman et al. 2023, Flow matching for generative modeling, https://arxiv.org/abs/2210.02747
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

    def scales(self, log_snr: Tensor) -> tuple[Tensor, Tensor]:
        return torch.sigmoid(as_time(log_snr)), torch.sigmoid(-as_time(log_snr))

    def drift_coefficient(self, t: Tensor) -> Tensor:
        return -1 / (1 - as_time(t))

    def diffusion(self, t: Tensor) -> Tensor:
        t = as_time(t)
        return (2 * t / (1 - t)).sqrt()
