"""Forward SDEs ``dx = f(t) x dt + g(t) dw`` with Gaussian kernels ``p(x_t | x_0) = N(α(t) x_0, σ(t)² I)``.

A new SDE needs `alpha` and `sigma` only: drift and diffusion follow by automatic differentiation and the
inverse of the log signal-to-noise ratio by bisection. The SDEs below override what they know in closed form.

References: Song et al. 2021 (arXiv:2011.13456) for VP, sub-VP and VE; Nichol & Dhariwal 2021
(arXiv:2102.09672) for the cosine schedule; Karras et al. 2022 (arXiv:2206.00364) for EDM; Liu et al. 2022
(arXiv:2209.03003) for rectified flow.
"""

import copy
import inspect
import math
from abc import ABCMeta, abstractmethod
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from scoresde.arguments import checked

if TYPE_CHECKING:
    from scoresde.score import ScoreModel

__all__ = [
    "DDPMSDE",
    "EDMSDE",
    "NCSNSDE",
    "SDE",
    "VESDE",
    "VPSDE",
    "CosineSDE",
    "DiscreteVESDE",
    "DiscreteVPSDE",
    "FlowSDE",
    "ReverseSDE",
    "SubVPSDE",
    "expand_to",
]

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


class _Checked(ABCMeta):
    """Looks at the ends of an SDE's interval once all of its constructors, a user's too, have run."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        sde = super().__call__(*args, **kwargs)
        sde._check_ends()
        return sde

    @property
    def __signature__(cls) -> inspect.Signature:
        """The constructor's, for help and tooltips, which would show that of `__call__`."""
        whole = inspect.signature(cls.__init__)  # type: ignore[misc]
        return whole.replace(parameters=list(whole.parameters.values())[1:])


