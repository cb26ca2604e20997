"""Predictor-corrector sampling (Song et al. 2021, algorithms 1 to 5).

A predictor takes one step of the reverse SDE from t to s < t; a corrector then moves the state by Langevin dynamics
towards the density at the new time. Every predictor works with every corrector, under every SDE and on every grid:
for the paper's √(1 − β_i), which is not real on short grids, stands the kernel p(x_t | x_s) = N(a x_s, b² I) of the
forward SDE between two times of the grid, a = α_t/α_s and b² = σ_t² − a² σ_s², to which it converges.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import ClassVar, Literal

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.numerics.values import Value, at_least, one_of, positive
from scoresde.sampling.solver import Noise, Solver
from scoresde.score import ScoreModel
from scoresde.sde import SDE

__all__ = [
    "Ancestral",
    "AnnealedLangevin",
    "Corrector",
    "EulerMaruyama",
    "Langevin",
    "NoCorrector",
    "NoPredictor",
    "Predictor",
    "PredictorCorrector",
    "ReverseDiffusion",
]

Step = Callable[[Tensor, int], tuple[Tensor, Tensor | float]]
"""A function of a state x and the index i of a step: its mean, and the factor of its noise."""

_ELEMENTS = 2**20  # of the table of times and directions that is held at once


class Predictor(Value, ABC):
    """One step of the reverse SDE: x ← c_x x + c_s score + c_z z."""

    @abstractmethod
    def coefficients(self, sde: SDE, times: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return c_x, c_s and c_z, each `(n,)`, for the steps from times[i] to times[i + 1]."""

    def noise_factors(self, model: ScoreModel, times: Tensor) -> Tensor:
        """The factors of the noise of the steps, `(n,)`, which are c_z unless they follow from the model."""
        return self.coefficients(model.sde, times)[2]

    def step(self, model: ScoreModel, times: Tensor) -> Step:
        """A function `f(x, i)` of the mean of step i and of the factor of its noise, a number or of the shape of x.

        Args:
            model: The score model, with its conditions bound.
            times: The times of the grid, `(n + 1,)`.
        """
        factors = self.noise_factors(model, times).tolist()
        mean = model.prediction(times[:-1], *self.target(model.sde, times))

        def step(x: Tensor, i: int) -> tuple[Tensor, Tensor | float]:
            return mean(x, i), factors[i]

        return step

    def target(self, sde: SDE, times: Tensor) -> tuple[Tensor, Tensor]:
        """Return p and q, each `(n,)`, with c_x x + c_s score = p x₀ + q ε.

        They follow from x = α x₀ + σ ε and score = −ε/σ.
        """
        c_x, c_s, _ = self.coefficients(sde, times)
        alpha, sigma = sde.alpha(times[:-1]), sde.sigma(times[:-1])
        return c_x * alpha, c_x * sigma - c_s / sigma


@checked
class Corrector(Value, ABC):
    """Steps of Langevin dynamics at a fixed time, x ← x + ε score(x + c √(2ε) z) + √(2ε) z.

    The step size ε is a function of time alone. If it depended on the state, the chain would not leave p_t as it is.

    Args:
        snr: The signal-to-noise ratio r that sets the step size.
        steps: The number of steps at each time.

    Attributes:
        ahead: The share c of a step's noise that the state has where the score is taken.

    Raises:
        ValueError: A ratio that is not positive, or no step.
    """

    ahead: ClassVar[float] = 0.0

    def __init__(self, snr: float = 0.16, steps: int = 1) -> None:
        positive("snr", snr)
        at_least("steps", steps, 1, "; use NoCorrector for none")
        self.snr = snr
        self.steps = steps

    @abstractmethod
    def step_sizes(self, model: ScoreModel, times: Tensor) -> Tensor:
        """Return the step size ε at times[1], times[2], ..., `(n,)` float64 on the CPU.

        Args:
            model: The score model, of which only the SDE and the statistics of the data may be asked.
            times: The times of the grid, `(n + 1,)`.
        """


