"""Data under noise at random levels, and the noise that models predict there.

With x̃_v = x + √v ε and λ = −½ log v, a model under any SDE is asked at the time at which its log-SNR is λ, so that
several models, or one with several conditions, see the same noise of the same samples.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from scoresde.likelihood.flow import Flow
from scoresde.likelihood.inputs import check_batch
from scoresde.likelihood.numbering import NOISES, noise_number
from scoresde.likelihood.options import FlowOptions
from scoresde.likelihood.scaling import CovarianceScaling
from scoresde.numerics.random import SampleNoise, Stream
from scoresde.score import ScoreModel
from scoresde.sde.coordinates import LogSNR

__all__ = ["Combination", "NoisePredictor", "NoisyData", "common_strata", "error_above", "log_snr_range"]

Combination = Callable[[Tensor, list[Tensor]], Tensor]
"""Values `(k, b)` from the noise ε `(b, D)` and its predictions `(b, D)`, float64 each."""

# Standard deviations of the data above which a noise level counts as far; beyond, little depends on the data.
_FAR = 3.0
# Share of the strata at such levels.
_FAR_SHARE = 0.125


class NoisePredictor:
    """The noise that a model predicts for x̃_v = x + √v ε, under conditions.

    Args:
        flow: The flow of the model, with the conditions of all samples.
    """

    def __init__(self, flow: Flow) -> None:
        self.flow = flow

    def __call__(self, log_snr: Tensor, x: Tensor, rows: Tensor) -> Tensor:
        """E[ε | x̃_v = x] `(b, D)` in float64.

        Args:
            log_snr: The levels λ, `(b,)`.
            x: Noised samples `(b, D)`.
            rows: Indices of the samples, `(b,)`, for their conditions.
        """
        place = self.flow.place(log_snr)
        state = (place.alpha[:, None] * x).to(self.flow.dtype).reshape(-1, *self.flow.shape[1:])
        return self.flow.noise(place, rows)(state).double().flatten(1)


class NoisyData:
    """Samples at stratified noise levels, for one model or for several.

    λ is stratified from the lowest level that all models know to the highest: one uniform draw in each stratum, for
    each sample. At each there are two evaluations, at ε and at −ε.

    Args:
        models: The score models.
        x: Samples `(B, ...)` in the data's units.
        conditions: Conditions of each model by name.
        options: The options `t_min`, `t_max`, `scaling` and `batch_size`.
        draws: Number of strata.
        seed: Seed of noise and levels.
        first: Index of the first sample.
        log_snr: Interval of λ instead of the largest.

    Attributes:
        x: The samples in model space, `(B, D)` float64.
        centred: x less the mean of the first model's data.
        size: Number of elements D of a sample.
        edges: Edges of the strata, `(n + 1,)` float64, increasing from noise to data.
        log_snr: The levels λ, `(B, n)`.
        spread: Covariance of the data of the first model.
        least: The variance v₀ of the noise at the largest λ.
        log_det: Log-determinant from the data's units to model space.

    Raises:
        ValueError: Samples, conditions or a number of draws out of their range, models of data of different shapes or
            units, or λ ranges that do not overlap.
    """

    def __init__(
        self,
        models: Sequence[ScoreModel],
        x: Tensor,
        conditions: Sequence[Mapping[str, Any]],
        options: FlowOptions,
        draws: int,
        seed: int,
        first: int,
        log_snr: tuple[float, float] | None = None,
    ) -> None:
        if not 2 <= draws < NOISES:
            raise ValueError(f"draws is {draws}, expected 2 or more, and less than {NOISES}")
        scaling = CovarianceScaling() if options.scaling is None else options.scaling
        options = replace(options, variable=LogSNR(), scaling=scaling)
        self.predictors: list[NoisePredictor] = []
        flows: dict[int, Flow] = {}
        for model, cond in zip(models, conditions, strict=True):
            if id(model) not in flows:
                _check_alike(models[0], model)
            x, bound = check_batch(model, x, cond)
            if id(model) not in flows:
                flows[id(model)] = Flow(model, x.shape, bound, options, x.device)
            self.predictors.append(NoisePredictor(flows[id(model)].under(bound)))
        self.flow = self.predictors[0].flow
        self.width, self.seed = options.width, seed
        self.indices = torch.arange(first, first + len(x))
        self.x = models[0].to_model_space(x).double().flatten(1)
        self.size, self.log_det, self.spread = self.flow.size, self.flow.log_det, self.flow.spread
        self.centred = self.x - self.flow.mean
        low, high = _interval([_ends(each.flow) for each in self.predictors], log_snr)
        statistics = models[0].statistics
        self.edges = _strata(low, high, 1.0 if statistics is None else statistics.largest_std, draws).to(x.device)
        self.least = math.exp(-2 * high)
        noise = SampleNoise(seed, self.indices, (draws,), torch.float64, x.device, stream=Stream.DENOISING_LEVELS)
        self.log_snr = self.edges[:-1] + self.lengths * noise.uniform()

    @property
    def lengths(self) -> Tensor:
        """Lengths of the strata, `(n,)`."""
        return self.edges.diff()

    @property
    def nfe(self) -> int:
        """Evaluations of each model for a sample."""
        return 2 * self.log_snr.shape[1]

    def normal_noise(self, log_snr: Tensor, x: Tensor) -> Tensor:
        """The noise that N(m, Σ + v₀) predicts in x̃_v `(b, D)`, where m and Σ are the data's of the first model."""
        variance = (-2 * log_snr).exp()[:, None]
        factors = variance.sqrt() / (self.spread.values + self.least + variance)
        return self.spread.apply(factors, x - self.flow.mean)

    def normal_error(self) -> Tensor:
        """E‖ε̂ − ε‖² of that density at the levels of each sample, `(B, n)`, in closed form."""
        columns = []
        for log_snr in self.log_snr.unbind(1):
            variance = (-2 * log_snr).exp()[:, None]
            total = self.spread.values + self.least + variance
            moved = variance.sqrt() * self.spread.apply(1 / total, self.centred)
            columns.append(moved.square().sum(1) + self.spread.trace((1 - variance / total).square()))
        return torch.stack(columns, 1)

    def normal_log_prob(self) -> Tensor:
        """log N(x; m, Σ + v₀) in model space, `(B,)`."""
        total = self.spread.values + self.least
        square = (self.centred * self.spread.apply(1 / total[None], self.centred)).sum(1)
        return -0.5 * (square + self.spread.trace(total.log()) + self.size * math.log(2 * math.pi))

    def means(self, combination: Combination, normal: bool = False) -> Tensor:
        """Means of a combination over ε and −ε at every level, `(k, B, n)`.

        Args:
            combination: The combination.
            normal: Whether the noise that a normal density predicts comes after those of the models.
        """
        count = self.log_snr.shape[1]
        found: list[Tensor] = []
        size = max(1, self.width // 2)
        with ExitStack() as stack:
            for model in {id(each.flow.model): each.flow.model for each in self.predictors}.values():
                stack.enter_context(model.evaluating())
            for start in range(0, self.log_snr.numel(), size):
                chosen = torch.arange(start, min(start + size, self.log_snr.numel()), device=self.x.device)
                found.append(self._pair(chosen // count, chosen % count, combination, normal))
        return torch.cat(found, 1).reshape(-1, *self.log_snr.shape)

    def _pair(self, rows: Tensor, number: Tensor, combination: Combination, normal: bool) -> Tensor:
        """The means over ε and −ε for the strata `number` `(b,)` of the samples `rows`, `(k, b)`."""
        index = noise_number(self.indices.to(rows.device)[rows], number)
        noise = SampleNoise(
            self.seed, index, (self.size,), torch.float64, self.x.device, stream=Stream.DENOISING_NOISE
        )()
        eps, both = torch.cat((noise, -noise)), rows.repeat(2)
        log_snr = self.log_snr[rows, number].repeat(2)
        x = self.x[both] + (-log_snr).exp()[:, None] * eps
        predictions = [predictor(log_snr, x, both) for predictor in self.predictors]
        if normal:
            predictions.append(self.normal_noise(log_snr, x))
        return combination(eps, predictions).reshape(-1, 2, len(rows)).mean(1)


def error_above(eps: Tensor, prediction: Tensor, other: Tensor) -> Tensor:
    """‖ε̂ − ε‖² − ‖ε̂′ − ε‖² `(b,)` of two predictions `(b, D)`, without the cancellation where they are alike."""
    return ((prediction - other) * (prediction + other - 2 * eps)).sum(1)


def common_strata(models: Sequence[ScoreModel], draws: int) -> Tensor:
    """The edges `(draws + 1,)` of the strata that `NoisyData` has for models, from t_max to t_min.

    Raises:
        ValueError: Models whose λ ranges do not overlap.
    """
    low, high = _interval([log_snr_range(model) for model in models], None)
    statistics = models[0].statistics
    return _strata(low, high, 1.0 if statistics is None else statistics.largest_std, draws)


def log_snr_range(model: ScoreModel, t_min: float | None = None, t_max: float | None = None) -> tuple[float, float]:
    """The smallest and the largest λ = log(α/σ) between t_min and t_max, which are the SDE's if not given."""
    sde = model.sde
    ends = torch.tensor([sde.t_noise() if t_max is None else t_max, sde.t_min if t_min is None else t_min])
    low, high = sde.log_snr(ends.double()).tolist()
    return low, high


def _ends(flow: Flow) -> tuple[float, float]:
    return log_snr_range(flow.model, flow.t_min, flow.t_max)


def _interval(known: Sequence[tuple[float, float]], asked: tuple[float, float] | None) -> tuple[float, float]:
    """The interval of λ that all models know, or the one that is asked for.

    Raises:
        ValueError: No such interval.
    """
    low, high = max(ends[0] for ends in known), min(ends[1] for ends in known)
    if not low < high:
        told = " and ".join(f"{a:.3g} to {b:.3g}" for a, b in known)
        raise ValueError(f"the ranges of log SNR of the models do not overlap: {told}")
    if asked is None:
        return low, high
    if not low - 1e-9 <= asked[0] < asked[1] <= high + 1e-9:
        raise ValueError(
            f"log_snr is {asked[0]:.4g} to {asked[1]:.4g}, expected an interval between {low:.4g} and {high:.4g}, "
            "which the model's t_max and t_min are"
        )
    return asked


def _check_alike(model: ScoreModel, other: ScoreModel) -> None:
    """Reject models of different data.

    Raises:
        ValueError: Shapes or transforms that differ.
    """
    if None not in (model.shape, other.shape) and model.shape != other.shape:
        raise ValueError(f"the models are of data of different shapes, {model.shape} and {other.shape}")
    infos = [None if m.info is None else m.info.transform for m in (model, other)]
    first, second = (infos[0], infos[1]) if None not in infos else (model.transform, other.transform)
    if repr(first) != repr(second):
        raise ValueError(
            f"the models have different transforms of the data, {first!r} and {second!r}: their densities are in "
            "different units"
        )


def _strata(low: float, high: float, std: float, count: int) -> Tensor:
    """Edges `(count + 1,)` of strata of equal lengths, but an eighth of them below −log 3 std."""
    near = -math.log(_FAR * std)
    far = max(1, round(_FAR_SHARE * count))
    if not low < near < high or far >= count:
        return torch.linspace(low, high, count + 1, dtype=torch.float64)
    # Far levels never get shorter strata than the others.
    far = min(far, max(1, round(count * (near - low) / (high - low))))
    left = torch.linspace(low, near, far + 1, dtype=torch.float64)
    return torch.cat((left, torch.linspace(near, high, count - far + 1, dtype=torch.float64)[1:]))
