"""Variance-preserving SDEs, VP and cosine, and sub-VP, which has the signal of VP and less noise."""

import math

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.sde.base import SDE, as_time
from scoresde.sde.chains import GaussianChain, VariancePreserving, kept_variance
from scoresde.sde.rate import RateSDE

__all__ = ["VPSDE", "CosineSDE", "SubVPSDE"]

# Song et al. 2021, appendix C: the smallest time for training and likelihoods, and that for sampling.
_T_MIN, _T_MIN_SAMPLING = 1e-5, 1e-3


def _first_times(t_min: float | None, t_min_sampling: float | None) -> tuple[float, float]:
    """The smallest times that are integrated and sampled; a given `t_min` is both unless `t_min_sampling` is too."""
    if t_min is None:
        return _T_MIN, _T_MIN_SAMPLING if t_min_sampling is None else t_min_sampling
    return t_min, t_min if t_min_sampling is None else t_min_sampling


@checked
class _LinearBeta(RateSDE):
    """An SDE with the rate β(t) = β_min + (β_max − β_min) t."""

    def __init__(
        self,
        beta_min: float = 0.1,
        beta_max: float = 20.0,
        t_min: float | None = None,
        t_max: float = 1.0,
        t_min_sampling: float | None = None,
    ) -> None:
        if not (0 <= beta_min <= beta_max and 0 < beta_max < math.inf):
            raise ValueError(
                f"expected 0 <= beta_min <= beta_max, and beta_max positive, got beta_min={beta_min}, "
                f"beta_max={beta_max}"
            )
        first, first_sampled = _first_times(t_min, t_min_sampling)
        super().__init__(first, t_max, first_sampled)
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
        # The clamp makes the time 0 where β_min and B are 0.
        return 2 * integral / (self.beta_min + root).clamp_min(torch.finfo(root.dtype).tiny)


class VPSDE(VariancePreserving, _LinearBeta):
    """Variance preserving: data of unit variance keep it, and β is linear in t (Song et al. 2021, eq. 11 and 33).

        β(t) = β_min + (β_max − β_min) t
        B(t) = β_min t + (β_max − β_min) t²/2
        α(t) = e^{−B/2}
        σ(t) = √(1 − e^{−B})
        λ(t) = −log(e^B − 1)/2
        t(λ) = 2 B/(β_min + √(β_min² + 2 (β_max − β_min) B)) at B = log(1 + e^{−2λ})
        f(t) = −β/2
        g(t) = √β

    Args:
        beta_min: Rate β at t = 0.
        beta_max: Rate β at t = 1.
        t_min: Smallest time that is integrated; 1e-5 if not given.
        t_max: Largest time that is integrated.
        t_min_sampling: Time at which samplers stop; if not given, `t_min`, and 1e-3 if that is not given either.

    Raises:
        ValueError: Rates or times that are out of order.

    References:
        Song et al. 2021, Score-based generative modeling through stochastic differential equations,
            https://arxiv.org/abs/2011.13456

    >>> VPSDE()
    VPSDE(t_min=1e-05, t_max=1, t_min_sampling=0.001, beta_min=0.1, beta_max=20)
    >>> print(f"{VPSDE().alpha(torch.tensor(1.0)):.4f}")
    0.0066
    """


