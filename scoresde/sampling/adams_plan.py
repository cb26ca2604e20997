"""Coefficients of an exponential Adams method: how many values each step uses, and with which weights.

Everything is tabulated before the loop, in float64 on the CPU. The integrals are those of
`scoresde.sampling.adams_table`.
"""

import itertools
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from scoresde.sampling.adams_guard import Series, series
from scoresde.sampling.adams_table import Method, Table, WeightKind, Weights, tabulated
from scoresde.score import ScoreModel
from scoresde.sde import SDE
from scoresde.sde.coordinates import Coordinate

__all__ = [
    "AdamsStep",
    "Same",
    "WeightKind",
    "Weights",
    "adams_plan",
    "adams_step",
    "gaussian_prediction",
    "guarded_step",
]

_KEPT = 16  # plans
_SHORT = 15  # steps, below which a grid is short (as in the code of Lu et al. 2022b)


@dataclass(frozen=True)
class AdamsStep:
    """The update x ← on_x x + Σ_j values_j P_j + on_mean m + on_noise z.

    Attributes:
        on_x: The factor of the state.
        on_noise: The standard deviation of the noise.
        clock: e^{2λ} at both ends, the time of the Brownian motion of which z is the increment.
        predictor: Weights of the predictions up to the step's start.
        corrector: Weights that use the prediction at the step's end as well; None for no correction.
        series: The predictor as a series, with which the safeguard takes the place of `predictor`; None for no
            safeguard. With it all predictions P_j are to be those of data without their mean, P_j − p m.
    """

    on_x: float
    on_noise: float
    clock: tuple[float, float]
    predictor: Weights
    corrector: Weights | None
    series: Series | None = None


def gaussian_prediction(model: ScoreModel, x: Tensor, t: Tensor, p: float, q: float) -> Tensor | None:
    """Compute E[p x₀ + q ε | x] at t for a normal density with the mean and covariance of the data.

    Returns:
        The prediction, or None if the data may be far from normal at t: their moments are not known or may be those
        of another density, conditions are bound, or σ/α is less than 10 times the standard deviation of the data.
    """
    known = model.statistics
    level = float(model.sde.noise_level(t))
    vouched = model.normal_at_most_noise and not model.conditioned
    if known is None or not vouched or level < 10 * float(known.std):
        return None
    scaled = x / float(model.sde.alpha(t))
    denoised = known.denoise(scaled, level)
    return torch.add(p * denoised, scaled - denoised, alpha=q / level)


def adams_step(base: Tensor, on_base: float, weights: Weights, values: list[Tensor], mean: Tensor | None) -> Tensor:
    """Compute on_base base + Σ_j weights_j values_j + on_mean m; on_base is 1 if there is no mean."""
    on_values, on_mean = weights
    # The mean has the shape of one sample, so that it costs no pass over the batch.
    if mean is None:
        x = torch.add(base, values[0], alpha=on_values[0])
    else:
        x = torch.add(on_mean * mean, base, alpha=on_base).add_(values[0], alpha=on_values[0])
    for w, value in zip(on_values[1:], values[1:], strict=False):
        x.add_(value, alpha=w)
    return x


def guarded_step(
    base: Tensor, on_base: float, step: AdamsStep, values: list[Tensor], differences: list[Tensor], mean: Tensor | None
) -> Tensor:
    """Compute the predictor of a step, with its safeguard if it has one."""
    if step.series is None:
        return adams_step(base, on_base, step.predictor, values, mean)
    x = adams_step(base, on_base, Weights([step.series.zeroth], step.predictor.on_mean), values, mean)
    return step.series.add_to(x, values[0], differences)


@dataclass(frozen=True, eq=False)
class Same:
    """An SDE that equals itself alone, whatever a class of the user's own takes for equal."""

    sde: SDE

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and other.sde is self.sde

    def __hash__(self) -> int:
        return id(self.sde)


@lru_cache(maxsize=_KEPT)
def adams_plan(method: Method, coordinate: Coordinate, same: Same, times: tuple[float, ...]) -> list[AdamsStep]:
    """Tabulate the coefficients of every step on a grid.

    Plans are kept for the next chunk of a batch and the next call, so they are not to be written to.
    """
    table = tabulated(method, coordinate, same.sde, torch.tensor(times, dtype=torch.float64))
    count = len(times) - 1
    short = count < _SHORT

    # The first steps have fewer values to use, and with `lower_order_final` so do the last of a short grid.
    first = torch.arange(1, count + 1)
    orders = first.clamp(max=method.order)
    if method.lower_order_final and short:
        orders = orders.minimum(first.flip(0))
    predictors = _bounded(table, orders, ahead=0)

    # The last step has no corrector: it would need an evaluation that no step follows.
    correctors: list[Weights | None] = [None] * count
    if method.corrector and count > 1:
        correctors = [*_bounded(table, first.clamp(max=method.corrector) + 1, ahead=1)[:-1], None]
    if not short and method.relaxation == 1 and not bool(table.variance.any()):
        _make_good(table, method, predictors, correctors)
    if method.relaxation < 1:
        correctors = [
            new and _mixed(method.relaxation, new, Weights([0.0, *old.values], old.on_mean))
            for new, old in zip(correctors, predictors, strict=True)
        ]

    guards: list[Series | None] = [None] * count
    if method.safeguard:
        two, three = (table.alpha[1:, None] * table.integrals(first.clamp(max=k), ahead=0) for k in (2, 3))
        guards = series(predictors, two, three) if count > 1 else guards

    clocks = itertools.pairwise((2 * table.log_snr).exp().tolist())
    on_noise = (table.alpha[1:] * table.variance.sqrt()).tolist()
    rows = zip(table.on_x.tolist(), on_noise, clocks, predictors, correctors, guards, strict=True)
    return [AdamsStep(*row) for row in rows]


