"""Coefficients of an exponential Adams method, tabulated before the loop."""

import itertools
import math
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from scoresde.sampling.stochasticity import Stochasticity
from scoresde.score import ScoreModel
from scoresde.sde import SDE
from scoresde.sde.coordinates import Coordinate

__all__ = ["Step", "gaussian_prediction"]

_NODES, _NODE_WEIGHTS = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(20))

Weights = Literal["exact", "uniform", "bh1", "bh2"]


class Method(Protocol):
    """Settings of a `Multistep` that its coefficients depend on."""

    order: int
    corrector: int
    interpolation: Coordinate | None
    weights: Weights
    tau: Stochasticity | None
    relaxation: float
    lower_order_final: bool


@dataclass(frozen=True)
class Step:
    """x ← on_x x + Σ_j weights_j P_j + on_mean m + on_noise z, where P_0 is the newest value.

    Attributes:
        predictor: weights and on_mean with the values up to the step's start.
        corrector: the same with the value at its end, too; None for no correction.
        clock: e^{2λ} at both ends, the time of the Brownian motion of which z is the increment.
    """

    on_x: float
    on_noise: float
    clock: tuple[float, float]
    predictor: tuple[list[float], float]
    corrector: tuple[list[float], float] | None


def gaussian_prediction(model: ScoreModel, x: Tensor, t: Tensor, p: float, q: float) -> Tensor | None:
    """E[p x₀ + q ε | x] at t for a normal density with the data's mean and covariance.

    None where that may be far from the truth: the model does not know them, conditions are bound, or σ/α is less than
    10 times the data's standard deviation.
    """
    known = model.statistics
    level = float(model.sde.noise_level(t))
    if known is None or model.conditioned or level < 10 * float(known.std):
        return None
    scaled = x / float(model.sde.alpha(t))
    denoised = known.denoise(scaled, level)
    return torch.add(p * denoised, scaled - denoised, alpha=q / level)


def adams_step(
    base: Tensor, on_base: float, weighted: tuple[list[float], float], values: list[Tensor], mean: Tensor | None
) -> Tensor:
    """on_base base + Σ_j weights_j values_j + on_mean m; on_base is 1 if there is no mean."""
    weights, on_mean = weighted
    # The mean has the shape of one sample, so that it costs no pass over the batch.
    if mean is None:
        x = torch.add(base, values[0], alpha=weights[0])
    else:
        x = torch.add(on_mean * mean, base, alpha=on_base).add_(values[0], alpha=weights[0])
    for w, value in zip(weights[1:], values[1:], strict=False):
        x.add_(value, alpha=w)
    return x


def adams_plan(method: Method, coordinate: Coordinate, sde: SDE, times: Tensor) -> list[Step]:
    steps = len(times) - 1
    lam, alpha = sde.log_snr(times), sde.alpha(times)
    h = lam.diff()
    kappa = torch.zeros_like(h) if method.tau is None else method.tau.integral(lam[:-1], lam[1:])
    c = 1 + kappa / h
    n = coordinate.norm(sde, times) / alpha
    on_x = alpha[1:] / alpha[:-1] * (n[1:] / n[:-1]) ** c

    # Gauss-Legendre on panels of λ: no integrand has a singularity nearer than π/2 to the real axis.
    panels = max(1, math.ceil(float(h.max()) / 2))
    unit = ((torch.arange(panels)[:, None] + 0.5 * (_NODES + 1)) / panels).flatten()
    share = _NODE_WEIGHTS.repeat(panels) / (2 * panels)
    inner = lam[:-1, None] + h[:, None] * unit
    t = sde.time(inner).clamp(float(times[-1]), float(times[0]))
    ratio = n[1:, None] / (coordinate.norm(sde, t) / sde.alpha(t))
    variance = 2 * kappa * (((-inner).exp() * ratio ** c[:, None]) ** 2 * share).sum(1)
    # c n_t^c n^{1−c} dw
    kernel = (c * n[1:] * h)[:, None] * ratio ** (c - 1)[:, None] * coordinate.rate(sde, t) * share
    total = kernel.sum(1)

    if method.weights == "uniform":
        v, v_inner = torch.arange(steps + 1, dtype=torch.float64), torch.arange(steps)[:, None] + unit
        kernel = total[:, None] * share
    else:
        variable = coordinate if method.interpolation is None else method.interpolation
        v, v_inner = variable.variable(sde, times), variable.variable(sde, t)
    # B(h), where two values are weighted by half of it
    b = {"bh1": c * n[1:] * coordinate.rate(sde, times[1:]) * h, "bh2": total}.get(method.weights)
    p = coordinate.target(sde, times)[0]

    def table(counts: Tensor, ahead: int) -> list[tuple[list[float], float]]:
        """For every step α_t W_j of its count of values, the newest at time i + ahead, and the weight of the mean."""
        places = torch.arange(int(counts.max()))
        index = (torch.arange(steps)[:, None] + ahead - places).clamp(min=0)
        at, used = v[index], places < counts[:, None]
        # Lagrange's polynomials (v − v_k)/(v_j − v_k), without a factor where k is j or not used
        absent = ~(used[:, :, None] & used[:, None, :]) | torch.eye(len(places), dtype=torch.bool)
        gaps = (at[:, :, None] - at[:, None, :]).masked_fill(absent, 1)
        factors = ((v_inner[:, None] - at[:, :, None])[:, None] / gaps[..., None]).masked_fill(absent[..., None], 1)
        columns = (kernel[:, None] * factors.prod(2)).sum(2) * used
        if b is not None and len(places) > 1:
            slope = 0.5 * b * v.diff() / gaps[:, 0, 1]
            halves = torch.zeros_like(columns)
            halves[:, 0], halves[:, 1] = slope, -slope
            halves[:, ahead] += total
            columns = torch.where((counts == 2)[:, None], halves, columns)
        columns = alpha[1:, None] * columns
        on_mean = alpha[1:] - on_x * alpha[:-1] - (columns * p[index]).sum(1)
        rows = zip(columns.tolist(), counts.tolist(), on_mean.tolist(), strict=True)
        return [(row[:count], m) for row, count, m in rows]

    first = torch.arange(1, steps + 1)
    orders = first.clamp(max=method.order)
    predictors = table(orders.minimum(first.flip(0)) if method.lower_order_final else orders, 0)
    correctors: list[tuple[list[float], float] | None] = [None] * steps
    if method.corrector and steps > 1:
        correctors[:-1] = table(first.clamp(max=method.corrector) + 1, 1)[:-1]
    if method.relaxation < 1:
        pairs = zip(correctors, predictors, strict=True)
        correctors = [new and _mixed(method.relaxation, new, ([0.0, *old], m)) for new, (old, m) in pairs]
    clock = (2 * lam).exp().tolist()
    spread = (alpha[1:] * variance.sqrt()).tolist()
    clocks = itertools.pairwise(clock)
    return [Step(*row) for row in zip(on_x.tolist(), spread, clocks, predictors, correctors, strict=True)]


def _mixed(share: float, new: tuple[list[float], float], old: tuple[list[float], float]) -> tuple[list[float], float]:
    """share new + (1 − share) old, for weights of which one may have more than the other."""
    pairs = itertools.zip_longest(new[0], old[0], fillvalue=0.0)
    return [share * a + (1 - share) * b for a, b in pairs], share * new[1] + (1 - share) * old[1]
