"""Endpoint errors of contenders on cases, by number of evaluations."""

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from cases import Case, Truth
from contenders import OURS, OWN, Budget, Contender, Counted, Failures, Solve, presets
from hydra.utils import instantiate
from torch import Tensor

from scoresde.sampling import AutoAdams, DataStraight, Sampler, measure_steps
from scoresde.sampling.measured_steps import LENGTHS
from scoresde.sampling.plain_rule import plain_rule
from scoresde.score import StepRule

__all__ = ["DEFAULTS", "Cell", "Prepare", "Prepared", "cells", "named_preset", "prepared", "solves"]

# From a model, what is measured of it if anything, and from a number of steps the sampler.
Prepare = Callable[[Counted], Callable[[int], Sampler]]


def named_preset(name: str) -> Prepare:
    """A preset, which measures nothing but what `Counted.ruled` does."""
    return lambda model: partial(_of_preset, name)


def measured(model: Counted) -> Callable[[int], Sampler]:
    """The default solver with rules that were measured for the model at the lengths of `measure_steps`."""
    cond: dict[str, Any] = dict(model.cond)
    model.step_rules = rules = measure_steps(model, LENGTHS, **cond)
    return lambda steps: _of_rule(rules.at(steps), steps)


def plain(model: Counted) -> Callable[[int], Sampler]:
    """The default solver with the rule for a model that nothing is measured of."""
    return lambda steps: _of_rule(plain_rule(steps), steps)


def _of_rule(rule: StepRule, steps: int) -> Sampler:
    return Sampler(AutoAdams(rule=rule), DataStraight(steps).ruled(rule), denoise=False)


def _of_preset(name: str, steps: int) -> Sampler:
    made: Sampler = instantiate(presets()[name], grid={"steps": steps}, denoise=False, _convert_="all")
    return made


# What may be called the default; the first is the one that targets are of.
DEFAULTS: dict[str, Prepare] = {"default": measured, "default, nothing measured": plain}
AS_NETWORK = ", as a network"
# On the problems for development, no peer that is best at 50 was further behind than 3 at 20 or 30. On the five of them
# where all were run on 100 and 200 as well, the least error was that of one within 4 before.
PRUNED_FROM, NEAR = 50, 5.0


@dataclass(frozen=True)
class Cell:
    """The endpoint error of a contender on a case.

    Attributes:
        case: The name of the case.
        group: "default", "ours" or "peers".
        name: The contender.
        budget: The largest number of evaluations.
        rms: The root mean square over starts of the distance to the true endpoint.
        median: The median over starts of that distance, which no single start in another mode can carry.
        floor: The distance below which errors are round-off.
    """

    case: str
    group: str
    name: str
    budget: int
    rms: float
    median: float
    floor: float

    def error(self, measure: str) -> float:
        """The error by "rms" or "median", without what is round-off."""
        return max(float(getattr(self, measure)), self.floor)


@dataclass(frozen=True)
class Prepared:
    """What a default measured of a model before it was called: evaluations of a batch, and seconds."""

    case: str
    name: str
    evaluations: int
    seconds: float

    @staticmethod
    def timed(case: str, name: str, prepare: Prepare, model: Counted) -> "tuple[Callable[[int], Sampler], Prepared]":
        """What `prepare` makes of the model, and what that took."""
        before, begin = model.calls[0], time.perf_counter()
        made = prepare(model)
        return made, Prepared(case, name, model.calls[0] - before, time.perf_counter() - begin)


def prepared(case: Case, as_network: bool) -> Iterator[tuple[Contender, Counted, Prepared]]:
    """Each default, measured on the case, with the model that it was measured on."""
    for name, prepare in DEFAULTS.items():
        for exact in (None, False) if as_network and case.model.exact else (None,):
            model, label = case.counted(exact), name if exact is None else name + AS_NETWORK
            made, spent = Prepared.timed(case.name, label, prepare, model)
            yield Contender(OURS, label, OWN, solves(made), stochastic=False), model, spent


def solves(made: Callable[[int], Sampler]) -> Solve:
    """The samplers for numbers of steps, as a contender solves."""
    return lambda model, x, steps, seed: model.ruled(made(steps))(model, x_init=x, seed=seed, **model.cond_of(x)).x


def cells(
    group: str,
    contenders: Iterable[tuple[Contender, Counted]],
    case: Case,
    truth: Truth,
    budgets: Sequence[int],
    failures: Failures,
    stored: dict[str, Any] | None = None,
    save: Callable[[], None] = lambda: None,
) -> Iterator[Cell]:
    """Cells of the contenders that are finite. What is in `stored` is not run again, and what is run is added to it.

    From 50 evaluations on, only those are run that were near the least error of the group before, since long runs of
    solvers that are far behind take the most time.
    """
    stored = {} if stored is None else stored
    bound = {str(contender): (contender, model) for contender, model in contenders}
    found: dict[str, dict[int, list[float]]] = {name: stored.setdefault(name, {}) for name in bound}
    ready: dict[str, Budget] = {}
    for allowed in sorted(budgets):
        before = sorted(b for b in budgets if b < allowed)[-2:] if allowed >= PRUNED_FROM else []
        for name in _near(found, before, truth.floor):
            if allowed in found[name]:
                continue
            try:
                if name not in ready:
                    ready[name] = Budget(*bound[name], case.starts)
                found[name][allowed] = _errors(ready[name].end(allowed), truth)
            except Exception as error:  # whatever another library or a grid that does not suit a solver may raise
                failures.add(f"{case.name}: {name}", error)
        save()
    for name, (contender, _) in bound.items():
        label = contender.solver if group == "default" else name
        for allowed in budgets:
            if allowed in found[name] and math.isfinite(found[name][allowed][0]):
                rms, median = found[name][allowed]
                yield Cell(case.name, group, label, allowed, rms, median, truth.floor)


def _near(found: dict[str, dict[int, list[float]]], budgets: Sequence[int], floor: float) -> list[str]:
    """Those whose error is at most `NEAR` times the least of all, by either measure at any of the budgets."""
    near = set() if budgets else set(found)
    for budget, measure in itertools.product(budgets, (0, 1)):
        errors = {name: max(of[budget][measure], floor) for name, of in found.items() if budget in of}
        least = min((e for e in errors.values() if math.isfinite(e)), default=math.inf)
        near |= {name for name, error in errors.items() if error <= NEAR * least}
    return [name for name in found if name in near]


def _errors(end: Tensor | None, truth: Truth) -> list[float]:
    if end is None or not bool(end.isfinite().all()):
        return [math.nan, math.nan]
    distance = (end - truth.ends).flatten(1).norm(dim=1)
    return [float(distance.square().mean().sqrt()), float(distance.median())]
