"""Find the times and coefficients of a solver for a given model and number of evaluations.

The starts are draws of the prior, the targets their end points under the probability flow, by a method of order 4 in
many steps. Three searches follow each other, all on the root mean square distance to the targets:

1. Over a family of grids. On given times the coefficients are fitted greedily, step after step, by linear least squares
   to the true path, on the states that the solver itself reaches (as in LD3 and S4S: Tong et al. 2024; Frankel et
   al. 2025).
2. Over the times by Gauss-Newton, the coefficients following greedily.
3. Over all times and coefficients at once by Levenberg-Marquardt (as Bespoke Non-Stationary solvers are trained: Shaul
   et al. 2024). A first step that is not quite on the path may help a later one.

Which of the minima is found depends on the grid, so a part of the starts searches from several, as far as half of the
time allows; the best of them on all starts goes on at all starts.
"""

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.progress import Progress
from scoresde.sampling.grids import DataStraight
from scoresde.sampling.tuned import TunedSteps
from scoresde.sampling.tuning_problem import PATH, State, Steps, repeated
from scoresde.score import ScoreModel, in_model_space

__all__ = ["tune"]

_GRIDS = (0.25, 0.4, 0.6, 0.9)
_MOST = 2**21  # numbers in all starts together
_FEW = 1024  # starts that the search from several grids has at least, and an eighth of all at least


@checked
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
    model = in_model_space(model)
    clock = _Clock(seconds, progress)
    with model.evaluating(), clock:
        if starts is None:
            starts = _affordable(model, steps, shape, seconds, batch_size, cond)
        clock.show("true paths")
        return _search(Steps(model, steps, shape, starts, seed, batch_size, x_init, cond), clock, coefficients)


class _Clock:
    """How much time is left, and a progress bar of it."""

    def __init__(self, seconds: float, progress: bool) -> None:
        self.start, self.seconds = time.perf_counter(), seconds
        self.bar = Progress(round(seconds), "tuning", "second", shown=progress)

    def __enter__(self) -> "_Clock":
        return self

    def __exit__(self, *error: Any) -> None:
        self.bar.__exit__(*error)

    def left(self) -> float:
        return self.seconds - (time.perf_counter() - self.start)

    def show(self, text: str) -> None:
        self.bar.note(text)
        self.bar.update(min(round(self.seconds - self.left()), self.bar.total) - self.bar.done)


def _affordable(
    model: ScoreModel, steps: int, shape: tuple[int, ...], seconds: float, batch_size: int, cond: dict[str, Any]
) -> int:
    """As many starts as leave time for some iterations of each search."""
    size = math.prod(shape)
    rows = min(max(2**16 // size, 16), 1024, batch_size)
    ends = model.sde.log_snr(torch.tensor([model.sde.t_noise(), model.sde.t_min_sampling], dtype=torch.float64))
    t = model.sde.time(ends.mean())
    x = torch.randn(rows, *shape, generator=torch.Generator().manual_seed(0)).to(model.device, model.dtype)
    for _ in range(2):  # the first warms up
        began = time.perf_counter()
        float(model.noise(x, t, **repeated(cond, rows)).sum())  # waits for the device
        each = (time.perf_counter() - began) / rows
    parameters = 2 * steps + steps * (steps + 1) // 2
    # The true path, the grids, the search for times, and 8 iterations at an eighth of the starts.
    evaluations = PATH + steps * (len(_GRIDS) + 2.5 * steps + 8 * (parameters / 16 + 2))
    return int(min(max(min(seconds / (each * evaluations), _MOST / size), 128), 2**15))


def _search(steps: Steps, clock: _Clock, coefficients: bool) -> TunedSteps:
    clock.show("grids")
    grids = [DataStraight(steps.intervals, f)(steps.sde, steps.model.statistics) for f in _GRIDS]
    plain = min(steps.plain(times) for times in grids)

    def fit(times: Tensor) -> State:
        return steps.greedy(times) if coefficients else steps.rolled(times, steps.multistep(times))

    def by_times(state: State) -> tuple[Tensor, Tensor]:
        return steps.by_times(state, fit)

    def with_times(state: State, change: Tensor) -> State | None:
        return steps.with_times(state, change, fit)

    whole = steps.train
    steps.train = slice(0, min(whole.stop, max(_FEW, whole.stop // 8)))
    found: list[State] = []
    firsts = sorted((fit(times) for times in grids), key=lambda state: state.error)
    half = 0.5 * clock.left()
    for i, state in enumerate(firsts):
        if found and clock.left() <= half:
            break
        now, own = clock.left(), (clock.left() - half) / (len(firsts) - i)
        state = _descend(state, by_times, with_times, clock, now - 0.5 * own, 1)
        if coefficients:
            state = _descend(state, steps.by_all, steps.with_all, clock, now - own, 1)
        found.append(state)
    steps.train = whole
    best = min((steps.rolled(s.times, s.rows) for s in found), key=lambda state: state.error)
    if coefficients:
        best = _descend(best, steps.by_all, steps.with_all, clock, 0.0, 3)  # each time at other starts
    else:
        best = _descend(best, by_times, with_times, clock, 0.0, 1)
    end, _ = steps.roll(best.times, best.rows, steps.test)
    return TunedSteps(
        sde=repr(steps.sde),
        std=steps.std,
        times=tuple(best.times.tolist()),
        rows=tuple(tuple(row.tolist()) for row in best.rows),
        gaussian=steps.gaussian,
        error=steps.error_of(end, steps.test),
        before=plain,
        starts=whole.stop,
    )


def _descend(
    state: State,
    columns: Callable[[State], tuple[Tensor, Tensor]],
    moved: Callable[[State, Tensor], State | None],
    clock: _Clock,
    until: float,
    patience: int,
) -> State:
    """Levenberg-Marquardt, until it gains little `patience` times or fewer than `until` seconds would be left.

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
        if fruitless == patience or clock.left() - spent < until:
            return state
