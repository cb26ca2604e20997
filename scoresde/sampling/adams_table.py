"""Integrals of Lagrange's polynomials over the steps of an exponential Adams method.

A step goes from r to t. With x̂ = x/α, n the norm of x̂ in the coordinate, w its variable and c = 1 + τ² (its mean over
the step), `scoresde.sampling.adams` has

    x̂_t = (n_t/n_r)^c x̂_r + Σ_j W_j P_j + ν z,
    W_j = c n_t^c ∫ n^{1−c} L_j dw,    ν² = n_t^{2c} ∫ 2 τ² s² n^{−2c} dλ.

The integrals are taken by Gauss-Legendre quadrature in λ. Everything is computed for all steps at once: row i of a
tensor belongs to the step from times[i] to times[i + 1].
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from scoresde.numerics.quadrature import lagrange, panels
from scoresde.sampling.stochasticity import Stochasticity
from scoresde.sde import SDE
from scoresde.sde.coordinates import Coordinate, LogSNR

__all__ = ["Method", "Table", "WeightKind", "Weights", "tabulated"]

_NODES = 20  # in a panel of length 2 in λ

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
    @property
    def safeguard(self) -> bool: ...


class Weights(NamedTuple):
    """The sum Σ_j values_j P_j + on_mean m, where P_0 is the newest prediction and m the mean of the data."""

    values: list[float]
    on_mean: float


@dataclass(frozen=True)
class Table:
    """Integrands of n steps at m nodes each.

    Attributes:
        log_snr: λ at the times of the grid, `(n + 1,)`.
        alpha: α at these times, `(n + 1,)`.
        target: p at these times, `(n + 1,)`: the part of the mean in a prediction is p m; 0 for a method with the
            safeguard, whose predictions have it subtracted.
        on_x: The factors of the state, `(n,)`.
        variance: ν², `(n,)`.
        kernel: c n_t^c n^{1−c} dw at the nodes, `(n, m)`, so that sums over the nodes are integrals.
        total: The sums of the kernel, `(n,)`.
        points: The variable of the interpolation at the times of the grid, `(n + 1,)`.
        inner: The variable of the interpolation at the nodes, `(n, m)`.
        differences: B(h) of each step, `(n,)`, if two values are used by half of their difference; None for Lagrange.
        endless: Whether the variable of the interpolation is λ, which goes to infinity as the noise vanishes.
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
    endless: bool

    def integrals(self, counts: Tensor, ahead: int, halved: Tensor | None = None) -> Tensor:
        """Integrate the polynomial through as many values of each step as are given, `(n, k)`, without the factor α_t.

        Args:
            counts: The number of values of each step, `(n,)`; the newest is that at time i + ahead.
            ahead: 1 if the value at the end of the step is known, 0 if not.
            halved: Steps at which two values are used by half of their difference whatever the kind of weights.
        """
        lags = torch.arange(int(counts.max()))
        used = lags < counts[:, None]
        index = (torch.arange(len(counts))[:, None] + ahead - lags).clamp(min=0)
        points = self.points[index]
        weights = (self.kernel[:, None] * lagrange(points, used, self.inner)).sum(2) * used

        if (self.differences is not None or halved is not None) and len(lags) > 1:
            # P = P_i + (v − v_i) (P_0 − P_1)/(v_0 − v_1), where the integral of v − v_i is half of B(h) times the step.
            b = self.total if self.differences is None else self.differences
            slope = 0.5 * b * self.points.diff() / (points[:, 0] - points[:, 1])
            halves = torch.zeros_like(weights)
            halves[:, 0], halves[:, 1] = slope, -slope
            halves[:, ahead] += self.total
            two = counts == 2
            if self.differences is None and halved is not None:
                two = two & halved
            weights = torch.where(two[:, None], halves, weights)
        return weights

    def span(self, first: int, last: int, nodes: Sequence[int]) -> dict[int, float]:
        """Integrate the polynomial through the values at some times from times[first] to times[last + 1], with α."""
        rows = torch.arange(first, last + 1)
        points = self.points[list(nodes)].expand(len(rows), -1)
        used = torch.ones(points.shape, dtype=torch.bool)
        parts = self.alpha[rows + 1, None] * (self.kernel[rows, None] * lagrange(points, used, self.inner[rows])).sum(2)
        # What a step adds is multiplied by the factors of those after it.
        factors = self.on_x[first + 1 : last + 1].flip(0).cumprod(0).flip(0)
        carried = torch.cat((factors, factors.new_ones(1)))
        return dict(zip(nodes, (carried[:, None] * parts).sum(0).tolist(), strict=True))

    def rows(self, weights: Tensor, counts: Tensor, ahead: int, first: int = 0) -> list[Weights]:
        """Return the weights of steps from `first` on, `(m, k)` with the factor α_t, with those of the data's mean."""
        step = torch.arange(first, first + len(weights))
        index = (step[:, None] + ahead - torch.arange(weights.shape[1])).clamp(min=0)
        # Data at their mean stay there: x = α m is kept by the step.
        on_mean = self.alpha[step + 1] - self.on_x[step] * self.alpha[step] - (weights * self.target[index]).sum(1)
        found = zip(weights.tolist(), counts.tolist(), on_mean.tolist(), strict=True)
        return [Weights(row[:count], m) for row, count, m in found]


def tabulated(method: Method, coordinate: Coordinate, sde: SDE, times: Tensor) -> Table:
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
    variable = coordinate if method.interpolation is None else method.interpolation
    if method.weights == "uniform":
        steps = torch.arange(len(h) + 1, dtype=torch.float64)
        points, at, kernel = steps, steps[:-1, None] + unit, total[:, None] * share
    else:
        points, at = variable.variable(sde, times), variable.variable(sde, t)

    target = coordinate.target(sde, times)[0]
    differences = {"bh1": c * n[1:] * coordinate.rate(sde, times[1:]) * h, "bh2": total}.get(method.weights)
    return Table(
        log_snr=lam,
        alpha=alpha,
        target=torch.zeros_like(target) if method.safeguard else target,
        on_x=alpha[1:] / alpha[:-1] * (n[1:] / n[:-1]) ** c,
        variance=variance,
        kernel=kernel,
        total=total,
        points=points,
        inner=at,
        differences=differences,
        endless=isinstance(variable, LogSNR) and method.weights != "uniform",
    )
