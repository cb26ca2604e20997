"""The base of forward SDEs dx = f(t) x dt + g(t) dw with Gaussian kernels p(x_t | x₀) = N(α(t) x₀, σ(t)² I).

A new SDE needs `alpha` and `sigma` only: drift and diffusion follow by automatic differentiation and the inverse of the
log signal-to-noise ratio by bisection. The SDEs of `variance_preserving`, `schedules`, `chains` and `levels` override
what they know in closed form.
"""

import copy
import inspect
import math
from abc import ABCMeta, abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.numerics.values import described, equal, expand_to
from scoresde.sde.reverse import ReverseSDE, Scored

__all__ = ["SDE", "as_time"]

_Self = TypeVar("_Self", bound="SDE")
_ENDS = ("t_min", "t_max", "t_min_sampling")


def as_time(t: Tensor | float) -> Tensor:
    """The time as a tensor; a number becomes float64."""
    return t if isinstance(t, Tensor) else torch.as_tensor(t, dtype=torch.float64)


def _derivative(function: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """Elementwise derivative of `function` at `t`."""
    # Forward AD promotes a 0-dim float32 tangent to float64.
    tangent: Tensor = torch.func.jvp(function, (t,), (torch.ones_like(t),))[1]
    return tangent.to(t.dtype)


def _log_standard_normal(z: Tensor) -> Tensor:
    return -0.5 * (z**2 + math.log(2 * math.pi))


class _Checked(ABCMeta):
    """Checks the ends of an SDE's interval once all of its constructors, a user's too, have run.

    `SDE.__init__` cannot: α and σ may use attributes that a subclass sets after it has called it.
    """

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        sde = super().__call__(*args, **kwargs)
        sde._check_ends()
        return sde

    @property
    def __signature__(cls) -> inspect.Signature:
        """The constructor's signature, for help and tooltips, which would show that of `__call__`."""
        whole = inspect.signature(cls.__init__)  # type: ignore[misc]
        return whole.replace(parameters=list(whole.parameters.values())[1:])


@checked
class SDE(metaclass=_Checked):
    """A forward SDE that is affine in x, on `[t_min, t_max]`; λ = log(α/σ) decreases with t.

    A subclass gives `alpha` and `sigma`. Everything else is derived in float64, whatever the dtype of t: 1 − α² of a
    float32 α may be 0.

        λ(t) = log(α/σ)             `log_snr`
        t(λ), by bisection          `time`
        σ/α = e^{−λ}                `noise_level`
        f(t) = d log α/dt           `drift_coefficient`
        g(t) = σ √(−2 dλ/dt)        `diffusion`

    Two SDEs are equal if they are of one class and have the same values; their text rounds these for the eye.

    Args:
        t_min: Smallest time that is integrated.
        t_max: Largest time that is integrated.
        t_min_sampling: Time at which samplers stop; `t_min` if not given.

    Raises:
        ValueError: Times that are out of order, no noise at t_min or no signal at t_max.

    >>> class Linear(SDE):
    ...     def alpha(self, t):
    ...         return 1 - t
    ...
    ...     def sigma(self, t):
    ...         return t
    >>> sde = Linear(0.001, 0.999)
    >>> t = torch.tensor(0.2, dtype=torch.float64)
    >>> print(f"{sde.noise_level(t):.4f} {sde.drift_coefficient(t):.4f} {sde.time(sde.log_snr(t)):.4f}")
    0.2500 -1.2500 0.2000
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

    def t_noise(self, std: float | None = None) -> float:
        """The time at which solves begin by default: t_max, or the earlier time from which nothing but noise is left.

        There σ/α is 2²⁴ times the standard deviation of the data, as much as float32 can tell apart, or 2⁵³ if that is
        not known. Beyond it all kernels are the same, and steps would be spent on nothing.

        Args:
            std: Standard deviation of the data.
        """
        most = 53 * math.log(2) if std is None else 24 * math.log(2) + math.log(std)
        if float(self.log_snr(torch.tensor(self.t_max, dtype=torch.float64)).detach()) >= -most:
            return self.t_max
        return float(self.time(torch.tensor(-most, dtype=torch.float64)))

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Signal scale α(t), of the shape of `t`."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Noise scale σ(t), of the shape of `t`."""

    def log_snr(self, t: Tensor) -> Tensor:
        """Log-SNR λ(t) = log(α(t)/σ(t)), of the shape of `t`."""
        t = as_time(t)
        fine = t.double()
        return (self.alpha(fine).log() - self.sigma(fine).log()).to(t.dtype)

    def noise_level(self, t: Tensor) -> Tensor:
        """Noise level σ(t)/α(t) = e^{−λ(t)}, the noise scale of x/α, of the shape of `t`."""
        return (-self.log_snr(t)).exp()

    def time(self, log_snr: Tensor) -> Tensor:
        """The inverse of `log_snr`, by bisection in float64 over `[0, 2 t_max]`."""
        target = as_time(log_snr)
        wanted = target.detach().double()
        low, high = torch.zeros_like(wanted), torch.full_like(wanted, 2 * self.t_max)
        # A step halves the bracket, so that 128 reach the spacing of float64 even next to t = 0. NaN beyond the end of
        # a schedule counts as "too noisy".
        for _ in range(128):
            middle = (low + high) / 2
            above = self.log_snr(middle) > wanted
            low, high = torch.where(above, middle, low), torch.where(above, high, middle)
        return ((low + high) / 2).to(target.dtype)

    def drift_coefficient(self, t: Tensor) -> Tensor:
        """Drift coefficient f(t) = d log α/dt, of the shape of `t` (Kingma et al. 2021, eq. 18, written for α)."""
        t = as_time(t)
        return _derivative(lambda s: self.alpha(s).log(), t.double()).to(t.dtype)

    def diffusion(self, t: Tensor) -> Tensor:
        """Diffusion g(t) = σ √(−2 dλ/dt), of the shape of `t`.

        It equals √(dσ²/dt − 2 f σ²) (Kingma et al. 2021), without a difference of large numbers.
        """
        t = as_time(t)
        fine = t.double()
        return (self.sigma(fine) * (-2 * _derivative(self.log_snr, fine)).sqrt()).to(t.dtype)

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """Drift f(t) x for x `(B, ...)` and t `()` or `(B,)`."""
        return expand_to(self.drift_coefficient(t), x) * x

    def transition(self, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """Scales (a, b) of the kernel from an earlier time s to a later time t, p(x_t | x_s) = N(a x_s, b² I)."""
        t, s = as_time(t), as_time(s)
        late, early = t.double(), s.double()
        ratio = self.alpha(late) / self.alpha(early)
        spread = self.sigma(late) * (-torch.expm1(2 * (self.log_snr(late) - self.log_snr(early)))).sqrt()
        dtype = torch.promote_types(t.dtype, s.dtype)
        return ratio.to(dtype), spread.to(dtype)

    def perturb(self, x0: Tensor, t: Tensor, noise: Tensor | torch.Generator | None = None) -> Tensor:
        """A draw of x_t = α(t) x₀ + σ(t) ε.

        Args:
            x0: Data `(B, ...)` in model space.
            t: Times, `()` or `(B,)`.
            noise: The noise ε of the shape of `x0`, or the generator to draw it with.

        Raises:
            ValueError: A time outside `[t_min, t_max]`, or noise of another shape.
        """
        t = self.check_time(t).double()
        return expand_to(self.alpha(t), x0) * x0 + expand_to(self.sigma(t), x0) * _noise(noise, x0)

    def prior_sample(self, shape: tuple[int, ...], noise: Tensor | torch.Generator | None = None) -> Tensor:
        """Draws `(B, ...)` of the prior N(0, σ(t_max)² I), in the dtype and on the device of `noise`.

        Raises:
            ValueError: Noise of another shape.
        """
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

    def reverse(self, model: Scored) -> ReverseSDE:
        """The reverse-time SDE driven by `model`, for torchsde; its state is flat, `(B, D)`.

        Raises:
            ValueError: A model of another SDE; see `scoresde.score.with_sde`.
        """
        # Its interval may be shorter, as `with_sde` makes it.
        if not (isinstance(model.sde, SDE) and self._same_kernels(model.sde)):
            raise ValueError(f"the model is of {model.sde!r}, not of {self!r}: use with_sde(model, sde) first")
        return ReverseSDE(model.sde, model, model.shape)

    def between(self: _Self, t_min: float, t_max: float) -> _Self:
        """The same SDE on another interval.

        Raises:
            ValueError: Times that are out of order, no noise at t_min or no signal at t_max.
        """
        other = copy.copy(self)
        sampling = max(t_min, self.t_min_sampling)
        SDE.__init__(other, t_min, t_max, sampling if sampling < t_max else t_min)
        other._check_ends()
        return other

    def scales(self, log_snr: Tensor) -> tuple[Tensor, Tensor]:
        """The scales α and σ where λ is `log_snr`, of its shape each, also beyond the ends of the interval."""
        log_snr = as_time(log_snr)
        t = self.time(log_snr.double())
        return self.alpha(t).to(log_snr.dtype), self.sigma(t).to(log_snr.dtype)

    def reaching(self, log_snr: float) -> "SDE":
        """This SDE, with scales that go on beyond t_max until λ is `log_snr`.

        They do so of themselves, unless a schedule ends.
        """
        return self

    def _check_ends(self) -> None:
        ends = torch.tensor([self.t_min, self.t_max], dtype=torch.float64)
        sigma, alpha = (float(v.detach()) for v in (self.sigma(ends)[0], self.alpha(ends)[1]))
        if not sigma > 0:
            raise ValueError(
                f"σ is {sigma:g} at t_min={self.t_min:g} of {self}, expected some noise, without which the log-SNR is "
                f"infinite: give a larger t_min, such as {1e-5 * self.t_max:g}"
            )
        if not alpha > 0:
            raise ValueError(
                f"α is {alpha:g} at t_max={self.t_max:g} of {self}, expected some signal, without which the log-SNR is "
                "infinite: end a little earlier"
            )

    def check_time(self, t: Tensor | float) -> Tensor:
        """The time `t` as a tensor.

        Values on an accelerator are not looked at, since that would wait for the device.

        Raises:
            ValueError: A time outside `[t_min, t_max]`, where it is a number or on the CPU.
        """
        t = as_time(t)
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
        return described(self, digits=6)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SDE):
            return NotImplemented
        return self._same_kernels(other) and all(getattr(self, name) == getattr(other, name) for name in _ENDS)

    def __hash__(self) -> int:
        return hash((type(self), *(getattr(self, name) for name in _ENDS)))

    def _same_kernels(self, other: "SDE") -> bool:
        """True if the other is of this class and has the same values, whatever the interval."""
        mine, its = (
            {k: v for k, v in vars(s).items() if k not in _ENDS and not k.startswith("_")} for s in (self, other)
        )
        return type(self) is type(other) and equal(mine, its)


def _noise(noise: Tensor | torch.Generator | None, like: Tensor) -> Tensor:
    if isinstance(noise, Tensor):
        if noise.shape != like.shape:
            raise ValueError(f"noise has shape {tuple(noise.shape)}, expected {tuple(like.shape)}")
        return noise
    return torch.randn(like.shape, dtype=like.dtype, device=like.device, generator=noise)
