"""Published multistep solvers by their names: each a setting of `Multistep`.

A step goes from t_i to t_{i+1}. α_i and σ_i are the signal and noise scale at t_i, s_i = σ_i/α_i is the noise level,
λ_i = −log s_i the log-SNR, h = λ_{i+1} − λ_i the length of the step, D_i = E[x₀ | x_i] the data prediction and
ε_i = (x_i − α_i D_i)/σ_i the noise prediction. Every method here solves the linear part of the ODE or SDE exactly; they
differ in what they hold constant or interpolate:

    x_{i+1} = (σ_{i+1}/σ_i) x_i + σ_{i+1} ∫ e^λ D dλ            (in SignalLevel: DDIM, DPM-Solver++, UniPC)
    x_{i+1} = (α_{i+1}/α_i) x_i + α_{i+1} ∫ ε ds                (in NoiseLevel: DDIM, DEIS, iPNDM)

Formulas are those of steps that have all their values. What the first steps do, and a step that is much longer than
those before it, is said in `Multistep`.

Two solvers of the same settings are equal, whatever they are called: `DDPM() == DDIM(eta=1.0)`.
"""

from collections.abc import Iterator
from typing import Any, Literal, cast

from torch import Tensor

from scoresde.arguments import checked
from scoresde.numerics.values import described, one_of
from scoresde.sampling.adams import Multistep
from scoresde.sampling.adams_plan import WeightKind
from scoresde.sampling.predictor_corrector import Ancestral, PredictorCorrector
from scoresde.sampling.solver import Noise
from scoresde.sampling.stochasticity import Eta, IntervalTau, Stochasticity
from scoresde.score import ScoreModel
from scoresde.sde.coordinates import LogSNR, NoiseLevel, SignalLevel, Time

__all__ = ["DDIM", "DDPM", "DEIS", "IPNDM", "DPMSolverPP", "SASolver", "UniPC"]


@checked
class DDIM(Multistep):
    """Denoising diffusion implicit models: the data held constant over a step, with any share of DDPM's noise.

    With D and ε constant, the mean of p(x_{i+1} | x_i, x₀ = D_i) is a combination of the two, and a part ς² of its
    variance may be drawn afresh (eq. 12 and 16):

        x_{i+1} = α_{i+1} D_i + √(σ_{i+1}² − ς²) ε_i + ς z,
        ς = η (σ_{i+1}/σ_i) √(σ_i² − (α_i/α_{i+1})² σ_{i+1}²).

    For η = 0 it is Euler's step of dx̂ = ε ds, first order in h. For η > 0 the step has τ with
    e^{−2 ∫ τ² dλ} = 1 − η² (1 − e^{−2h}), which keeps the marginals of p(x_t | x₀) exactly, and is of first weak order.

    Args:
        eta: The share η of the noise, 0 (the ODE) to 1 (`DDPM`).

    >>> import torch
    >>> from scoresde.sampling import DDIM, KarrasGrid
    >>> from scoresde.score import GaussianMixtureScore
    >>> from scoresde.sde import VPSDE
    >>> sde = VPSDE()
    >>> model = GaussianMixtureScore(torch.ones(2), torch.tensor([[-1.0], [1.0]]), torch.tensor([0.1, 0.2]), sde)
    >>> start, z, times = torch.randn(5, 1).double(), torch.randn(5, 1).double(), KarrasGrid(6)(sde)
    >>> *_, solved = DDIM(eta=0.4).solve(model, start, times, lambda *clock: z)
    >>> x, alpha, sigma = start, sde.alpha(times), sde.sigma(times)
    >>> for i in range(6):
    ...     spread = 0.4 * sigma[i + 1] / sigma[i] * (sigma[i]**2 - (alpha[i] / alpha[i + 1] * sigma[i + 1])**2).sqrt()
    ...     data, noise = model.denoise(x, times[i]), model.noise(x, times[i])
    ...     x = alpha[i + 1] * data + (sigma[i + 1]**2 - spread**2).sqrt() * noise + spread * z
    >>> torch.allclose(solved, x, rtol=1e-9, atol=1e-9)
    True

    References:
        Song, Meng & Ermon 2021, Denoising diffusion implicit models, https://arxiv.org/abs/2010.02502
    """

    def __init__(self, eta: float = 0.0) -> None:
        super().__init__(1, coordinate=SignalLevel(), interpolation=LogSNR(), tau=Eta(eta))

    @property
    def eta(self) -> float:
        """The share η of the noise."""
        assert isinstance(self.tau, Eta)
        return self.tau.eta

    def __repr__(self) -> str:
        return described(self, "eta")