class EulerMaruyama(Predictor):
    """Euler-Maruyama steps of the reverse SDE: x ← x + (f x − g² score) Δt + g √|Δt| z."""

    def coefficients(self, sde: SDE, times: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        t, dt = times[:-1], times.diff()
        g = sde.diffusion(t)
        return 1 + sde.drift_coefficient(t) * dt, -(g**2) * dt, g * (-dt).sqrt()


class ReverseDiffusion(Predictor):
    """The forward step reversed: x ← (2 − a) x + b² score + b z (Song et al. 2021, eq. 46)."""

    def coefficients(self, sde: SDE, times: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, b = sde.transition(times[:-1], times[1:])
        return 2 - a, b**2, b


@checked
class Ancestral(Predictor):
    """The posterior of a Markov chain: x ← (x + b² score)/a + c z.

    It is algorithm 2 of Ho et al. 2020, and eq. 4 and 47 of Song et al. 2021.

    Args:
        variance: `"posterior"`, c = b σ_s/σ_t, exact for data at a point (β̃ of Ho et al. 2020); `"forward"`, c = b,
            exact for normal data of unit variance under VP (their β, used by score_sde for VP); `"learned"`, what a
            network has learned for each element (Nichol & Dhariwal 2021, eq. 15); `"optimal"`, the best for the model's
            mean, by errors that `measure_variances` has measured (Analytic-DPM, Bao et al. 2022a, 2022b).

    With the posterior's variance it is `DDPM`, up to round-off:

    >>> from scoresde.sampling import DDPM, Sampler, UniformTime
    >>> from scoresde.score import GaussianMixtureScore
    >>> from scoresde.sde import VPSDE
    >>> model = GaussianMixtureScore(torch.ones(2), torch.tensor([[-1.0], [1.0]]), torch.tensor([0.1, 0.2]), VPSDE())
    >>> first, second = (
    ...     Sampler(solver, UniformTime(20))(model, shape=(5, 1), seed=0, dtype=torch.float64).x
    ...     for solver in (PredictorCorrector(Ancestral()), DDPM())
    ... )
    >>> torch.allclose(first, second, rtol=1e-9, atol=1e-9)
    True
    """

    def __init__(self, variance: Literal["posterior", "forward", "learned", "optimal"] = "posterior") -> None:
        one_of("variance", variance, ("posterior", "forward", "learned", "optimal"))
        self.variance = variance

    def coefficients(self, sde: SDE, times: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, b = sde.transition(times[:-1], times[1:])
        # A model's own variances are no function of the SDE; the posterior's are the least of them.
        spread = b if self.variance == "forward" else b * sde.sigma(times[1:]) / sde.sigma(times[:-1])
        return 1 / a, b**2 / a, spread

    def target(self, sde: SDE, times: Tensor) -> tuple[Tensor, Tensor]:
        # The difference σ/a − b²/(a σ) without cancellation, and without 1/a, which overflows on a long step.
        start, stop = times[:-1], times[1:]
        a = sde.transition(start, stop)[0]
        return sde.alpha(stop), a * sde.sigma(stop) ** 2 / sde.sigma(start)

    def noise_factors(self, model: ScoreModel, times: Tensor) -> Tensor:
        sde = model.sde
        if self.variance != "optimal":
            return super().noise_factors(model, times)
        b = sde.transition(times[:-1], times[1:])[1]
        sigma = sde.sigma(times)
        on_data = sde.alpha(times[1:]) * (b / sigma[:-1]).square()
        least = (b * sigma[1:] / sigma[:-1]).square()
        return model.measured_variances().step_variances(least, on_data, sde.log_snr(times[:-1])).sqrt()

    def step(self, model: ScoreModel, times: Tensor) -> Step:
        return self._learned(model, times) if self.variance == "learned" else super().step(model, times)

    def _learned(self, model: ScoreModel, times: Tensor) -> Step:
        """Steps of the log-variance v log b² + (1 − v) log(b σ_s/σ_t)² with the share v that the model has learned."""
        both = model.prediction_with_share(times[:-1], *self.target(model.sde, times))
        least, most = (Ancestral(kind).coefficients(model.sde, times)[2] for kind in ("posterior", "forward"))
        low = least.clamp_min(torch.finfo(least.dtype).tiny).log()
        starts, rises = low.tolist(), (most.log() - low).tolist()

        def step(x: Tensor, i: int) -> tuple[Tensor, Tensor]:
            mean, share = both(x, i)
            return mean, (starts[i] + rises[i] * share).exp()

        return step


class NoPredictor(Predictor):
    """No predictor: with a corrector, the annealed Langevin dynamics of NCSN (Song & Ermon 2019)."""

    def coefficients(self, sde: SDE, times: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        zero = torch.zeros_like(times[1:])
        return zero + 1, zero, zero


class Langevin(Corrector):
    """Langevin dynamics with a step from the expected norms, and without most of its bias (Song et al. 2021).

    **Step size.** In algorithms 4 and 5 of the paper it is ε = 2 a² r² ‖z‖²/‖score‖², with the mean norms over the
    batch, which couples samples. The norm of a sample's own score would make the step depend on the state. Here are
    the expected squares: D for the noise, and for the score what normal data with the variances v_i in the principal
    directions have, which is a lower bound for all others (Cramér and Rao's):

        ε = min(2 a² r² V, 8 a² r² σ², σ²),    1/V = mean of 1/(α² v_i + σ²),    E‖score‖² ≥ D/V.

    The variances are those of `ScoreModel.statistics`. Without statistics v_i = 0, for which D/V is an upper bound of
    E‖score‖². The other two bounds on ε hold for data with modes much narrower than their variances: p_t is a density
    convolved with N(0, σ² I), so that its score nowhere falls faster than with slope 1/σ². A step of ε ≤ σ² never goes
    past the mode that it approaches, and one of 8 a² r² σ² is four times that without statistics.

    **Bias.** In a direction in which p_t is normal with variance V_i, a step with h = ε/V_i and the score at
    x + c √(2ε) z takes the variance V_i to

        V_i ((1 − h)² + 2 h (1 − c h)²) = V_i (1 + (1 − 4c) h² + 2 c² h³).

    At c = 0, the usual choice, the chain comes out too wide by h/2. Here c = 1/4, so that it is too wide by h²/16 only:
    0.3 % of the variance at the largest h of r = 0.16, which is 0.2.
    """

    ahead = 0.25

    def step_sizes(self, model: ScoreModel, times: Tensor) -> Tensor:
        alpha, sigma, scale = _levels(model, times)
        known = model.statistics
        variances = torch.zeros(1, dtype=torch.float64) if known is None else known.spectrum.cpu()
        rows = max(1, _ELEMENTS // len(variances))
        parts = zip(torch.split(alpha[:, None] ** 2, rows), torch.split(sigma[:, None] ** 2, rows), strict=True)
        typical = torch.cat([(signal * variances + noise).reciprocal().mean(1) for signal, noise in parts]).reciprocal()
        return (2 * scale * self.snr**2 * typical.clamp(max=4 * sigma**2)).clamp(max=sigma**2)


class AnnealedLangevin(Corrector):
    """Langevin dynamics with ε = 2 a² (r σ)² (Song & Ermon 2019, algorithm 1, in score_sde's scaling).

    As published, the score is taken at the state itself, and nothing else moves the state from one noise level to the
    next. In a direction in which p_t is normal with variance V, each step takes the variance v of the states to

        v ← v (1 − ε/V)² + 2 ε,

    which goes towards V/(1 − ε/(2V)) and not all the way before V changes; once σ is far below the width of the data,
    ε/V is too small to make up for it. So samples are too wide, if V falls as under VE: on normal data of any width, at
    200 times uniform in log σ with 5 steps of r = 0.16, by a fifth of the variance, and at 500 times by 7 %. By this
    recursion, for data at a point, Song & Ermon 2020 (proposition 3) choose ε and the number of steps. `Langevin` after
    a predictor leaves less than 1 %. `NCSN` and `NCSNv2` are the papers' algorithms as they stand, by ε.
    """

    def step_sizes(self, model: ScoreModel, times: Tensor) -> Tensor:
        _, sigma, scale = _levels(model, times)
        return 2 * scale * (self.snr * sigma) ** 2


class NoCorrector(Corrector):
    """No correction."""

    def __init__(self) -> None:
        self.snr = 0.0
        self.steps = 0

    def step_sizes(self, model: ScoreModel, times: Tensor) -> Tensor:
        return torch.zeros_like(times[1:])


def _levels(model: ScoreModel, times: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """α and σ at times[1], times[2], ..., and the squares of the forward kernels' factors a to there, `(n,)` each."""
    sde, new = model.sde, times[1:]
    return sde.alpha(new), sde.sigma(new), sde.transition(times[:-1], new)[0] ** 2


@checked
class PredictorCorrector(Value, Solver):
    """A predictor step, then the steps of a corrector at the new time (Song et al. 2021, algorithm 1).

    A predictor step is one evaluation, and so is each corrector step. Under a Brownian path the predictors converge
    strongly, with order 1; a corrector's noise is white, since it acts at one time.

    Args:
        predictor: An `EulerMaruyama`, `ReverseDiffusion`, `Ancestral` or `NoPredictor`.
        corrector: A `Langevin`, `AnnealedLangevin` or `NoCorrector`; none if not given.

    Raises:
        ValueError: Neither a predictor nor a corrector.

    >>> from scoresde.sampling import Sampler, UniformTime
    >>> from scoresde.score import GaussianMixtureScore
    >>> from scoresde.sde import VPSDE
    >>> model = GaussianMixtureScore(torch.ones(2), torch.tensor([[-1.0], [1.0]]), torch.tensor([0.1, 0.2]), VPSDE())
    >>> start, z, times = torch.randn(5, 1).double(), torch.randn(5, 1).double(), UniformTime(6)(model.sde)
    >>> solver = PredictorCorrector(ReverseDiffusion(), AnnealedLangevin(snr=0.16))
    >>> *_, solved = solver.solve(model, start, times, lambda *clock: z)
    >>> x, alpha, sigma = start, model.sde.alpha(times), model.sde.sigma(times)
    >>> for i in range(6):
    ...     a = alpha[i] / alpha[i + 1]
    ...     b = (sigma[i]**2 - (a * sigma[i + 1])**2).sqrt()
    ...     x = (2 - a) * x + b**2 * model.score(x, times[i]) + b * z
    ...     step = 2 * (a * 0.16 * sigma[i + 1])**2
    ...     x = x + step * model.score(x, times[i + 1]) + (2 * step).sqrt() * z
    >>> torch.allclose(solved, x, rtol=1e-9, atol=1e-9)
    True

    References:
        Song et al. 2021, Score-based generative modeling through stochastic differential equations,
            https://arxiv.org/abs/2011.13456
        Song & Ermon 2019, Generative modeling by estimating gradients of the data distribution,
            https://arxiv.org/abs/1907.05600
        Song & Ermon 2020, Improved techniques for training score-based generative models,
            https://arxiv.org/abs/2006.09011
    """

    def __init__(self, predictor: Predictor, corrector: Corrector | None = None) -> None:
        self.predictor = predictor
        self.corrector = NoCorrector() if corrector is None else corrector
        if isinstance(predictor, NoPredictor) and self.corrector.steps == 0:
            raise ValueError("neither a predictor nor a corrector: the state would never move; give one of them")

    @property
    def draws_white(self) -> bool:
        return self.corrector.steps > 0

    @property
    def reverse_sde(self) -> bool:
        posterior = isinstance(self.predictor, Ancestral) and self.predictor.variance == "posterior"
        return posterior and self.corrector.steps == 0

    def solve(self, model: ScoreModel, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        sde, new = model.sde, times[1:]
        step = self.predictor.step(model, times)
        score = model.prediction(new, torch.zeros_like(new), -1 / sde.sigma(new))
        # The clock is 1/s², the variance of the martingale in x/(σ s). Others are smooth in it, so that strong order 1
        # needs none of them.
        clock = (2 * sde.log_snr(times)).exp().tolist()
        sizes = self.corrector.step_sizes(model, times).tolist()
        ahead = self.corrector.ahead
        moves = not isinstance(self.predictor, NoPredictor)
        for i in range(len(new)):
            if moves:
                mean, factor = step(x, i)
                z = noise(clock[i], clock[i + 1])
                x = torch.addcmul(mean, z, factor) if isinstance(factor, Tensor) else torch.add(mean, z, alpha=factor)
            for _ in range(self.corrector.steps):
                z, root = noise(), math.sqrt(2 * sizes[i])
                pull = score(torch.add(x, z, alpha=ahead * root) if ahead else x, i)
                x = torch.add(x, pull, alpha=sizes[i]).add_(z, alpha=root)
            yield x
