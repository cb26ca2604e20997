"""The search for the times and coefficients of a solver, for a given model and number of evaluations.

The starts are draws of the prior, with those among them that few steps get wrong (`scoresde.sampling.tuning_starts`).
The targets are their end points under the probability flow, by a method of order 4 in many steps. Three searches follow
each other, all on the root mean square distance to the targets:

1. Over a family of grids. On given times the coefficients are fitted greedily, one step after the other, by linear
   least squares to the true path, on the states that the solver itself reaches.
2. Over the times by Gauss-Newton, the coefficients following greedily.
3. Over all times and coefficients at once by Levenberg-Marquardt. A first step that is not quite on the path may help
   a later one.

Which of the minima is found depends on the grid. So a part of the starts searches from several grids, and from the
steps of the default sampler, for up to half of the time, and the best result on all starts is then improved on all
starts. Of all that was found, and the default's own steps, the one that does best on held-out starts is taken.

References:
    Tong et al. (2024), Learning to Discretize Denoising Diffusion ODEs: https://arxiv.org/abs/2405.15506
    Frankel et al. (2025), S4S: Solving for a Fast Diffusion Model Solver: https://arxiv.org/abs/2502.17423
    Shaul et al. (2024), Bespoke Non-Stationary Solvers for Fast Sampling of Diffusion and Flow Models:
    https://arxiv.org/abs/2403.01329
"""

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.numerics.values import at_least, positive, whole_number
from scoresde.sampling.default_steps import DefaultSteps
from scoresde.sampling.grids import DataStraight
from scoresde.sampling.true_paths import PATH_STEPS, TruePaths
from scoresde.sampling.tuned import TunedSteps, kernels_at
from scoresde.sampling.tuning_budget import Budget, Iterations, Seconds
from scoresde.sampling.tuning_problem import State, TuningProblem
from scoresde.sampling.tuning_starts import DRAWS, HELD_OUT, drawn_starts, fitted_part, given_starts
from scoresde.score import Conditions, ScoreModel, in_model_space

__all__ = ["tune"]

