"""The measurement of which rule of the default solver suits a model, by number of steps.

A few starts are solved to their end points in many steps, and then by candidate rules in the number of steps that is
asked for. The best of some that differ widely is changed in one setting at a time for as long as the error falls: in
large steps, judged by some of the starts, and then in small ones, judged by all. So the order is as high as the problem
is resolved, and the grid follows where its field bends: both differ by model, and no table by number of steps serves
all. Nothing is assumed of the model: networks, exact and guided fields, any SDE.

What is found by then is a proposal. The rule for any model, or that of a neighbouring number of steps, is kept unless
another is surely better from starts that the search has not seen, in all numbers of steps that it is to serve: see
`scoresde.sampling.rule_trial`. Half of the starts are near edges between modes, with weights
(`scoresde.sampling.edge_starts`), since a rule that is rash at large noise looks good on the others.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import torch

from scoresde.arguments import checked
from scoresde.numerics.values import at_least
from scoresde.progress import Progress
from scoresde.sampling.edge_starts import draw_starts
from scoresde.sampling.plain_rule import usual_rule
from scoresde.sampling.rule_trial import TRUE, Solves, Trial
from scoresde.score import BoundModel, ScoreModel, StepRule, StepRules, in_model_space

__all__ = ["LENGTHS", "measure_steps", "rule_for"]

LENGTHS = (4, 5, 6, 7, 8, 9, 10, 12, 15, 17, 20, 25, 30, 38, 50, 60)
"""Numbers of steps that are measured if none are given; those between follow the next smaller one.

