"""Exponential Adams methods: one family for the ODE and the SDE solvers that remember earlier evaluations.

In x̂ = x/α, with s = σ/α and λ = −log s, the reverse SDE with stochasticity τ reads

    dx̂ = −(1 + τ²) s ε dλ + √2 τ s dw,

and is the probability-flow ODE at τ = 0 (Xue et al. 2023, eq. 6). In a `Coordinate` with scale n, variable w and
prediction P it is d(x̂ n^−c) = c n^{1−c} P dw + √2 τ s n^−c dw with c = 1 + τ², so that a step from s to t with P
replaced by the polynomial through k of its values is

    x̂_t = (n_t/n_s)^c x̂_s + Σ_j W_j P_j + ν z,
    W_j = c n_t^c ∫ n^{1−c} L_j dw,    ν² = n_t^{2c} ∫ 2 τ² s² n^{−2c} dλ.

The predictor has P at the k last times; the corrector repeats the step with P at the new time as well, which the
next step needs anyway, so it costs no evaluation (Zhao et al. 2023).
"""

import itertools
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.sampling.coordinates import Angle, Coordinate
from scoresde.sampling.sampler import Noise, Solver
from scoresde.score import ScoreModel
from scoresde.sde import SDE

__all__ = ["ConstantTau", "Eta", "IntervalTau", "Multistep", "Step", "Stochasticity", "gaussian_prediction"]

_NODES, _NODE_WEIGHTS = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(20))

Weights = Literal["exact", "uniform", "bh1", "bh2"]


class Stochasticity(ABC):
    """τ(t) ≥ 0, how much noise the reverse SDE draws: 0 is the ODE, 1 the reverse of the forward SDE."""

    @abstractmethod
    def integral(self, start: Tensor, stop: Tensor) -> Tensor:
        """∫ τ² dλ from λ = start to stop, `(n,)`; in a step τ² counts as its mean."""

    @property
    def adds_noise(self) -> bool:
        """Whether τ is above 0 anywhere between σ/α = e³⁰ and e⁻³⁰."""
        return bool(self.integral(*torch.tensor([[-30.0], [30.0]], dtype=torch.float64)) > 0)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in vars(self).items())})"


@checked
class ConstantTau(Stochasticity):
    """The same τ everywhere."""

    def __init__(self, tau: float = 1.0) -> None:
        self.tau = _not_negative("tau", tau)

    def integral(self, start: Tensor, stop: Tensor) -> Tensor:
        return self.tau**2 * (stop - start)


@checked
class IntervalTau(Stochasticity):
    """τ where s_min ≤ σ/α ≤ s_max, 0 elsewhere (Xue et al. 2023, section 6; Karras et al. 2022, algorithm 2)."""

    def __init__(self, tau: float = 1.0, s_min: float = 0.05, s_max: float = 1.0) -> None:
        self.tau = _not_negative("tau", tau)
        if not 0 < s_min < s_max:
            raise ValueError(f"s_min is {s_min} and s_max is {s_max}, expected 0 < s_min < s_max")
        self.s_min = s_min
        self.s_max = s_max

    def integral(self, start: Tensor, stop: Tensor) -> Tensor:
        low, high = -math.log(self.s_max), -math.log(self.s_min)
        return self.tau**2 * (stop.clamp(low, high) - start.clamp(low, high))


@checked
class Eta(Stochasticity):
    """DDIM's η (Song, Meng & Ermon 2021, eq. 16): 0 is DDIM, 1 is DDPM's ancestral sampling, at order 1.

    A step then adds η² of the variance of p(x_t | x_s, x₀), so e^{−2 ∫ τ² dλ} = 1 − η² (1 − e^{−2h}) for a step h in λ.
    """

    def __init__(self, eta: float = 1.0) -> None:
        if not 0 <= eta <= 1:
            raise ValueError(f"eta is {eta}, expected a number from 0 (DDIM) to 1 (ancestral)")
        self.eta = eta

    def integral(self, start: Tensor, stop: Tensor) -> Tensor:
        return -0.5 * torch.log1p(self.eta**2 * torch.expm1(-2 * (stop - start)))


def _not_negative(name: str, value: float) -> float:
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} is {value}, expected a number of at least 0")
    return float(value)


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


