"""Variance-preserving noise in continuous and in discrete time, and the views of each as the other."""

from collections.abc import Iterable

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.numerics.random import SampleNoise
from scoresde.numerics.values import expand_to, whole_number
from scoresde.sde.base import SDE, as_time
from scoresde.sde.betas import cosine_betas, linear_betas
from scoresde.sde.markov import Chain, same_shape
from scoresde.sde.rate import RateSDE
from scoresde.sde.step_distributions import GaussianStep, given_or_drawn
from scoresde.sde.tabulated import LevelTable, as_levels

__all__ = ["DDPMSDE", "CosineDDPMSDE", "DiscreteVPSDE", "GaussianChain", "VariancePreserving", "kept_variance"]


@checked
class GaussianChain(Chain):
    """The Gaussian chain that keeps the variance of data of unit variance (Sohl-Dickstein et al. 2015; Ho et al. 2020).

        q(x_t | x_{t−1}) = N(√(1 − β_t) x_{t−1}, β_t)
        q(x_t | x₀) = N(√ᾱ_t x₀, 1 − ᾱ_t)
        q(x_{t−1} | x_t, x₀) = N(√ᾱ_{t−1} β_t/(1 − ᾱ_t) x₀ + √(1 − β_t) (1 − ᾱ_{t−1})/(1 − ᾱ_t) x_t, β̃_t)
        β̃_t = β_t (1 − ᾱ_{t−1})/(1 − ᾱ_t)
        π = N(0, 1)

    `sde` is its view in continuous time, and the `chain` of a variance-preserving SDE the view back.

    Args:
        betas: The table β_1 ... β_T, at least two numbers between 0 and 1, as of `linear_betas` and `cosine_betas`.

    Raises:
        ValueError: Fewer than two values, or one that is not between 0 and 1.

    References:
        Sohl-Dickstein et al. 2015, Deep unsupervised learning using nonequilibrium thermodynamics,
            https://arxiv.org/abs/1503.03585
        Ho et al. 2020, Denoising diffusion probabilistic models, https://arxiv.org/abs/2006.11239

    >>> chain = GaussianChain([0.1, 0.2, 0.4])
    >>> chain.marginal(torch.ones(1, 2), 3)
    GaussianStep(mean=tensor([[0.6573, 0.6573]]), variance=tensor([[0.5680]]))
    >>> chain.sde().alpha(torch.tensor(1.0))
    tensor(0.6573)
    """

    def __init__(self, betas: Tensor | Iterable[float]) -> None:
        super().__init__(betas)

    @classmethod
    def of(cls, sde: SDE, steps: int) -> "GaussianChain":
        """The chain of a variance-preserving SDE at the times t_max i/T, i = 1 ... T.

        Its kernels, between these times and from the data, are those of the SDE.

        Args:
            sde: An SDE with α² + σ² = 1.
            steps: Number T of steps, at least 2.

        Raises:
            ValueError: Fewer than two steps, or another SDE.
        """
        steps = whole_number("steps", steps, at_least=2)
        times = sde.t_max * torch.arange(steps + 1, dtype=torch.float64) / steps
        total = sde.alpha(times[1:]).square() + sde.sigma(times[1:]).square()
        if not bool((total - 1).abs().max() < 1e-9):
            raise ValueError(
                f"{sde} does not preserve variance, as a GaussianChain does: take the chain of a VPSDE, and put the "
                "model under it by with_sde(model, chain.sde())"
            )
        return cls(sde.transition(times[1:], times[:-1])[1].square())

    def sde(self, t_min: float | None = None) -> "DiscreteVPSDE":
        """The SDE that has the kernels of the chain at the times i/T; see `DiscreteVPSDE`.

        Args:
            t_min: Smallest time that is integrated; 1/T, the first step, if not given.
        """
        return DiscreteVPSDE(self.betas.tolist(), t_min)

    def alpha(self, t: Tensor | int) -> Tensor:
        """Signal scale √ᾱ_t after t steps, 0 to T, of the shape of t, float64."""
        return (0.5 * self._log_signal(self.check_steps(t, 0))).exp()

    def sigma(self, t: Tensor | int) -> Tensor:
        """Noise scale √(1 − ᾱ_t) after t steps, 0 to T, of the shape of t, float64."""
        return self.noise_share(t).sqrt()

    def log_snr(self, t: Tensor | int) -> Tensor:
        """Log-SNR log(α/σ) after t steps, 1 to T, of the shape of t, float64."""
        log_signal = self._log_signal(self.check_steps(t))
        return 0.5 * (log_signal - (-torch.expm1(log_signal)).log())

    def posterior_terms(self, t: Tensor | int) -> tuple[Tensor, Tensor, Tensor]:
        """The factors of x₀ and of x_t in the posterior mean, and its variance β̃_t, of the shape of t, float64."""
        t = self.check_steps(t)
        beta, noise = self.beta(t), self.noise_share(t)
        share = self.noise_share(t - 1) / noise
        return self.alpha(t - 1) * beta / noise, (1 - beta).sqrt() * share, beta * share

    def draw(self, noise: SampleNoise) -> Tensor:
        """The next draw, standard normal."""
        return noise()

    def marginal(self, x0: Tensor, t: Tensor | int) -> GaussianStep:
        t = self.check_steps(t)
        return GaussianStep(expand_to(self.alpha(t), x0) * x0, _rows(self.noise_share(t), x0))

    def transition(self, x: Tensor, t: Tensor | int) -> GaussianStep:
        beta = self.beta(t)
        return GaussianStep(expand_to((1 - beta).sqrt(), x) * x, _rows(beta, x))

    def posterior(self, x: Tensor, x0: Tensor, t: Tensor | int) -> GaussianStep:
        same_shape(x, x0)
        on_data, on_state, variance = self.posterior_terms(t)
        return GaussianStep(expand_to(on_data, x) * x0 + expand_to(on_state, x) * x, _rows(variance, x))

    def prior(self, like: Tensor) -> GaussianStep:
        return GaussianStep(torch.zeros_like(like), torch.ones_like(like[:, :1]))

    def prior_sample(self, shape: tuple[int, ...], noise: Tensor | torch.Generator | None = None) -> Tensor:
        device = None if noise is None else noise.device
        like = noise if isinstance(noise, Tensor) else torch.empty(shape, device=device)
        if like.shape != torch.Size(shape):
            raise ValueError(f"noise has shape {tuple(like.shape)}, expected {tuple(shape)}")
        return given_or_drawn(noise, like)


