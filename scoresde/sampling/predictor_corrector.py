"""Predictor-corrector sampling (Song et al. 2021, algorithms 1 to 5).

A predictor takes one step of the reverse SDE from t to s < t; a corrector then moves the state by Langevin dynamics
towards the density at the new time. Every predictor works with every corrector, under every SDE and on every grid:
for the paper's √(1 − β_i), which is not real on short grids, stands the kernel p(x_t | x_s) = N(a x_s, b² I) of the
forward SDE between two times of the grid, a = α_t/α_s and b² = σ_t² − a² σ_s², to which it converges.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Literal

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


class Predictor(Value, ABC):
    """One step of the reverse SDE: x ← c_x x + c_s score + c_z z."""

    @abstractmethod
    def coefficients(self, sde: SDE, times: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return c_x, c_s and c_z, each `(n,)`, for the steps from times[i] to times[i + 1]."""

    def target(self, sde: SDE, times: Tensor) -> tuple[Tensor, Tensor]:
        """Return p and q, each `(n,)`, with c_x x + c_s score = p x₀ + q ε.

        They follow from x = α x₀ + σ ε and score = −ε/σ.
        """
        c_x, c_s, _ = self.coefficients(sde, times)
        alpha, sigma = sde.alpha(times[:-1]), sde.sigma(times[:-1])
        return c_x * alpha, c_x * sigma - c_s / sigma


@checked
class Corrector(Value, ABC):
    """Steps of Langevin dynamics at a fixed time, x ← x + ε score + √(2ε) z.

    Args:
        snr: The signal-to-noise ratio r that sets the step size.
        steps: The number of steps at each time.

    Raises:
        ValueError: A ratio that is not positive, or no step.
    """

    def __init__(self, snr: float = 0.16, steps: int = 1) -> None:
        positive("snr", snr)
        at_least("steps", steps, 1, "; use NoCorrector for none")
        self.snr = snr
        self.steps = steps

    @abstractmethod
    def step_size(self, score: Tensor, z: Tensor, scale: float, sigma: float) -> Tensor | float:
        """Return the step size ε, a number or `(B, 1, ...)`.

        Args:
            score: The score, `(B, ...)`.
            z: The noise of the step, `(B, ...)`.
            scale: The square of a, the factor of the forward kernel between two times of the grid (1 for VE).
            sigma: The noise scale σ at this time.
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
            exact for normal data of unit variance under VP (their β, used by score_sde for VP).

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

    def __init__(self, variance: Literal["posterior", "forward"] = "posterior") -> None:
        one_of("variance", variance, ("posterior", "forward"))
        self.variance = variance

    def coefficients(self, sde: SDE, times: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, b = sde.transition(times[:-1], times[1:])
        spread = b * sde.sigma(times[1:]) / sde.sigma(times[:-1]) if self.variance == "posterior" else b
        return 1 / a, b**2 / a, spread

    def target(self, sde: SDE, times: Tensor) -> tuple[Tensor, Tensor]:
        # The difference σ/a − b²/(a σ) without cancellation, and without 1/a, which overflows on a long step.
        start, stop = times[:-1], times[1:]
        a = sde.transition(start, stop)[0]
        return sde.alpha(stop), a * sde.sigma(stop) ** 2 / sde.sigma(start)


class NoPredictor(Predictor):
    """No predictor: with a corrector, the annealed Langevin dynamics of NCSN (Song & Ermon 2019)."""

    def coefficients(self, sde: SDE, times: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        zero = torch.zeros_like(times[1:])
        return zero + 1, zero, zero


class Langevin(Corrector):
    """Langevin dynamics with a step for each sample (Song et al. 2021, algorithms 4 and 5).

    The step size is ε = 2 a² r² D/‖score‖², at most 8 a² r² σ², with D the number of elements of a sample.

    The paper has the mean norms over the batch of noise and score, which couples samples; here √D stands for the norm
    of the noise. A step that depends on the state leaves p_t slightly: with hundreds of dimensions the norm hardly
    varies, with two or three `AnnealedLangevin` is the better choice. The bound is four times the step at the typical
    norm √D/σ; without it the step would be infinite at a mode.
    """

    def step_size(self, score: Tensor, z: Tensor, scale: float, sigma: float) -> Tensor:
        norm = torch.linalg.vector_norm(score.flatten(1), dim=1)
        # √D/‖score‖, whose bound 2σ holds off the infinity at a score of 0 before it is squared
        length: Tensor = (math.sqrt(score[0].numel()) / norm).clamp_(max=2 * sigma)
        length.square_().mul_(2 * scale * self.snr**2)
        return length.reshape(-1, *[1] * (score.ndim - 1))


class AnnealedLangevin(Corrector):
    """Langevin dynamics with ε = 2 a² (r σ)² (Song & Ermon 2019, algorithm 1, in score_sde's scaling)."""

    def step_size(self, score: Tensor, z: Tensor, scale: float, sigma: float) -> float:
        return 2 * scale * (self.snr * sigma) ** 2


class NoCorrector(Corrector):
    """No correction."""

    def __init__(self) -> None:
        self.snr = 0.0
        self.steps = 0

    def step_size(self, score: Tensor, z: Tensor, scale: float, sigma: float) -> float:
        return 0.0


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
    """

    def __init__(self, predictor: Predictor, corrector: Corrector | None = None) -> None:
        self.predictor = predictor
        self.corrector = NoCorrector() if corrector is None else corrector
        if isinstance(predictor, NoPredictor) and self.corrector.steps == 0:
            raise ValueError("neither a predictor nor a corrector: the state would never move; give one of them")

    @property
    def draws_white(self) -> bool:
        return self.corrector.steps > 0

    def solve(self, model: ScoreModel, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        sde, new = model.sde, times[1:]
        *_, c_z = self.predictor.coefficients(sde, times)
        mean = model.prediction(times[:-1], *self.predictor.target(sde, times))
        score = model.prediction(new, torch.zeros_like(new), -1 / sde.sigma(new))
        # The clock is 1/s², the variance of the martingale in x/(σ s). Others are smooth in it, so that strong order 1
        # needs none of them.
        clock = (2 * sde.log_snr(times)).exp().tolist()
        scales = (sde.transition(times[:-1], new)[0] ** 2).tolist()
        sigmas = sde.sigma(new).tolist()
        moves = not isinstance(self.predictor, NoPredictor)
        for i, on_z in enumerate(c_z.tolist()):
            if moves:
                x = torch.add(mean(x, i), noise(clock[i], clock[i + 1]), alpha=on_z)
            for _ in range(self.corrector.steps):
                pull, z = score(x, i), noise()
                x = _langevin(x, pull, z, self.corrector.step_size(pull, z, scales[i], sigmas[i]))
            yield x


def _langevin(x: Tensor, score: Tensor, z: Tensor, size: Tensor | float) -> Tensor:
    """Compute x + ε score + √(2ε) z."""
    if isinstance(size, Tensor):
        return torch.addcmul(x, score, size).addcmul_(z, (2 * size).sqrt_())
    return torch.add(x, score, alpha=size).add_(z, alpha=math.sqrt(2 * size))
