"""Predictor-corrector sampling (Song et al. 2021, algorithms 1 to 5).

A predictor takes one step of the reverse SDE; a corrector then moves the state by Langevin dynamics towards
the density at the new time. Every predictor works with every corrector, under every SDE and on every grid:
where the paper's discretisation of VP has √(1 − β_i), which is not real on short grids, the kernel
p(x_t | x_s) = N(a x_s, b² I) between two grid times is used, to which it converges.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from scoresde.arguments import checked
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


class _Described:
    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in vars(self).items())})"


class Predictor(_Described, ABC):
    """One step of the reverse SDE: x ← c_x x + c_s score + c_z z."""

    @abstractmethod
    def coefficients(self, sde: SDE, times: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(c_x, c_s, c_z), each `(n,)`, for the steps from times[i] to times[i + 1]."""

    def target(self, sde: SDE, times: Tensor) -> tuple[Tensor, Tensor]:
        """(p, q), each `(n,)`, with c_x x + c_s score = p x₀ + q ε for x = α x₀ + σ ε and score = −ε/σ."""
        c_x, c_s, _ = self.coefficients(sde, times)
        alpha, sigma = sde.alpha(times[:-1]), sde.sigma(times[:-1])
        return c_x * alpha, c_x * sigma - c_s / sigma


@checked
class Corrector(_Described, ABC):
    """Steps of Langevin dynamics at a fixed time, x ← x + ε score + √(2ε) z.

    Args:
        snr: the signal-to-noise ratio r that sets the step size.
        steps: how many steps at each time.
    """

    def __init__(self, snr: float = 0.16, steps: int = 1) -> None:
        if not 0 < snr < math.inf:
            raise ValueError(f"snr is {snr}, expected a positive number")
        if steps < 1:
            raise ValueError(f"steps is {steps}, expected at least 1; use NoCorrector for none")
        self.snr = snr
        self.steps = steps

    @abstractmethod
    def step_size(self, score: Tensor, z: Tensor, scale: float, sigma: float) -> Tensor | float:
        """ε, a number or `(B, 1, ...)`; `scale` is a² of the kernel between two grid times (1 for VE)."""


class EulerMaruyama(Predictor):
    """x ← x + (f x − g² score) Δt + g √|Δt| z."""

    def coefficients(self, sde: SDE, times: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        t, dt = times[:-1], times.diff()
        g = sde.diffusion(t)
        return 1 + sde.drift_coefficient(t) * dt, -(g**2) * dt, g * (-dt).sqrt()


class ReverseDiffusion(Predictor):
    """x ← (2 − a) x + b² score + b z: the forward step, reversed (Song et al. 2021, eq. 46)."""

    def coefficients(self, sde: SDE, times: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, b = sde.transition(times[:-1], times[1:])
        return 2 - a, b**2, b


@checked
class Ancestral(Predictor):
    """x ← (x + b² score)/a + c z: the posterior of a Markov chain (Ho et al. 2020, algorithm 2; Song et al.
    2021, eq. 4 and 47).

    Args:
        variance: `"posterior"`, c = b σ_s/σ_t, exact for data at a point (β̃ of Ho et al. 2020); `"forward"`,
            c = b, exact for unit-variance normal data under VP (their β, used by score_sde for VP).
    """

    def __init__(self, variance: Literal["posterior", "forward"] = "posterior") -> None:
        if variance not in ("posterior", "forward"):
            raise ValueError(f"variance is {variance!r}, expected 'posterior' or 'forward'")
        self.variance = variance

    def coefficients(self, sde: SDE, times: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, b = sde.transition(times[:-1], times[1:])
        spread = b * sde.sigma(times[1:]) / sde.sigma(times[:-1]) if self.variance == "posterior" else b
        return 1 / a, b**2 / a, spread

    def target(self, sde: SDE, times: Tensor) -> tuple[Tensor, Tensor]:
        # σ/a − b²/(a σ) with nothing subtracted, and without the inverse of a, of which a long step leaves nothing.
        start, stop = times[:-1], times[1:]
        a = sde.transition(start, stop)[0]
        return sde.alpha(stop), a * sde.sigma(stop) ** 2 / sde.sigma(start)


class NoPredictor(Predictor):
    """Leaves the state where it is: with a corrector, annealed Langevin dynamics as in NCSN."""

    def coefficients(self, sde: SDE, times: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        zero = torch.zeros_like(times[1:])
        return zero + 1, zero, zero


class Langevin(Corrector):
    """ε = 2 a² r² D/‖score‖² for each sample, at most 8 a² r² σ² (Song et al. 2021, algorithms 4 and 5).

    The paper has the mean norms over the batch of noise and score, which couples samples; here √D stands for
    the norm of the noise. A step that depends on the state leaves p_t slightly: with hundreds of dimensions the
    norm hardly varies, with two or three `AnnealedLangevin` is the better choice. The bound is four times the
    step at the typical norm √D/σ; without it the step would be infinite at a mode.
    """

    def step_size(self, score: Tensor, z: Tensor, scale: float, sigma: float) -> Tensor:
        norm = torch.linalg.vector_norm(score.flatten(1), dim=1)
        # √D/‖score‖, whose bound 2σ holds off the infinity at a score of 0 before it is squared
        length = (math.sqrt(score[0].numel()) / norm).clamp_(max=2 * sigma)
        return length.square_().mul_(2 * scale * self.snr**2).reshape(-1, *[1] * (score.ndim - 1))


class AnnealedLangevin(Corrector):
    """ε = 2 a² (r σ)² (Song & Ermon 2019, algorithm 1, in score_sde's scaling)."""

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
class PredictorCorrector(Solver):
    """A predictor step, then the corrector's steps at the new time (Song et al. 2021, algorithm 1).

    One evaluation for a predictor step and one for each corrector step. Under a Brownian path the predictors
    converge strongly, with order 1; a corrector's noise is white, since it acts at one time.

    Args:
        predictor: `EulerMaruyama`, `ReverseDiffusion`, `Ancestral` or `NoPredictor`.
        corrector: `Langevin`, `AnnealedLangevin` or `NoCorrector`.
    """

    def __init__(self, predictor: Predictor, corrector: Corrector | None = None) -> None:
        self.predictor = predictor
        self.corrector = NoCorrector() if corrector is None else corrector
        if isinstance(predictor, NoPredictor) and self.corrector.steps == 0:
            raise ValueError("neither a predictor nor a corrector: the state would never move; give one of them")

    def solve(self, model: ScoreModel, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        sde, new = model.sde, times[1:]
        *_, c_z = self.predictor.coefficients(sde, times)
        mean = model.prediction(times[:-1], *self.predictor.target(sde, times))
        score = model.prediction(new, torch.zeros_like(new), -1 / sde.sigma(new))
        # 1/s², the variance of the martingale in x/(σ s); strong order 1 needs no other clock, as all are smooth in it
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
    """x + ε score + √(2ε) z."""
    if isinstance(size, Tensor):
        return torch.addcmul(x, score, size).addcmul_(z, (2 * size).sqrt_())
    return torch.add(x, score, alpha=size).add_(z, alpha=math.sqrt(2 * size))