def _rows(value: Tensor, x: Tensor) -> Tensor:
    """A number of each sample, `()` or `(B,)`, as `(B, 1, ...)` in the dtype of x.

    Raises:
        ValueError: States that are integers, in whose dtype variances would be 0.
    """
    if not x.is_floating_point():
        raise ValueError(f"the states of a GaussianChain have dtype {x.dtype}, expected floating point")
    if not x.ndim:
        raise ValueError("x has shape (), expected a batch (B, ...)")
    return expand_to(value.expand(x.shape[0]) if not value.ndim else value, x)


def kept_variance(log_snr: Tensor) -> tuple[Tensor, Tensor]:
    """The scales α and σ with α² + σ² = 1 where λ is `log_snr`."""
    return torch.sigmoid(2 * as_time(log_snr)).sqrt(), torch.sigmoid(-2 * as_time(log_snr)).sqrt()


class VariancePreserving(RateSDE):
    """An SDE with σ² = 1 − α²: λ = −log(e^B − 1)/2, written so that e^B may overflow."""

    def sigma(self, t: Tensor) -> Tensor:
        return (-torch.expm1(-self._integral(t))).sqrt()

    def log_snr(self, t: Tensor) -> Tensor:
        integral = self._integral(t)
        return -0.5 * (integral + (-torch.expm1(-integral)).log())

    def time(self, log_snr: Tensor) -> Tensor:
        log_snr = as_time(log_snr)
        return self._time_of_integral(torch.logaddexp(torch.zeros_like(log_snr), -2 * log_snr))

    def scales(self, log_snr: Tensor) -> tuple[Tensor, Tensor]:
        return kept_variance(log_snr)

    def diffusion(self, t: Tensor) -> Tensor:
        return self.beta(t).sqrt()

    def transition(self, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        added = self._added(as_time(t), as_time(s))
        return (-0.5 * added).exp(), (-torch.expm1(-added)).sqrt()

    def chain(self, steps: int) -> GaussianChain:
        """The chain of this SDE at the times t_max i/T, i = 1 ... T, whose kernels are the SDE's own.

        Args:
            steps: Number T of steps, at least 2.

        Raises:
            ValueError: Fewer than two steps.
        """
        return GaussianChain.of(self, steps)


@checked
class DiscreteVPSDE(VariancePreserving):
    """The SDE of a discrete-time model that was trained with a table of β (Ho et al. 2020).

    At the times t_i = i/N, i = 1 ... N, the kernels are the chain's own: α² = ᾱ_i = Π_{j≤i} (1 − β_j), and from t_{i−1}
    to t_i, a = √(1 − β_i) and b = √β_i. Between them log α is linear in t (Lu et al. 2022a, for discrete-time models).

        β(t) = −N log(1 − β_i) on (t_{i−1}, t_i]
        B(t) = ∫₀ᵗ β, linear between the times of the table
        α(t) = e^{−B/2}
        σ(t) = √(1 − e^{−B})
        λ(t) = −log(e^B − 1)/2
        t(λ) where B = log(1 + e^{−2λ})
        f(t) = −β/2
        g(t) = √β

    `DiscreteTime(steps, train_steps=N)` is made of the table's times.

    Args:
        betas: The table β_1 ... β_N, at least two numbers between 0 and 1.
        t_min: Smallest time that is integrated; if not given, 1/N, below which such a model was not trained.

    Raises:
        ValueError: Fewer than two values, or one that is not between 0 and 1.

    References:
        Ho et al. 2020, Denoising diffusion probabilistic models, https://arxiv.org/abs/2006.11239
        Lu et al. 2022a, DPM-Solver: a fast ODE solver for diffusion probabilistic model sampling in around 10 steps,
            https://arxiv.org/abs/2206.00927
    """

    def __init__(self, betas: Iterable[float], t_min: float | None = None) -> None:
        self.betas = as_levels("betas", betas)
        wrong = [(i, b) for i, b in enumerate(self.betas, 1) if not 0 < b < 1]
        if wrong:
            raise ValueError(
                f"β_{wrong[0][0]} of {len(self.betas)} is {wrong[0][1]:g}, expected numbers between 0 and 1: at 1 no "
                "signal is left"
            )
        super().__init__(1 / len(self.betas) if t_min is None else t_min, 1.0)
        self._table = LevelTable(0.0, -torch.tensor(self.betas, dtype=torch.float64).neg().log1p())

    def beta(self, t: Tensor) -> Tensor:
        return self._table.slope(as_time(t))

    def _integral(self, t: Tensor) -> Tensor:
        return self._table(as_time(t))

    def _added(self, t: Tensor, s: Tensor) -> Tensor:
        dtype = torch.promote_types(t.dtype, s.dtype)
        return (self._table(t.double()) - self._table(s.double())).to(dtype)

    def _time_of_integral(self, integral: Tensor) -> Tensor:
        return self._table.inverse(integral)

    def chain(self, steps: int | None = None) -> GaussianChain:
        """The chain of this SDE; that of its own table if no number of steps is given.

        Args:
            steps: Number T of steps at the times t_max i/T.

        Raises:
            ValueError: Fewer than two steps.
        """
        return GaussianChain(self.betas) if steps is None else super().chain(steps)


@checked
class DDPMSDE(DiscreteVPSDE):
    """The chain of DDPM: `DiscreteVPSDE` with β_i linear in i (Ho et al. 2020, section 4).

    Args:
        train_steps: Number N of entries of the table.
        beta_min: First entry β_1.
        beta_max: Last entry β_N.
        t_min: Smallest time that is integrated; 1/N if not given.

    Raises:
        ValueError: Fewer than two entries, or one that is not between 0 and 1.

    References:
        Ho et al. 2020, Denoising diffusion probabilistic models, https://arxiv.org/abs/2006.11239
    """

    def __init__(
        self, train_steps: int = 1000, beta_min: float = 1e-4, beta_max: float = 0.02, t_min: float | None = None
    ) -> None:
        train_steps = whole_number("train_steps", train_steps, at_least=2)
        super().__init__(linear_betas(train_steps, beta_min, beta_max).tolist(), t_min)


@checked
class CosineDDPMSDE(DiscreteVPSDE):
    """The chain of improved DDPM: `DiscreteVPSDE` with the cosine table (Nichol & Dhariwal 2021, eq. 17).

    It is `CosineSDE` in N steps, but for the last of them, where β is clipped.

    Args:
        train_steps: Number N of entries of the table.
        s: Offset of the angle, which keeps the first β from being too small.
        beta_max: Largest entry.
        t_min: Smallest time that is integrated; 1/N if not given.

    Raises:
        ValueError: Fewer than two entries, or an offset or a largest entry that is not between 0 and 1.

    References:
        Nichol & Dhariwal 2021, Improved denoising diffusion probabilistic models, https://arxiv.org/abs/2102.09672
    """

    def __init__(
        self, train_steps: int = 1000, s: float = 0.008, beta_max: float = 0.999, t_min: float | None = None
    ) -> None:
        super().__init__(cosine_betas(train_steps, s, beta_max).tolist(), t_min)
