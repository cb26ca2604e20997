"""Explicit Runge-Kutta methods for the probability-flow ODE on a fixed grid, with EDM's churn before a step."""

from collections.abc import Iterator

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.numerics.tableaus import EXPLICIT_TABLEAUS, ExplicitTableau
from scoresde.numerics.values import described
from scoresde.sampling.churn import Churn
from scoresde.sampling.solver import Noise, Solver
from scoresde.score import ScoreModel
from scoresde.sde import SDE
from scoresde.sde.coordinates import Coordinate, NoiseLevel, Time

__all__ = ["TABLEAUS", "EDMHeun", "Euler", "ExplicitTableau", "Heun", "RungeKutta", "Tableau", "advance", "stage_times"]

TABLEAUS = EXPLICIT_TABLEAUS
Tableau = ExplicitTableau  # the earlier name


def stage_times(coordinate: Coordinate, sde: SDE, start: Tensor, stop: Tensor, nodes: tuple[float, ...]) -> Tensor:
    """Return the times at fractions of steps, measured in the variable of a coordinate.

    The ends are met exactly, and round-off leaves no time outside its step.

    Args:
        coordinate: The coordinate.
        sde: The SDE.
        start: The times at which the steps start, `(n,)`.
        stop: The times at which they end, `(n,)`.
        nodes: The s fractions, each from 0 to 1.

    Returns:
        The times `(n, s)`.
    """
    c = torch.tensor(nodes, dtype=torch.float64)
    start, stop = start[:, None], stop[:, None]
    first, last = coordinate.variable(sde, start), coordinate.variable(sde, stop)
    inner = coordinate.time(sde, first + c * (last - first)).clamp(stop, start)
    return torch.where(c == 0, start, torch.where(c == 1, stop, inner))


def advance(scale: float, x: Tensor, weights: list[float], slopes: list[Tensor]) -> Tensor:
    """Compute scale x + Σ w_k slope_k, by as few kernels as the zeros and ones allow."""
    out = x if scale == 1 else scale * x
    for w, slope in zip(weights, slopes, strict=False):
        if w:
            out = torch.add(out, slope, alpha=w) if out is x else out.add_(slope, alpha=w)
    return out


@checked
class RungeKutta(Solver):
    """The probability-flow ODE by an explicit Runge-Kutta method, in a coordinate of choice.

    With y = x/n(t), the variable w and the prediction P of the coordinate, the ODE is dy/dw = P, and a step over h in w
    evaluates P at each stage:

        y_j = y + h Σ_k a_jk P_k,    P_j = P(y_j, w + c_j h),    y ← y + h Σ_j b_j P_j.

    A step is one evaluation for each stage. Two solvers of the same tableau, coordinate and churn are equal.

    Args:
        tableau: The method: an `ExplicitTableau` or the name of one of `TABLEAUS` (euler, midpoint, heun, ralston,
            ralston3, heun3, kutta3, rk4, three_eighths).
        coordinate: The scaled state and the variable in which the steps are taken; x in t if not given.
        churn: Noise to add before a step; none if not given.

    >>> RungeKutta("heun") == Heun()
    True
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

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RungeKutta) and self._settings() == other._settings()

    def __hash__(self) -> int:
        return hash(self._settings())

    def _settings(self) -> tuple[ExplicitTableau, Coordinate, Churn | None]:
        return self.tableau, self.coordinate, self.churn

    @property
    def stochastic(self) -> bool:
        return self.churn is not None and self.churn.amount > 0

    @property
    def draws_white(self) -> bool:
        return self.stochastic

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
        scales, moves = self._coefficients(sde, start, stop, inner)

        for i, (grow, extra) in enumerate(churns):
            if extra:
                x = torch.add(grow * x, noise(), alpha=extra)
            slopes = [predict(x, i * count)]
            for j in range(1, count):
                slopes.append(predict(advance(scales[i][j], x, moves[i][j], slopes), i * count + j))
            x = advance(scales[i][count], x, moves[i][count], slopes)
            yield x

    def _coefficients(
        self, sde: SDE, start: Tensor, stop: Tensor, inner: Tensor
    ) -> tuple[list[list[float]], list[list[list[float]]]]:
        """Factors of x and of the slopes in x_j = n_j (x/n_start + h Σ_k a_jk P_k), the last row for the step's end."""
        coordinate, count = self.coordinate, inner.shape[1]
        norm = torch.cat((coordinate.norm(sde, inner), coordinate.norm(sde, stop)[:, None]), dim=1)
        h = coordinate.variable(sde, stop) - coordinate.variable(sde, start)
        rows = torch.zeros(count + 1, count, dtype=torch.float64)
        for j, row in enumerate((*self.tableau.stages, self.tableau.weights), 1):
            rows[j, : len(row)] = torch.tensor(row, dtype=torch.float64)
        return (norm / norm[:, :1]).tolist(), ((norm * h[:, None])[:, :, None] * rows).tolist()


