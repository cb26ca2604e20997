"""Tuned steps: that they are what they say, that they do better, and that a file is refused where it does not fit."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from scoresde.numerics.random import SampleNoise
from scoresde.sampling import (
    Adaptive,
    AutoAdams,
    DataStraight,
    ExplicitTimes,
    Multistep,
    Sampler,
    Tuned,
    TunedSteps,
    TunedTimes,
    UniformTime,
    tune,
)
from scoresde.sampling.default_steps import DefaultSteps
from scoresde.sampling.measured_steps import rule_for
from scoresde.sampling.start import prior_start
from scoresde.sampling.true_paths import Part, TruePaths
from scoresde.sampling.tuning_problem import State, TuningProblem
from scoresde.sampling.tuning_starts import drawn_starts
from scoresde.score import GaussianMixtureScore, ScoreModel
from scoresde.sde import EDMSDE, SDE, VPSDE
from tests.problems import ring, rms

pytestmark = pytest.mark.slow

F64 = torch.float64


def true_ends(model: GaussianMixtureScore, x: Tensor) -> Tensor:
    ends = ExplicitTimes([model.sde.t_max, model.sde.t_min_sampling])
    return Sampler(Adaptive("dop853", 1e-9, 1e-9), ends, denoise=False)(model, x_init=x).x


def test_both_errors_are_those_on_starts_that_the_search_has_not_seen() -> None:
    model = ring(VPSDE(), 5, 0.2, (0.3, 0.0))
    x = model.sample(400, model.sde.t_max, torch.Generator().manual_seed(7))
    made = tune(model, 4, x_init=x, iterations=3)
    assert made.starts == 320
    # Of the fifth that is held out, a half chooses between results. The other half, the last starts, sees no choice.
    last = x[360:]
    true = true_ends(model, last)
    default = Sampler(AutoAdams(), DataStraight(5), denoise=False)(model, x_init=last)
    tuned = made.sampler()(model, x_init=last)
    assert default.nfe == tuned.nfe == 4
    assert made.default == pytest.approx(rms(default.x - true), rel=1e-3)
    assert made.error == pytest.approx(rms(tuned.x - true), rel=1e-3)


def parted() -> GaussianMixtureScore:
    """Modes that part sharply, so that a few starts in thousands carry the error."""
    return ring(VPSDE(), 5, 0.05, (0.3, 0.0))


def test_starts_that_few_steps_get_wrong_are_kept_and_the_others_stand_for_the_rest() -> None:
    model, steps = parted(), 8
    starts = drawn_starts(model, (2,), 500, steps, 0, 1000, {})
    weights = starts.weights[:400]
    assert float(weights.sum()) == pytest.approx(8 * 400)
    assert int((weights == 1).sum()) == 100
    first = DataStraight(1)(model.sde, model.statistics)[0]
    whole = prior_start(model, SampleNoise(0, torch.arange(2**40, 2**40 + 4000), (2,), F64)(), first)
    # All draws that are held out are starts.
    torch.testing.assert_close(starts.x[400:], whole[3200:], rtol=0, atol=0)
    assert bool((starts.weights[400:] == 1).all())
    sampler = Sampler(AutoAdams(), DataStraight(steps), denoise=False)
    searched, fitted = whole[:3200], starts.x[:400]
    squares, kept = ((sampler(model, x_init=x).x - true_ends(model, x)).square().sum(1) for x in (searched, fitted))
    # The mean over all 3200 draws, from 400, and within 5 % although the largest are a hundred times the median.
    assert float(squares.max() / squares.median()) > 100
    mean = float((weights * kept).sum() / weights.sum())
    assert mean == pytest.approx(float(squares.mean()), rel=0.05)
    assert float(kept.max()) == pytest.approx(float(squares.max()), rel=1e-6)


def test_conditions_stay_with_the_starts_that_are_kept() -> None:
    model, cond = Shifted(), {"labels": torch.arange(2)}
    starts = drawn_starts(model, (2,), 50, 4, 0, 64, cond)
    assert torch.equal(starts.x, drawn_starts(model, (2,), 50, 4, 0, 400, cond).x)
    noise = SampleNoise(0, torch.arange(2**40, 2**40 + 400), (2,), starts.x.dtype)()
    first = DataStraight(1)(model.sde, model.statistics)[0]
    same = (prior_start(model, noise, first) == starts.x[:, None]).all(2)
    assert same.sum(1).tolist() == [1] * 120  # 40 to fit, and 10 times 8
    assert starts.conditions["labels"].tolist() == [i % 2 for i in same.int().argmax(1).tolist()]


def test_modes_that_part_sharply_do_not_spoil_it() -> None:
    model = parted()
    made = tune(model, 8, starts=800, iterations=12)
    x = model.sample(2000, model.sde.t_max, torch.Generator().manual_seed(5))
    true = true_ends(model, x)
    default = Sampler(AutoAdams(), DataStraight(9), denoise=False)(model, x_init=x)
    out = made.sampler()(model, x_init=x)
    assert rms(out.x - true) < 0.2 * rms(default.x - true)


@pytest.mark.parametrize(("steps", "labels"), [(3, False), (3, True), (8, True), (14, False)])
def test_the_steps_of_the_default_sampler_are_coefficients_to_start_from(steps: int, labels: bool) -> None:
    model = Shifted() if labels else ring(VPSDE(), 5, 0.2, (0.3, 0.0))
    cond = {"labels": torch.arange(2)} if labels else {}
    paths = TruePaths(model, drawn_starts(model, (2,), 100, steps, 0, 64, cond), 64)
    problem = TuningProblem(paths, 80, steps, 0)
    visited = DefaultSteps(paths, steps).visited(problem.train)
    assert visited is not None
    state = problem.fitted(*visited)
    x = paths.y[0, :80].reshape(80, 2)
    alpha, norm = model.sde.alpha(paths.times[0]), paths.angle.norm(model.sde, paths.times[0])
    given = {"x_init": norm * x + alpha * paths.mean, **paths.cond.rows(0, 80)}
    steps = steps + paths.gaussian
    rule = rule_for(model, steps)
    linear = dataclasses.replace(rule, safeguard=False)
    out = Sampler(AutoAdams(rule=linear), DataStraight(steps).ruled(linear), denoise=False)(model, **given)
    assert out.nfe == steps - paths.gaussian
    assert paths.gaussian != labels
    torch.testing.assert_close(state.end, paths.scaled(out.x, paths.times[-1]), rtol=1e-5, atol=1e-5)


def test_what_fits_the_starts_of_the_search_is_not_taken_if_something_does_better_on_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Plain starts, of which the search learns too much where modes part sharply."""
    model = parted()
    judged: list[tuple[float, float]] = []
    error_on = TuningProblem.error_on

    def noted(self: TuningProblem, state: State, part: Part) -> float:
        judged.append((state.error, error_on(self, state, part)))
        return judged[-1][1]

    monkeypatch.setattr(TuningProblem, "error_on", noted)
    x = model.sample(60, model.sde.t_max, torch.Generator().manual_seed(0))
    made = tune(model, 6, x_init=x, iterations=12)
    *candidates, (_, test) = judged
    fitted_best = min(candidates)
    chosen = min(candidates, key=lambda errors: errors[1])
    assert fitted_best[0] < 0.001 < 0.01 < fitted_best[1]
    assert chosen[1] < 0.1 * fitted_best[1]
    assert made.error == test < 0.01


