"""Weights of a stochastic predictor and corrector under which normal data of every width keep their variance.

A step goes over h in λ from s₀ to s₁, s = σ/α. With the data prediction D, κ = ∫ τ² dλ and a = e^{−(h + κ)}, the
reverse SDE of `scoresde.sampling.adams` is solved by

    p  = a x̂ + (1 − a) (D₀ + b (D₀ − D₋₁) + b' (D₋₁ − D₋₂)) + ν z,      ν² = s₁² (1 − e^{−2κ}),
    x̂₁ = a x̂ + (1 − a) (D₀ + c (D₁ − D₀)) + ν z,                        D₁ = D(p).

a, ν and the sum of the weights are exact for data without spread, whatever b, b' and c are. Polynomials in λ fix the
latter by the limit of small steps. Here they are fitted to steps as they are: under N(0, v) everything above is linear
and normal, so that the variances of p and x̂₁ are known for every v, and b, b', c are those for which both come nearest
to v + s₁² over all widths √v that data may have. As steps get smaller the weights go to those of polynomials.

What a variance lacks at v < s₁² is made up by later steps, so that a width counts with the share v/(v + s₁²).
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from scoresde.sampling.adams_plan import AdamsStep, Same, Weights
from scoresde.sampling.stochasticity import Stochasticity
from scoresde.statistics import Statistics

__all__ = ["fitted_plan", "width_shares"]

_PER_UNIT = 5  # widths in a unit of their logarithm
_KEPT = 16  # plans
_SWEEPS = 6  # of Gauss-Newton's method, at most
# A weight is held to that of the polynomial by this much for each unit of h; its own error is the square of a relative
# error of a variance, which is far larger at steps where the two differ.
_RIDGE = 1e-3
# Second differences of D carry what is not linear in x, so that long steps must not rely on them.
_SECOND_RIDGE, _SECOND_POWER = 0.03, 6


def width_shares(low: float, high: float, known: Statistics | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Standard deviations from `low` to `high`, and how much each counts.

    Half is spread evenly over their logarithms, since a mode may be narrower than the data in any direction. The other
    half goes to the widths of the data in their principal directions, so that what is wrong in many is wrong in few.
    """
    count = max(16, math.ceil(_PER_UNIT * math.log(high / low)))
    places = torch.linspace(math.log(low), math.log(high), count, dtype=torch.float64)
    shares = torch.full_like(places, 1 / count)
    if known is not None:
        logs = 0.5 * known.spectrum.double().cpu().clamp(min=low**2).log()
        # Each between its two neighbours, in proportion
        at = ((logs - places[0]) / (places[1] - places[0])).clamp(0, count - 1)
        left = at.floor().clamp(max=count - 2)
        right = at - left
        own = torch.zeros_like(places)
        own.index_add_(0, left.long(), 1 - right)
        own.index_add_(0, left.long() + 1, right)
        shares = 0.5 * shares + 0.5 * own / len(logs)
    return tuple(places.exp().tolist()), tuple(shares.tolist())


@lru_cache(maxsize=_KEPT)
def fitted_plan(
    tau: Stochasticity,
    same: Same,
    times: tuple[float, ...],
    widths: tuple[float, ...],
    shares: tuple[float, ...],
    carried: bool,
) -> list[AdamsStep]:
    """Tabulate every step on a grid, from the largest noise down.

    Plans are kept for the next chunk of a batch and the next call, so they are not to be written to.

    Args:
        tau: The noise level.
        same: The SDE.
        times: The times of the grid.
        widths: The standard deviations that are fitted.
        shares: How much each counts.
        carried: Whether the first step is exact for normal data, whose row is then not used.
    """
    grid = torch.tensor(times, dtype=torch.float64)
    lam, alpha = same.sde.log_snr(grid), same.sde.alpha(grid)
    h = lam.diff()
    kappa = tau.integral(lam[:-1], lam[1:])
    level = (-lam).exp()
    kept, gone = (-(h + kappa)).exp(), -torch.expm1(-(h + kappa))
    noise = level[1:] * (-torch.expm1(-2 * kappa)).sqrt()
    # Of D linear in λ within a step: the share of the difference of its ends
    linear = 1 / gone - 1 / (h + kappa)
    clock = (2 * lam).exp().tolist()

    fitted, counts = (torch.tensor(values, dtype=torch.float64) for values in (widths, shares))
    normal = _Normal(fitted, counts, float(level[0]))
    steps: list[AdamsStep] = []
    last = len(h) - 1
    for i in range(len(h)):
        shape = _Shape(float(kept[i]), float(gone[i]), float(noise[i]), float(level[i + 1]))
        ahead: list[float] = []
        if i == 0 and carried:
            normal.carry(float(level[1]))
            corrected = None
        else:
            length = float(h[i])
            before = float(h[i - 1]) if i else length
            ahead, corrected = normal.step(shape, length, length / before, float(linear[i]), last=i == last)
        out, own = float(alpha[i + 1]), shape.gone
        b, second = (*ahead, 0.0, 0.0)[:2]
        predictor = [1 + b, second - b, -second][: 1 + len(ahead)]
        corrector = None if corrected is None else Weights([out * own * corrected, out * own * (1 - corrected)], 0.0)
        steps.append(
            AdamsStep(
                on_x=out * shape.kept / float(alpha[i]),
                on_noise=out * shape.noise,
                clock=(clock[i], clock[i + 1]),
                predictor=Weights([out * own * w for w in predictor], 0.0),
                corrector=corrector,
            )
        )
    return steps


@dataclass(frozen=True)
class _Shape:
    """What a step has before its weights are fitted: a, 1 − a, ν and the level s₁ at its end."""

    kept: float
    gone: float
    noise: float
    level: float


