"""Forward SDEs ``dx = f(t) x dt + g(t) dw`` with Gaussian kernels ``p(x_t | x_0) = N(α(t) x_0, σ(t)² I)``.

A new SDE needs `alpha` and `sigma` only: drift and diffusion follow by automatic differentiation and the
inverse of the log signal-to-noise ratio by bisection. The SDEs below override what they know in closed form.

References: Song et al. 2021 (arXiv:2011.13456) for VP, sub-VP and VE; Nichol & Dhariwal 2021
(arXiv:2102.09672) for the cosine schedule; Karras et al. 2022 (arXiv:2206.00364) for EDM; Liu et al. 2022
(arXiv:2209.03003) for rectified flow.
"""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from scoresde.score import ScoreModel

__all__ = ["EDMSDE", "SDE", "VESDE", "VPSDE", "CosineSDE", "FlowSDE", "ReverseSDE", "SubVPSDE", "expand_to"]

_Self = TypeVar("_Self", bound="SDE")


def expand_to(coefficient: Tensor, x: Tensor) -> Tensor:
    """Shape a coefficient `()` or `(B,)` so that it multiplies `x` of shape `(B, ...)`, in the dtype of `x`.

    A scalar on the CPU stays there: PyTorch passes it to a kernel on any device without synchronising.
    """
    if coefficient.ndim == 0:
        return coefficient.to(x.dtype)
    if coefficient.shape != x.shape[:1]:
        raise ValueError(
            f"t has shape {tuple(coefficient.shape)}, expected () or ({x.shape[0]},) for x of shape {tuple(x.shape)}"
        )
    return coefficient.to(x).reshape(-1, *[1] * (x.ndim - 1))


def _as_time(t: Tensor | float) -> Tensor:
    return t if isinstance(t, Tensor) else torch.as_tensor(t, dtype=torch.float64)