@checked
class Euler(RungeKutta):
    """Euler's method: y ← y + h P, first order, one evaluation a step.

    In t it is the ODE of Song et al. 2021, eq. 13; in `NoiseLevel` it is DDIM (Song, Meng & Ermon 2021).

    Args:
        coordinate: As for `RungeKutta`; x in t if not given.
        churn: As for `RungeKutta`.
    """

    def __init__(self, coordinate: Coordinate | None = None, churn: Churn | None = None) -> None:
        super().__init__("euler", coordinate, churn)


@checked
class Heun(RungeKutta):
    """Heun's method: the trapezoidal rule with a predictor by Euler, second order, two evaluations a step.

        y′ = y + h P(y, w),    y ← y + h (P(y, w) + P(y′, w + h))/2

    Without a coordinate the ODE is that of x in t. `EDMHeun` is it in the noise level.

    Args:
        coordinate: As for `RungeKutta`; x in t if not given.
        churn: As for `RungeKutta`.
    """

    def __init__(self, coordinate: Coordinate | None = None, churn: Churn | None = None) -> None:
        super().__init__("heun", coordinate, churn)


@checked
class EDMHeun(Heun):
    """EDM's sampler: Heun's method for x̂ = x/α in the noise level s = σ/α, with `churn` EDM's stochastic sampler.

    The ODE is dx̂/ds = (x̂ − D)/s = ε, whose solutions are nearly straight, and a step from s_i to s_{i+1} is (algorithm
    1, here under any SDE)

        d = (x̂ − D(x̂, s_i))/s_i,                  x̂′ = x̂ + (s_{i+1} − s_i) d,
        d′ = (x̂′ − D(x̂′, s_{i+1}))/s_{i+1},        x̂ ← x̂ + (s_{i+1} − s_i) (d + d′)/2.

    The paper's last step goes from the smallest level to 0, by Euler, which lands on D. In this package that is the
    last denoising of a `Sampler`. So the paper's N noise levels are a grid of N − 1 steps and `denoise=True`, with
    2 (N − 1) + 1 = 2N − 1 evaluations as in the paper.

    Args:
        churn: Noise to add before a step (algorithm 2); none if not given.

    The algorithm itself, on 18 levels, under σ = t and α = 1:

    >>> from scoresde.sampling import KarrasGrid, Sampler
    >>> from scoresde.score import GaussianMixtureScore
    >>> from scoresde.sde import EDMSDE
    >>> model = GaussianMixtureScore(torch.ones(2), torch.tensor([[-1.0], [1.0]]), torch.tensor([0.1, 0.2]), EDMSDE())
    >>> start = 80 * torch.randn(5, 1).double()
    >>> out = Sampler(EDMHeun(), KarrasGrid(17))(model, x_init=start)
    >>> levels = (80 ** (1 / 7) + torch.arange(18).double() / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    >>> x, levels = start, [*levels, torch.tensor(0.0)]
    >>> for t, t_next in zip(levels, levels[1:]):
    ...     d = (x - model.denoise(x, t)) / t
    ...     x_next = x + (t_next - t) * d
    ...     if t_next > 0:
    ...         d_next = (x_next - model.denoise(x_next, t_next)) / t_next
    ...         x_next = x + (t_next - t) * (d + d_next) / 2
    ...     x = x_next
    >>> torch.allclose(out.x, x, rtol=1e-9, atol=1e-9), out.nfe
    (True, 35)

    References:
        Karras et al. 2022, Elucidating the design space of diffusion-based generative models,
            https://arxiv.org/abs/2206.00364
    """

    def __init__(self, churn: Churn | None = None) -> None:
        super().__init__(NoiseLevel(), churn)

    def general(self) -> Heun:
        """The same method under the name of its family, `Heun`."""
        return Heun(self.coordinate, self.churn)

    def __repr__(self) -> str:
        return described(self, "churn", without_none=True)