class _Normal:
    """The joint law of x̂, D₀, D₋₁ and D₋₂ on the way, for normal data of every width.

    Args:
        widths: The standard deviations √v of the data, `(K,)`.
        shares: How much each counts, `(K,)`.
        level: The noise level that the path starts at.
    """

    def __init__(self, widths: Tensor, shares: Tensor, level: float) -> None:
        self.variances = variances = widths**2
        self.shares = shares
        gain = self._gain(level)
        on_start = torch.stack([torch.ones_like(gain), gain, gain, gain], 1)
        self.law = (variances + level**2)[:, None, None] * on_start[:, :, None] * on_start[:, None, :]
        self.level = level
        self.known = 1  # predictions

    def _gain(self, level: float) -> Tensor:
        """D/x̂."""
        return self.variances / (self.variances + level**2)

    def carry(self, level: float) -> None:
        """A step that is exact for every width."""
        factor = ((self.variances + level**2) / (self.variances + self.level**2)).sqrt()
        self._move(factor[:, None] * torch.eye(4, dtype=torch.float64)[0], torch.zeros_like(factor), level, None)

    def step(
        self, shape: _Shape, length: float, ratio: float, linear: float, last: bool
    ) -> tuple[list[float], float | None]:
        """The weights (b, b') or fewer of the predictor, and c; None in the last step, which has no corrector.

        Args:
            shape: The step.
            length: Its length h.
            ratio: h over the length of the step before.
            linear: c for a prediction that is linear in λ.
            last: Whether no evaluation follows.
        """
        x, now, before, first = torch.eye(4, dtype=torch.float64)
        share = self._gain(shape.level) * self.shares
        base = (shape.kept * x + shape.gone * now).expand(len(share), 4)
        still = torch.zeros_like(share)
        ridge = _RIDGE * length

        moves = [(shape.gone * way).expand_as(base) for way in (now - before, before - first)[: self.known - 1]]
        ridges = [ridge, max(ridge, _SECOND_RIDGE * length**_SECOND_POWER)]
        aims = [ratio * linear, 0.0]
        ahead = self._fit(shape, base, [(move, still) for move in moves], share, aims, ridges)
        state = base + sum((w * move for w, move in zip(ahead, moves, strict=True)), start=torch.zeros_like(base))

        gain = self._gain(shape.level)
        corrected = None
        on_noise = torch.full_like(share, shape.noise)
        end, end_noise = state, on_noise
        if not last:
            move, fresh = shape.gone * (gain[:, None] * state - now), shape.gone * gain * shape.noise
            (corrected,) = self._fit(shape, base, [(move, fresh)], share, [linear], [ridge])
            end, end_noise = base + corrected * move, on_noise + corrected * fresh
        self._move(end, end_noise, shape.level, (state, on_noise))
        return ahead, corrected

    def _fit(
        self,
        shape: _Shape,
        base: Tensor,
        moves: list[tuple[Tensor, Tensor]],
        share: Tensor,
        aims: list[float],
        ridges: list[float],
    ) -> list[float]:
        """Weights θ for which base + Σ θ_j moves_j has the variances v + s₁², as nearly as they can.

        Args:
            shape: The step.
            base: The part without a weight, as a linear function of the path so far, `(K, 4)`; ν is its part of z.
            moves: Linear functions `(K, 4)`, and their parts of z `(K,)`.
            share: How much every width counts, `(K,)`.
            aims: Weights of polynomials.
            ridges: How strongly the weights are held to them.
        """
        if not moves:
            return []
        count = len(moves)
        noises = torch.stack([torch.full_like(share, shape.noise), *(fresh for _, fresh in moves)], 1)
        ways = torch.stack([base, *(move for move, _ in moves)], 1)
        products = ways @ self.law @ ways.mT + noises[:, :, None] * noises[:, None, :]
        products = products / (self.variances + shape.level**2)[:, None, None]
        aim = torch.tensor(aims[:count], dtype=torch.float64)
        ridge = torch.tensor(ridges[:count], dtype=torch.float64)

        def loss(weights: Tensor) -> tuple[Tensor, Tensor, float]:
            whole = torch.cat((torch.ones(1, dtype=torch.float64), weights))
            half = products @ whole
            error = half @ whole - 1
            return error, 2 * half[:, 1:], float((share * error**2).sum() + (ridge * (weights - aim) ** 2).sum())

        weights = aim
        error, slope, value = loss(weights)
        for _ in range(_SWEEPS):
            weighted = slope * share[:, None]
            gradient = weighted.T @ error + ridge * (weights - aim)
            change = torch.linalg.solve(weighted.T @ slope + torch.diag(ridge), -gradient)
            tried = loss(weights + change)
            while tried[2] > value and float(change.abs().max()) > 1e-6:
                change = change / 2
                tried = loss(weights + change)
            if not tried[2] < value * (1 - 1e-3):
                break
            weights = weights + change
            error, slope, value = tried
        return [float(weight) for weight in weights]

    def _move(self, end: Tensor, noise: Tensor, level: float, asked: tuple[Tensor, Tensor] | None) -> None:
        """Go to the end of a step, at which the prediction is asked for in another state if there is a corrector."""
        state, state_noise = (end, noise) if asked is None else asked
        gain = self._gain(level)
        kept = torch.eye(4, dtype=torch.float64)[1:3].expand(len(gain), 2, 4)
        ways = torch.cat((end[:, None], (gain[:, None] * state)[:, None], kept), 1)
        fresh = torch.stack([noise, gain * state_noise, torch.zeros_like(gain), torch.zeros_like(gain)], 1)
        self.law = ways @ self.law @ ways.mT + fresh[:, :, None] * fresh[:, None, :]
        self.level = level
        self.known = min(self.known + 1, 3)