class SubVPSDE(_LinearBeta):
    """Sub-VP: the signal of `VPSDE` with less noise everywhere (Song et al. 2021, eq. 12 and appendix B).

        B(t) = β_min t + (β_max − β_min) t²/2
        α(t) = e^{−B/2}
        σ(t) = 1 − e^{−B}
        λ(t) = −log(2 sinh(B/2))
        t(λ) as for `VPSDE`, at B = 2 arsinh(e^{−λ}/2)
        f(t) = −β/2
        g(t) = √(β (1 − e^{−2B}))

    Args:
        beta_min: Rate β at t = 0.
        beta_max: Rate β at t = 1.
        t_min: Smallest time that is integrated; 1e-5 if not given.
        t_max: Largest time that is integrated.
        t_min_sampling: Time at which samplers stop; if not given, `t_min`, and 1e-3 if that is not given either.

    Raises:
        ValueError: Rates or times that are out of order.

    References:
        Song et al. 2021, Score-based generative modeling through stochastic differential equations,
            https://arxiv.org/abs/2011.13456
    """

    def sigma(self, t: Tensor) -> Tensor:
        return -torch.expm1(-self._integral(t))

    def log_snr(self, t: Tensor) -> Tensor:
        # α/σ = 1/(2 sinh(B/2))
        integral = self._integral(t)
        return -(0.5 * integral + (-torch.expm1(-integral)).log())

    def time(self, log_snr: Tensor) -> Tensor:
        # B = 2 arsinh(e^{−λ}/2), with the exponential taken only where it is small.
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
class CosineSDE(SDE):
    """Cosine schedule, variance preserving (Nichol & Dhariwal 2021, eq. 17).

        θ(t) = (π/2) (t + s)/(1 + s)
        α(t) = cos θ/cos θ(0)
        σ(t) = √(cos² θ(0) − cos² θ)/cos θ(0)
        λ(t) = log(cos θ/√(cos² θ(0) − cos² θ))
        t(λ) = (1 + s) (2/π) arccos(cos θ(0)/√(1 + e^{−2λ})) − s
        f(t) = −(π/2) tan θ/(1 + s)
        g(t) = √(−2 f)

    The signal vanishes at t = 1, so λ is clipped at `log_snr_min`: `t_max` is the time at which it is reached, and the
    kernel stays as it is after that. The default leaves the signal that VP's default leaves, α(1) = e^{−5.025}.

    Args:
        s: Offset of the angle, which keeps the noise at t = 0 from being too small.
        log_snr_min: Smallest log-SNR λ.
        t_min: Smallest time that is integrated; 1e-5 if not given.
        t_max: Largest time that is integrated; if not given, the time at which `log_snr_min` is reached.
        t_min_sampling: Time at which samplers stop; if not given, `t_min`, and 1e-3 if that is not given either.

    Raises:
        ValueError: An offset that is not between 0 and 1, or times that are out of order.

    References:
        Nichol & Dhariwal 2021, Improved denoising diffusion probabilistic models, https://arxiv.org/abs/2102.09672
    """

    def __init__(
        self,
        s: float = 0.008,
        log_snr_min: float = -5.0,
        t_min: float | None = None,
        t_max: float | None = None,
        t_min_sampling: float | None = None,
    ) -> None:
        if not 0 < s < 1:
            raise ValueError(f"expected an offset s between 0 and 1, got {s}")
        self.s = s
        self._end = 1.0
        self._end = float(self.time(torch.tensor(log_snr_min, dtype=torch.float64)))
        self.log_snr_min = log_snr_min
        first, first_sampled = _first_times(t_min, t_min_sampling)
        super().__init__(first, self._end if t_max is None else t_max, first_sampled)

    @property
    def _theta0(self) -> float:
        return 0.5 * math.pi * self.s / (1 + self.s)

    def _angles(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The angles (θ(t) − θ(0), π/2 − θ(t)), each without cancellation."""
        t = as_time(t).clamp(max=self._end)
        unit = 0.5 * math.pi / (1 + self.s)
        return unit * t, unit * (1 - t)

    def _sine_product(self, t: Tensor) -> Tensor:
        """The difference cos² θ(0) − cos² θ(t) = sin(θ − θ(0)) sin(θ + θ(0)), without cancellation."""
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
        # θ − θ(0) from its sine and cosine; the sine as a quotient, since both angles nearly agree at small t.
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

    def scales(self, log_snr: Tensor) -> tuple[Tensor, Tensor]:
        return kept_variance(log_snr)

    def reaching(self, log_snr: float) -> "CosineSDE":
        if log_snr >= self.log_snr_min:
            return self
        return CosineSDE(self.s, log_snr, self.t_min, self.t_max, self.t_min_sampling)

    def chain(self, steps: int) -> GaussianChain:
        """The chain of this SDE at the times t_max i/T, i = 1 ... T, whose kernels are the SDE's own.

        Its noise ends where that of the SDE does. `GaussianChain(cosine_betas(T))` is the chain of the paper, whose
        noise ends later, with its last β cut off at 0.999.

        Args:
            steps: Number T of steps, at least 2.
        """
        return GaussianChain.of(self, steps)