def test_iterations_in_place_of_seconds_repeat_the_result() -> None:
    model = ring(VPSDE(), 5, 0.2, (0.3, 0.0))
    first, second = (tune(model, 3, starts=200, iterations=n, seconds=s) for n, s in ((6, 1e-3), (6, 1e3)))
    assert first == second
    assert tune(model, 3, starts=200, iterations=1) != first


@pytest.mark.parametrize("sde", [VPSDE(), EDMSDE()], ids=["vp", "edm"])
def test_tuned_steps_do_much_better_on_starts_they_never_saw(sde: SDE) -> None:
    model = ring(sde, 5, 0.2, (0.3, 0.0))
    made = tune(model, 5, starts=800, iterations=20)
    x = model.sample(1000, sde.t_max, torch.Generator().manual_seed(5))
    true = true_ends(model, x)
    out = made.sampler()(model, x_init=x)
    error = rms(out.x - true)
    assert out.nfe == made.evaluations == 5
    # As good as promised: a few starts near an edge between modes carry the figures.
    assert error < 2 * made.error
    plain = [
        Sampler(Multistep(2, 2, centre=True, start="gaussian"), DataStraight(6, f), denoise=False)(model, x_init=x)
        for f in (0.15, 0.25, 0.4, 0.7)
    ]
    assert {p.nfe for p in plain} == {5}
    assert error < 0.4 * min(rms(p.x - true) for p in plain)
    assert made.error < 0.5 * made.before


