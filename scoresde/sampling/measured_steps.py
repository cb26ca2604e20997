"""The measurement of which rule of the default solver suits a model, by number of steps.

A few starts are solved to their end points in many steps, and then by candidate rules in the number of steps that is
asked for. The best of some that differ widely is changed in one setting at a time for as long as the error falls. So
the order is as high as the problem is resolved, and the grid follows where its field bends: both differ by model, and
no table by number of steps serves all. Nothing is assumed of the model: networks, exact and guided fields, any SDE.

The error is the geometric mean of two: the root mean square, which starts that end in another mode decide, and
the geometric mean, which is that of the others. Half of the starts are near edges between modes, with weights
(`scoresde.sampling.edge_starts`), since a rule that is rash at large noise looks good on the others.
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.numerics.values import at_least
from scoresde.progress import Progress
from scoresde.sampling.auto_adams import AutoAdams
from scoresde.sampling.edge_starts import Starts, draw_starts
from scoresde.sampling.grids import DataStraight
from scoresde.score import BoundModel, Conditions, ScoreModel, StepRule, StepRules, in_model_space

__all__ = ["LENGTHS", "measure_steps", "rule_for"]

LENGTHS = (4, 5, 6, 7, 8, 9, 10, 12, 14, 17, 20, 24, 29, 36, 45, 56)
"""Numbers of steps that are measured if none are given; those between follow the next smaller one."""

# Of the first look, a quarter of the starts
_FIRST = (
    StepRule("angle", 1, 1, 0.33, 0.0),
    StepRule("angle", 2, 2, 0.33, 0.0),
    StepRule("angle", 3, 2, 0.33, 0.1),
    StepRule("straight", 2, 2, 0.2, 0.1),
    StepRule("straight", 3, 2, 0.2, 0.1),
    StepRule("straight", 4, 3, 0.2, 0.1),
    StepRule("straight", 3, 2, 0.07, 0.3),
    StepRule("straight", 4, 3, 0.07, 0.3),
    StepRule("data", 2, 2, 0.2, 0.1),
    StepRule("data", 2, 2, 0.1, 0.4),
    StepRule("data", 3, 2, 0.03, 0.8),
)
_LADDER = ((1, 0), (1, 1), (2, 2), (3, 2), (4, 3))
_FACTOR = 1.7  # between bends
_GAIN = 0.97  # a change that leaves more of the error is none
_MOST_CHANGES = 4
# An exact score is measured when it is first used if an evaluation works on no more numbers than this.
_MOST_NUMBERS = 2**23
_FINE = StepRule("straight", 4, 3, 0.12, 0.3)  # of true end points
_EDGE_STEPS = 60
_NUMBERS = 2**22  # that the starts of one evaluation work on, then
_STARTS, _LEAST_STARTS = (64, 128), 16


class Trial:
    """Starts, their true end points, and the errors of rules in a number of steps.

    Args:
        solves: Solves of the model.
        starts: The starts.
    """

    def __init__(self, solves: "Solves", starts: Starts) -> None:
        self.solves, self.starts = solves, starts
        self._true: tuple[int, Tensor] = (0, starts.x)

    def true(self, steps: int) -> Tensor:
        """The end points by so many steps that their error counts for nothing beside that of `steps`."""
        if self._true[0] < steps:
            found = self.solves(_FINE, max(150, 4 * steps), self.starts.x, self.starts.conditions)
            self._true = steps, found
        return self._true[1]

    def error(self, rule: StepRule, steps: int, every: int = 1) -> float:
        """A mean distance to the true end points, from one start in `every`; infinity for an impossible rule."""
        starts = self.starts.thinned(every)
        try:
            found = self.solves(rule, steps, starts.x, starts.conditions)
        except ValueError:  # times that do not decrease, so near are they
            return math.inf
        distance = (found - self.true(steps)[::every]).flatten(1).double().norm(dim=1)
        weights = starts.weights.to(distance)
        # The root mean square counts little but starts that end in another mode, the geometric mean none of them.
        typical = (weights @ distance.clamp(min=1e-300).log() / weights.sum()).exp()
        error = float(((weights @ distance.square()).sqrt() * typical).sqrt())
        return error if math.isfinite(error) else math.inf


class Solves:
    """Solves by a rule, which count their evaluations of one sample."""

    def __init__(self, model: ScoreModel, batch_size: int) -> None:
        self.model, self.batch_size = model, batch_size
        self.evaluations = 0

    def __call__(self, rule: StepRule, steps: int, x: Tensor, conditions: Conditions) -> Tensor:
        """The end points of starts `(n, ...)`."""
        solver, grid = AutoAdams().ruled(rule), DataStraight(steps).ruled(rule)
        times = grid(self.model.sde, self.model.statistics)
        parts = []
        for start in range(0, len(x), self.batch_size):
            rows = slice(start, start + self.batch_size)
            bound = BoundModel(self.model, conditions.select(rows))
            *_, end = solver.solve(bound, x[rows], times, _no_noise)
            self.evaluations += bound.nfe * len(end)
            parts.append(end)
        return torch.cat(parts)


def _no_noise(start: float | None = None, stop: float | None = None) -> Tensor:
    raise AssertionError("a solver of the ODE draws no noise")


def _changes(rule: StepRule) -> Iterator[StepRule]:
    """Rules that differ in one setting."""
    orders = (rule.order, rule.corrector)
    if orders in _LADDER:
        i = _LADDER.index(orders)
        near = [_LADDER[j] for j in (i - 1, i + 1) if 0 <= j < len(_LADDER)]
        if rule.corrector and rule.order > 1:
            near.append((rule.order, 0))
    else:
        near = [pair for pair in _LADDER if pair[0] == rule.order]
    for order, corrector in near:
        yield replace(rule, order=order, corrector=corrector)
    for coordinate in ("angle", "straight", "data"):
        if coordinate != rule.coordinate:
            yield replace(rule, coordinate=coordinate)
    for bend in (rule.bend / _FACTOR, rule.bend * _FACTOR):
        if 0.002 < bend < 1.5:
            yield replace(rule, bend=bend)
    for top in (rule.top - 0.1, rule.top + 0.1, rule.top + 0.25):
        if -0.09 < top < 0.96:
            yield replace(rule, top=round(max(top, 0.0), 3))


def _search(trial: Trial, steps: int, before: StepRule | None) -> StepRule:
    """The rule with the least error among those tried; `before` is that of another number of steps."""
    first = sorted(_FIRST, key=lambda rule: trial.error(rule, steps, every=4))[:3]
    errors: dict[StepRule, float] = {}

    def error(rule: StepRule) -> float:
        if rule not in errors:
            errors[rule] = trial.error(rule, steps)
        return errors[rule]

    best = min([*first, *([] if before is None else [before])], key=error)
    for _ in range(_MOST_CHANGES):
        likely = sorted(_changes(best), key=lambda rule: trial.error(rule, steps, every=2))[:4]
        changed = min(likely, key=error)
        if not error(changed) < _GAIN * error(best):
            break
        best = changed
    return best


@torch.no_grad()
@checked
def measure_steps(
    model: ScoreModel,
    steps: Sequence[int] = LENGTHS,
    *,
    shape: Sequence[int] | None = None,
    starts: int = 64,
    seed: int = 0,
    batch_size: int = 1024,
    progress: bool = False,
    **cond: Any,
) -> StepRules:
    """Find the rules with which the default solver has the smallest error on a model.

    For each number of steps it takes about 10 to 35 solves from all starts, which `StepRules` counts as evaluations of
    one sample. Set `model.step_rules` to the result for `AutoAdams` on `DataStraight` to use it; `scoresde tune` stores
    it with a run.

    Args:
        model: The score model.
        steps: The numbers of steps.
        shape: The shape of a sample, `(...)`; not needed if the model knows it.
        starts: The number of starts, at least 8. A start near the edge between two modes may end in either; with more
            starts more of those are seen.
        seed: The seed of the starts, which are not those of samples of that seed.
        batch_size: The number of samples to work on at once.
        progress: Whether to show a progress bar.
        **cond: Conditions; a tensor is repeated to the number of starts.

    Raises:
        ValueError: No numbers of steps, one below 1, fewer than 8 starts, or a model that does not know its shape.
    """
    if not steps or min(steps) < 1:
        raise ValueError(f"steps is {list(steps)}, expected at least one number of steps, each at least 1")
    at_least("starts", starts, 8)
    at_least("batch_size", batch_size, 1)
    shape = model.sample_shape(shape)
    began = time.perf_counter()
    model = in_model_space(model)
    solves = Solves(model, batch_size)
    trial = Trial(solves, draw_starts(model, partial(solves, _FINE, _EDGE_STEPS), shape, starts, seed, cond))
    rules: dict[int, StepRule] = {}
    lengths = sorted(set(steps))
    bar = Progress(sum(lengths), "measuring", "step", shown=progress)
    with model.evaluating(), bar:
        for n in lengths:
            rules[n] = _search(trial, n, rules[max(rules)] if rules else None)
            for _ in range(n):
                bar.update()
    return StepRules(rules, starts, solves.evaluations, time.perf_counter() - began)


def rule_for(model: ScoreModel, steps: int) -> StepRule | None:
    """Return the rule that was measured for a model and a number of steps; None if nothing was.

    A model that says that it is exact has it measured when it is first used, and keeps it, if it knows the shape of its
    samples and an evaluation is not too large.
    """
    steps = min(steps, LENGTHS[-1])
    while isinstance(model, BoundModel) and not model.conditioned:
        model = model.model  # so that it does not count what is measured
    rules, size = model.step_rules, model.evaluation_size
    # The size of a model around an exact one may not be known.
    starts = _STARTS[0] if size is None else min(max(_NUMBERS // max(size, 1), _LEAST_STARTS), _STARTS[1])
    small = model.exact and model.shape is not None and (size is None or size <= _MOST_NUMBERS)
    if small and not model.conditioned and (rules is None or steps not in rules.rules):
        found = measure_steps(model, (steps,), starts=starts)
        rules = found if rules is None else rules.joined(found)
        model.step_rules = rules
    return None if rules is None else rules.at(steps)