@checked
class SDE(metaclass=_Checked):
    """A forward SDE that is affine in x, on `[t_min, t_max]`; λ = log(α/σ) decreases with t.

    What the base class derives is computed in float64, whatever the dtype of t: 1 − α² of a float32 α may be 0.

    Args:
        t_min: smallest time that is integrated; samplers stop at `t_min_sampling`, which is the same unless
            the class says otherwise.
        t_max: largest time that is integrated.

    Raises:
        ValueError: times that are out of order, no noise at t_min or no signal at t_max.
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
        """Where solves begin unless told otherwise: t_max, or the earlier time from which nothing is left but noise.

        That is where σ/α is 2²⁴ times the standard deviation of the data, as much as float32 can tell, or 2⁵³ if that
        is not known. Beyond it all kernels are the same, and steps would be spent on nothing.
        """
        most = 53 * math.log(2) if std is None else 24 * math.log(2) + math.log(std)
        if float(self.log_snr(torch.tensor(self.t_max, dtype=torch.float64))) >= -most:
            return self.t_max
        return float(self.time(torch.tensor(-most, dtype=torch.float64)))

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Signal scale α(t), of the shape of `t`."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Noise scale σ(t), of the shape of `t`."""

    def log_snr(self, t: Tensor) -> Tensor:
        """λ(t) = log(α(t)/σ(t)), of the shape of `t`."""
        t = _as_time(t)
        fine = t.double()
        return (self.alpha(fine).log() - self.sigma(fine).log()).to(t.dtype)

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
        t = _as_time(t)
        return _derivative(lambda s: self.alpha(s).log(), t.double()).to(t.dtype)

    def diffusion(self, t: Tensor) -> Tensor:
        """g(t) = σ √(−2 dλ/dt), of the shape of `t`.

        The same as √(dσ²/dt − 2 f σ²) (Kingma et al. 2021), with no difference of large numbers.
        """
        t = _as_time(t)
        fine = t.double()
        return (self.sigma(fine) * (-2 * _derivative(self.log_snr, fine)).sqrt()).to(t.dtype)

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """f(t) x for x `(B, ...)` and t `()` or `(B,)`."""
        return expand_to(self.drift_coefficient(t), x) * x

    def transition(self, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """(a, b) of the kernel from an earlier time s to a later time t, p(x_t | x_s) = N(a x_s, b² I)."""
        t, s = _as_time(t), _as_time(s)
        late, early = t.double(), s.double()
        ratio = self.alpha(late) / self.alpha(early)
        spread = self.sigma(late) * (-torch.expm1(2 * (self.log_snr(late) - self.log_snr(early)))).sqrt()
        dtype = torch.promote_types(t.dtype, s.dtype)
        return ratio.to(dtype), spread.to(dtype)

    def perturb(self, x0: Tensor, t: Tensor, noise: Tensor | torch.Generator | None = None) -> Tensor:
        """A draw of x_t = α(t) x₀ + σ(t) ε for x₀ `(B, ...)` and t `()` or `(B,)`.

        `noise` is ε itself, or the generator to draw it with.
        """
        t = self.check_time(t).double()
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
        mine, its = (
            {k: v for k, v in vars(s).items() if k not in ends and not k.startswith("_")} for s in (self, model.sde)
        )
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
        other._check_ends()
        return other

    def _check_ends(self) -> None:
        ends = torch.tensor([self.t_min, self.t_max], dtype=torch.float64)
        sigma, alpha = float(self.sigma(ends)[0]), float(self.alpha(ends)[1])
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


class _Levels(tuple[float, ...]):
    """Numbers of a table, written in short."""

    def __repr__(self) -> str:
        return f"[{self[0]:g}, ..., {self[-1]:g}] ({len(self)})"


def _levels(name: str, values: Iterable[float]) -> _Levels:
    levels = _Levels(float(v) for v in values)
    if len(levels) < 2:
        raise ValueError(f"{name} has {len(levels)} values, expected at least 2")
    return levels


class _Table:
    """A function that is linear between its values at 0, 1/N, ..., 1 and goes straight on beyond; float64 inside.

    Args:
        start: the value at 0.
        rises: `(N,)` float64, positive, by how much it grows on each piece.
    """

    def __init__(self, start: float, rises: Tensor) -> None:
        self._pieces = len(rises)
        values = start + torch.cat((rises.new_zeros(1), rises.cumsum(0)))
        self._on = {rises.device: (values, rises)}

    def _tensors(self, device: torch.device) -> tuple[Tensor, Tensor]:
        # Once for each device: a copy to an accelerator would wait for it.
        if device not in self._on:
            values, rises = next(iter(self._on.values()))
            self._on[device] = values.to(device), rises.to(device)
        return self._on[device]

    def _piece(self, place: Tensor) -> Tensor:
        # The end of a piece belongs to it.
        return (place.detach().ceil() - 1).clamp(0, self._pieces - 1).long()

    def __call__(self, t: Tensor) -> Tensor:
        values, rises = self._tensors(t.device)
        place = t.double() * self._pieces
        i = self._piece(place)
        return (values[i] + (place - i) * rises[i]).to(t.dtype)

    def slope(self, t: Tensor) -> Tensor:
        """The derivative, at an end of pieces that of the earlier one."""
        _, rises = self._tensors(t.device)
        return (self._pieces * rises[self._piece(t.double() * self._pieces)]).to(t.dtype)

    def inverse(self, y: Tensor) -> Tensor:
        """Where it has the value y."""
        values, rises = self._tensors(y.device)
        fine = y.double()
        i = torch.searchsorted(values[1:-1], fine.detach().contiguous())
        return ((i + (fine - values[i]) / rises[i]) / self._pieces).to(y.dtype)


def _noise(noise: Tensor | torch.Generator | None, like: Tensor) -> Tensor:
    if isinstance(noise, Tensor):
        if noise.shape != like.shape:
            raise ValueError(f"noise has shape {tuple(noise.shape)}, expected {tuple(like.shape)}")
        return noise
    return torch.randn(like.shape, dtype=like.dtype, device=like.device, generator=noise)


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
        return self.beta_min + (self.beta_max - self.beta_min) * _as_time(t)

    def _integral(self, t: Tensor) -> Tensor:
        t = _as_time(t)
        return t * (self.beta_min + 0.5 * (self.beta_max - self.beta_min) * t)

    def _added(self, t: Tensor, s: Tensor) -> Tensor:
        return (t - s) * (self.beta_min + 0.5 * (self.beta_max - self.beta_min) * (t + s))

    def _time_of_integral(self, integral: Tensor) -> Tensor:
        # The root of a quadratic in its form without cancellation.
        slope = self.beta_max - self.beta_min
        root = (self.beta_min**2 + 2 * slope * integral).sqrt()
        # Where β_min and B are 0, so is the time.
        return 2 * integral / (self.beta_min + root).clamp_min(torch.finfo(root.dtype).tiny)


class _Preserving(_Beta):
    """σ² = 1 − α²: λ = −log(e^B − 1)/2, written so that e^B need not be a number."""

    def sigma(self, t: Tensor) -> Tensor:
        return (-torch.expm1(-self._integral(t))).sqrt()

    def log_snr(self, t: Tensor) -> Tensor:
        integral = self._integral(t)
        return -0.5 * (integral + (-torch.expm1(-integral)).log())

    def time(self, log_snr: Tensor) -> Tensor:
        log_snr = _as_time(log_snr)
        return self._time_of_integral(torch.logaddexp(torch.zeros_like(log_snr), -2 * log_snr))

    def diffusion(self, t: Tensor) -> Tensor:
        return self.beta(t).sqrt()

    def transition(self, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        added = self._added(_as_time(t), _as_time(s))
        return (-0.5 * added).exp(), (-torch.expm1(-added)).sqrt()


class VPSDE(_Preserving, _LinearBeta):
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
        level = -_as_time(log_snr)
        below, above = level.clamp(max=0), level.clamp(min=0)
        small = torch.asinh(0.5 * below.exp())
        large = above + (0.5 * (1 + (1 + 4 * (-2 * above).exp()).sqrt())).log()
        return self._time_of_integral(2 * torch.where(level > 0, large, small))

    def diffusion(self, t: Tensor) -> Tensor:
        return (self.beta(t) * -torch.expm1(-2 * self._integral(t))).sqrt()

    def transition(self, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        # b² = (1 − a²)(1 − e^{−B(t) − B(s)})
        t, s = _as_time(t), _as_time(s)
        added = self._added(t, s)
        both = self._integral(t) + self._integral(s)
        return (-0.5 * added).exp(), (torch.expm1(-added) * torch.expm1(-both)).sqrt()


@checked
class DiscreteVPSDE(_Preserving):
    """A table of β, as a discrete-time model is trained with (Ho et al. 2020), as an SDE.

    At the times t_i = i/N, i = 1 ... N, the kernels are the chain's own: α² = ᾱ_i = Π (1 − β_j), and from t_{i−1} to
    t_i a = √(1 − β_i), b = √β_i. Between them log α is linear in t (as in Lu et al. 2022a, for discrete-time models),
    so that β(t) = −N log(1 − β_i) on (t_{i−1}, t_i]. `DiscreteTime(steps, train_steps=N)` is made of the table's
    times.

    Args:
        betas: β_1 ... β_N, at least two numbers between 0 and 1.
        t_min: 1/N if not given, the first time of the table, below which such a model was not trained.

    Raises:
        ValueError: fewer than two values, or one that is not between 0 and 1.
    """

    def __init__(self, betas: Iterable[float], t_min: float | None = None) -> None:
        self.betas = _levels("betas", betas)
        wrong = [(i, b) for i, b in enumerate(self.betas, 1) if not 0 < b < 1]
        if wrong:
            raise ValueError(
                f"β_{wrong[0][0]} of {len(self.betas)} is {wrong[0][1]:g}, expected numbers between 0 and 1: at 1 no "
                "signal is left"
            )
        super().__init__(1 / len(self.betas) if t_min is None else t_min, 1.0)
        self._table = _Table(0.0, -torch.tensor(self.betas, dtype=torch.float64).neg().log1p())

    def beta(self, t: Tensor) -> Tensor:
        return self._table.slope(_as_time(t))

    def _integral(self, t: Tensor) -> Tensor:
        return self._table(_as_time(t))

    def _added(self, t: Tensor, s: Tensor) -> Tensor:
        dtype = torch.promote_types(t.dtype, s.dtype)
        return (self._table(t.double()) - self._table(s.double())).to(dtype)

    def _time_of_integral(self, integral: Tensor) -> Tensor:
        return self._table.inverse(integral)


@checked
class DDPMSDE(DiscreteVPSDE):
    """`DiscreteVPSDE` with β linear in i, as in Ho et al. 2020, section 4.

    Args:
        train_steps: N.
        beta_min: β_1.
        beta_max: β_N.
        t_min: 1/N if not given.
    """

    def __init__(
        self, train_steps: int = 1000, beta_min: float = 1e-4, beta_max: float = 0.02, t_min: float | None = None
    ) -> None:
        if train_steps < 2:
            raise ValueError(f"train_steps is {train_steps}, expected an integer of at least 2")
        super().__init__(torch.linspace(beta_min, beta_max, train_steps, dtype=torch.float64).tolist(), t_min)


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


@checked
class DiscreteVESDE(SDE):
    """A table of noise levels σ_1 < ... < σ_N (Song & Ermon 2019) as an SDE: α = 1.

    At the times t_i = i/N, i = 1 ... N, σ is σ_i; between them log σ is linear in t, so that a geometric table is the
    VE SDE. `DiscreteTime(steps, train_steps=N)` is made of the table's times.

    Args:
        sigmas: the levels, at least two, positive, from the smallest or from the largest.
        t_min: 1/N if not given, the first time of the table.

    Raises:
        ValueError: fewer than two levels, one that is not positive and finite, or levels that are in no order.
    """

    def __init__(self, sigmas: Iterable[float], t_min: float | None = None) -> None:
        levels = _levels("sigmas", sigmas)
        levels = levels if levels[0] < levels[-1] else _Levels(reversed(levels))
        log_sigma = torch.tensor(levels, dtype=torch.float64).log()
        if not bool((log_sigma.diff() > 0).all() & log_sigma.isfinite().all()):
            raise ValueError(
                f"sigmas are {levels}, expected positive numbers that increase, or decrease, from each to the next"
            )
        self.sigmas = levels
        super().__init__(1 / len(levels) if t_min is None else t_min, 1.0)
        rises = log_sigma.diff()
        # Straight on below the first of them.
        self._table = _Table(float(log_sigma[0] - rises[0]), torch.cat((rises[:1], rises)))

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(_as_time(t))

    def sigma(self, t: Tensor) -> Tensor:
        return self._table(_as_time(t)).exp()

    def log_snr(self, t: Tensor) -> Tensor:
        return -self._table(_as_time(t))

    def time(self, log_snr: Tensor) -> Tensor:
        return self._table.inverse(-_as_time(log_snr))

    def drift_coefficient(self, t: Tensor) -> Tensor:
        return torch.zeros_like(_as_time(t))

    def diffusion(self, t: Tensor) -> Tensor:
        return self.sigma(t) * (2 * self._table.slope(_as_time(t))).sqrt()


@checked
class NCSNSDE(DiscreteVESDE):
    """`DiscreteVESDE` with levels in a geometric sequence, as in Song & Ermon 2019, section 4.

    Args:
        levels: N.
        sigma_min: the smallest level.
        sigma_max: the largest.
        t_min: 1/N if not given.
    """

    def __init__(
        self, levels: int = 10, sigma_min: float = 0.01, sigma_max: float = 1.0, t_min: float | None = None
    ) -> None:
        if not 0 < sigma_min < sigma_max < math.inf:
            raise ValueError(f"expected 0 < sigma_min < sigma_max, got sigma_min={sigma_min}, sigma_max={sigma_max}")
        if levels < 2:
            raise ValueError(f"levels is {levels}, expected an integer of at least 2")
        ends = (math.log(sigma_min), math.log(sigma_max))
        super().__init__(torch.linspace(*ends, levels, dtype=torch.float64).exp().tolist(), t_min)


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


@checked
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


@checked
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