_GRIDS = (0.25, 0.4, 0.6, 0.9)
_STARTS = 4096  # with a number of iterations
_MAX_ELEMENTS = 2**21  # in all starts together, where one that is held out counts once and not by its draws
_SAME = 0.05  # part of its error that steps may differ by from those of the default sampler
_MIN_FIRST_STARTS = 1024  # for the search from several grids, which also has at least an eighth of all starts


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
    iterations: int | None = None,
    seed: int = 0,
    batch_size: int = 4096,
    progress: bool = False,
    **cond: Any,
) -> TunedSteps:
    """Find the times and coefficients with which `steps` evaluations of `model` have the smallest error.

    A few hundred starts are enough for a smooth network. If modes part sharply, take 800 or more: there a few draws in
    thousands, near the edge between two of them, carry the error. So 8 times as many draws are looked at, and the
    starts hold those that few steps get wrong.

    Args:
        model: The score model.
        steps: The number of evaluations, at least 2.
        shape: The shape of a sample, `(...)`; not needed if the model knows it.
        x_init: Starts at the SDE's t_max, `(N, ...)`, instead of draws of the prior; all of them are used.
        starts: The number of starts, a fifth of which is held out, as 8 draws each; as many as the time allows if not
            given.
        coefficients: Whether to find the coefficients as well; if not, those of a multistep method are used and only
            the times are found.
        seconds: The approximate time that the search may take.
        iterations: The number of iterations of the search, instead of a time, so that the result does not depend on the
            speed of the machine; half of them search from several grids. `starts` is 4096 then if not given, or less in
            many dimensions.
        seed: The seed of the starts.
        batch_size: The number of samples to work on at once.
        progress: Whether to show a progress bar.
        **cond: Conditions; a tensor is repeated to the number of starts.

    Raises:
        ValueError: Fewer than 2 steps, no shape, fewer than 40 starts, or a time that is not positive.
    """
    steps = whole_number("steps", steps, at_least=2)
    positive("seconds", seconds)
    if iterations is not None:
        whole_number("iterations", iterations, at_least=1)
    if starts is not None:
        at_least("starts", starts, 40)
    at_least("batch_size", batch_size, 1)
    if x_init is not None:
        shape, starts = tuple(x_init.shape[1:]), len(x_init)
    else:
        shape = model.sample_shape(shape)
    model = in_model_space(model)
    budget = Seconds(seconds, progress) if iterations is None else Iterations(iterations, progress)
    with model.evaluating(), budget:
        if starts is None and iterations is not None:
            starts = min(_STARTS, _MAX_ELEMENTS // math.prod(shape))
        elif starts is None:
            starts = _affordable(model, steps, shape, seconds, batch_size, cond)
        budget.show("starts")
        if x_init is not None:
            chosen = given_starts(model.on_device(x_init), cond)
        else:
            options = (seed, batch_size, cond, lambda: budget.show("starts"))
            chosen = drawn_starts(model, shape, starts, steps, *options)
        budget.show("true paths")
        paths = TruePaths(model, chosen, batch_size)
        return _search(TuningProblem(paths, fitted_part(starts), steps, seed), budget, coefficients)


def _affordable(
    model: ScoreModel, steps: int, shape: tuple[int, ...], seconds: float, batch_size: int, cond: dict[str, Any]
) -> int:
    """The number of starts that leaves time for some iterations of each search."""
    size = math.prod(shape)
    rows = min(max(2**16 // size, 16), 1024, batch_size)
    ends = model.sde.log_snr(torch.tensor([model.sde.t_noise(), model.sde.t_min_sampling], dtype=torch.float64))
    t = model.sde.time(ends.mean())
    x = torch.randn(rows, *shape, generator=torch.Generator().manual_seed(0)).to(model.device, model.dtype)
    for _ in range(2):  # the first warms up
        began = time.perf_counter()
        float(model.noise(x, t, **Conditions.in_turn(cond, torch.arange(rows))).sum())  # waits for the device
        each = (time.perf_counter() - began) / rows
    parameters = 2 * steps + steps * (steps + 1) // 2
    # The draws, the true paths, the grids, the search for times, and 8 iterations at an eighth of the starts.
    searched = steps * (3 * DRAWS + len(_GRIDS) + 2.5 * steps + 8 * (parameters / 16 + 2))
    evaluations = (1 - HELD_OUT) * (PATH_STEPS + searched) + HELD_OUT * DRAWS * PATH_STEPS
    return int(min(max(min(seconds / (each * evaluations), _MAX_ELEMENTS / size), 128), 2**15))


def _search(problem: TuningProblem, budget: Budget, coefficients: bool) -> TunedSteps:
    """All three searches, and the error of the result on the starts that are held out."""
    paths = problem.paths
    budget.show("grids")
    default = DefaultSteps(paths, problem.steps)
    grids = [DataStraight(problem.intervals, f)(paths.sde, paths.model.statistics) for f in _GRIDS]
    plain = min(problem.plain(times) for times in grids)

    def fit(times: Tensor) -> State:
        return problem.greedy(times) if coefficients else problem.rolled(times, problem.multistep(times))

    def by_times(state: State) -> tuple[Tensor, Tensor]:
        return problem.by_times(state, fit)

    def with_times(state: State, change: Tensor) -> State | None:
        return problem.with_times(state, change, fit)

    train = problem.train
    problem.train = slice(0, min(train.stop, max(_MIN_FIRST_STARTS, train.stop // 8)))
    minima: list[State] = []
    usual = _as_state(problem, default)
    firsts = sorted([fit(times) for times in grids] + ([usual] if coefficients and usual else []), key=_error)
    half = 0.5 * budget.left()
    for i, state in enumerate(firsts):
        if minima and budget.left() <= half:
            break
        now, own = budget.left(), (budget.left() - half) / (len(firsts) - i)
        state = _descend(state, by_times, with_times, budget, now - 0.5 * own, 1)
        if coefficients:
            state = _descend(state, problem.by_all, problem.with_all, budget, now - own, 1)
        minima.append(state)
    problem.train = train
    best = min((problem.rolled(s.times, s.rows) for s in minima), key=_error)
    if coefficients:
        # Each iteration takes its derivatives at other starts, so that one without gain is not yet the end.
        best = _descend(best, problem.by_all, problem.with_all, budget, 0.0, patience=3)
    else:
        best = _descend(best, by_times, with_times, budget, 0.0, patience=1)
    # What fits the starts of the search best may do worse on others.
    best = min((best, *minima, *([usual] if usual else [])), key=lambda state: problem.error_on(state, problem.judge))
    return TunedSteps(
        sde=repr(paths.sde),
        std=paths.model.data_std,
        times=tuple(best.times.tolist()),
        rows=tuple(tuple(row.tolist()) for row in best.rows),
        gaussian=paths.gaussian,
        error=problem.error_on(best, problem.test),
        before=plain,
        default=problem.error_of(default.ends(problem.test), problem.test),
        starts=train.stop,
        kernels=kernels_at(paths.sde, best.times),
    )


def _error(state: State) -> float:
    return state.error


def _as_state(problem: TuningProblem, default: DefaultSteps) -> State | None:
    """The steps of the default sampler; None if they are not linear in the start and the predictions."""
    visited = default.visited(problem.train)
    if visited is None:
        return None
    state = problem.fitted(*visited)
    distance = problem.distance(state.end, visited[1][-1], problem.train)
    return state if distance < _SAME * state.error else None


def _descend(
    state: State,
    columns: Callable[[State], tuple[Tensor, Tensor]],
    moved: Callable[[State, Tensor], State | None],
    budget: Budget,
    until: float,
    patience: int,
) -> State:
    """The state after iterations of the Levenberg-Marquardt method.

    Args:
        state: The state to start from.
        columns: A function of a state that returns the derivatives of the end points of some starts by each parameter,
            `(parameters, D)`, and the residuals, `(D,)`.
        moved: A function that changes the parameters of a state; it returns None for parameters that are impossible.
        budget: The time or the iterations that are left.
        until: What must be left of the budget after another iteration.
        patience: The number of iterations in a row without gain that end the search.
    """
    damping, fruitless = 1e-2, 0
    while True:
        began = budget.left()
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
        budget.iterated()
        budget.show(f"error {state.error:.3g}")
        spent = began - budget.left()
        fruitless = fruitless + 1 if gain < 0.005 else 0
        damping = 1e-2 if gain == 0 else damping
        if fruitless == patience or budget.left() - spent < until:
            return state