def _bounded(table: Table, counts: Tensor, ahead: int) -> list[Weights]:
    """Tabulate weights that do not magnify errors of the values too much.

    Errors of the values are magnified by up to Σ|W_j|/|Σ W_j|, and a value is off by what the polynomial does not see:
    the poles of the prediction, at ±iπ/2 in λ from where a normal density of that width is reached, and what noise was
    drawn since. Equal steps of any length stay below 2^k − 1 for k values, the factor of extrapolation by a whole step.
    A step that is long beside those before it exceeds that. Its weights are then mixed with those of one value less.

    With noise the bound is 3 at any order: the weak order is 2 at most, so that more values only magnify. The ODE is
    bounded for polynomials in λ alone, by 2^k − 1, or 3 for a corrector: λ has no end, while in a variable that ends
    with the noise a long last step is near those before it, and high orders paid on all grids that were tried.

    The second order that takes over has half of the difference of two values, as in DPM-Solver++ 2M, of which a long
    step makes less than of the exact weights.
    """
    weights = table.integrals(counts, ahead)
    noisy = table.variance > 0
    size = weights.abs().sum(1)
    for _ in range(int(counts.max()) - 1 - ahead):
        without = torch.full_like(size, 3.0) if ahead else 2.0**counts - 1
        if not table.endless:
            without = torch.full_like(size, torch.inf)
        bound = torch.where(noisy, 3.0, without) * (1 + 1e-9) * table.total.abs()
        high = (size > bound) & (counts > 1 + ahead)
        if not bool(high.any()):
            break
        fewer = torch.where(high, counts - 1, counts)
        lower = torch.nn.functional.pad(table.integrals(fewer, ahead, high), (0, weights.shape[1]))
        lower = lower[:, : weights.shape[1]]
        least = lower.abs().sum(1)
        # Σ|W_j| is convex, so that this share is within the bound.
        share = torch.where(high, (bound - least) / (size - least), 1.0).clamp(0, 1)[:, None]
        weights = share * weights + (1 - share) * lower
        counts, size = torch.where(share[:, 0] > 0, counts, fewer), weights.abs().sum(1)
    return table.rows(table.alpha[1:, None] * weights, counts, ahead)


def _make_good(table: Table, method: Method, predictors: list[Weights], correctors: list[Weights | None]) -> None:
    """Give the first steps weights that make good what those of lower order before them left.

    The first step is of order 1, so that x₁ is off by O(h²), and the value P₁ with it. Yet x₂ as the integral from t₀
    of the line through P₀ and P₁ is off by O(h³), and so is P₂. With it the integral from t₀ of the parabola through
    P₀, P₂ and P₃ is off by O(h⁴). Methods of order 4 do not use P₁ after that. All are sums of the values that a step
    has anyway, with other weights.
    """
    corrected = min(method.corrector, method.order)
    order = corrected + 1 if corrected else method.order
    if order < 3:
        return
    ahead = 1 if method.corrector else 0
    # The times of the values at each step: those of steps whose integral is taken from t₀, and of those after them.
    whole: dict[int, tuple[int, ...]]
    after: dict[int, tuple[int, ...]]
    if ahead:
        whole, after = ({2: (3, 2, 0)}, {3: (4, 3, 2)}) if order > 3 else ({}, {})
    else:
        whole, after = ({1: (1, 0), 3: (3, 2, 0)}, {4: (4, 3, 2)}) if order > 3 else ({1: (1, 0)}, {})
    done: dict[int, float] = {}  # x_i is a multiple of x_0 and the sum of these times P_j
    for i in range(5):
        now = correctors[i] if ahead else predictors[i]
        assert now is not None  # a grid that is not short
        factor = float(table.on_x[i])
        kept = {j: factor * v for j, v in done.items()}
        if i in whole or i in after:
            values = table.span(0 if i in whole else i, i, whole.get(i, after.get(i, ())))
            if i in whole:
                values = {j: values.get(j, 0.0) - kept.get(j, 0.0) for j in values.keys() | kept.keys()}
            lags = range(i + ahead - min(values) + 1)
            row = torch.tensor([[values.get(i + ahead - lag, 0.0) for lag in lags]], dtype=torch.float64)
            size, limit = float(row.abs().sum()), 2**order - 1
            if size <= limit * float((table.alpha[i + 1] * table.total[i]).abs()):
                (now,) = table.rows(row, torch.tensor([row.shape[1]]), ahead, first=i)
        done = dict(kept)
        for lag, v in enumerate(now.values):
            done[i + ahead - lag] = done.get(i + ahead - lag, 0.0) + v
        if ahead:
            correctors[i] = now
        else:
            predictors[i] = now


def _mixed(share: float, new: Weights, old: Weights) -> Weights:
    """Mix share new + (1 − share) old, of which one may have more values."""
    pairs = itertools.zip_longest(new.values, old.values, fillvalue=0.0)
    return Weights([share * a + (1 - share) * b for a, b in pairs], share * new.on_mean + (1 - share) * old.on_mean)
