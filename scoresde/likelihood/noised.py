"""Samples that are noised, and the closed forms of a lower bound for normal data."""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from scoresde.likelihood.flow import Flow
from scoresde.likelihood.inputs import check_batch
from scoresde.likelihood.numbering import NOISES, noise_number
from scoresde.likelihood.options import FlowOptions
from scoresde.likelihood.scaling import CovarianceScaling, ScalarScaling, Spread
from scoresde.numerics.random import SampleNoise, Stream
from scoresde.score import ScoreModel
from scoresde.sde.coordinates import LogSNR
from scoresde.statistics import Statistics

__all__ = ["NoisedPath"]

# Noise of more than this many times the data's standard deviation leaves little to be integrated.
_FAR = 3.0


class NoisedPath:
    """Samples on their way from t_min to t_max, with the symbols of `scoresde.likelihood.bounds`, all in float64.

    Args:
        model: The score model.
        x: Samples `(B, ...)` in the data's units.
        cond: Conditions by name.
        options: Times, covariance of the data and batch size.
        prior: Density at t_max, `"matched"` or `"plain"`.
        evaluations: Number of evaluations of the model for each sample.
        seed: Seed of the noise.
        first: Index of the first sample.

    Attributes:
        size: Number of elements D of a sample.
        indices: Indices of the samples, `(B,)`.
        level: Noise level √v₀ at t_min.
        last_level: Noise level √v₁ at t_max.
        log_alpha: D log α at t_min, the log-determinant of x̃ ↦ x.
        end: The variable w at t_max; it is 0 at t_min.
        near: The variable w at 3 times the data's standard deviation; beyond, little is left to be integrated.
    """

    def __init__(
        self,
        model: ScoreModel,
        x: Tensor,
        cond: dict[str, Any],
        options: FlowOptions,
        prior: str,
        evaluations: int,
        seed: int,
        first: int,
    ) -> None:
        x, conditions = check_batch(model, x, cond, prior)
        if evaluations >= NOISES:
            raise ValueError(f"{evaluations} evaluations for each sample are more than the {NOISES - 1} there can be")
        scaling = CovarianceScaling() if options.scaling is None else options.scaling
        self.flow = Flow(model, x.shape, conditions, replace(options, variable=LogSNR(), scaling=scaling), x.device)
        self.batch_size = options.width
        self.evaluations, self.seed, self.first = evaluations, seed, first
        self.size = self.flow.size
        self.indices = torch.arange(first, first + len(x))
        alpha = float(self.flow.at_ends.alpha[0])
        self.level, self.last_level = self.flow.at_ends.level.tolist()
        self.log_alpha = self.size * math.log(alpha)
        self.x = model.to_model_space(x).double().flatten(1) / alpha
        self.centred = self.x - self.flow.mean
        self.end = float(self.variable(torch.tensor(self.flow.t_max, dtype=torch.float64)))
        statistics = model.statistics
        std = 1.0 if statistics is None else statistics.largest_std
        self.near = math.acosh(max(1.0, _FAR * std / self.level))
        self.prior_spread, self.prior_centred = self._prior(statistics if prior == "matched" else None)

    def _prior(self, statistics: Statistics | None) -> tuple[Spread, Tensor]:
        """The spread, and x̃ less the mean, of the prior N(mean, spread + v₁) of x̃ at t_max."""
        if statistics is not None:
            return CovarianceScaling().spread(statistics, self.size).to(self.flow.device), self.centred
        nothing = ScalarScaling().spread(None, self.size).to(self.flow.device)
        return Spread(torch.zeros_like(nothing.values), nothing.counts), self.x

    def variable(self, t: Tensor) -> Tensor:
        """The variable w at times t."""
        sde = self.flow.model.sde
        rise = sde.log_snr(torch.tensor(self.flow.t_min, dtype=torch.float64)) - sde.log_snr(t)
        # cosh w = e^rise; sinh w by expm1, without the cancellation in √(e^(2 rise) − 1).
        return torch.asinh(torch.expm1(2 * rise).sqrt())

    def excess(self, w: Tensor) -> Tensor:
        """One draw of h of equation (2) at each w, `(B, n)`."""
        count = w.shape[1]
        values = torch.empty(w.numel(), dtype=torch.float64, device=w.device)
        for start in range(0, len(values), self.batch_size):
            chosen = torch.arange(start, min(start + self.batch_size, len(values)), device=w.device)
            rows, number = chosen // count, chosen % count
            values[start : start + len(chosen)] = self._excess(rows, number, w[rows, number])
        return values.reshape(w.shape)

    def _excess(self, rows: Tensor, number: Tensor, w: Tensor) -> Tensor:
        """One draw of h `(b,)` for samples `rows`, the evaluations `number` of each, at w."""
        flow = self.flow
        index = noise_number(self.first + rows, number)
        eps = SampleNoise(self.seed, index, (self.size,), torch.float64, w.device, stream=Stream.BOUND_NOISE)()
        place = flow.place(-(self.level * w.cosh()).log())
        moved = self.level * w.sinh()[:, None] * eps
        state = (place.alpha[:, None] * (self.x[rows] + moved)).to(flow.dtype).reshape(-1, *flow.shape[1:])
        with flow.model.evaluating():
            predicted = flow.noise(place, rows)(state).double().flatten(1)
        normal = flow.spread.apply(place.level[:, None] / place.norm**2, self.centred[rows] + moved)
        return ((predicted - normal) * (w.tanh()[:, None] * (predicted + normal) - 2 * eps)).sum(1)

    def normal_log_prob(self) -> Tensor:
        """The log-density of x at t_min if the data are normal, log N(x; α m, α² (Σ + v₀)), `(B,)`."""
        return self._expected(self.flow.spread, self.centred, self.level, 0.0) - self.log_alpha

    def prior_difference(self) -> Tensor:
        """The expectation of log π(x̃_1) − log N(x̃_1; m, Σ + v₁), `(B,)`."""
        ends = self.last_level, (self.level * math.sinh(self.end)) ** 2
        return self._expected(self.prior_spread, self.prior_centred, *ends) - self._expected(
            self.flow.spread, self.centred, *ends
        )

    def prior_divergence(self) -> Tensor:
        """The negative divergence −KL(q(x̃_1 | x̃), π) from the prior, `(B,)`."""
        added = (self.level * math.sinh(self.end)) ** 2
        entropy = 0.5 * self.size * (1 + math.log(2 * math.pi) + math.log(added))
        return self._expected(self.prior_spread, self.prior_centred, self.last_level, added) + entropy

    def normal_error(self, w: float) -> Tensor:
        """The mean-square error E‖x̃ − x̂‖²/u of denoising at w if the data are normal, `(B,)`."""
        level, moved = self.level * math.cosh(w), self.level * math.sinh(w)
        spread = self.flow.spread
        total = (spread.values + level**2)[None]
        shrunk: Tensor = moved * spread.apply(1 / total, self.centred)
        # 1 − u/(Σ + v)
        remaining = (spread.values + self.level**2)[None] / total
        return shrunk.square().sum(1) + spread.trace(remaining**2)

    def _expected(self, spread: Spread, centred: Tensor, level: float, added: float) -> Tensor:
        """The expectation of log N(y; x̃ − centred, spread + level²) for y of variance `added` about x̃, `(B,)`."""
        total = spread.values + level**2
        square = (centred * spread.apply(1 / total[None], centred)).sum(1) + added * spread.trace(1 / total)
        return -0.5 * (square + spread.trace(total.log()) + self.size * math.log(2 * math.pi))
