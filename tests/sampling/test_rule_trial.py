"""What it takes for a rule of the default solver to replace the one for any model."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from scoresde.sampling.edge_starts import Starts, draw_starts
from scoresde.sampling.measured_steps import LENGTHS, _searched
from scoresde.sampling.plain_rule import plain_rule
from scoresde.sampling.rule_trial import TRUE, Solves, Trial
from scoresde.score import Conditions, GaussianMixtureScore, StepRule
from scoresde.sde import EDMSDE

F64 = torch.float64
COUNT = 64
OTHER = StepRule("straight", 3, 2, 0.2, 0.1)

Errors = Callable[[StepRule, int, Tensor], Tensor]
"""Distances to the true end points by a rule, a number of steps and starts `(n, 1)`, `(n, 1)`."""


class Made(Solves):
    """Solves whose errors are made up."""

    def __init__(self, errors: Errors) -> None:
        self.errors = errors
        self.model = GaussianMixtureScore([1.0], [[0.0]], [1.0], EDMSDE())  # which says what its samples are

    def __call__(self, rule: StepRule, steps: int, x: Tensor, conditions: Conditions) -> Tensor:
        return torch.zeros_like(x) if rule == TRUE else self.errors(rule, steps, x)


def trial(errors: Errors) -> Trial:
    """A trial on starts 0 to 63 that are seen, and 64 to 127 that are not."""
    seen, unseen = torch.arange(2 * COUNT, dtype=F64)[:, None].split(COUNT)
    weights = torch.full((COUNT,), 1 / COUNT, dtype=F64)
    return Trial(Made(errors), *(Starts(x, Conditions({}, COUNT), weights) for x in (seen, unseen)))


def spread(x: Tensor, rule: StepRule | None = None, steps: int = 0) -> Tensor:
    """Lognormal factors of the starts, which are the same for every rule, or differ by rule and steps."""
    words = f"{rule} {steps}" if rule else ""
    seed = int.from_bytes(words.encode(), "little") % (2**61 - 1)
    logs = torch.randn(2 * COUNT, 1, dtype=F64, generator=torch.Generator().manual_seed(seed))
    return logs[x.long().flatten()].exp()


@pytest.mark.parametrize("share", [0.1, 0.3], ids=["a little chance", "more chance"])
def test_the_plain_rule_stays_where_every_rule_is_equally_good(share: float) -> None:
    """Errors of all rules are draws of one distribution: the least of them is so by chance."""

    def errors(rule: StepRule, steps: int, x: Tensor) -> Tensor:
        return spread(x) * spread(x, rule, steps) ** share / steps

    made = trial(errors)
    lengths = LENGTHS[4:12]
    assert dict(_searched(made, lengths)) == {n: plain_rule(n) for n in lengths}
    # There are rules that look better from the starts that are seen.
    tried = [(rule, n) for rule, n, every in made._errors if every == 1 and n in lengths]
    assert any(made.error(rule, n) < 0.97 * made.error(plain_rule(n), n) for rule, n in tried)


def test_a_rule_that_is_better_is_taken() -> None:
    def errors(rule: StepRule, steps: int, x: Tensor) -> Tensor:
        return spread(x) * spread(x, rule, steps) ** 0.1 * (1.0 if rule.coordinate == "data" else 1.5) / steps

    rules = dict(_searched(trial(errors), (10, 12)))
    assert [rule.coordinate for rule in rules.values()] == ["data", "data"]


def test_what_only_the_seen_starts_tell_is_not_taken() -> None:
    def errors(rule: StepRule, steps: int, x: Tensor) -> Tensor:
        lucky = (rule.coordinate == "data") & (x < COUNT)
        return torch.where(lucky, 0.5, 1.0) * spread(x) / steps

    made = trial(errors)
    assert dict(_searched(made, (10,))) == {10: plain_rule(10)}
    data = StepRule("data", 2, 2, 0.2, 0.1)
    assert made.error(data, 10) < 0.6 * made.error(plain_rule(10), 10)


@pytest.mark.parametrize(
    ("far", "sure"), [(0, True), (1, False), (8, False)], ids=["no start", "one start", "an eighth of them"]
)
def test_a_rule_must_not_lose_some_starts(far: int, sure: bool) -> None:
    """It has a third of the error from most, and a large one from some, as where they end in another mode."""

    def errors(rule: StepRule, steps: int, x: Tensor) -> Tensor:
        lost = (x >= COUNT) & (x < COUNT + far)
        return torch.where(lost, 30.0, spread(x) / 3) if rule == OTHER else spread(x)

    assert trial(errors).surely_better(OTHER, plain_rule(10), (10,)) == sure


def test_one_start_of_the_other_rule_tells_nothing() -> None:
    """The mean square of one rule is a third of that of the other, but for one start: it may as well not be drawn."""

    def errors(rule: StepRule, steps: int, x: Tensor) -> Tensor:
        lost = x == COUNT
        return spread(x) * (1.02 if rule == OTHER else torch.where(lost, 30.0, 1.0))

    assert not trial(errors).surely_better(OTHER, plain_rule(10), (10,))


def test_no_number_of_steps_may_be_worse() -> None:
    """A mean over both numbers of steps is better; in one of them the rule for any model is."""

    def errors(rule: StepRule, steps: int, x: Tensor) -> Tensor:
        return spread(x) * ({10: 0.2, 11: 1.3}[steps] if rule == OTHER else 1.0)

    made = trial(errors)
    assert made.surely_better(OTHER, plain_rule(10), (10,))
    assert not made.surely_better(OTHER, plain_rule(10), (10, 11))
    assert not made.surely_better(OTHER, plain_rule(10), (11,))


def test_an_impossible_rule_is_no_better() -> None:
    class Impossible(Made):
        def __call__(self, rule: StepRule, steps: int, x: Tensor, conditions: Conditions) -> Tensor:
            if rule == OTHER:
                raise ValueError("times do not decrease")
            return super().__call__(rule, steps, x, conditions)

    made = trial(lambda rule, steps, x: spread(x))
    made.seen.solves = made.unseen.solves = Impossible(lambda rule, steps, x: spread(x))
    assert made.error(OTHER, 10) > 1e90
    assert not made.surely_better(OTHER, plain_rule(10), (10,))
    assert made.surely_better(plain_rule(10), OTHER, (10,))


def test_parts_of_starts_are_independent() -> None:
    means = torch.tensor([[2.0, 0.0], [-1.5, 0.0]], dtype=F64)
    model = GaussianMixtureScore(torch.ones(2), means, torch.full((2,), 1e-3, dtype=F64), EDMSDE(0.002, 80.0))
    with torch.no_grad():
        ends = partial(Solves(model, 1024), TRUE, 20)
        first, same, second = (draw_starts(model, ends, None, 40, 0, {}, part) for part in (0, 0, 1))
    assert torch.equal(first.x, same.x)
    nearest = torch.cdist(first.x, second.x).min()
    assert float(nearest) > 0.1  # of a spread of 80
    assert torch.equal(first.weights.sort().values, second.weights.sort().values)
