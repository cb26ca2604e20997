"""What tuning searches with: a linear solver's steps on many starts, their errors and derivatives.

All is in the `Angle` of the data, with steps y_{i+1} = a_i y_0 + Σ_{j ≤ i} b_ij P_j as in `scoresde.sampling.tuned`.
Derivatives are differences: they need nothing of the network but its values, and a perturbed coefficient costs only
the steps after it. A few starts, near the edges between modes, carry most of the error, so that derivatives are taken
at those and at a random part of the others, which stand for the rest.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scoresde.sampling.adams import Multistep
from scoresde.sampling.adams_plan import gaussian_prediction
from scoresde.sampling.grids import DataStraight, ExplicitTimes
from scoresde.sampling.sampler import Sampler
from scoresde.score import Conditions, ScoreModel
from scoresde.sde.coordinates import Angle

__all__ = ["PATH", "State", "Steps", "repeated"]

PATH = 64  # steps of the true path
_KEPT = 2  # every so many of its states are kept, for targets on the way
_NUDGE = 1e-3  # of differences; of the size of one per mille of the state, far above the round-off of float32
Rows = list[Tensor]
Part = slice | Tensor


def _per_sample(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0


def repeated(cond: dict[str, Any], count: int) -> Conditions:
    """The conditions of `count` starts: the entries of each tensor in turn."""
    values = {k: v[torch.arange(count, device=v.device) % len(v)] if _per_sample(v) else v for k, v in cond.items()}
    return Conditions(values, count)


@dataclass
class State:
    """Times, coefficients, and what the solver does with them on the starts of the training."""

    times: Tensor
    rows: Rows
    end: Tensor
    error: float


class Steps:
    """True paths of many starts, and linear solvers on them.

    Attributes:
        train: the starts that are fitted; any part of those that are not kept to judge by.
        test: those that are.
        intervals: number of steps, one more than evaluations where the first prediction needs none.
        gaussian: whether it needs none.
    """

    def __init__(
        self,
        model: ScoreModel,
        steps: int,
        shape: tuple[int, ...],
        starts: int,
        seed: int,
        batch_size: int,
        x_init: Tensor | None,
        cond: dict[str, Any],
    ) -> None:
        self.model, self.sde, self.cond = model, model.sde, repeated(cond, starts)
        self.batch_size = batch_size
        self.std = model.data_std
        self.angle = Angle(self.std)
        dtype = model.dtype
        mean = None if model.statistics is None else model.statistics.mean
        self.mean = (
            torch.zeros(shape, dtype=dtype, device=model.device) if mean is None else mean.to(model.device, dtype)
        )
        times = DataStraight(PATH)(self.sde, model.statistics, model.exact)
        fine = Sampler(Multistep(4, 4, centre=True), ExplicitTimes(times.tolist()), denoise=False)
        self.path_times = times[::_KEPT]
        parts = []
        for start in range(0, starts, batch_size):
            some = self.cond.rows(start, start + batch_size)
            x = None if x_init is None else x_init[start : start + batch_size].to(dtype)
            size = None if x is not None else (min(batch_size, starts - start), *shape)
            # A sample is a function of the seed and its index: these are far from those that anyone samples with.
            out = fine(model, size, x_init=x, seed=seed, first=2**40 + start, trajectory=True, **some)
            assert out.trajectory is not None
            parts.append(out.trajectory[::_KEPT].to(model.device, dtype))
        path = torch.cat(parts, dim=1)
        alpha, norm = (c.to(path).reshape(-1, *[1] * (path.ndim - 1)) for c in self._frame(self.path_times))
        self.path = ((path - alpha * self.mean) / norm).flatten(2)
        self.level = self.angle.variable(self.sde, self.path_times)
        count = starts
        self.kept = count // 5
        self.train, self.test = slice(0, count - self.kept), slice(count - self.kept, count)
        self.generator = torch.Generator().manual_seed(seed)
        t = self.path_times[0]
        p, q = self.angle.target(self.sde, t)
        x = path[0]
        first = gaussian_prediction(model, x, t, float(p), float(q)) if not self.cond else None
        self.gaussian = first is not None
        # P_0 does not depend on what is searched for.
        self.first = (
            (first - float(p) * self.mean).flatten(1)
            if first is not None
            else self._value(self.path[0], t, slice(0, count))
        )
        self.intervals = steps + self.gaussian

    def _frame(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self.sde.alpha(t), self.angle.norm(self.sde, t)

    def _value(self, y: Tensor, t: Tensor, rows: Part) -> Tensor:
        """P at y `(B, D)` and t, for the conditions of `rows`."""
        p, q = self.angle.target(self.sde, t)
        predict = self.model.prediction(t[None], p[None], q[None])
        alpha, norm = (float(c) for c in self._frame(t))
        x = (norm * y).reshape(len(y), *self.mean.shape) + alpha * self.mean
        cond = self.cond.select(rows)
        parts = []
        for start in range(0, len(x), self.batch_size):
            part = slice(start, start + self.batch_size)
            parts.append(predict(x[part], 0, **cond.select(part)))
        return (torch.cat(parts) - float(p) * self.mean).flatten(1)

    def _targets(self, times: Tensor) -> Tensor:
        """The true path at times `(n,)`, by cubic interpolation in the angle."""
        w = self.angle.variable(self.sde, times)
        # The angle falls along the path.
        right = torch.searchsorted(-self.level, -w).clamp(2, len(self.level) - 2)
        near = right[:, None] + torch.arange(-2, 2)
        at = self.level[near]
        weights = [
            math.prod((w - at[:, k]) / (at[:, j] - at[:, k]) for k in range(4) if k != j) * torch.ones_like(w)
            for j in range(4)
        ]
        mix = torch.stack(weights, 1).to(self.path)
        return torch.stack(
            [torch.tensordot(m, self.path[n], 1) for m, n in zip(mix, near.to(self.path.device), strict=True)]
        )

    def greedy(self, times: Tensor) -> State:
        """Each step fitted to the true path from the states that the steps before have reached."""
        rows, part = [], self.train
        y0, values = self.path[0, part], [self.first[part]]
        targets = self._targets(times[1:-1])
        for i in range(self.intervals):
            target = targets[i, part] if i < self.intervals - 1 else self.path[-1, part]
            row = _least_squares([y0, *values], target)
            rows.append(row)
            y = _combine(row, [y0, *values])
            if i < self.intervals - 1:
                values.append(self._value(y, times[i + 1], part))
        return State(times, rows, y, self.error_of(y, part))

    def error_of(self, y: Tensor, part: Part) -> float:
        """Root mean square distance of the end points, in x."""
        scale = float(self._frame(self.path_times[-1:])[1])
        return scale * math.sqrt(float((y - self.path[-1, part]).double().square().sum(1).mean()))

    def roll(
        self, times: Tensor, rows: Rows, part: Part, values: list[Tensor] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """The end points and all predictions; the first of these are `values`, if they are known."""
        y0 = self.path[0, part]
        values = [self.first[part]] if values is None else list(values)
        while len(values) < self.intervals:
            i = len(values)
            values.append(self._value(_combine(rows[i - 1], [y0, *values]), times[i], part))
        return _combine(rows[-1], [y0, *values]), values

    def multistep(self, times: Tensor) -> Rows:
        """The coefficients of the default multistep method, written out in y_0 and all predictions."""
        order = 2 if self.intervals < 12 else 3
        method = Multistep(order, order, self.angle, centre=True)
        _, plan = method.plan(self.sde, times, self.std)
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
        """Error of the untuned method."""
        end, _ = self.roll(times, self.multistep(times), self.test)
        return self.error_of(end, self.test)

    def by_times(self, state: State, fit: Callable[[Tensor], State]) -> tuple[Tensor, Tensor]:
        """Derivatives by λ of the times, the coefficients following."""
        columns = []
        for j in range(1, self.intervals):
            lam = self.sde.log_snr(state.times)
            lam[j] += _NUDGE
            columns.append((fit(self._times(lam)).end - state.end).flatten() / _NUDGE)
        return torch.stack(columns), (state.end - self.path[-1, self.train]).flatten()

    def with_times(self, state: State, change: Tensor, fit: Callable[[Tensor], State]) -> State | None:
        lam = self.sde.log_snr(state.times)
        lam[1:-1] += change
        return fit(self._times(lam)) if bool((lam.diff() > 0).all()) else None

    def _some(self, state: State) -> tuple[Tensor, Tensor]:
        """Starts `(n,)` to take derivatives at, and the root of how many each stands for."""
        error = (state.end - self.path[-1, self.train]).square().sum(1).cpu()
        count = len(error)
        hard = min(count, max(64, count // 16))
        order = error.argsort(descending=True)
        rest = order[hard:][torch.randperm(count - hard, generator=self.generator)[:hard]]
        weight = torch.ones(hard + len(rest))
        weight[hard:] = math.sqrt((count - hard) / max(len(rest), 1))
        return torch.cat((order[:hard], rest)).to(self.path.device), weight.to(self.path)

    def by_all(self, state: State) -> tuple[Tensor, Tensor]:
        """Derivatives by λ of each time, followed by those by the coefficients of the step from there."""
        some, weight = self._some(state)
        end, values = self.roll(state.times, state.rows, some)
        columns: list[Tensor] = []

        def add(other: Tensor) -> None:
            columns.append((weight[:, None] * (other - end)).flatten() / _NUDGE)

        for i in range(self.intervals):
            if i:
                lam = self.sde.log_snr(state.times)
                lam[i] += _NUDGE
                add(self.roll(self._times(lam), state.rows, some, values[:i])[0])
            for k in range(i + 2):
                rows = [row.clone() for row in state.rows]
                rows[i][k] += _NUDGE
                add(self.roll(state.times, rows, some, values[: i + 1])[0])
        return torch.stack(columns), (weight[:, None] * (end - self.path[-1, some])).flatten()

    def with_all(self, state: State, change: Tensor) -> State | None:
        lam, rows, place = self.sde.log_snr(state.times), [], 0
        for i, row in enumerate(state.rows):
            if i:
                lam[i] += change[place]
                place += 1
            rows.append(row + change[place : place + len(row)])
            place += len(row)
        return self.rolled(self._times(lam), rows) if bool((lam.diff() > 0).all()) else None

    def rolled(self, times: Tensor, rows: Rows) -> State:
        end, _ = self.roll(times, rows, self.train)
        return State(times, rows, end, self.error_of(end, self.train))

    def _times(self, lam: Tensor) -> Tensor:
        times = self.sde.time(lam).clamp(float(self.path_times[-1]), float(self.path_times[0]))
        times[0], times[-1] = self.path_times[0], self.path_times[-1]
        return times


def _combine(row: Tensor, tensors: list[Tensor]) -> Tensor:
    weights = row.tolist()
    out = weights[0] * tensors[0]
    for w, tensor in zip(weights[1:], tensors[1:], strict=False):
        out.add_(tensor, alpha=w)
    return out


def _least_squares(columns: list[Tensor], target: Tensor) -> Tensor:
    """float64 on the CPU, by the normal equations of scaled columns, held off singularity."""
    flat = torch.stack([c.flatten().double() for c in columns])
    scale = flat.square().mean(1).sqrt()
    scale = torch.where(scale > 1e-8 * scale.max(), scale, torch.inf)
    flat = flat / scale[:, None]
    gram = flat @ flat.T + 1e-10 * flat.shape[1] * torch.eye(len(flat), dtype=flat.dtype, device=flat.device)
    return (torch.linalg.solve(gram, flat @ target.flatten().double()) / scale).cpu()
