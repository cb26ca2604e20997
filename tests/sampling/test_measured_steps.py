"""What is measured of a model for the default solver, and what it gains."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from scoresde.sampling import AutoAdams, DataStraight, Sampler, UniformLogSNR, measure_steps
from scoresde.sampling.edge_starts import draw_starts
from scoresde.sampling.measured_steps import LENGTHS, _searched
from scoresde.sampling.rule_trial import Trial
from scoresde.score import BoundModel, Conditions, GaussianMixtureScore, ScoreModel, StepRule, StepRules, with_sde
from scoresde.sde import EDMSDE, SDE, VPSDE, CosineSDE
from scoresde.statistics import Statistics
from tests.problems import true_ends

F64 = torch.float64


class Plain(ScoreModel):
    """An exact score of which nothing is known but its statistics, and whose samples are counted."""

    def __init__(self, model: ScoreModel) -> None:
        super().__init__(model.sde, model.statistics)
        self.model = model
        self.count = 0

    @property
    def step_statistics(self) -> Statistics | None:
        return self.statistics  # as of a network, whose samples are known to have them

    def denoise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        self.count += len(x)
        return self.model.denoise(x, t)

    def noise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        self.count += len(x)
        return self.model.noise(x, t)


def pair(sde: SDE, dim: int = 3) -> GaussianMixtureScore:
    """Two narrow modes far apart, on which high orders and grids that bend early do badly."""
    means = torch.zeros(2, dim, dtype=F64)
    means[0, 0], means[1, 0] = 2.0, -1.5
    return GaussianMixtureScore(torch.tensor([0.6, 0.4]), means, torch.full((2,), 0.03**2, dtype=F64), sde)


def error(model: ScoreModel, steps: int, x: Tensor, true: Tensor) -> float:
    """The median, since one start that ends in the other mode would be all of a mean."""
    out = Sampler(AutoAdams(), DataStraight(steps), denoise=False)(model, x_init=x)
    return float((out.x - true).norm(dim=1).median())


@pytest.mark.parametrize("sde", [EDMSDE(0.002, 80.0), VPSDE(), CosineSDE()], ids=lambda sde: type(sde).__name__)
def test_it_gains_where_no_rule_serves_all(sde: SDE) -> None:
    exact = pair(sde, 1)  # of one dimension, so that the covariance does not tell of narrow modes
    x = exact.sample(64, sde.t_max, torch.Generator().manual_seed(3))
    true = true_ends(exact, x)
    model = Plain(exact)
    before = {steps: error(model, steps, x, true) for steps in (9, 16)}
    for steps, gain in ((9, 2), (16, 1.3)):
        model.step_rules = measure_steps(model, (steps,), starts=150)
        assert error(model, steps, x, true) < before[steps] / gain


def test_an_exact_score_is_measured_when_it_is_first_used() -> None:
    model = pair(EDMSDE(0.002, 80.0))
    assert model.step_rules is None
    first = Sampler(AutoAdams(), DataStraight(9), denoise=False)(model, 4, seed=0)
    rules = model.step_rules
    assert rules is not None
    assert list(rules.rules) == [9]
    again = Sampler(AutoAdams(), DataStraight(9), denoise=False)(model, 4, seed=0)
    assert model.step_rules is rules
    assert torch.equal(first.x, again.x)
    rule = rules.at(9)
    grid = DataStraight(9, rule.bend, top=rule.top, narrow=rule.narrow)
    own = Sampler(AutoAdams(rule=rule), grid, denoise=False)
    assert torch.equal(first.x, own(model, 4, seed=0).x)
    # The same numbers of a model that is made anew: what is measured is a function of the model alone.
    other = pair(EDMSDE(0.002, 80.0))
    Sampler(AutoAdams(), DataStraight(9))(other, 4, seed=7)
    assert other.step_rules is not None
    assert other.step_rules.rules == rules.rules
    # Under another SDE it has the rules of the model.
    assert with_sde(other, VPSDE()).step_rules is other.step_rules


@pytest.mark.parametrize(
    "sampler",
    [
        Sampler(AutoAdams(), UniformLogSNR(6)),
        Sampler(AutoAdams(tau=0.5), DataStraight(6)),
        Sampler(AutoAdams(), DataStraight(6, 0.3)),
        Sampler(AutoAdams(rule=StepRule("angle", 1, 0, 0.3, 0.0)), DataStraight(6)),
    ],
    ids=["grid", "noise", "fraction", "rule"],
)
def test_nothing_is_measured_where_it_would_not_be_used(sampler: Sampler) -> None:
    model = pair(VPSDE())
    assert not sampler.follows_rule
    sampler(model, 4)
    assert model.step_rules is None


def test_evaluations_are_counted() -> None:
    model = Plain(pair(VPSDE()))
    rules = measure_steps(model, (5, 8), starts=16)
    assert rules.evaluations == model.count
    assert rules.starts == 16
    assert sorted(rules.rules) == [5, 8]
    # A network or any other model is never measured without being asked.
    model.step_rules = None
    model.count = 0
    out = Sampler(AutoAdams(), DataStraight(8), denoise=False)(model, 10)
    assert model.count == 10 * out.nfe == 80
    assert model.step_rules is None


def test_starts_near_an_edge_end_in_different_modes() -> None:
    """The edge is a plane x_0 = c, whose place is found on circles, and from which starts have all distances."""
    sde = EDMSDE(0.002, 80.0)
    model = pair(sde)

    def ends(x: Tensor, conditions: Conditions) -> Tensor:
        return Sampler(AutoAdams(rule=StepRule("data", 2, 2, 0.1, 0.4)), DataStraight(80, 0.1, top=0.4), denoise=False)(
            model, x_init=x
        ).x

    starts = draw_starts(model, ends, None, 64, 0, {})
    assert starts.x.shape == (64, 3)
    plain = starts.weights == 1 / 34  # 64 less 5 on each of 6 circles
    assert int(plain.sum()) == 34
    near = starts.x[~plain][:, 0][starts.weights[~plain].argsort()] / 80
    # Bisection on the line x_0: its noise has standard deviation 80.
    low, high = -3.0, 3.0
    for _ in range(20):
        middle = (low + high) / 2
        up = bool(ends(torch.tensor([[80 * middle, 0.0, 0.0]], dtype=F64), Conditions({}, 1))[0, 0] > 0)
        low, high = (low, middle) if up else (middle, high)
    distances = (near - low).abs()
    # On a circle of radius 1 to 4 these are 2π/8 times from 2⁻¹ to 2⁻¹¹.
    assert float(distances[:6].max()) < 4 * math.pi / 4 * 2.0**-8
    assert float(distances[-6:].max()) > math.pi / 4 * 2.0**-3
    above = ends(starts.x, Conditions({}, 64))[~plain, 0] > 0
    assert 10 <= int(above.sum()) <= 20


class Bowl(Trial):
    """A trial without solves, whose error has one minimum, which falls with the number of steps."""

    def __init__(self, best: dict[int, StepRule]) -> None:
        self.best, self.model = best, pair(VPSDE())

    def surely_better(self, rule: StepRule, than: StepRule, numbers: Sequence[int]) -> bool:
        return math.prod(self.error(rule, n) for n in numbers) < math.prod(self.error(than, n) for n in numbers)

    def error(self, rule: StepRule, steps: int, every: int = 1) -> float:
        best = self.best.get(steps) or self.best[max(n for n in self.best if n < steps)]
        orders = abs(rule.order - best.order) + 0.5 * ((rule.corrector > 0) != (best.corrector > 0))
        place = abs(math.log(rule.bend / best.bend)) + 3 * abs(rule.top - best.top)
        return math.exp(orders + place + (rule.coordinate != best.coordinate)) / steps


@pytest.mark.parametrize(
    "best",
    [
        StepRule("data", 4, 3, 0.003, 0.9),
        StepRule("angle", 3, 0, 2.5, 0.0),
        StepRule("straight", 2, 2, 0.03, 0.55),
        StepRule("angle", 1, 1, 0.33, 0.3),
    ],
    ids=str,
)
def test_the_search_finds_a_minimum(best: StepRule) -> None:
    trial = Bowl({8: best, 20: best})
    for _, rule in _searched(trial, (8, 20)):
        assert (rule.coordinate, rule.order, rule.corrector > 0) == (best.coordinate, best.order, best.corrector > 0)
        assert 1 / 1.4 < rule.bend / best.bend < 1.4
        assert abs(rule.top - best.top) < 0.07


def test_a_rule_of_other_steps_is_used_where_it_is_better() -> None:
    """In 8 and 9 steps the minimum is a hole in a plain, to which only the rule of 10 steps leads."""

    class Hole(Bowl):
        def error(self, rule: StepRule, steps: int, every: int = 1) -> float:
            outside = rule.coordinate != "data" or not (0.04 < rule.bend < 0.07 and 0.35 < rule.top < 0.55)
            return 100.0 if outside and steps < 10 else super().error(rule, steps)

    best = StepRule("data", 2, 2, 0.05, 0.45)
    trial = Hole({8: best, 9: best, 10: best})
    assert [trial.error(rule, n) for n, rule in dict(_searched(trial, (8, 9))).items()] == [100, 100]
    assert max(trial.error(rule, n) for n, rule in dict(_searched(trial, (8, 9, 10))).items()) < 1


@pytest.mark.parametrize(("lengths", "served"), [((12, 17), 16), ((LENGTHS[-1],), 4 * LENGTHS[-1])], ids=str)
def test_a_rule_that_is_good_in_one_number_of_steps_is_not_taken(lengths: tuple[int, ...], served: int) -> None:
    """One rule is better for as many steps as are measured, and far worse for the most that it would serve."""
    steps, lasting = lengths[0], StepRule("data", 4, 3, 0.002, 0.95)

    class Cancels(Bowl):
        last = served

        def error(self, rule: StepRule, steps: int, every: int = 1) -> float:
            if rule.coordinate == "data" and rule.bend == lasting.bend and rule.top == lasting.top:
                return 1.5 / steps
            return 100.0 if steps == self.last else super().error(rule, steps)

    class Lasts(Cancels):
        last = 0

    best = StepRule("straight", 4, 3, 0.2, 0.1)
    for trial, coordinate in ((Cancels, "data"), (Lasts, "straight")):
        assert dict(_searched(trial(dict.fromkeys(lengths, best)), lengths))[steps].coordinate == coordinate


def test_a_file_of_rules(tmp_path: Path) -> None:
    rules = StepRules({8: StepRule("data", 2, 2, 0.1, 0.4), 20: StepRule("straight", 4, 3, 0.2, 0.1)}, 48, 1000, 2.5)
    rules.save(tmp_path / StepRules.FILE)
    assert StepRules.load(tmp_path / StepRules.FILE) == rules
    assert rules.at(5) == rules.at(8) == rules.at(19) == rules.rules[8]
    assert rules.at(20) == rules.at(1000) == rules.rules[20]
    # They are of the run's model, which brings them along: another one, such as a guided one, has none of them.
    sampler = Sampler(AutoAdams(), DataStraight(20)).in_run(tmp_path)
    assert (sampler.solver, sampler.grid) == (AutoAdams(), DataStraight(20))
    # A file from before there were these settings
    content = json.loads(rules.to_json())
    for rule in content["rules"].values():
        del rule["narrow"], rule["safeguard"]
    (tmp_path / StepRules.FILE).write_text(json.dumps(content))
    assert StepRules.load(tmp_path / StepRules.FILE) == rules
    for text in ("{}", "[]", '{"format": "scoresde-steps-1", "rules": {}}', rules.to_json().replace("data", "date")):
        (tmp_path / StepRules.FILE).write_text(text)
        with pytest.raises(ValueError, match="not a file of step rules: make it anew, .* steps=all"):
            StepRules.load(tmp_path / StepRules.FILE)


def test_refused() -> None:
    model = pair(VPSDE())
    with pytest.raises(ValueError, match="at least one number of steps"):
        measure_steps(model, ())
    with pytest.raises(ValueError, match="each at least 1"):
        measure_steps(model, (0,))
    with pytest.raises(ValueError, match="starts"):
        measure_steps(model, (5,), starts=4)
    with pytest.raises(ValueError, match="batch_size is 0, expected at least 1"):
        measure_steps(model, (5,), batch_size=0)
    with pytest.raises(ValueError, match=r"shape is \(2,\), but a sample of this model has shape \(3,\): leave shape"):
        measure_steps(model, (5,), shape=(2,))
    with pytest.raises(ValueError, match="does not know the shape of a sample: give shape="):
        measure_steps(Own(model), (5,))
    with pytest.raises(ValueError, match=r"shape is \(\), expected the shape of a sample, with at least one"):
        measure_steps(Own(model), (5,), shape=())
    for rules in ({}, {0: StepRule("angle", 2, 2, 0.3, 0.0)}):
        with pytest.raises(ValueError, match=r"rules are for \[0?\] steps, expected at least one number"):
            StepRules(rules)
    with pytest.raises(TypeError, match="step_rules is 3, expected the StepRules"):
        model.step_rules = 3  # type: ignore[assignment]
    with pytest.raises(ValueError, match="top is 1"):
        StepRule("angle", 2, 2, 0.3, 1.0)
    with pytest.raises(ValueError, match="orders are 5 and 2"):
        StepRule("angle", 5, 2, 0.3, 0.0)
    with pytest.raises(ValueError, match="coordinate"):
        StepRule("velocity", 2, 2, 0.3, 0.0)  # type: ignore[arg-type]


class Own(ScoreModel):
    """An exact score that knows neither the shape of its samples nor their statistics."""

    def __init__(self, model: ScoreModel) -> None:
        super().__init__(model.sde)
        self.model = [model]

    @property
    def exact(self) -> bool:
        return True

    def denoise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        return self.model[0].denoise(x, t)


def test_a_sample_can_be_drawn_where_nothing_can_be_measured() -> None:
    own = Own(pair(VPSDE()))
    assert Sampler(AutoAdams(), DataStraight(5), denoise=False)(own, shape=(4, 3)).x.shape == (4, 3)
    assert own.step_rules is None


def test_what_is_measured_is_no_evaluation_of_a_bound_model() -> None:
    bound = BoundModel(pair(VPSDE()), {})
    out = Sampler(AutoAdams(), DataStraight(5))(bound, shape=(4, 3))
    assert bound.nfe == out.nfe <= 6
    assert bound.step_rules is not None


def test_a_bound_model_hands_its_rules_on() -> None:
    model = pair(VPSDE())
    bound = BoundModel(model, {})
    bound.step_rules = StepRules({4: StepRule("angle", 1, 1, 0.3, 0.0)})
    assert model.step_rules is bound.step_rules
    assert bound.normal_at_most_noise
    assert not with_sde(bound, EDMSDE()).conditioned
    assert with_sde(BoundModel(model, {"labels": torch.zeros(2)}), EDMSDE()).conditioned
    assert not Plain(model).normal_at_most_noise
