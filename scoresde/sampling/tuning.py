"""Find the times and coefficients of a solver for a given model and number of evaluations.

The starts are draws of the prior, the targets their end points under the probability flow, by a method of order 4 in
many steps. Three searches follow each other, all on the root mean square distance to the targets:

1. Over a family of grids. On given times the coefficients are fitted greedily, step after step, by linear least squares
   to the true path, on the states that the solver itself reaches (as in LD3 and S4S: Tong et al. 2024; Frankel et
   al. 2025).
2. Over the times by Gauss-Newton, the coefficients following greedily.
3. Over all times and coefficients at once by Levenberg-Marquardt (as Bespoke Non-Stationary solvers are trained: Shaul
   et al. 2024). A first step that is not quite on the path may help a later one.

Derivatives are differences: they need nothing of the network but its values, and a perturbed coefficient costs only
the steps after it. A few starts, near the edges between modes, carry most of the error, so that derivatives are taken
at those and at a random part of the others, which stand for the rest; whether a step is taken is judged on all.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from scoresde.sampling.adaptive import data_std
from scoresde.sampling.coordinates import Angle
from scoresde.sampling.grids import DataStraight, ExplicitTimes
from scoresde.sampling.multistep import Multistep, gaussian_prediction
from scoresde.sampling.sampler import Sampler
from scoresde.sampling.tuned import TunedSteps
from scoresde.score import ScoreModel

__all__ = ["tune"]

_GRIDS = (0.15, 0.25, 0.4, 0.7)
_PATH = 64  # steps of the true path
_KEPT = 2  # every so many of its states are kept, for targets on the way
_MOST = 2**21  # numbers in all starts together
_NUDGE = 1e-3  # of differences; of the size of one per mille of the state, far above the round-off of float32
Rows = list[Tensor]
Part = slice | Tensor


@torch.no_grad()
def tune(
    model: ScoreModel,
    steps: int,
    shape: tuple[int, ...] | None = None,
    *,
    x_init: Tensor | None = None,
    starts: int | None = None,
    coefficients: bool = True,
    seconds: float = 100.0,
    seed: int = 0,
    batch_size: int = 4096,
    progress: bool = False,
    **cond: Any,
) -> TunedSteps:
    """Find the steps that `steps` evaluations of `model` do best with.

    A few hundred starts are enough for a smooth network; where modes part sharply, a few starts near the
    edge carry the error, and thousands are needed to see enough of them.

    Args:
        model: the score model.
        steps: number of evaluations, at least 2.
        shape: `(...)`, the event shape; that of the model's statistics if not given.
        x_init: `(N, ...)`, starts at the SDE's t_max, instead of draws of the prior.
        starts: number of starts, a fifth of them kept to judge by; as many as the time allows if not given.
        coefficients: find the coefficients, too; else those of a multistep method are used and only times are found.
        seconds: about how long it may take.
        seed: of the starts.
        batch_size: samples to work on at once.
        progress: show a progress bar.
        **cond: conditions; a tensor is repeated to the number of starts.

    Raises:
        ValueError: fewer than 2 steps, no shape, fewer than 40 starts, a time that is not positive.
    """
    if isinstance(steps, bool) or int(steps) != steps or steps < 2:
        raise ValueError(f"steps is {steps!r}, expected a whole number of at least 2")
    if not seconds > 0:
        raise ValueError(f"seconds is {seconds}, expected a positive number")
    if starts is not None and starts < 40:
        raise ValueError(f"starts is {starts}, expected at least 40")
    if x_init is not None:
        shape, starts = tuple(x_init.shape[1:]), len(x_init)
    elif shape is None:
        if model.statistics is None:
            raise ValueError("the model does not know the shape of its data: give shape=(...)")
        shape = model.statistics.shape
    clock = _Clock(seconds, progress)
    with model.evaluating(), clock:
        if starts is None:
            starts = _affordable(model, steps, shape, seconds, batch_size, cond)
        clock.show("true paths")
        search = _Search(model, steps, shape, starts, seed, batch_size, x_init, cond)
        return search.run(clock, coefficients)


class _Clock:
    """How much time is left, and a progress bar of it."""

    def __init__(self, seconds: float, progress: bool) -> None:
        self.start, self.seconds = time.perf_counter(), seconds
        self.bar = tqdm(total=round(seconds), disable=not progress, unit="s", desc="tuning", leave=False)

    def __enter__(self) -> "_Clock":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def left(self) -> float:
        return self.seconds - (time.perf_counter() - self.start)

    def show(self, text: str) -> None:
        self.bar.set_postfix_str(text)
        self.bar.n = min(round(self.seconds - self.left()), self.bar.total)
        self.bar.refresh()


def _affordable(
    model: ScoreModel, steps: int, shape: tuple[int, ...], seconds: float, batch_size: int, cond: dict[str, Any]
) -> int:
    """As many starts as leave time for some iterations of each search."""
    size = math.prod(shape)
    rows = min(max(2**16 // size, 16), 1024, batch_size)
    ends = model.sde.log_snr(torch.tensor([model.sde.t_max, model.sde.t_min_sampling], dtype=torch.float64))
    t = model.sde.time(ends.mean())
    x = torch.randn(rows, *shape, generator=torch.Generator().manual_seed(0)).to(model.device, model.dtype)
    for _ in range(2):  # the first warms up
        began = time.perf_counter()
        float(model.noise(x, t, **_cond(cond, rows)).sum())  # waits for the device
        each = (time.perf_counter() - began) / rows
    parameters = 2 * steps + steps * (steps + 1) // 2
    # The true path, the grids, the search for times, and 8 iterations at an eighth of the starts.
    evaluations = _PATH + steps * (len(_GRIDS) + 2.5 * steps + 8 * (parameters / 16 + 2))
    return int(min(max(min(seconds / (each * evaluations), _MOST / size), 128), 16384))


def _per_sample(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0


def _cond(cond: dict[str, Any], count: int) -> dict[str, Any]:
    return {k: v[torch.arange(count, device=v.device) % len(v)] if _per_sample(v) else v for k, v in cond.items()}


@dataclass
class _State:
    """Times, coefficients, and what the solver does with them on the starts of the training."""

    times: Tensor
    rows: Rows
    end: Tensor
    error: float


class _Search:
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
        self.model, self.sde, self.cond = model, model.sde, _cond(cond, starts)
        self.batch_size = batch_size
        self.std = data_std(model)
        self.angle = Angle(self.std)
        dtype = model.dtype
        mean = None if model.statistics is None else model.statistics.mean
        self.mean = (
            torch.zeros(shape, dtype=dtype, device=model.device) if mean is None else mean.to(model.device, dtype)
        )
        times = DataStraight(_PATH)(self.sde, model.statistics)
        fine = Sampler(Multistep(4, 4, centre=True), ExplicitTimes(times.tolist()), denoise=False)
        self.path_times = times[::_KEPT]
        parts = []
        for start in range(0, starts, batch_size):
            some = {k: v[start : start + batch_size] if _per_sample(v) else v for k, v in self.cond.items()}
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
        cond = {k: v[rows] if _per_sample(v) else v for k, v in self.cond.items()}
        parts = []
        for start in range(0, len(x), self.batch_size):
            part = slice(start, start + self.batch_size)
            some = {k: v[part] if _per_sample(v) else v for k, v in cond.items()}
            parts.append(predict(x[part], 0, **some))
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

    def _greedy(self, times: Tensor) -> _State:
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
        return _State(times, rows, y, self._error(y, part))

    def _error(self, y: Tensor, part: Part) -> float:
        """Root mean square distance of the end points, in x."""
        scale = float(self._frame(self.path_times[-1:])[1])
        return scale * math.sqrt(float((y - self.path[-1, part]).double().square().sum(1).mean()))

    def _roll(
        self, times: Tensor, rows: Rows, part: Part, values: list[Tensor] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """The end points and all predictions; the first of these are `values`, if they are known."""
        y0 = self.path[0, part]
        values = [self.first[part]] if values is None else list(values)
        while len(values) < self.intervals:
            i = len(values)
            values.append(self._value(_combine(rows[i - 1], [y0, *values]), times[i], part))
        return _combine(rows[-1], [y0, *values]), values

    def _multistep(self, times: Tensor) -> Rows:
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

            predicted = stepped(step.predictor[0], i)
            rows.append(predicted[: i + 2].clone())
            state = predicted if step.corrector is None else stepped(step.corrector[0], i + 1)
        return rows

    def run(self, clock: _Clock, coefficients: bool) -> TunedSteps:
        clock.show("grids")
        grids = [DataStraight(self.intervals, f)(self.sde, self.model.statistics) for f in _GRIDS]
        plain = min(self._plain(times) for times in grids)

        def fit(times: Tensor) -> _State:
            return self._greedy(times) if coefficients else self._rolled(times, self._multistep(times))

        state = min((fit(times) for times in grids), key=lambda s: s.error)
        # A quarter of the time for the times, if there is more to find.
        state = self._descend(
            state,
            lambda s: self._by_times(s, fit),
            lambda s, v: self._with_times(s, v, fit),
            clock,
            0.75 * coefficients,
            1,
        )
        if coefficients:
            state = self._descend(state, self._by_all, self._with_all, clock, 0.0, 3)  # each time at other starts
        end, _ = self._roll(state.times, state.rows, self.test)
        return TunedSteps(
            sde=repr(self.sde),
            std=self.std,
            times=tuple(state.times.tolist()),
            rows=tuple(tuple(row.tolist()) for row in state.rows),
            gaussian=self.gaussian,
            error=self._error(end, self.test),
            before=plain,
            starts=self.train.stop,
        )

    def _descend(
        self,
        state: _State,
        columns: Callable[[_State], tuple[Tensor, Tensor]],
        moved: Callable[[_State, Tensor], _State | None],
        clock: _Clock,
        share: float,
        patience: int,
    ) -> _State:
        """Levenberg-Marquardt, until it gains little `patience` times or less than `share` of the time would be left.

        Args:
            columns: derivatives of the end points of some starts by each parameter `(parameters, D)`, and the
                residuals there `(D,)`.
            moved: the state with the parameters changed; None if that cannot be.
        """
        damping, fruitless = 1e-2, 0
        while True:
            began = clock.left()
            jacobian, residual = columns(state)
            gram, slope = ((jacobian @ v).double().cpu() for v in (jacobian.T, residual))
            diagonal = gram.diagonal() + 1e-12 * gram.diagonal().max()
            best, gain = state, 0.0
            for _ in range(7):
                trial = moved(state, -torch.linalg.solve(gram + (damping + 1e-9) * torch.diag(diagonal), slope))
                if trial is not None and trial.error < state.error:
                    best, gain = trial, 1 - trial.error / state.error
                    damping /= 4
                    break
                damping *= 5
            state = best
            clock.show(f"error {state.error:.3g}")
            spent = began - clock.left()
            fruitless = fruitless + 1 if gain < 0.005 else 0
            damping = 1e-2 if gain == 0 else damping
            if fruitless == patience or clock.left() - spent < share * clock.seconds:
                return state

    def _plain(self, times: Tensor) -> float:
        """Error of the untuned method."""
        end, _ = self._roll(times, self._multistep(times), self.test)
        return self._error(end, self.test)

    def _by_times(self, state: _State, fit: Callable[[Tensor], _State]) -> tuple[Tensor, Tensor]:
        """Derivatives by λ of the times, the coefficients following."""
        columns = []
        for j in range(1, self.intervals):
            lam = self.sde.log_snr(state.times)
            lam[j] += _NUDGE
            columns.append((fit(self._times(lam)).end - state.end).flatten() / _NUDGE)
        return torch.stack(columns), (state.end - self.path[-1, self.train]).flatten()

    def _with_times(self, state: _State, change: Tensor, fit: Callable[[Tensor], _State]) -> _State | None:
        lam = self.sde.log_snr(state.times)
        lam[1:-1] += change
        return fit(self._times(lam)) if bool((lam.diff() > 0).all()) else None

    def _some(self, state: _State) -> tuple[Tensor, Tensor]:
        """Starts `(n,)` to take derivatives at, and the root of how many each stands for."""
        error = (state.end - self.path[-1, self.train]).square().sum(1).cpu()
        count = len(error)
        hard = min(count, max(64, count // 16))
        order = error.argsort(descending=True)
        rest = order[hard:][torch.randperm(count - hard, generator=self.generator)[:hard]]
        weight = torch.ones(hard + len(rest))
        weight[hard:] = math.sqrt((count - hard) / max(len(rest), 1))
        return torch.cat((order[:hard], rest)).to(self.path.device), weight.to(self.path)

    def _by_all(self, state: _State) -> tuple[Tensor, Tensor]:
        """Derivatives by λ of each time, followed by those by the coefficients of the step from there."""
        some, weight = self._some(state)
        end, values = self._roll(state.times, state.rows, some)
        columns: list[Tensor] = []

        def add(other: Tensor) -> None:
            columns.append((weight[:, None] * (other - end)).flatten() / _NUDGE)

        for i in range(self.intervals):
            if i:
                lam = self.sde.log_snr(state.times)
                lam[i] += _NUDGE
                add(self._roll(self._times(lam), state.rows, some, values[:i])[0])
            for k in range(i + 2):
                rows = [row.clone() for row in state.rows]
                rows[i][k] += _NUDGE
                add(self._roll(state.times, rows, some, values[: i + 1])[0])
        return torch.stack(columns), (weight[:, None] * (end - self.path[-1, some])).flatten()

    def _with_all(self, state: _State, change: Tensor) -> _State | None:
        lam, rows, place = self.sde.log_snr(state.times), [], 0
        for i, row in enumerate(state.rows):
            if i:
                lam[i] += change[place]
                place += 1
            rows.append(row + change[place : place + len(row)])
            place += len(row)
        return self._rolled(self._times(lam), rows) if bool((lam.diff() > 0).all()) else None

    def _rolled(self, times: Tensor, rows: Rows) -> _State:
        end, _ = self._roll(times, rows, self.train)
        return _State(times, rows, end, self._error(end, self.train))

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
