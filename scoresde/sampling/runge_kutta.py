"""Explicit Runge-Kutta methods for the probability-flow ODE on a fixed grid, with EDM's churn before a step."""

from collections.abc import Iterator

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.numerics.tableaus import EXPLICIT_TABLEAUS, ExplicitTableau
from scoresde.sampling.churn import Churn
from scoresde.sampling.solver import Noise, Solver
from scoresde.score import ScoreModel
from scoresde.sde import SDE
from scoresde.sde.coordinates import Coordinate, Time

__all__ = ["TABLEAUS", "Euler", "ExplicitTableau", "Heun", "RungeKutta", "Tableau", "advance", "stage_times"]

TABLEAUS = EXPLICIT_TABLEAUS
Tableau = ExplicitTableau  # the earlier name


def stage_times(coordinate: Coordinate, sde: SDE, start: Tensor, stop: Tensor, nodes: tuple[float, ...]) -> Tensor:
    """The times `(n, s)` at fractions `nodes` of steps from `start` to `stop` `(n,)`, measured in the coordinate.

    The ends are met exactly, and round-off leaves no time outside its step.
    """
    c = torch.tensor(nodes, dtype=torch.float64)
    start, stop = start[:, None], stop[:, None]
    first, last = coordinate.variable(sde, start), coordinate.variable(sde, stop)
    inner = coordinate.time(sde, first + c * (last - first)).clamp(stop, start)
    return torch.where(c == 0, start, torch.where(c == 1, stop, inner))


def advance(scale: float, x: Tensor, weights: list[float], slopes: list[Tensor]) -> Tensor:
    """scale x + Σ w_k slope_k, by as few kernels as the zeros and ones allow."""
    out = x if scale == 1 else scale * x
    for w, slope in zip(weights, slopes, strict=False):
        if w:
            out = torch.add(out, slope, alpha=w) if out is x else out.add_(slope, alpha=w)
    return out


@checked
class RungeKutta(Solver):
    """The probability-flow ODE by an explicit Runge-Kutta method, in a coordinate of choice.

    One evaluation for each stage of a step.

    Args:
        tableau: The method: an `ExplicitTableau` or the name of one of `TABLEAUS` (euler, midpoint, heun, ralston,
            ralston3, heun3, kutta3, rk4, three_eighths).
        coordinate: the scaled state and the time variable in which the steps are taken; x in t if not given.
        churn: noise to add before a step; none if not given.
    """

    def __init__(
        self, tableau: ExplicitTableau | str, coordinate: Coordinate | None = None, churn: Churn | None = None
    ) -> None:
        if isinstance(tableau, str):
            if tableau not in TABLEAUS:
                raise ValueError(
                    f"tableau is {tableau!r}, expected one of {', '.join(TABLEAUS)}, or an ExplicitTableau"
                )
            tableau = TABLEAUS[tableau]
        self.tableau = tableau
        self.coordinate = Time() if coordinate is None else coordinate
        self.churn = churn

    @property
    def stochastic(self) -> bool:
        return self.churn is not None and self.churn.amount > 0

    def solve(self, model: ScoreModel, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        sde, coordinate = model.sde, self.coordinate
        start, stop = times[:-1], times[1:]
        spread = torch.zeros_like(start)
        if self.churn is not None:
            start, spread = self.churn.starts(sde, times)
        alpha = sde.alpha(start)
        churns = zip((alpha / sde.alpha(times[:-1])).tolist(), (alpha * spread).tolist(), strict=True)
        inner = stage_times(coordinate, sde, start, stop, self.tableau.nodes)
        count = inner.shape[1]
        predict = model.prediction(inner.flatten(), *coordinate.target(sde, inner.flatten()))
        # x at stage j is n_j (x/n_start + h Σ_k a_jk P_k), and likewise at the end.
        norm = torch.cat((coordinate.norm(sde, inner), coordinate.norm(sde, stop)[:, None]), dim=1)
        h = coordinate.variable(sde, stop) - coordinate.variable(sde, start)
        scales = (norm / norm[:, :1]).tolist()
        rows = torch.zeros(count + 1, count, dtype=torch.float64)
        for j, row in enumerate((*self.tableau.stages, self.tableau.weights), 1):
            rows[j, : len(row)] = torch.tensor(row, dtype=torch.float64)
        moves = ((norm * h[:, None])[:, :, None] * rows).tolist()
        for i, (grow, extra) in enumerate(churns):
            if extra:
                x = torch.add(grow * x, noise(), alpha=extra)
            slopes = [predict(x, i * count)]
            for j in range(1, count):
                slopes.append(predict(advance(scales[i][j], x, moves[i][j], slopes), i * count + j))
            x = advance(scales[i][count], x, moves[i][count], slopes)
            yield x


@checked
class Euler(RungeKutta):
    """y ← y + h P: first order, one evaluation a step (Song et al. 2021, eq. 13, if in t).

    In `NoiseLevel` it is DDIM (Song, Meng & Ermon 2021).

    Args:
        coordinate: as for `RungeKutta`; x in t if not given.
        churn: as for `RungeKutta`.
    """

    def __init__(self, coordinate: Coordinate | None = None, churn: Churn | None = None) -> None:
        super().__init__("euler", coordinate, churn)


@checked
class Heun(RungeKutta):
    """The trapezoidal rule with an Euler predictor: second order, two evaluations a step.

    In `NoiseLevel` it is algorithm 1 of Karras et al. 2022, with `churn` their algorithm 2, under any SDE. There
    the last of N steps is one of Euler's from the smallest noise level to 0, which lands on E[x₀ | x]: it is
    the `Sampler`'s last denoising. So N noise levels are a grid of N − 1 steps and `denoise=True`, with
    2 (N − 1) + 1 = 2N − 1 evaluations as in the paper, and no second evaluation to leave out.

    Args:
        coordinate: as for `RungeKutta`; x in t if not given.
        churn: as for `RungeKutta`.
    """

    def __init__(self, coordinate: Coordinate | None = None, churn: Churn | None = None) -> None:
        super().__init__("heun", coordinate, churn)
