"""What `likelihood.py` measures of methods on a problem: rows of errors, counts and costs."""

import math
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from contenders import Failures
from likelihood_methods import (
    CORRECTED,
    EXACT,
    FIXED,
    ONE,
    OURS,
    PROBES,
    SCORE_SDE,
    Method,
    Outcome,
    exact_divergence,
    velocity_and_probe,
    velocity_at,
)
from likelihood_models import clock
from likelihood_problems import Problem

from scoresde.likelihood import Exact, Hutchinson, Probing

__all__ = ["RULER", "Row", "index", "measure"]

RULER = (SCORE_SDE, "RK45", 1e-5, FIXED)
LONG = 5.0  # seconds, from which on a method is not run again
# Points at which the cost of a trace is measured, and of an exact one, which takes long.
ROWS, EXACT_ROWS = 256, 16


@dataclass(frozen=True)
class Row:
    """A method on a problem: errors in nats, counts and seconds per point."""

    problem: str
    points: str  # draws or data
    sde: str
    wanted: float  # ratio to score_sde's scheme at 1e-5
    library: str
    family: str
    tolerance: float
    divergence: str
    size: int
    mean: float
    max: float
    max_plain: float  # with the prior N(0, σ² I)
    rms: float
    coverage: float  # of two standard errors, of solver and probes together
    forwards: float
    divergences: float
    products: float
    equivalents: float
    seconds: float  # for a point
    ratio: float  # to score_sde's scheme at 1e-5
    turns: int
    known: int  # points whose log-density is known

    @property
    def key(self) -> tuple[str, str, float, str]:
        return self.library, self.family, self.tolerance, self.divergence

    @property
    def name(self) -> str:
        return f"{self.library} {self.family}, {self.tolerance:g}"


def index(rows: Sequence[Row]) -> dict[tuple[str, str, float, str], Row]:
    return {row.key: row for row in rows}


def trace_costs(problem: Problem, repeats: int = 7) -> dict[str, float]:
    """What a trace with its forward costs in forwards, for 256 points at once: medians of calls that take turns."""
    model, sde = problem.model, problem.model.sde
    x = problem.x.repeat(-(-ROWS // len(problem.x)), *[1] * (problem.x.ndim - 1))[:ROWS].to(model.dtype)
    t = sde.time(torch.zeros(len(x), dtype=torch.float64)).clamp(sde.t_min, sde.t_max)
    x = sde.alpha(t[0]).to(x) * x
    signs, index = torch.ones_like(x), torch.arange(len(x))

    def traces(divergence: Any) -> Callable[[], Any]:
        return lambda: divergence.traces(partial(velocity_at, model, t), x, 0, index)

    calls: dict[str, Callable[[], Any]] = {
        "forward": lambda: model.velocity(x, t),
        FIXED: lambda: velocity_and_probe(model, x, t, signs),
        ONE: traces(Hutchinson(1)),
        "Hutchinson(4)": traces(Hutchinson(4)),
        "Probing(16)": traces(Probing(16)),
        EXACT: lambda: exact_divergence(model, x[:EXACT_ROWS], t[:EXACT_ROWS]),
    }
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            if name == EXACT and turn > 2:
                continue
            start = clock()
            call()
            if turn:
                seconds[name].append(clock() - start)
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    middle[EXACT] *= ROWS / EXACT_ROWS
    return {name: middle[name] / middle["forward"] for name in calls} | {"milliseconds": 1e3 * middle["forward"]}


def equivalents(method: Method, outcome: Outcome, costs: dict[str, float]) -> float:
    alone = outcome.forwards - outcome.divergences
    if method.divergence in costs:
        # torchdiffeq and torchode take the velocity from the probe's forward pass.
        return max(alone, 0.0) + outcome.divergences * costs[method.divergence]
    return outcome.forwards + outcome.products * (costs["Hutchinson(4)"] - 1) / 4


def measure(
    problem: Problem, chosen: Sequence[Method], turns: int, failures: Failures
) -> tuple[list[Row], dict[str, float]]:
    """The rows of a problem, and what traces cost there."""
    costs = trace_costs(problem)
    # Where the exact trace is as cheap, it is taken for all probes.
    alike = [n for n, make in PROBES.items() if isinstance(make().for_shape(tuple(problem.x.shape[1:])), Exact)]
    chosen = [m for m in chosen if m.divergence not in alike]
    if problem.model.exact:
        chosen = [m for m in chosen if not (m.library == OURS and m.family == CORRECTED)]
    outcomes: dict[Method, list[Outcome]] = {m: [] for m in chosen}
    seconds: dict[Method, list[float]] = {m: [] for m in chosen}
    ruler = next(m for m in chosen if m.key == RULER)
    for turn in range(turns):
        for method in sorted(chosen, key=lambda m: m is not ruler):
            if len(outcomes[method]) < turn or (turn and seconds[method][0] * len(problem.true) > LONG):
                continue
            points = problem.known if method.divergence == EXACT else problem
            start = clock()
            try:
                outcome = method.run(points, turn)
                if not bool(outcome.log_prob.isfinite().all()):
                    raise ArithmeticError("log-densities that are not finite")
            except Exception as error:  # whatever another library may raise
                failures.add(f"{problem}: {method}", error)
                continue
            spent = clock() - start if outcome.seconds is None else outcome.seconds
            seconds[method].append(spent / len(points.x))
            outcomes[method].append(outcome)
            print(f"{problem}, turn {turn}: {method} {1e3 * seconds[method][-1]:.1f} ms/point", file=sys.stderr)
    found = [m for m in chosen if outcomes[m]]
    return [_row(problem, m, outcomes[m], seconds[m], seconds[ruler], costs) for m in found], costs


def _row(
    problem: Problem,
    method: Method,
    outcomes: Sequence[Outcome],
    seconds: Sequence[float],
    ruler: Sequence[float],
    costs: dict[str, float],
) -> Row:
    known, first = len(problem.true), outcomes[0]
    errors = torch.stack([o.log_prob[:known] - problem.true for o in outcomes])
    coverage = math.nan
    if first.stderr is not None:
        bars = torch.stack([o.stderr[:known] for o in outcomes if o.stderr is not None])
        coverage = float((errors.abs() <= 2 * bars).double().mean())
    return Row(
        problem=problem.name,
        points=problem.points,
        sde=problem.sde,
        wanted=problem.wanted,
        library=method.library,
        family=method.family,
        tolerance=method.tolerance,
        divergence=method.divergence,
        size=problem.size,
        mean=float(errors.abs().mean()),
        max=float(errors.abs().max()),
        max_plain=math.nan if first.plain is None else float((first.plain[:known] - problem.true).abs().max()),
        rms=float(errors.square().mean().sqrt()),
        coverage=coverage,
        forwards=statistics.fmean(o.forwards for o in outcomes),
        divergences=statistics.fmean(o.divergences for o in outcomes),
        products=statistics.fmean(o.products for o in outcomes),
        equivalents=statistics.fmean(equivalents(method, o, costs) for o in outcomes),
        seconds=statistics.median(seconds),
        ratio=statistics.median(s / r for s, r in zip(seconds, ruler, strict=False)),
        turns=len(seconds),
        known=known,
    )