def _derivative(function: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """Elementwise derivative of `function` at `t`."""
    # forward AD promotes a 0-dim float32 tangent to float64
    return torch.func.jvp(function, (t,), (torch.ones_like(t),))[1].to(t.dtype)


def _log_standard_normal(z: Tensor) -> Tensor:
    return -0.5 * (z**2 + math.log(2 * math.pi))


class SDE(ABC):
    """A forward SDE that is affine in x, on `[t_min, t_max]`; λ = log(α/σ) decreases with t.

    Args:
        t_min: smallest time that is integrated; samplers stop at `t_min_sampling`, which is the same unless
            the class says otherwise.
        t_max: largest time that is integrated.
    """

    def __init__(self, t_min: float, t_max: float, t_min_sampling: float | None = None) -> None:
        self.t_min = t_min
        self.t_max = t_max
        self.t_min_sampling = t_min if t_min_sampling is None else t_min_sampling
        if not 0 <= t_min <= self.t_min_sampling < t_max < math.inf:
            raise ValueError(
                f"{type(self).__name__} needs 0 <= t_min <= t_min_sampling < t_max, "
                f"got t_min={t_min}, t_min_sampling={self.t_min_sampling}, t_max={t_max}"
            )

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Signal scale α(t), of the shape of `t`."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Noise scale σ(t), of the shape of `t`."""

    def log_snr(self, t: Tensor) -> Tensor:
        """λ(t) = log(α(t)/σ(t)), of the shape of `t`."""
        t = _as_time(t)
        return self.alpha(t).log() - self.sigma(t).log()

    def time(self, log_snr: Tensor) -> Tensor:
        """The inverse of `log_snr`, by bisection in float64 over `[0, 2 t_max]`."""
        target = _as_time(log_snr)
        wanted = target.detach().double()
        low, high = torch.zeros_like(wanted), torch.full_like(wanted, 2 * self.t_max)
        # A step halves the bracket, so that 128 reach the spacing of float64 even next to t = 0. A
        # not-a-number beyond the end of a schedule counts as "too noisy".
        for _ in range(128):
            middle = (low + high) / 2
            above = self.log_snr(middle) > wanted
            low, high = torch.where(above, middle, low), torch.where(above, high, middle)
        return ((low + high) / 2).to(target.dtype)

    def drift_coefficient(self, t: Tensor) -> Tensor:
        """f(t) = d log α / dt, of the shape of `t` (Kingma et al. 2021, eq. 18, written for α)."""
        return _derivative(lambda s: self.alpha(s).log(), _as_time(t))

    def diffusion(self, t: Tensor) -> Tensor:
        """g(t) = σ √(−2 dλ/dt), of the shape of `t`.

        The same as √(dσ²/dt − 2 f σ²) (Kingma et al. 2021), with no difference of large numbers.
        """
        t = _as_time(t)
        return self.sigma(t) * (-2 * _derivative(self.log_snr, t)).sqrt()

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """f(t) x for x `(B, ...)` and t `()` or `(B,)`."""
        return expand_to(self.drift_coefficient(t), x) * x

    def transition(self, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """(a, b) of the kernel from an earlier time s to a later time t, p(x_t | x_s) = N(a x_s, b² I)."""
        sigma_t = self.sigma(t)
        ratio = self.alpha(t) / self.alpha(s)
        return ratio, sigma_t * (-torch.expm1(2 * (self.log_snr(t) - self.log_snr(s)))).sqrt()

    def perturb(self, x0: Tensor, t: Tensor, noise: Tensor | torch.Generator | None = None) -> Tensor:
        """A draw of x_t = α(t) x₀ + σ(t) ε for x₀ `(B, ...)` and t `()` or `(B,)`.

        `noise` is ε itself, or the generator to draw it with.
        """
        t = self.check_time(t)
        return expand_to(self.alpha(t), x0) * x0 + expand_to(self.sigma(t), x0) * _noise(noise, x0)

    def prior_sample(self, shape: tuple[int, ...], noise: Tensor | torch.Generator | None = None) -> Tensor:
        """Draws `(B, ...)` of the prior N(0, σ(t_max)² I), in the dtype and on the device of `noise`."""
        if isinstance(noise, Tensor):
            if noise.shape != torch.Size(shape):
                raise ValueError(f"noise has shape {tuple(noise.shape)}, expected {tuple(shape)}")
            like = noise
        else:
            like = torch.empty(shape, device=None if noise is None else noise.device)
        return self._prior_scale().to(like.dtype) * _noise(noise, like)

    def prior_log_prob(self, z: Tensor) -> Tensor:
        """Log-density `(B,)` in nats of z `(B, ...)` under the prior N(0, σ(t_max)² I)."""
        scale = self._prior_scale()
        return (_log_standard_normal(z / scale.to(z.dtype)) - scale.log().to(z.dtype)).flatten(1).sum(1)

    def _prior_scale(self) -> Tensor:
        return self.sigma(torch.tensor(self.t_max, dtype=torch.float64))

    def reverse(self, model: "ScoreModel") -> "ReverseSDE":
        """The reverse-time SDE driven by `model`, for torchsde; its state is flat, `(B, D)`.

        Raises:
            ValueError: the model is of another SDE; see `scoresde.score.with_sde`.
        """
        ends = {"t_min", "t_max", "t_min_sampling"}  # which `with_sde` may have shortened
        mine, its = ({k: v for k, v in vars(s).items() if k not in ends} for s in (self, model.sde))
        if type(model.sde) is not type(self) or mine != its:
            raise ValueError(f"the model is of {model.sde!r}, not of {self!r}: use with_sde(model, sde) first")
        shape = getattr(getattr(model, "network", model), "shape", None)
        if shape is None and model.statistics is not None:
            shape = model.statistics.shape
        return ReverseSDE(model.sde, model, shape)

    def between(self: _Self, t_min: float, t_max: float) -> _Self:
        """The same SDE on another interval."""
        other = copy.copy(self)
        sampling = max(t_min, self.t_min_sampling)
        SDE.__init__(other, t_min, t_max, sampling if sampling < t_max else t_min)
        return other

    def check_time(self, t: Tensor | float) -> Tensor:
        """`t` as a tensor; ValueError where it is a number or on the CPU and outside `[t_min, t_max]`.

        Values on an accelerator are not looked at, since that would wait for the device.
        """
        t = _as_time(t)
        if t.device.type == "cpu" and t.numel() and not torch.compiler.is_compiling():
            low, high = torch.aminmax(t.detach())
            # Half a unit of float32 at the ends: a float32 copy of t_min may lie just below it.
            slack = 1e-6
            if not (low >= self.t_min * (1 - slack) and high <= self.t_max * (1 + slack)):
                raise ValueError(
                    f"t runs from {low.item():g} to {high.item():g}, outside [{self.t_min:g}, {self.t_max:g}] "
                    f"of {self}: give times inside, or set t_min and t_max of the SDE"
                )
        return t

    def __repr__(self) -> str:
        values = ", ".join(
            f"{k}={v:g}" if isinstance(v, float) else f"{k}={v!r}"
            for k, v in vars(self).items()
            if not k.startswith("_")
        )
        return f"{type(self).__name__}({values})"


def _noise(noise: Tensor | torch.Generator | None, like: Tensor) -> Tensor:
    if isinstance(noise, Tensor):
        if noise.shape != like.shape:
            raise ValueError(f"noise has shape {tuple(noise.shape)}, expected {tuple(like.shape)}")
        return noise
    return torch.randn(like.shape, dtype=like.dtype, device=like.device, generator=noise)


class _LinearBeta(SDE):
    """What VP and sub-VP share: β(t) = β_min + t (β_max − β_min) and B(t) = ∫₀ᵗ β; f = −β/2."""

    def __init__(
        self,
        beta_min: float = 0.1,
        beta_max: float = 20.0,
        t_min: float | None = None,
        t_max: float = 1.0,
    ) -> None:
        if not 0 < beta_min <= beta_max:
            raise ValueError(f"expected 0 < beta_min <= beta_max, got beta_min={beta_min}, beta_max={beta_max}")
        # Song et al. 2021, appendix C: 1e-5 to train and for likelihoods, 1e-3 to sample.
        super().__init__(1e-5 if t_min is None else t_min, t_max, 1e-3 if t_min is None else t_min)
        self.beta_min = beta_min
        self.beta_max = beta_max

    def beta(self, t: Tensor) -> Tensor:
        """β(t), of the shape of `t`."""
        return self.beta_min + (self.beta_max - self.beta_min) * _as_time(t)

    def _integral(self, t: Tensor) -> Tensor:
        t = _as_time(t)
        return t * (self.beta_min + 0.5 * (self.beta_max - self.beta_min) * t)

    def _time_of_integral(self, integral: Tensor) -> Tensor:
        # The root of a quadratic in its form without cancellation.
        slope = self.beta_max - self.beta_min
        return 2 * integral / (self.beta_min + (self.beta_min**2 + 2 * slope * integral).sqrt())

    def alpha(self, t: Tensor) -> Tensor:
        return (-0.5 * self._integral(t)).exp()

    def drift_coefficient(self, t: Tensor) -> Tensor:
        return -0.5 * self.beta(t)


class VPSDE(_LinearBeta):
    """Variance preserving: α = e^{−B/2}, σ² = 1 − e^{−B} (Song et al. 2021, eq. 11 and 33)."""

    def sigma(self, t: Tensor) -> Tensor:
        return (-torch.expm1(-self._integral(t))).sqrt()

    def log_snr(self, t: Tensor) -> Tensor:
        return -0.5 * torch.expm1(self._integral(t)).log()

    def time(self, log_snr: Tensor) -> Tensor:
        log_snr = _as_time(log_snr)
        return self._time_of_integral(torch.logaddexp(torch.zeros_like(log_snr), -2 * log_snr))

    def diffusion(self, t: Tensor) -> Tensor:
        return self.beta(t).sqrt()


class SubVPSDE(_LinearBeta):
    """Sub-VP: α = e^{−B/2}, σ = 1 − e^{−B} (Song et al. 2021, eq. 12 and appendix B)."""

    def sigma(self, t: Tensor) -> Tensor:
        return -torch.expm1(-self._integral(t))

    def log_snr(self, t: Tensor) -> Tensor:
        # α/σ = 1 / (2 sinh(B/2))
        return -(2 * torch.sinh(0.5 * self._integral(t))).log()

    def time(self, log_snr: Tensor) -> Tensor:
        return self._time_of_integral(2 * torch.asinh(0.5 * (-_as_time(log_snr)).exp()))

    def diffusion(self, t: Tensor) -> Tensor:
        return (self.beta(t) * -torch.expm1(-2 * self._integral(t))).sqrt()


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
        return torch.ones_like(_as_time(t))

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_min * (self._log_ratio * _as_time(t)).exp()

    def log_snr(self, t: Tensor) -> Tensor:
        return -math.log(self.sigma_min) - self._log_ratio * _as_time(t)

    def time(self, log_snr: Tensor) -> Tensor:
        return (-math.log(self.sigma_min) - _as_time(log_snr)) / self._log_ratio

    def drift_coefficient(self, t: Tensor) -> Tensor:
        return torch.zeros_like(_as_time(t))

    def diffusion(self, t: Tensor) -> Tensor:
        return self.sigma(t) * math.sqrt(2 * self._log_ratio)


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
        t = _as_time(t).clamp(max=self._end)
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
        log_snr = _as_time(log_snr)
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
        moving = _as_time(t) <= self._end * (1 + 1e-6)
        return -rate * (rise + self._theta0).sin() / rest.sin() * moving

    def diffusion(self, t: Tensor) -> Tensor:
        return (-2 * self.drift_coefficient(t)).sqrt()


class EDMSDE(SDE):
    """α = 1, σ = t, with t from `sigma_min` to `sigma_max` (Karras et al. 2022, table 1)."""

    def __init__(self, sigma_min: float = 0.002, sigma_max: float = 80.0) -> None:
        if not 0 < sigma_min < sigma_max:
            raise ValueError(f"expected 0 < sigma_min < sigma_max, got sigma_min={sigma_min}, sigma_max={sigma_max}")
        super().__init__(sigma_min, sigma_max)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(_as_time(t))

    def sigma(self, t: Tensor) -> Tensor:
        return _as_time(t)

    def log_snr(self, t: Tensor) -> Tensor:
        return -_as_time(t).log()

    def time(self, log_snr: Tensor) -> Tensor:
        return (-_as_time(log_snr)).exp()

    def drift_coefficient(self, t: Tensor) -> Tensor:
        return torch.zeros_like(_as_time(t))

    def diffusion(self, t: Tensor) -> Tensor:
        return (2 * _as_time(t)).sqrt()


class FlowSDE(SDE):
    """Straight interpolant of rectified flow: α = 1 − t, σ = t (Liu et al. 2022; Lipman et al. 2023).

    The drift −x/(1 − t) is singular at t = 1, where no signal is left, so the interval ends just before.
    """

    def __init__(self, t_min: float = 1e-3, t_max: float = 0.999) -> None:
        if not 0 < t_min < t_max < 1:
            raise ValueError(f"expected 0 < t_min < t_max < 1, got t_min={t_min}, t_max={t_max}")
        super().__init__(t_min, t_max)

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - _as_time(t)

    def sigma(self, t: Tensor) -> Tensor:
        return _as_time(t)

    def log_snr(self, t: Tensor) -> Tensor:
        t = _as_time(t)
        return torch.log1p(-t) - t.log()

    def time(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-_as_time(log_snr))

    def drift_coefficient(self, t: Tensor) -> Tensor:
        return -1 / (1 - _as_time(t))

    def diffusion(self, t: Tensor) -> Tensor:
        t = _as_time(t)
        return (2 * t / (1 - t)).sqrt()


class ReverseSDE(torch.nn.Module):
    """The reverse-time SDE (Anderson 1982; Song et al. 2021, eq. 6) in the form that torchsde integrates.

    torchsde runs forwards, so its time is s = t_max − t, from 0 to t_max − t_min, and its state is flat:
    `(B, D)`, where D is the number of elements of one sample.

    Args:
        sde: the forward SDE.
        model: the score model.
        shape: the event shape that the model wants; `(D,)` if not given.
    """

    noise_type = "diagonal"
    sde_type = "ito"

    def __init__(self, sde: SDE, model: "ScoreModel", shape: tuple[int, ...] | None = None) -> None:
        super().__init__()
        self.sde = sde
        self.model = model
        self.shape = shape

    def f(self, s: Tensor, x: Tensor) -> Tensor:
        """Drift −f(t) x + g(t)² ∇ log p_t(x), `(B, D)`."""
        t = self._time(s)
        event = x if self.shape is None else x.reshape(-1, *self.shape)
        score = self.model.score(event, t).reshape(x.shape)
        return expand_to(self.sde.diffusion(t) ** 2, x) * score - self.sde.drift(x, t)

    def g(self, s: Tensor, x: Tensor) -> Tensor:
        """Diffusion g(t), the same in every coordinate, `(B, D)`."""
        return expand_to(self.sde.diffusion(self._time(s)), x).expand_as(x)

    def _time(self, s: Tensor) -> Tensor:
        # In float64: float32 rounds t_max − s by more than t_min; clamped, since s itself may be rounded.
        return (self.sde.t_max - s.double()).clamp(self.sde.t_min, self.sde.t_max)
