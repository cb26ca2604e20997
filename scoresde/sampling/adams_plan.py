"""Coefficients of an exponential Adams method, tabulated before the loop.

A step goes from r to t. With x̂ = x/α, n the norm of x̂ in the coordinate, w its variable and c = 1 + τ² (its mean over
the step), `scoresde.sampling.adams` has

    x̂_t = (n_t/n_r)^c x̂_r + Σ_j W_j P_j + ν z,
    W_j = c n_t^c ∫ n^{1−c} L_j dw,    ν² = n_t^{2c} ∫ 2 τ² s² n^{−2c} dλ.

The integrals are taken by Gauss-Legendre quadrature in λ. Everything is computed for all steps at once: row i of a
tensor belongs to the step from times[i] to times[i + 1].
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from scoresde.numerics.quadrature import lagrange, panels
from scoresde.sampling.stochasticity import Stochasticity
from scoresde.score import ScoreModel
from scoresde.sde import SDE
from scoresde.sde.coordinates import Coordinate

__all__ = ["AdamsStep", "Same", "WeightKind", "Weights", "adams_plan", "adams_step", "gaussian_prediction"]

_NODES = 20  # in a panel of length 2 in λ
_KEPT = 16  # plans

WeightKind = Literal["exact", "uniform", "bh1", "bh2"]


class Method(Protocol):
    """Settings of a `Multistep` that its coefficients depend on."""

    @property
    def order(self) -> int: ...
    @property
    def corrector(self) -> int: ...
    @property
    def interpolation(self) -> Coordinate | None: ...
    @property
    def weights(self) -> WeightKind: ...
    @property
    def stochasticity(self) -> Stochasticity | None: ...
    @property
    def relaxation(self) -> float: ...
    @property
    def lower_order_final(self) -> bool: ...


class Weights(NamedTuple):
    """The sum Σ_j values_j P_j + on_mean m, where P_0 is the newest prediction and m the mean of the data."""

    values: list[float]
    on_mean: float


@dataclass(frozen=True)
class AdamsStep:
    """The update x ← on_x x + Σ_j values_j P_j + on_mean m + on_noise z.

    Attributes:
        on_x: The factor of the state.
        on_noise: The standard deviation of the noise.
        clock: e^{2λ} at both ends, the time of the Brownian motion of which z is the increment.
        predictor: Weights of the predictions up to the step's start.
        corrector: Weights that use the prediction at the step's end as well; None for no correction.
    """

    on_x: float
    on_noise: float
    clock: tuple[float, float]
    predictor: Weights
    corrector: Weights | None


def gaussian_prediction(model: ScoreModel, x: Tensor, t: Tensor, p: float, q: float) -> Tensor | None:
    """Compute E[p x₀ + q ε | x] at t for a normal density with the mean and covariance of the data.

    Returns:
        The prediction, or None if the data may be far from normal at t: their moments are not known, conditions are
        bound, or σ/α is less than 10 times the standard deviation of the data.
    """
    known = model.statistics
    level = float(model.sde.noise_level(t))
    if known is None or model.conditioned or level < 10 * float(known.std):
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
    table = _tabulated(method, coordinate, same.sde, torch.tensor(times, dtype=torch.float64))
    count = len(times) - 1

    # The first steps have fewer values to use, and with `lower_order_final` so do the last.
    first = torch.arange(1, count + 1)
    orders = first.clamp(max=method.order)
    predictors = table.weights(orders.minimum(first.flip(0)) if method.lower_order_final else orders, ahead=0)

    # The last step has no corrector: it would need an evaluation that no step follows.
    correctors: Sequence[Weights | None] = [None] * count
    if method.corrector and count > 1:
        correctors = [*table.weights(first.clamp(max=method.corrector) + 1, ahead=1)[:-1], None]
    if method.relaxation < 1:
        correctors = [
            new and _mixed(method.relaxation, new, Weights([0.0, *old.values], old.on_mean))
            for new, old in zip(correctors, predictors, strict=True)
        ]

    clocks = itertools.pairwise((2 * table.log_snr).exp().tolist())
    on_noise = (table.alpha[1:] * table.variance.sqrt()).tolist()
    rows = zip(table.on_x.tolist(), on_noise, clocks, predictors, correctors, strict=True)
    return [AdamsStep(*row) for row in rows]


def _mixed(share: float, new: Weights, old: Weights) -> Weights:
    """Mix share new + (1 − share) old, of which one may have more values."""
    pairs = itertools.zip_longest(new.values, old.values, fillvalue=0.0)
    return Weights([share * a + (1 - share) * b for a, b in pairs], share * new.on_mean + (1 - share) * old.on_mean)


@dataclass(frozen=True)
class _Table:
    """Integrands of n steps at m nodes each.

    Attributes:
        log_snr: λ at the times of the grid, `(n + 1,)`.
        alpha: α at these times, `(n + 1,)`.
        target: p at these times, `(n + 1,)`: the part of the mean in a prediction is p m.
        on_x: The factors of the state, `(n,)`.
        variance: ν², `(n,)`.
        kernel: c n_t^c n^{1−c} dw at the nodes, `(n, m)`, so that sums over the nodes are integrals.
        total: The sums of the kernel, `(n,)`.
        points: The variable of the interpolation at the times of the grid, `(n + 1,)`.
        inner: The variable of the interpolation at the nodes, `(n, m)`.
        differences: B(h) of each step, `(n,)`, if two values are used by half of their difference; None for Lagrange.
    """

    log_snr: Tensor
    alpha: Tensor
    target: Tensor
    on_x: Tensor
    variance: Tensor
    kernel: Tensor
    total: Tensor
    points: Tensor
    inner: Tensor
    differences: Tensor | None

    def weights(self, counts: Tensor, ahead: int) -> list[Weights]:
        """Compute α_t W_j of every step for its number of values, the newest of which is that at time i + ahead."""
        lags = torch.arange(int(counts.max()))
        used = lags < counts[:, None]
        index = (torch.arange(len(counts))[:, None] + ahead - lags).clamp(min=0)
        points = self.points[index]
        weights = (self.kernel[:, None] * lagrange(points, used, self.inner)).sum(2) * used

        if self.differences is not None and len(lags) > 1:
            # P = P_i + (v − v_i) (P_0 − P_1)/(v_0 − v_1), where the integral of v − v_i is half of B(h) times the step.
            slope = 0.5 * self.differences * self.points.diff() / (points[:, 0] - points[:, 1])
            halves = torch.zeros_like(weights)
            halves[:, 0], halves[:, 1] = slope, -slope
            halves[:, ahead] += self.total
            weights = torch.where((counts == 2)[:, None], halves, weights)

        weights = self.alpha[1:, None] * weights
        # Data at their mean stay there: x = α m is kept by the step.
        on_mean = self.alpha[1:] - self.on_x * self.alpha[:-1] - (weights * self.target[index]).sum(1)
        rows = zip(weights.tolist(), counts.tolist(), on_mean.tolist(), strict=True)
        return [Weights(row[:count], m) for row, count, m in rows]


def _tabulated(method: Method, coordinate: Coordinate, sde: SDE, times: Tensor) -> _Table:
    lam, alpha = sde.log_snr(times), sde.alpha(times)
    h = lam.diff()
    tau = method.stochasticity
    kappa = torch.zeros_like(h) if tau is None else tau.integral(lam[:-1], lam[1:])
    c = 1 + kappa / h
    n = coordinate.norm(sde, times) / alpha

    # Quadrature on panels of λ: no integrand has a singularity nearer than π/2 to the real axis.
    unit, share = panels(_NODES, max(1, math.ceil(float(h.max()) / 2)))
    inner = lam[:-1, None] + h[:, None] * unit
    t = sde.time(inner).clamp(float(times[-1]), float(times[0]))
    ratio = n[1:, None] / (coordinate.norm(sde, t) / sde.alpha(t))
    variance = 2 * kappa * (((-inner).exp() * ratio ** c[:, None]) ** 2 * share).sum(1)
    kernel = (c * n[1:] * h)[:, None] * ratio ** (c - 1)[:, None] * coordinate.rate(sde, t) * share
    total = kernel.sum(1)

    # The variable in which the prediction is a polynomial
    if method.weights == "uniform":
        steps = torch.arange(len(h) + 1, dtype=torch.float64)
        points, at, kernel = steps, steps[:-1, None] + unit, total[:, None] * share
    else:
        variable = coordinate if method.interpolation is None else method.interpolation
        points, at = variable.variable(sde, times), variable.variable(sde, t)

    differences = {"bh1": c * n[1:] * coordinate.rate(sde, times[1:]) * h, "bh2": total}.get(method.weights)
    return _Table(
        log_snr=lam,
        alpha=alpha,
        target=coordinate.target(sde, times)[0],
        on_x=alpha[1:] / alpha[:-1] * (n[1:] / n[:-1]) ** c,
        variance=variance,
        kernel=kernel,
        total=total,
        points=points,
        inner=at,
        differences=differences,
    )