def test_without_coefficients_it_is_the_multistep_method_on_better_times() -> None:
    model = ring(VPSDE(), 5, 0.2, (0.3, 0.0))
    made = tune(model, 7, starts=400, coefficients=False, iterations=6)
    x = model.sample(300, 1.0, torch.Generator().manual_seed(6))
    method = Multistep(2, 2, centre=True, start="gaussian")
    same = Sampler(method, ExplicitTimes(made.times), denoise=False)(model, x_init=x)
    torch.testing.assert_close(made.sampler()(model, x_init=x).x, same.x, rtol=1e-10, atol=1e-10)
    assert made.error < 0.9 * made.before


def test_normal_data_are_exact() -> None:
    covariance = torch.tensor([[0.5, 0.2], [0.2, 0.3]], dtype=F64)
    model = GaussianMixtureScore(torch.ones(1), torch.tensor([[0.4, -1.0]]), covariance[None], VPSDE())
    made = tune(model, 4, starts=200, iterations=6)
    # Two directions with their own angles, which 4 evaluations do not miss by much.
    assert made.error < 1e-3
    x = model.sample(50, 1.0, torch.Generator().manual_seed(0))
    assert rms(made.sampler()(model, x_init=x).x - true_ends(model, x)) < 1e-3


def test_the_same_seed_finds_the_same_and_float32_will_do() -> None:
    model = ring(VPSDE(), 5, 0.2, (0.3, 0.0))
    first, second = (tune(model, 3, starts=200, seed=3, iterations=4) for _ in range(2))
    assert first == second
    x = model.sample(100, 1.0, torch.Generator().manual_seed(0))
    fine, single = (first.sampler()(model, x_init=v).x for v in (x, x.float()))
    torch.testing.assert_close(single.double(), fine, rtol=0, atol=1e-4)


class Shifted(ScoreModel):
    """Two exact models, chosen by label."""

    def __init__(self) -> None:
        super().__init__(VPSDE())
        self.parts = [
            GaussianMixtureScore(torch.ones(1), torch.tensor([[m, 0.0]]), torch.tensor([0.1]), self.sde)
            for m in (-1.0, 1.0)
        ]

    def denoise(self, x: Tensor, t: Tensor, *, labels: Tensor, **cond: Any) -> Tensor:
        left, right = (part.denoise(x, t) for part in self.parts)
        return torch.where(labels[:, None] == 0, left, right)


def test_conditions_go_with_the_starts() -> None:
    model = Shifted()
    made = tune(model, 4, (2,), starts=300, labels=torch.arange(2), seconds=30)
    assert not made.gaussian
    assert made.error < 0.05
    labels = torch.tensor([0, 0, 1, 1, 1])
    out = made.sampler()(model, shape=(5, 2), labels=labels)
    assert out.nfe == 4
    assert bool((out.x[:, 0].sign() == 2 * labels - 1).all())


@pytest.fixture(scope="module")
def made() -> TunedSteps:
    return tune(ring(VPSDE(), 5, 0.2, (0.3, 0.0)), 3, starts=100, iterations=3)


