"""A linear solver's steps on many starts: their end points, their errors and the derivatives of the end points.

All is in the `Angle` of the data, with steps y_{i+1} = a_i y_0 + Σ_{j ≤ i} b_ij P_j as in `scoresde.sampling.tuned`.
Derivatives are differences: they need nothing of the network but its values, and a perturbed coefficient costs only
the steps after it. A few starts, near the edges between modes, carry most of the error. So derivatives are taken at
those and at a random part of the others, which is weighted for the rest.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde.sampling.adams import Multistep
from scoresde.sampling.true_paths import Part, TruePaths

__all__ = ["State", "TuningProblem"]

_NUDGE = 1e-3  # of a difference: one per mille of the state, far above the round-off of float32
Rows = list[Tensor]
"""For each step its coefficients (a_i, b_i0, ..., b_ii), float64 on the CPU."""


@dataclass
class State:
    """Times and coefficients, and what the solver does with them on the starts that are fitted.

    Attributes:
        times: `(n + 1,)` float64.
        rows: The coefficients.
        end: The end points.
        error: Their root mean square distance to the true ones.
    """

    times: Tensor
    rows: Rows
    end: Tensor
    error: float


class TuningProblem:
    """The search for the times and coefficients of a solver that leads to the ends of true paths.

    Args:
        paths: The true paths.
        fitted: The number of starts, the first ones, that the search may fit.
        steps: The number of evaluations.
        seed: The seed of the choice of starts for derivatives.

    Attributes:
        train: The starts that are fitted; any part of those that are not held out.
        judge: Half of the other starts, which choose between results.
        test: The other half, which nothing depends on.
        steps: The number of evaluations.
        intervals: The number of steps, one more than evaluations if the first prediction needs none.
    """

    def __init__(self, paths: TruePaths, fitted: int, steps: int, seed: int) -> None:
        self.paths, self.sde, self.angle = paths, paths.sde, paths.angle
        count = len(paths.ends)
        test = count - (count - fitted) // 2
        self.train, self.judge, self.test = slice(0, fitted), slice(fitted, test), slice(test, count)
        self.generator = torch.Generator().manual_seed(seed)
        self.steps, self.intervals = steps, steps + paths.gaussian

    def greedy(self, times: Tensor) -> State:
        """Fit each step to the true path, from the states that the steps before it have reached."""
        return self.fitted(
            times, torch.cat((self.paths.at(times[1:-1])[:, self.train], self.paths.ends[None, self.train]))
        )

    def fitted(self, times: Tensor, targets: Tensor) -> State:
        """Fit the state after each step to one of `targets` `(n, B, D)`, by least squares."""
        rows, part = [], self.train
        y0, values = self.paths.y[0, part], [self.paths.first[part]]
        root = self.paths.weights[part].sqrt()[:, None]
        for i, target in enumerate(targets):
            row = _least_squares([root * v for v in (y0, *values)], root * target)
            rows.append(row)
            y = _combine(row, [y0, *values])
            if i < self.intervals - 1:
                values.append(self.paths.prediction(y, times[i + 1], part))
        return State(times, rows, y, self.error_of(y, part))

    def error_of(self, y: Tensor, part: Part) -> float:
        """The root mean square distance of end points y of the starts `part` to the true ones, in x."""
        return self.distance(y, self.paths.ends[part], part)

    def distance(self, y: Tensor, other: Tensor, part: Part) -> float:
        """The root mean square distance of end points of the starts `part`, in x, over what they stand for."""
        weights = self.paths.weights[part].double()
        squares = (y - other).double().square().sum(1)
        return self.paths.end_scale * math.sqrt(float((weights * squares).sum() / weights.sum()))

    def error_on(self, state: State, part: Part) -> float:
        """The error of a state's times and coefficients on the starts `part`."""
        return self.error_of(self.roll(state.times, state.rows, part)[0], part)

    def roll(
        self, times: Tensor, rows: Rows, part: Part, values: list[Tensor] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Take all steps; return the end points and all predictions.

        Args:
            times: `(n + 1,)`.
            rows: The coefficients.
            part: The starts.
            values: The first predictions, if they are known.
        """
        y0 = self.paths.y[0, part]
        values = [self.paths.first[part]] if values is None else list(values)
        while len(values) < self.intervals:
            i = len(values)
            values.append(self.paths.prediction(_combine(rows[i - 1], [y0, *values]), times[i], part))
        return _combine(rows[-1], [y0, *values]), values

    def multistep(self, times: Tensor) -> Rows:
        """The coefficients of the default multistep method, as coefficients of y_0 and of all predictions."""
        order = 2 if self.intervals < 12 else 3
        method = Multistep(order, order, self.angle, centre=True)
        _, plan = method.plan(self.sde, times, self.paths.model.data_std)
        norm = self.angle.norm(self.sde, times)
        rows: Rows = []
        state = torch.zeros(self.intervals + 1, dtype=torch.float64)
        state[0] = 1  # of y_0, P_0, P_1, ...
        for i, step in enumerate(plan):
            moved = state * step.on_x * float(norm[i] / norm[i + 1])

            def stepped(weights: list[float], newest: int, moved: Tensor = moved, i: int = i) -> Tensor:
                out = moved.clone()
                for j, w in enumerate(weights):
                    out[1 + newest - j] += w / float(norm[i + 1])
                return out

            predicted = stepped(step.predictor.values, i)
            rows.append(predicted[: i + 2].clone())
            state = predicted if step.corrector is None else stepped(step.corrector[0], i + 1)
        return rows

    def plain(self, times: Tensor) -> float:
        """The error of the default multistep method on the starts that are held out."""
        end, _ = self.roll(times, self.multistep(times), self.test)
        return self.error_of(end, self.test)

    def by_times(self, state: State, fit: Callable[[Tensor], State]) -> tuple[Tensor, Tensor]:
        """The derivatives of the end points by λ of each time, and the residuals.

        Args:
            state: The state at which the derivatives are taken.
            fit: The coefficients for given times, which are fitted anew at each.
        """
        columns, root = [], self.paths.weights[self.train].sqrt()[:, None]
        for j in range(1, self.intervals):
            lam = self.sde.log_snr(state.times)
            lam[j] += _NUDGE
            columns.append((root * (fit(self._times(lam)).end - state.end)).flatten() / _NUDGE)
        return torch.stack(columns), (root * (state.end - self.paths.ends[self.train])).flatten()

    def with_times(self, state: State, change: Tensor, fit: Callable[[Tensor], State]) -> State | None:
        """The state after a change of λ of the inner times; None if they would not decrease."""
        lam = self.sde.log_snr(state.times)
        lam[1:-1] += change
        return fit(self._times(lam)) if bool((lam.diff() > 0).all()) else None

    def _influential(self, state: State) -> tuple[Tensor, Tensor]:
        """Starts `(m,)` to take derivatives at, and the square root of the number that each stands for."""
        stands = self.paths.weights[self.train].cpu()
        error = stands * (state.end - self.paths.ends[self.train]).square().sum(1).cpu()
        count = len(error)
        hard = min(count, max(64, count // 16))
        order = error.argsort(descending=True)
        rest = order[hard:][torch.randperm(count - hard, generator=self.generator)[:hard]]
        weight = torch.ones(hard + len(rest))
        weight[hard:] = (count - hard) / max(len(rest), 1)
        chosen = torch.cat((order[:hard], rest))
        return chosen.to(self.paths.y.device), (stands[chosen] * weight).sqrt().to(self.paths.y)

    def by_all(self, state: State) -> tuple[Tensor, Tensor]:
        """The derivatives by λ of each time followed by the coefficients of the step from there, and the residuals."""
        chosen, weight = self._influential(state)
        end, values = self.roll(state.times, state.rows, chosen)
        columns: list[Tensor] = []

        def add(other: Tensor) -> None:
            columns.append((weight[:, None] * (other - end)).flatten() / _NUDGE)

        for i in range(self.intervals):
            if i:
                lam = self.sde.log_snr(state.times)
                lam[i] += _NUDGE
                add(self.roll(self._times(lam), state.rows, chosen, values[:i])[0])
            for k in range(i + 2):
                rows = [row.clone() for row in state.rows]
                rows[i][k] += _NUDGE
                add(self.roll(state.times, rows, chosen, values[: i + 1])[0])
        return torch.stack(columns), (weight[:, None] * (end - self.paths.ends[chosen])).flatten()

    def with_all(self, state: State, change: Tensor) -> State | None:
        """The state after a change of times and coefficients in the order of `by_all`; None if times would increase."""
        lam, rows, place = self.sde.log_snr(state.times), [], 0
        for i, row in enumerate(state.rows):
            if i:
                lam[i] += change[place]
                place += 1
            rows.append(row + change[place : place + len(row)])
            place += len(row)
        return self.rolled(self._times(lam), rows) if bool((lam.diff() > 0).all()) else None

    def rolled(self, times: Tensor, rows: Rows) -> State:
        """The state of these times and coefficients."""
        end, _ = self.roll(times, rows, self.train)
        return State(times, rows, end, self.error_of(end, self.train))

    def _times(self, lam: Tensor) -> Tensor:
        """Times from λ, with the exact first and last."""
        times = self.sde.time(lam).clamp(float(self.paths.times[-1]), float(self.paths.times[0]))
        times[0], times[-1] = self.paths.times[0], self.paths.times[-1]
        return times


def _combine(row: Tensor, tensors: list[Tensor]) -> Tensor:
    """The sum of tensors with the weights of a row."""
    weights: list[float] = row.tolist()
    out = weights[0] * tensors[0]
    for w, tensor in zip(weights[1:], tensors[1:], strict=False):
        out.add_(tensor, alpha=w)
    return out


def _least_squares(columns: list[Tensor], target: Tensor) -> Tensor:
    """The coefficients of columns that come closest to the target, float64 on the CPU.

    They solve the normal equations of scaled columns, with a small ridge against singularity.
    """
    flat = torch.stack([c.flatten().double() for c in columns])
    scale = flat.square().mean(1).sqrt()
    scale = torch.where(scale > 1e-8 * scale.max(), scale, torch.inf)
    flat = flat / scale[:, None]
    gram = flat @ flat.T + 1e-10 * flat.shape[1] * torch.eye(len(flat), dtype=flat.dtype, device=flat.device)
    solution: Tensor = torch.linalg.solve(gram, flat @ target.flatten().double()) / scale
    return solution.cpu()