@checked
class Multistep(Solver):
    """Predictor of order 1 to 4, corrector of order 0 to 4, in any coordinate, for the ODE or the SDE.

    Settings of it are DDIM and DDPM (order 1, `Eta`), DPM-Solver++ (`SignalLevel` interpolated in `LogSNR`; Lu et al.
    2022b), DEIS (`NoiseLevel` interpolated in `Time`, or in itself; Zhang & Chen 2023), iPNDM (uniform weights; Liu et
    al. 2022, Zhang & Chen 2023), UniPC (with a corrector; Zhao et al. 2023) and SA-Solver (`ConstantTau`; Xue et al.
    2023). The velocity in the `Angle` of the data's scale has less error than any of them on few steps.

    Args:
        order: number of values that the predictor uses, 1 to 4, and its order of convergence; the first steps use
            what there is.
        corrector: number of earlier values that the corrector uses beside the new one, 0 (none) to 4; it has one order
            more. The last step is not corrected, since that would cost an evaluation.
        coordinate: the scaled state, its variable and the prediction; the `Angle` of the data's standard deviation (1
            if the model does not know it) if not given.
        interpolation: the variable in which the prediction is a polynomial; the coordinate's own if not given.
        weights: `"exact"`; `"uniform"`, as if the steps were equal, as iPNDM has it; `"bh1"` or `"bh2"`, where two
            values are used, half of their difference times B(h) = h or e^h − 1 as UniPC and DPM-Solver++ 2M have it.
        tau: stochasticity; a number is a `ConstantTau`.
        centre: integrate x − α m with the data's mean m, if the model knows it.
        start: `"model"`, or `"gaussian"` for the prediction of a normal density with the data's mean and covariance at
            the first time, which saves an evaluation (Wang & Vastola 2024). It is used if the model knows them, no
            condition is given and σ/α is at least 10 times the data's standard deviation.
        relaxation: how much of the corrector's change is made, more than 0 and at most 1: less than all where a step
            is so large that the value at its end is itself uncertain.
        lower_order_final: lower the order towards the end, to 1 in the last step (Lu et al. 2022b, appendix B).
        strict: refuse a grid with fewer steps than the order needs instead of lowering it with a warning.
    """

    def __init__(
        self,
        order: int = 3,
        corrector: int = 0,
        coordinate: Coordinate | None = None,
        interpolation: Coordinate | None = None,
        weights: Weights = "exact",
        tau: Stochasticity | float | None = None,
        centre: bool = False,
        start: Literal["model", "gaussian"] = "model",
        relaxation: float = 1.0,
        lower_order_final: bool = False,
        strict: bool = False,
    ) -> None:
        if order not in (1, 2, 3, 4):
            raise ValueError(f"order is {order!r}, expected 1, 2, 3 or 4")
        if corrector not in (0, 1, 2, 3, 4):
            raise ValueError(f"corrector is {corrector!r}, expected 0 (none), 1, 2, 3 or 4")
        if weights not in ("exact", "uniform", "bh1", "bh2"):
            raise ValueError(f"weights is {weights!r}, expected 'exact', 'uniform', 'bh1' or 'bh2'")
        if start not in ("model", "gaussian"):
            raise ValueError(f"start is {start!r}, expected 'model' or 'gaussian'")
        if not 0 < relaxation <= 1:
            raise ValueError(f"relaxation is {relaxation}, expected more than 0 and at most 1")
        self.order = order
        self.corrector = corrector
        self.coordinate = coordinate
        self.interpolation = interpolation
        self.weights: Weights = weights
        if not (tau is None or isinstance(tau, Stochasticity | int | float)):
            raise ValueError(f"tau is {tau!r}, expected a number or a Stochasticity")
        self.tau = ConstantTau(tau) if isinstance(tau, int | float) else tau
        self.centre = centre
        self.start = start
        self.relaxation = relaxation
        self.lower_order_final = lower_order_final
        self.strict = strict
        self._planned: tuple[tuple[str, SDE, float], Tensor, tuple[Coordinate, list[Step]]] | None = None

    def plan(self, sde: SDE, times: Tensor, std: float = 1.0) -> tuple[Coordinate, list[Step]]:
        """The coordinate and the coefficients of every step, for data of standard deviation `std`.

        The last plan is kept, for the next chunk of a batch or the next call.
        """
        last, key = self._planned, (repr(self), sde, std)  # an attribute may have been set since
        if last is not None and last[0] == key and torch.equal(last[1], times):
            return last[2]
        coordinate = Angle(std) if self.coordinate is None else self.coordinate
        made = coordinate, _plan(self, coordinate, sde, times)
        self._planned = key, times.clone(), made
        return made

    def check(self, steps: int) -> None:
        """Warn, or refuse if strict, where a grid has fewer steps than the order."""
        if steps < self.order:
            message = f"order {self.order} needs at least {self.order} steps, the grid has {steps}"
            if self.strict:
                raise ValueError(f"{message}: take more steps or a lower order")
            warnings.warn(f"{message}: the order is lowered to that", stacklevel=3)

    @property
    def stochastic(self) -> bool:
        return self.tau is not None and self.tau.adds_noise

    def solve(self, model: ScoreModel, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        last = len(times) - 2
        self.check(last + 1)
        known = model.statistics
        coordinate, steps = self.plan(model.sde, times, 1.0 if known is None else float(known.std))
        p, q = coordinate.target(model.sde, times)
        predict = model.prediction(times[:-1], p[:-1], q[:-1])
        mean = known.mean.to(x).reshape(x.shape[1:]) if self.centre and known is not None else None
        gaussian = self.start == "gaussian"
        first = gaussian_prediction(model, x, times[0], float(p[0]), float(q[0])) if gaussian else None
        values = [predict(x, 0) if first is None else first]
        # A relaxed corrector has the predictor's values, too.
        keep = max(self.order + (self.relaxation < 1), self.corrector + 1)
        for i, step in enumerate(steps):
            base, on_base = x, step.on_x
            if on_base != 1 and (step.on_noise or mean is None):
                base, on_base = on_base * x, 1.0
            if step.on_noise:
                base = torch.add(base, noise(*step.clock), alpha=step.on_noise)
            x = _step(base, on_base, step.predictor, values, mean)
            if i < last:
                values.insert(0, predict(x, i + 1))
                del values[keep:]
                if step.corrector is not None:
                    x = _step(base, on_base, step.corrector, values, mean)
            yield x


def gaussian_prediction(model: ScoreModel, x: Tensor, t: Tensor, p: float, q: float) -> Tensor | None:
    """E[p x₀ + q ε | x] at t for a normal density with the data's mean and covariance.

    None where that may be far from the truth: the model does not know them, conditions are bound, or σ/α is less than
    10 times the data's standard deviation.
    """
    known = model.statistics
    level = float((-model.sde.log_snr(t)).exp())
    if known is None or model.conditioned or level < 10 * float(known.std):
        return None
    scaled = x / float(model.sde.alpha(t))
    denoised = known.denoise(scaled, level)
    return torch.add(p * denoised, scaled - denoised, alpha=q / level)


def _step(
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


def _plan(method: Multistep, coordinate: Coordinate, sde: SDE, times: Tensor) -> list[Step]:
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