def test_files(made: TunedSteps, tmp_path: Path) -> None:
    file = tmp_path / "tuned-3.json"
    made.save(file)
    assert TunedSteps.load(file) == made
    model = ring(VPSDE(), 5, 0.2, (0.3, 0.0))
    wanted = made.sampler()(model, (6, 2), seed=1).x
    for path in (file, tmp_path):
        sampler = Sampler(Tuned(3, path), TunedTimes(3, path), denoise=False)
        assert torch.equal(sampler(model, (6, 2), seed=1).x, wanted)
    assert torch.equal(sampler(model, (6, 2), seed=1, batch_size=1).x, wanted)


def test_what_does_not_fit_is_refused(made: TunedSteps, tmp_path: Path) -> None:
    file = tmp_path / "tuned-3.json"
    made.save(file)

    def sample(model: ScoreModel, steps: int = 3, path: Path | None = file) -> None:
        Sampler(Tuned(steps, path), TunedTimes(steps, path))(model, (2, 2))

    with pytest.raises(ValueError, match=r"the tuned steps are for VPSDE\(.*, the model has EDMSDE\(.*tune for this"):
        sample(ring(EDMSDE(), 5, 0.2, (0.3, 0.0)))
    with pytest.raises(ValueError, match="is for 3 evaluations, not 5: set steps, or tune for 5"):
        sample(ring(VPSDE(), 5, 0.2, (0.3, 0.0)), 5)
    with pytest.raises(ValueError, match=r"no file .*tuned-5.json: make it by `scoresde tune run=DIR steps=N`"):
        sample(ring(VPSDE(), 5, 0.2, (0.3, 0.0)), 5, tmp_path)
    with pytest.raises(ValueError, match="path is missing"):
        sample(ring(VPSDE(), 5, 0.2, (0.3, 0.0)), 3, None)
    with pytest.raises(ValueError, match="the times of the grid are not those of the tuned steps"):
        Sampler(Tuned(3, file), UniformTime(4))(ring(VPSDE(), 5, 0.2, (0.3, 0.0)), (2, 2))
    content = json.loads(file.read_text())
    for broken in ("nonsense", "[]", json.dumps({**content, "format": "other"}), json.dumps({"format": "x"})):
        file.write_text(broken)
        with pytest.raises(ValueError, match="is not a file that `scoresde tune` wrote"):
            TunedSteps.load(file)
    for changed in ({"rows": content["rows"][:-1]}, {"std": -1.0}):
        file.write_text(json.dumps({**content, **changed}))
        with pytest.raises(ValueError, match="is damaged"):
            TunedSteps.load(file)
    file.write_text(json.dumps({**content, "rows": "abc"}))
    with pytest.raises(ValueError, match="is not a file"):
        TunedSteps.load(file)


def test_the_sde_is_compared_by_its_kernels(made: TunedSteps, tmp_path: Path) -> None:
    # Descriptions have six digits.
    other = VPSDE(beta_max=20.000001)
    assert repr(other) == made.sde
    with pytest.raises(ValueError, match="the tuned steps are for VPSDE"):
        made.check_sde(other)
    made.check_sde(VPSDE())
    # Files of version 0.1.0 have the description alone.
    file = tmp_path / "tuned-3.json"
    made.save(file)
    content = json.loads(file.read_text())
    del content["kernels"], content["default"]
    file.write_text(json.dumps({**content, "format": "scoresde-tuned-1"}))
    old = TunedSteps.load(file)
    assert old.default is None
    old.check_sde(VPSDE())
    with pytest.raises(ValueError, match="the tuned steps are for VPSDE"):
        old.check_sde(EDMSDE())


def test_bad_arguments() -> None:
    model = ring(VPSDE(), 5, 0.2, (0.3, 0.0))
    for steps in (1, 2.5, True):
        with pytest.raises(ValueError, match="steps is .*, expected an? (integer|whole number of at least 2)"):
            tune(model, steps)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="starts is 10, expected at least 40"):
        tune(model, 3, starts=10)
    with pytest.raises(ValueError, match="seconds is 0, expected a positive number"):
        tune(model, 3, seconds=0)
    with pytest.raises(ValueError, match="iterations is 0, expected an? (integer|whole number) of at least 1"):
        tune(model, 3, iterations=0)
    with pytest.raises(ValueError, match=r"give shape=\(...\)"):
        tune(Shifted(), 3)