Where the rule for any model changes, there is one of them.
"""

# Of the first look, by some of the starts. Those of a small bend and a large top are near the uniform log-SNR.
_FIRST = (
    StepRule("angle", 1, 1, 0.33, 0.0),
    StepRule("angle", 2, 2, 0.33, 0.0),
    StepRule("angle", 3, 2, 0.33, 0.1),
    StepRule("angle", 4, 3, 0.6, 0.1),
    StepRule("straight", 2, 2, 0.2, 0.1),
    StepRule("straight", 3, 2, 0.2, 0.1),
    StepRule("straight", 4, 3, 0.2, 0.1),
    StepRule("straight", 3, 2, 0.07, 0.3),
    StepRule("straight", 4, 3, 0.07, 0.3),
    StepRule("straight", 3, 0, 0.002, 0.95),
    StepRule("data", 2, 2, 0.2, 0.1),
    StepRule("data", 2, 2, 0.1, 0.4),
    StepRule("data", 2, 2, 0.002, 0.95),
    StepRule("data", 4, 3, 0.2, 0.25),
    StepRule("data", 4, 3, 0.002, 0.95),
)
_COORDINATES: tuple[Literal["angle", "straight", "data"], ...] = ("angle", "straight", "data")
_LADDER = ((1, 0), (1, 1), (2, 2), (3, 2), (4, 3))
_COARSE, _SMALL = (2.5, 0.2), (1.3, 0.06)  # changes: the factor between bends, and the difference of tops
_BENDS, _TOPS = (0.0005, 6.0), (0.0, 0.98)
_GAIN = 0.98  # a change that leaves more of the error is none
_MOST_ROUNDS = 6
_MOST_CLIMBS, _MOST_SMALL_CLIMBS = 3, 2
_HOPEFUL = 4.0  # times the least error: from where changes may lead below it
# An exact score is measured when it is first used if an evaluation works on no more numbers than this.
_MOST_NUMBERS = 2**23
_EDGE_STEPS = 30
_NUMBERS = 2**22  # that the starts of one evaluation work on, then
_STARTS, _LEAST_STARTS = (150, 384), 36  # of which the search sees a third
_MOST_PROPOSED = 4
_MANY = 4  # times the largest length, up to where its rule is judged


def _changes(rule: StepRule, size: tuple[float, float]) -> Iterator[StepRule]:
    """Rules that differ in the orders, in the bend or the top, or in both of these, which make good for each other."""
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
    factor, difference = size
    for up, more in ((-1, 0), (1, 0), (0, -1), (0, 1), (-1, 1), (1, -1)):
        bend = min(max(rule.bend * factor**up, _BENDS[0]), _BENDS[1])
        top = min(max(rule.top + more * difference, _TOPS[0]), _TOPS[1])
        yield replace(rule, bend=float(f"{bend:.3g}"), top=round(top, 3))


def _climb(best: StepRule, error: Callable[[StepRule], float], size: tuple[float, float]) -> StepRule:
    """The rule with the least error on a way of changes, each of which lowers it."""
    for _ in range(_MOST_ROUNDS):
        before = best
        for changed in _changes(before, size):
            if error(changed) < _GAIN * error(best):
                best = changed
        if best == before:
            break
    return best


def _search(trial: Trial, steps: int, known: Sequence[StepRule]) -> list[StepRule]:
    """Rules of small error, best first; `known` are those of other numbers of steps."""
    rough = partial(trial.error, steps=steps, every=2)
    whole = partial(trial.error, steps=steps)
    plain = usual_rule(trial.model, steps)
    first = [replace(rule, narrow=plain.narrow, safeguard=plain.safeguard) for rule in _FIRST]
    first = sorted(dict.fromkeys((*first, plain, *known)), key=rough)
    # The best, the best of each coordinate, and all that are known: where modes part sharply there are many minima.
    by_coordinate = [next(rule for rule in first if rule.coordinate == c) for c in _COORDINATES]
    tried = dict.fromkeys((*first[:_MOST_CLIMBS], *known, *by_coordinate))
    tops = [_climb(rule, rough, _COARSE) for rule in tried if rough(rule) <= _HOPEFUL * rough(first[0])]
    best = min((*known, *tops), key=whole)
    others = [replace(best, coordinate=c) for c in _COORDINATES]
    near = sorted(dict.fromkeys((*known, *tops, *others)), key=whole)
    ends = [_climb(rule, whole, _SMALL) for rule in near[:_MOST_SMALL_CLIMBS]]
    return sorted(dict.fromkeys((*ends, *near)), key=whole)


def _served(steps: int, after: int | None) -> tuple[int, ...]:
    """The numbers of steps in which a rule is judged: the least and the largest that it serves.

    A rule whose errors only cancel in one number of steps is no good in the other.
    """
    if after is not None:
        return tuple(dict.fromkeys((steps, after - 1)))
    return (steps,) if steps < LENGTHS[-1] else (steps, _MANY * steps)


def _chosen(trial: Trial, begin: StepRule, proposed: Iterable[StepRule], served: Sequence[int]) -> StepRule:
    """The rule to begin with, or one proposed that takes its place: of those that are alike the first."""
    best, steps = begin, served[0]
    most = trial.error(usual_rule(trial.model, steps), steps)
    for rule in dict.fromkeys(proposed):
        if trial.error(rule, steps) < most and trial.surely_better(rule, best, served):
            best = rule
    return best


def _searched(trial: Trial, lengths: Sequence[int]) -> Iterator[tuple[int, StepRule]]:
    """The rules of numbers of steps in rising order, and then once more of those that others serve better."""
    found: dict[int, StepRule] = {}  # with the least error from the seen starts
    chosen: dict[int, StepRule] = {}
    served = {steps: _served(steps, after) for steps, after in zip(lengths, (*lengths[1:], None), strict=True)}
    for before, steps in zip((None, *lengths), lengths, strict=False):
        error = partial(trial.error, steps=steps)
        best, *others = _search(trial, steps, () if before is None else (found[before],))
        if before is not None and error(best) > trial.error(found[before], before):
            # More steps have no less error, so there is a better rule.
            best = min((_climb(rule, error, _COARSE) for rule in (best, found[before])), key=error)
        found[steps] = best
        near = () if before is None else (chosen[before],)
        proposed = (*near, best, *others[: _MOST_PROPOSED - 1])
        chosen[steps] = _chosen(trial, usual_rule(trial.model, steps), proposed, served[steps])
        yield steps, chosen[steps]
    for steps, after in reversed(list(pairwise(lengths))):
        error = partial(trial.error, steps=steps)
        better = error(found[after]) < error(found[steps])
        if better:
            found[steps] = _climb(found[after], error, _SMALL)
        proposed = (chosen[after], found[steps]) if better else (chosen[after],)
        best = _chosen(trial, chosen[steps], proposed, served[steps])
        if best != chosen[steps]:
            chosen[steps] = best
            yield steps, best


@torch.no_grad()
@checked
def measure_steps(
    model: ScoreModel,
    steps: Sequence[int] = LENGTHS,
    *,
    shape: Sequence[int] | None = None,
    starts: int | None = None,
    seed: int = 0,
    batch_size: int = 1024,
    progress: bool = False,
    **cond: Any,
) -> StepRules:
    """Find the rules with which the default solver has the smallest error on a model.

    Where none is surely better than the rule for any model, that one is kept, so that it is no worse to have measured.
    For each number of steps it takes about 50 to 90 solves from all starts, which `StepRules` counts as evaluations of
    one sample. Set `model.step_rules` to the result for `AutoAdams` on `DataStraight` to use it; `scoresde tune` stores
    it with a run.

    Args:
        model: The score model.
        steps: The numbers of steps.
        shape: The shape of a sample, `(...)`; not needed if the model knows it.
        starts: The number of starts, at least 8; if not given 150, or 36 to 384 of an exact score, fewer where its
            evaluations are large. One third guides the search, the others confirm what it finds. A start near the edge
            between two modes may end in either; with more starts more of those are seen.
        seed: The seed of the starts, which are not those of samples of that seed.
        batch_size: The number of samples to work on at once.
        progress: Whether to show a progress bar.
        **cond: Conditions; a tensor is repeated to the number of starts.

    Raises:
        ValueError: No numbers of steps, one below 1, fewer than 8 starts, or a model that does not know its shape.
    """
    if not steps or min(steps) < 1:
        raise ValueError(f"steps is {list(steps)}, expected at least one number of steps, each at least 1")
    starts = _starts_of(model) if starts is None else starts
    at_least("starts", starts, 8)
    at_least("batch_size", batch_size, 1)
    shape = model.sample_shape(shape)
    began = time.perf_counter()
    model = in_model_space(model)
    solves = Solves(model, batch_size)
    ends = partial(solves, TRUE, _EDGE_STEPS)
    counts = max(starts // 3, 4), starts - max(starts // 3, 4)
    seen, unseen = (draw_starts(model, ends, shape, count, seed, cond, part) for part, count in enumerate(counts))
    trial = Trial(solves, seen, unseen)
    rules: dict[int, StepRule] = {}
    lengths = sorted(set(steps))
    bar = Progress(sum(lengths), "measuring", "step", shown=progress)
    with model.evaluating(), bar:
        for n, rule in _searched(trial, lengths):
            if n not in rules:
                for _ in range(n):
                    bar.update()
            rules[n] = rule
    return StepRules(rules, starts, solves.evaluations, time.perf_counter() - began)


def _starts_of(model: ScoreModel) -> int:
    """The number of starts if none is given: more of an exact score whose evaluations are cheap."""
    size = model.evaluation_size
    if not model.exact or size is None:  # the size of a model around an exact one may not be known
        return _STARTS[0]
    return min(max(_NUMBERS // max(size, 1), _LEAST_STARTS), _STARTS[1])


def rule_for(model: ScoreModel, steps: int) -> StepRule:
    """Return the rule that was measured for a model and a number of steps, or the usual one if nothing was.

    A model that says that it is exact has it measured when it is first used, and keeps it, if it knows the shape of its
    samples and an evaluation is not too large.
    """
    usual, steps = usual_rule(model, steps), min(steps, LENGTHS[-1])
    while isinstance(model, BoundModel) and not model.conditioned:
        model = model.model  # so that it does not count what is measured
    rules, size = model.step_rules, model.evaluation_size
    small = model.exact and model.shape is not None and (size is None or size <= _MOST_NUMBERS)
    if small and not model.conditioned and (rules is None or steps not in rules.rules):
        found = measure_steps(model, (steps,))
        rules = found if rules is None else rules.joined(found)
        model.step_rules = rules
    return usual if rules is None else rules.at(steps)