@checked
class DDPM(DDIM):
    """Ancestral sampling of denoising diffusion probabilistic models: `DDIM` with η = 1, on any grid and SDE.

    A step draws from the posterior of the forward process between two times of the grid, with x₀ replaced by D_i
    (eq. 6 and 7). With a = α_i/α_{i+1} and b² = σ_i² − a² σ_{i+1}², the kernel of the forward process,

        x_{i+1} = (α_{i+1} b²/σ_i²) D_i + (a σ_{i+1}²/σ_i²) x_i + (σ_{i+1} b/σ_i) z.

    It is exact if the data are one point; `DDPM("forward")` has the paper's other variance.

    >>> import torch
    >>> from scoresde.sampling import DDPM, UniformTime
    >>> from scoresde.score import GaussianMixtureScore
    >>> from scoresde.sde import VPSDE
    >>> sde = VPSDE()
    >>> model = GaussianMixtureScore(torch.ones(2), torch.tensor([[-1.0], [1.0]]), torch.tensor([0.1, 0.2]), sde)
    >>> start, z, times = torch.randn(5, 1).double(), torch.randn(5, 1).double(), UniformTime(6)(sde)
    >>> *_, solved = DDPM().solve(model, start, times, lambda *clock: z)
    >>> x, alpha, variance = start, sde.alpha(times), sde.sigma(times)**2
    >>> for i in range(6):
    ...     a = alpha[i] / alpha[i + 1]
    ...     b = (variance[i] - a**2 * variance[i + 1]).sqrt()
    ...     mean = alpha[i + 1] * b**2 * model.denoise(x, times[i]) + a * variance[i + 1] * x
    ...     x = mean / variance[i] + (variance[i + 1] / variance[i]).sqrt() * b * z
    >>> torch.allclose(solved, x, rtol=1e-9, atol=1e-9)
    True

    Args:
        variance: Variance of a step, as for `Ancestral`. If not given, what the model has learned if it has learned
            variances, and that of the posterior, as above, if it has not; then it is `DDIM` with η = 1, to which it is
            equal.

    References:
        Ho et al. 2020, Denoising diffusion probabilistic models, https://arxiv.org/abs/2006.11239
        Nichol & Dhariwal 2021, Improved denoising diffusion probabilistic models, https://arxiv.org/abs/2102.09672
    """

    def __init__(self, variance: Literal["posterior", "forward", "learned", "optimal"] | None = None) -> None:
        super().__init__(1.0)
        # Not among the settings if it is not given, so that it is equal to DDIM then.
        if variance is not None:
            object.__setattr__(self, "ancestral", Ancestral(variance))

    @property
    def variance(self) -> str | None:
        """The variance of a step; None for what the model has learned, or else the posterior's."""
        given: Ancestral | None = vars(self).get("ancestral")
        return None if given is None else given.variance

    def general(self) -> Multistep:
        """The setting of `Multistep` that it is; itself with another variance than the posterior's."""
        return self if self.variance not in (None, "posterior") else DDIM(1.0).general()

    @property
    def reverse_sde(self) -> bool:
        return self.variance in (None, "posterior")

    @property
    def takes_learned(self) -> bool:
        return self.variance is None

    def solve(self, model: ScoreModel, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        variance = self.variance or ("learned" if model.learns_variance else "posterior")
        if variance == "posterior":
            return super().solve(model, x, times, noise)
        return PredictorCorrector(Ancestral(cast(Any, variance))).solve(model, x, times, noise)

    def __repr__(self) -> str:
        return "DDPM()" if self.variance is None else f"DDPM({self.variance!r})"


@checked
class DPMSolverPP(Multistep):
    """DPM-Solver++ 1M, 2M and 3M, and their SDE forms: the data interpolated in the log-SNR.

    The exact solution of the ODE (eq. 8) is

        x_{i+1} = (σ_{i+1}/σ_i) x_i + σ_{i+1} ∫ e^λ D dλ,

    where D is replaced by a polynomial in λ through its last `order` values, and e^λ is integrated exactly. The second
    order has half of the difference of two values instead of its exact weight (algorithm 2): with r = h_{i−1}/h_i,

        x_{i+1} = (σ_{i+1}/σ_i) x_i − α_{i+1} (e^{−h} − 1) ((1 + 1/(2r)) D_i − 1/(2r) D_{i−1}).

    In the SDE form the reverse SDE has noise τ: x_i is multiplied by e^{−τ² h} as well, e^{−(1 + τ²) h} takes the place
    of e^{−h}, and σ_{i+1} √(1 − e^{−2 τ² h}) z is added; the weak order is 2 at most. The third order has the weights
    that make it one.

    Args:
        order: The number of values that a step uses, 1 to 4.
        sde: True to add noise.
        tau: The amount of that noise: 1 for the reverse SDE, as in the paper.
        weights: As for `Multistep`. If not given, `"bh2"` for order 2 and `"exact"` for the others.
        lower_order_final: Whether the order falls to 1 at the end, below 15 steps. If not given, it does for the ODE.

    >>> import torch
    >>> from scoresde.sampling import DPMSolverPP, UniformLogSNR
    >>> from scoresde.score import GaussianMixtureScore
    >>> from scoresde.sde import VPSDE
    >>> sde = VPSDE()
    >>> model = GaussianMixtureScore(torch.ones(2), torch.tensor([[-1.0], [1.0]]), torch.tensor([0.1, 0.2]), sde)
    >>> start, z, times = torch.randn(5, 1).double(), torch.randn(5, 1).double(), UniformLogSNR(6)(sde)
    >>> *_, solved = DPMSolverPP(order=2, sde=True).solve(model, start, times, lambda *clock: z)
    >>> x, alpha, sigma, h, past = start, sde.alpha(times), sde.sigma(times), sde.log_snr(times).diff(), None
    >>> for i in range(6):
    ...     now = model.denoise(x, times[i])
    ...     data = now if past is None else now + 0.5 * h[i] / h[i - 1] * (now - past)
    ...     gone, past = (-2 * h[i]).exp(), now
    ...     x = sigma[i + 1] / sigma[i] * (-h[i]).exp() * x + alpha[i + 1] * (1 - gone) * data
    ...     x = x + sigma[i + 1] * (1 - gone).sqrt() * z
    >>> torch.allclose(solved, x, rtol=1e-9, atol=1e-9)
    True

    References:
        Lu et al. 2022b, DPM-Solver++: fast solver for guided sampling of diffusion probabilistic models,
            https://arxiv.org/abs/2211.01095
    """

    def __init__(
        self,
        order: int = 2,
        sde: bool = False,
        tau: Stochasticity | float = 1.0,
        weights: WeightKind | None = None,
        lower_order_final: bool | None = None,
    ) -> None:
        super().__init__(
            order,
            coordinate=SignalLevel(),
            interpolation=LogSNR(),
            weights=("bh2" if order == 2 else "exact") if weights is None else weights,
            tau=tau if sde else None,
            lower_order_final=not sde and order > 1 if lower_order_final is None else lower_order_final,
        )

    @property
    def sde(self) -> bool:
        """True if noise is added."""
        return self.tau is not None

    def __repr__(self) -> str:
        return described(self, "order", "sde", "tau", "weights", "lower_order_final", without_none=True)


@checked
class UniPC(Multistep):
    """UniPC: the interpolation of DPM-Solver++ with a corrector that costs no evaluation.

    The predictor has the data at p times up to t_i. Once the network has been asked at t_{i+1}, as the next step needs
    anyway, the corrector repeats the step with that value as well (algorithms 1 and 2): with r_m = (λ_{i−m} − λ_i)/h,
    r_{−1} = 1 and the sign of h of data prediction,

        x_{i+1} = (σ_{i+1}/σ_i) x_i − α_{i+1} (e^{−h} − 1) D_i − α_{i+1} B(h) Σ_m a_m (D_{i−m} − D_i)/r_m.

    The a_m make the polynomial through these values exact, so that B cancels, but with one difference alone, where
    a = 1/2 and B(h) is −h (bh1) or e^{−h} − 1 (bh2). Predictor and corrector of order p together are of order p + 1.

    Args:
        order: The order p of the predictor and of the corrector, 1 to 4.
        variant: The B(h) of the paper, `"bh1"` or `"bh2"`.
        lower_order_final: Whether the predictor's order falls to 1 at the end, below 15 steps.

    >>> import torch
    >>> from scoresde.sampling import UniPC, UniformLogSNR
    >>> from scoresde.score import GaussianMixtureScore
    >>> from scoresde.sde import VPSDE
    >>> sde = VPSDE()
    >>> model = GaussianMixtureScore(torch.ones(2), torch.tensor([[-1.0], [1.0]]), torch.tensor([0.1, 0.2]), sde)
    >>> start, times = torch.randn(5, 1).double(), UniformLogSNR(6)(sde)
    >>> *_, solved = UniPC(order=1, variant="bh2").solve(model, start, times, lambda *clock: None)
    >>> x, alpha, sigma, h = start, sde.alpha(times), sde.sigma(times), sde.log_snr(times).diff()
    >>> data = model.denoise(x, times[0])
    >>> for i in range(6):
    ...     scale = alpha[i + 1] * torch.expm1(-h[i])
    ...     x = sigma[i + 1] / sigma[i] * x - scale * data
    ...     new = model.denoise(x, times[i + 1])
    ...     if i < 5:  # the last step has no corrector
    ...         x = x - scale * 0.5 * (new - data)
    ...     data = new
    >>> torch.allclose(solved, x, rtol=1e-9, atol=1e-9)
    True

    References:
        Zhao et al. 2023, UniPC: a unified predictor-corrector framework for fast sampling of diffusion models,
            https://arxiv.org/abs/2302.04867
    """

    def __init__(self, order: int = 2, variant: Literal["bh1", "bh2"] = "bh2", lower_order_final: bool = True) -> None:
        one_of("variant", variant, ("bh1", "bh2"))
        super().__init__(
            order,
            corrector=order,
            coordinate=SignalLevel(),
            interpolation=LogSNR(),
            weights=variant,
            lower_order_final=lower_order_final,
        )

    @property
    def variant(self) -> str:
        """The B(h) of the paper."""
        return self.weights

    def __repr__(self) -> str:
        return described(self, "order", "variant", "lower_order_final")


@checked
class SASolver(Multistep):
    """SA-Solver: a stochastic Adams predictor and corrector, with noise where τ says so.

    With K(λ) = ∫ τ² dλ from λ to λ_{i+1}, and K_i that of the whole step, the reverse SDE has the exact solution

        x_{i+1} = (σ_{i+1}/σ_i) e^{−K_i} x_i + σ_{i+1} ∫ e^{λ − K(λ)} (1 + τ²) D dλ + σ_{i+1} √(1 − e^{−2 K_i}) z.

    D is replaced by a polynomial in λ through its last values, and within a step τ² by its mean; both predictor and
    corrector draw the same z. Weak order 2 is the most with noise.

    Args:
        order: The number of values that the predictor uses, 1 to 4.
        corrector: The number of earlier values that the corrector uses in addition to the new one, 0 (none) to 4.
        tau: The noise level; 1 for 0.05 ≤ σ/α ≤ 1 and 0 elsewhere if not given.

    >>> import torch
    >>> from scoresde.sampling import SASolver, UniformLogSNR
    >>> from scoresde.score import GaussianMixtureScore
    >>> from scoresde.sde import VPSDE
    >>> sde = VPSDE()
    >>> model = GaussianMixtureScore(torch.ones(2), torch.tensor([[-1.0], [1.0]]), torch.tensor([0.1, 0.2]), sde)
    >>> start, z, times = torch.randn(5, 1).double(), torch.randn(5, 1).double(), UniformLogSNR(6)(sde)
    >>> *_, solved = SASolver(order=1, corrector=0, tau=0.5).solve(model, start, times, lambda *clock: z)
    >>> x, alpha, sigma, h = start, sde.alpha(times), sde.sigma(times), sde.log_snr(times).diff()
    >>> for i in range(6):
    ...     k = 0.25 * h[i]
    ...     data = -torch.expm1(-h[i] - k) * model.denoise(x, times[i])
    ...     x = sigma[i + 1] / sigma[i] * (-k).exp() * x + alpha[i + 1] * data
    ...     x = x + sigma[i + 1] * (-torch.expm1(-2 * k)).sqrt() * z
    >>> torch.allclose(solved, x, rtol=1e-9, atol=1e-9)
    True

    References:
        Xue et al. 2023, SA-Solver: stochastic Adams solver for fast sampling of diffusion models,
            https://arxiv.org/abs/2309.05019
    """

    def __init__(self, order: int = 3, corrector: int = 3, tau: Stochasticity | float | None = None) -> None:
        super().__init__(
            order,
            corrector=corrector,
            coordinate=SignalLevel(),
            interpolation=LogSNR(),
            tau=IntervalTau(1.0, 0.05, 1.0) if tau is None else tau,
        )

    def __repr__(self) -> str:
        return described(self, "order", "corrector", "tau")


@checked
class DEIS(Multistep):
    """DEIS: the noise interpolated by a polynomial, in t (tAB) or in the noise level (ρAB).

    Over a step the exact solution of the ODE is

        x̂_{i+1} = x̂_i + ∫ ε ds,    x̂ = x/α,

    where ε is replaced by the polynomial through its last `order` values: Adams-Bashforth methods on a grid of any
    steps. In t the weights are ∫ L_j(t) (ds/dt) dt; in s they are those of the linear multistep method of k-diffusion
    (`sampler=lms`). Order 1 is `DDIM` without noise.

    Args:
        order: The number of values that a step uses, 1 to 4.
        variant: `"rhoab"`, a polynomial in σ/α, or `"tab"`, one in t.

    >>> import torch
    >>> from scoresde.sampling import DEIS, KarrasGrid
    >>> from scoresde.score import GaussianMixtureScore
    >>> from scoresde.sde import VPSDE
    >>> sde = VPSDE()
    >>> model = GaussianMixtureScore(torch.ones(2), torch.tensor([[-1.0], [1.0]]), torch.tensor([0.1, 0.2]), sde)
    >>> start, times = torch.randn(5, 1).double(), KarrasGrid(6)(sde)
    >>> *_, solved = DEIS(order=2, variant="rhoab").solve(model, start, times, lambda *clock: None)
    >>> alpha, level, past = sde.alpha(times), (-sde.log_snr(times)).exp(), None
    >>> y, h = start / alpha[0], level.diff()
    >>> for i in range(6):
    ...     now = model.noise(alpha[i] * y, times[i])
    ...     slope = 0 if past is None else (now - past) / h[i - 1]
    ...     y, past = y + h[i] * now + 0.5 * h[i] ** 2 * slope, now
    >>> torch.allclose(solved, alpha[-1] * y, rtol=1e-9, atol=1e-9)
    True

    References:
        Zhang & Chen 2023, Fast sampling of diffusion models with exponential integrator,
            https://arxiv.org/abs/2204.13902
    """

    def __init__(self, order: int = 3, variant: Literal["rhoab", "tab"] = "rhoab") -> None:
        one_of("variant", variant, ("rhoab", "tab"))
        super().__init__(order, coordinate=NoiseLevel(), interpolation=Time() if variant == "tab" else None)

    @property
    def variant(self) -> str:
        """The variable of the polynomial."""
        return "rhoab" if self.interpolation is None else "tab"

    def __repr__(self) -> str:
        return described(self, "order", "variant")


@checked
class IPNDM(Multistep):
    """iPNDM: the noise by Adams-Bashforth's weights of equal steps, on steps of any length.

    The update is DDIM's, with a mean of the last noise predictions in place of the last one:

        x̂_{i+1} = x̂_i + (s_{i+1} − s_i) ε̂_i,    ε̂_i = (55 ε_i − 59 ε_{i−1} + 37 ε_{i−2} − 9 ε_{i−3})/24.

    The first steps have the weights of lower orders, where PNDM takes Runge-Kutta steps. These weights are those of
    equal steps in s, on which the fourth order holds. On any other grid the order of convergence is 2, whatever `order`
    above 1 is.

    Args:
        order: The number of values that a step uses, 1 to 4.

    >>> import torch
    >>> from scoresde.sampling import IPNDM, KarrasGrid
    >>> from scoresde.score import GaussianMixtureScore
    >>> from scoresde.sde import EDMSDE
    >>> sde = EDMSDE()
    >>> model = GaussianMixtureScore(torch.ones(2), torch.tensor([[-1.0], [1.0]]), torch.tensor([0.1, 0.2]), sde)
    >>> x, times = torch.randn(5, 1).double(), KarrasGrid(6)(sde)
    >>> *_, solved = IPNDM(order=2).solve(model, x, times, lambda *clock: None)
    >>> past = None
    >>> for s, s_next in zip(times, times[1:]):  # σ = t and α = 1 in this SDE
    ...     noise = model.noise(x, s)
    ...     x = x + (s_next - s) * (noise if past is None else (3 * noise - past) / 2)
    ...     past = noise
    >>> torch.allclose(solved, x, rtol=1e-9, atol=1e-9)
    True

    References:
        Liu et al. 2022, Pseudo numerical methods for diffusion models on manifolds, https://arxiv.org/abs/2202.09778
        Zhang & Chen 2023, Fast sampling of diffusion models with exponential integrator,
            https://arxiv.org/abs/2204.13902
    """

    def __init__(self, order: int = 4) -> None:
        super().__init__(order, coordinate=NoiseLevel(), weights="uniform")

    def __repr__(self) -> str:
        return described(self, "order")
