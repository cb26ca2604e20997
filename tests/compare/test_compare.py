"""Samplers compared on exact scores, where every figure can be had another way."""

import math
import subprocess
import sys
from itertools import pairwise
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

from scoresde.compare import (
    COLUMNS,
    COMPARED,
    Comparison,
    ExactReference,
    compare,
    concat,
    marginal,
    root_mean_square,
    summarise,
)
from scoresde.compare.choose import table
from scoresde.compare.frame import LATER, check_comparable, to_frame
from scoresde.data import Affine
from scoresde.metrics import PrincipalDirections, evaluate_samples
from scoresde.metrics.evaluate import EXACT
from scoresde.sampling import (
    Adaptive,
    DiscreteTime,
    EulerMaruyama,
    ExplicitTimes,
    Heun,
    KarrasGrid,
    Multistep,
    PredictorCorrector,
    Sampler,
    ScipyODE,
    UniformLogSNR,
    UniformTime,
)
from scoresde.score import GaussianMixtureScore, ScoreModel
from scoresde.sde import SDE, VPSDE, expand_to
from scoresde.statistics import Statistics

N = 48
SHAPE = (N, 2)


@pytest.fixture(scope="module")
def model() -> GaussianMixtureScore:
    weights = torch.tensor([0.4, 0.6], dtype=torch.float64)
    means = torch.tensor([[-1.0, 0.5], [1.0, -0.5]], dtype=torch.float64)
    return GaussianMixtureScore(weights, means, torch.tensor([0.1, 0.2], dtype=torch.float64), VPSDE())


@pytest.fixture(scope="module")
def data(model: GaussianMixtureScore) -> Tensor:
    return model.sample(N, model.sde.t_min, torch.Generator().manual_seed(1))


def heun(steps: int) -> Sampler:
    return Sampler(Heun(), KarrasGrid(steps))


def euler_maruyama(steps: int) -> Sampler:
    return Sampler(PredictorCorrector(EulerMaruyama()), UniformTime(steps))


def exact(tolerance: float = 1e-9) -> Adaptive:
    return Adaptive("dop853", rtol=tolerance, atol=tolerance)


def frame(*samplers: Any, **options: Any) -> pd.DataFrame:
    model, steps, data = samplers[:3]
    options = {"samplers": {"heun": heun}, "reference": exact(1e-7), "progress": False, **options}
    return compare(model, options.pop("samplers"), steps, data, **options)


@pytest.mark.parametrize(("grid", "denoise"), [(KarrasGrid(6), True), (DiscreteTime(5), True), (KarrasGrid(6), False)])
def test_the_error_is_the_distance_to_the_flow_on_the_sampler_s_own_ends(
    model: GaussianMixtureScore, data: Tensor, grid: Any, denoise: bool
) -> None:
    sampler = Sampler(Heun(), grid, denoise)
    (row,) = frame(model, [], data, samplers={"heun": sampler}, seeds=[3]).to_dict("records")
    out = sampler(model, SHAPE, seed=3, trajectory=True)
    assert out.trajectory is not None
    ends = ExplicitTimes([float(out.times[0]), float(out.times[-1])])
    # Another library's solver.
    truth = Sampler(ScipyODE("DOP853", rtol=1e-10, atol=1e-10), ends, denoise)
    true = truth(model, x_init=out.trajectory[0]).x
    squares = (out.x - true).square().sum(1)
    error = float(squares.mean().sqrt())
    # What the tolerance of 1e-7 of the reference may leave.
    assert row["error"] == pytest.approx(error, abs=1e-5)
    assert row["error_stderr"] == pytest.approx(float(squares.std()) / math.sqrt(N) / (2 * error), rel=1e-3)
    assert (row["nfe"], row["steps"], row["n"]) == (out.nfe, grid.steps, N)


def test_a_fine_solve_has_no_error_wherever_it_begins_and_ends(model: GaussianMixtureScore) -> None:
    times = ([1.0, 0.05], [0.7, 0.001], [0.7, 0.2])
    samplers = {str(t): Sampler(exact(), ExplicitTimes(t), d) for t, d in zip(times, (False, True, True), strict=True)}
    found = frame(model, [], None, samplers=samplers, n=16)
    assert found["steps"].isna().all()
    # The reference allows 1e-7 at each step.
    assert (found["error"] < 1e-5).all()
    # Which is no matter of course: the ends are apart.
    solves = [s(model, (16, 2)).x for s in samplers.values()]
    apart = [root_mean_square(solves[i], solves[j])[0] for i, j in ((0, 1), (1, 2))]
    assert min(apart) > 0.01, apart


def test_errors_fall_by_the_order_of_the_solver(model: GaussianMixtureScore) -> None:
    errors = frame(model, [16, 32, 64], None, n=N)["error"].tolist()
    # Second order: a factor of 4, of which the steps are still too long to see all.
    assert all(3 < a / b < 5.5 for a, b in pairwise(errors))


def test_all_start_from_the_same_noise(model: GaussianMixtureScore) -> None:
    comparison = Comparison(model, None, n=N)
    later = {"heun": heun(4), "noisy": euler_maruyama(4), "late": Sampler(Heun(), UniformTime(4, t_max=0.6))}
    for sampler in later.values():
        out = sampler(model, SHAPE, seed=5, trajectory=True)
        assert out.trajectory is not None
        assert torch.equal(comparison.starts(5, float(out.times[0])), out.trajectory[0])
    # At another time the same normal numbers at another scale, around another mean.
    assert model.statistics is not None
    first, late = (comparison.starts(5, t) for t in (1.0, 0.6))
    directions = [
        x - float(model.sde.alpha(torch.tensor(t))) * model.statistics.mean for x, t in ((first, 1.0), (late, 0.6))
    ]
    assert torch.allclose(*(d / d.norm() for d in directions))
    assert not torch.equal(first, comparison.starts(6, 1.0))


def test_a_line_does_not_depend_on_the_others(model: GaussianMixtureScore, data: Tensor) -> None:
    alone = frame(model, [4], data)
    both = frame(model, [3, 4], data, samplers={"noisy": euler_maruyama, "heun": heun}, seeds=[1, 0])
    same = both[(both["sampler"] == "heun") & (both["steps"] == 4) & (both["seed"] == 0)]
    columns = [name for name in COLUMNS if name != "seconds"]
    assert alone[columns].to_dict("records") == same[columns].to_dict("records")


def test_noise_leaves_the_error_empty_and_the_quality_is_that_of_the_metrics(
    model: GaussianMixtureScore, data: Tensor
) -> None:
    found = frame(model, [5], data, samplers={"noisy": euler_maruyama, "heun": heun}, seeds=[2], floor=data.flip(0))
    assert found["error"].isna().tolist() == found["error_stderr"].isna().tolist() == [True, False]
    assert (found["problem"] == "").all()
    for row, sampler in zip(found.to_dict("records"), (euler_maruyama(5), heun(5)), strict=True):
        x = sampler(model, SHAPE, seed=2).x
        # Widths are compared with those of the exact covariance.
        wanted = evaluate_samples(x, data, directions=ExactReference(model, N).directions)
        for name in COMPARED:
            assert (row[name], row[f"{name}_stderr"]) == (wanted[name].value, wanted[name].stderr)
    # The floor here is the data themselves in another order.
    assert found.attrs["floor"]["frechet_distance"][0] == pytest.approx(0, abs=1e-9)
    assert found.attrs["floor"]["coverage"][0] == 1


def test_an_exact_density_gives_all_measures_of_it_with_or_without_data(model: GaussianMixtureScore) -> None:
    (row,) = frame(model, [5], None, n=200, samplers={"noisy": euler_maruyama}, seeds=[2]).to_dict("records")
    wanted = ExactReference(model, 200)(euler_maruyama(5)(model, (200, 2), seed=2).x)
    assert set(EXACT) < set(wanted)
    for name, found in wanted.items():
        assert (row[name], row[f"{name}_stderr"]) == (found.value, found.stderr)
    # Five steps of Euler-Maruyama are poor, and one measure is enough to see it.
    assert row["nats_lost"] > 0.3
    floor = Comparison(model, None, n=200).floor
    assert set(Comparison(model, None, n=200).attrs()["exact"]) == set(floor) == set(wanted)
    assert floor["nats_lost"].value < 5 * floor["nats_lost"].stderr


class Unknown(ScoreModel):
    """A model that does not say what it is."""

    def __init__(self, model: GaussianMixtureScore, statistics: Statistics | None) -> None:
        super().__init__(model.sde, statistics)
        self.model = model

    def denoise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        return self.model.denoise(x, t)


def test_widths_of_a_model_without_a_density(model: GaussianMixtureScore, data: Tensor) -> None:
    # Along the principal directions of the statistics, or of the data.
    known, unknown = (Unknown(model, s) for s in (model.statistics, None))
    assert model.statistics is not None
    vectors = model.statistics.eigh()[1]
    for each, directions in (
        (known, PrincipalDirections.along(vectors, data)),
        (unknown, PrincipalDirections.fit(data)),
    ):
        (row,) = frame(each, [5], data, samplers={"noisy": euler_maruyama}, seeds=[2]).to_dict("records")
        spectrum = directions(euler_maruyama(5)(each, SHAPE, seed=2).x)
        assert row["noise_left"] == pytest.approx(spectrum.noise_left.value)
        assert row["too_narrow"] == pytest.approx(spectrum.too_narrow.value)
        assert all(math.isnan(row[name]) for name in EXACT)
    assert Comparison(known, None, n=N).exact is None


def test_own_likelihood_stands_for_an_exact_density(model: GaussianMixtureScore) -> None:
    unknown = Unknown(model, model.statistics)
    (row,) = frame(unknown, [5], None, n=200, samplers={"noisy": euler_maruyama}, likelihood=150).to_dict("records")
    x = euler_maruyama(5)(model, (200, 2), seed=0).x[:150]
    lost = marginal(model).log_prob(x.double())
    true = ExactReference(model, 20_000).exact_log_prob
    # The endpoints of the flow are other exact samples.
    error = math.hypot(row["nats_lost_stderr"], float(true.std()) / math.sqrt(20_000))
    assert abs(row["nats_lost"] - float(true.mean() - lost.mean())) < 3 * error
    assert row["nats_lost"] > 0.3
    assert math.isnan(row["kl_to_model"])
    # The same starts on the same flow.
    whole = Sampler(exact(), ExplicitTimes([1.0, model.sde.t_min]), denoise=False)
    fine = frame(unknown, [], None, n=200, samplers={"fine": whole}, likelihood=150)
    assert abs(fine["nats_lost"][0]) < 1e-4
    with pytest.raises(ValueError, match="likelihood is 1, expected 0 or 2 to 48"):
        Comparison(unknown, None, n=N, likelihood=1)


def test_frames_of_the_version_before_the_newer_measures(model: GaussianMixtureScore, data: Tensor) -> None:
    found = frame(model, [4, 8], data)
    old = found.drop(columns=list(LATER))
    old.attrs = found.attrs
    means = summarise(old)
    assert means["noise_left"].isna().all()
    assert means["coverage"].tolist() == summarise(found)["coverage"].tolist()
    assert list(concat([old, found]).columns) == list(COLUMNS)
    with pytest.raises(ValueError, match="lacks coverage"):
        check_comparable(found.drop(columns="coverage"))


def test_noise_that_is_not_drawn_is_none(model: GaussianMixtureScore) -> None:
    found = frame(
        model,
        [6],
        None,
        samplers={
            f"{tau:g}": lambda n, tau=tau: Sampler(Multistep(1, tau=tau), UniformLogSNR(n)) for tau in (0.0, 0.1)
        },
        n=16,
    )
    assert found["error"].isna().tolist() == [False, True]


def test_samples_are_finished_before_they_are_compared(model: GaussianMixtureScore, data: Tensor) -> None:
    found = frame(model, [4], data, postprocess=lambda x: data)
    assert found["coverage"].tolist() == [1.0]


def test_evaluations_are_the_mean_where_samples_differ(model: GaussianMixtureScore, data: Tensor) -> None:
    sampler = Sampler(Adaptive("tsit5", rtol=1e-3, atol=1e-3), UniformTime(1))
    found = frame(model, [5, 10], data, samplers={"tsit5": sampler}, seeds=[0, 1])
    assert len(found) == 2  # once for each seed, whatever the steps
    assert found["steps"].isna().all()
    each = sampler(model, SHAPE).nfe_per_sample
    assert each is not None
    assert each.min() < each.max()
    assert found["nfe"][0] == pytest.approx(float(each.double().mean()))


def test_the_reference_says_how_far_off_it_is(model: GaussianMixtureScore) -> None:
    rough = Adaptive("dopri5", rtol=1e-4, atol=1e-4)
    found = frame(model, [4], None, n=32, reference=rough)
    comparison = Comparison(model, None, n=32)
    ends = torch.tensor([model.sde.t_max, model.sde.t_min_sampling], dtype=torch.float64)
    start = comparison.starts(0, model.sde.t_max)
    true = Sampler(exact(), ExplicitTimes(ends.tolist()), denoise=False)(model, x_init=start).x
    rougher = Sampler(rough, ExplicitTimes(ends.tolist()), denoise=False)(model, x_init=start).x
    told = found.attrs["reference"]
    assert (told["method"], told["tolerance"], told["dtype"]) == ("dopri5", 1e-4, "float64")
    # It is told from a solve at a tenth of the tolerance, which has an error of its own: up to a third of it.
    assert told["error"]["0"] == pytest.approx(root_mean_square(rougher, true)[0], rel=0.4)


class Broken(Heun):
    def solve(self, *arguments: Any) -> Any:
        raise RuntimeError("no\nsuch luck")


def test_a_sampler_that_fails_is_named_and_the_others_go_on(model: GaussianMixtureScore, data: Tensor) -> None:
    stopped = Adaptive("dopri5", rtol=1e-9, atol=1e-9, max_steps=3)
    samplers = {
        "discrete": lambda n: Sampler(Heun(), DiscreteTime(n, train_steps=10)),
        "broken": Sampler(Broken(), KarrasGrid(3)),
        "stopped": Sampler(stopped, UniformTime(1)),
        "heun": heun,
    }
    found = frame(model, [5, 10], data, samplers=samplers)
    problems = dict(zip(zip(found["sampler"], found["steps"].fillna(0), strict=True), found["problem"], strict=True))
    assert problems["discrete", 5] == problems["heun", 5] == problems["heun", 10] == ""
    assert problems["discrete", 10].startswith("ValueError: steps is 10, expected fewer than train_steps")
    assert problems["broken", 3] == "RuntimeError: no such luck"
    assert problems["stopped", 0] == f"{N} of {N} samples stopped on the way"
    failed = found[found["problem"] != ""]
    assert failed[["error", *COMPARED]].isna().all(axis=None)


def test_what_cannot_be_compared_is_refused(model: GaussianMixtureScore, data: Tensor) -> None:
    with pytest.raises(ValueError, match=f"n is {N + 1} but data has {N} samples.*give n={N} or less"):
        frame(model, [4], data, n=N + 1)
    with pytest.raises(ValueError, match="n is 6, expected an integer of at least 7"):
        frame(model, [4], data[:6])
    with pytest.raises(ValueError, match="nothing to compare: 0 samplers"):
        frame(model, [4], data, samplers={})
    with pytest.raises(ValueError, match="steps is empty"):
        frame(model, [], data)
    with pytest.raises(ValueError, match="labels is no argument of this call, and no condition of GaussianMixtureSc"):
        frame(model, [4], data, labels=torch.zeros(3))


def test_frames_of_different_n_or_data_are_refused(model: GaussianMixtureScore, data: Tensor) -> None:
    whole, half, other = (frame(model, [4], d) for d in (data, data[:32], data + 1))
    with pytest.raises(ValueError, match=f"frames of different n, {N} and 32"):
        concat([whole, half])
    with pytest.raises(ValueError, match="frames of different data"):
        concat([whole, other])
    with pytest.raises(ValueError, match=f"lines of different n, 32 and {N}"):
        summarise(pd.concat([whole, half]))
    with pytest.raises(ValueError, match="the frame lacks problem"):
        check_comparable(whole.drop(columns="problem"))
    more = concat([whole, frame(model, [8], data, seeds=[1])])
    assert more["steps"].tolist() == [4, 8]
    assert set(more.attrs["reference"]["error"]) == {"0", "1"}


def lines(**columns: list[Any]) -> pd.DataFrame:
    count = len(columns["seed"])
    rest = dict.fromkeys(COLUMNS, [math.nan] * count)
    fixed = {"sampler": ["a"] * count, "steps": [5] * count, "n": [100] * count, "problem": [""] * count}
    values = {**rest, **fixed, **columns}
    return to_frame([{name: values[name][i] for name in COLUMNS} for i in range(count)], {"n": 100})


def test_the_mean_over_seeds() -> None:
    nan = math.nan
    found = summarise(
        lines(
            seed=[0, 1, 2, 3],
            problem=["", "", "", "it failed"],
            nfe=[6.0, 6.0, 9.0, nan],
            error=[3.0, 4.0, 5.0, nan],
            error_stderr=[0.1, 0.1, 0.1, nan],
            coverage=[0.8, 0.9, 1.0, nan],
            coverage_stderr=[0.2, 0.2, 0.2, nan],
            recall=[0.1, 0.5, 0.9, nan],
            recall_stderr=[0.2, 0.2, 0.2, nan],
        )
    )
    (row,) = found.to_dict("records")
    assert (row["seeds"], row["nfe"], row["problem"], found.attrs) == (3, 7.0, "it failed", {"n": 100})
    assert row["error"] == pytest.approx(math.sqrt((9 + 16 + 25) / 3))
    # 9, 16, 25 scatter by more than 2 e stderr = 0.6, 0.8, 1.
    scatter = torch.tensor([9.0, 16.0, 25.0]).var().item() / 3
    assert row["error_stderr"] == pytest.approx(math.sqrt(scatter) / (2 * row["error"]))
    # 0.8, 0.9, 1.0: s = 0.1 is of the samples, and 0.2² − 0.1² of what all seeds share.
    assert row["coverage"] == pytest.approx(0.9)
    assert row["coverage_scatter"] == pytest.approx(0.1)
    assert row["coverage_stderr"] == pytest.approx(math.sqrt(0.01 / 3 + 0.03))
    # s = 0.4 is more than the errors tell of.
    assert row["recall_stderr"] == pytest.approx(0.4 / math.sqrt(3))


def test_one_seed_keeps_its_own_errors(model: GaussianMixtureScore, data: Tensor) -> None:
    found = frame(model, [4, 8], data)
    means = summarise(found)
    for name in ("error", "error_stderr", *COMPARED, *(f"{m}_stderr" for m in COMPARED)):
        assert means[name].tolist() == pytest.approx(found[name].tolist(), rel=1e-12)
    assert means["coverage_scatter"].isna().all()


def test_errors_over_seeds_are_those_of_all_starts_together(model: GaussianMixtureScore) -> None:
    found = summarise(frame(model, [8], None, n=32, seeds=range(4), reference=exact(1e-5)))
    comparison = Comparison(model, None, n=32, reference=exact(1e-5))
    times = heun(8).grid(model.sde, model.statistics)
    distances = []
    for seed in range(4):
        true = comparison.endpoints(seed, times, True)
        distances.append((heun(8)(model, (32, 2), seed=seed).x - true).norm(dim=1))
    whole = torch.cat(distances)
    assert found["error"][0] == pytest.approx(float(whole.square().mean().sqrt()), rel=1e-6)
    # 128 starts in one row: the same without seeds, to what 4 of them tell of a scatter.
    stderr = float(whole.square().std()) / math.sqrt(128) / (2 * found["error"][0])
    assert 0.7 * stderr < found["error_stderr"][0] < 2 * stderr


def test_the_table_names_the_best_at_each_cost(model: GaussianMixtureScore, data: Tensor) -> None:
    samplers = {
        "euler": lambda n: Sampler(Multistep(1, tau=0.0), UniformLogSNR(n)),
        "adams": lambda n: Sampler(Multistep(3, tau=0.0), UniformLogSNR(n)),
        "noisy": euler_maruyama,
        "exact": Sampler(exact(1e-6), UniformTime(1)),
    }
    found = frame(model, [5, 20], data, samplers=samplers)
    head, *rows = table(found)
    assert head[:4] == ["evaluations", "noise", "sampler", "steps"]
    chosen = [tuple(row[:4]) for row in rows]
    errors = summarise(found).set_index(["sampler", "steps"])["error"]
    few = min(("euler", "adams"), key=lambda name: errors[name, 5])
    assert chosen[:3] == [("≤ 6", "no", few, "5"), ("≤ 6", "yes", "noisy", "5"), ("≤ 21", "no", "adams", "20")]
    assert chosen[-1][1:] == ("no", "exact", "own")
    assert all(len(row) == len(head) for row in rows)


class Gaussians(ScoreModel):
    """N(label, 0.25), a normal density for each label."""

    def __init__(self, sde: SDE) -> None:
        super().__init__(sde)

    def denoise(self, x: Tensor, t: Tensor, *, labels: Tensor) -> Tensor:  # type: ignore[override]
        alpha, sigma = (expand_to(v, x).to(x) for v in (self.sde.alpha(t), self.sde.sigma(t)))
        mean = labels.to(x)[:, None]
        return mean + 0.25 * alpha / (0.25 * alpha**2 + sigma**2) * (x - alpha * mean)


def test_conditions_reach_the_samplers_and_the_reference() -> None:
    model = Gaussians(VPSDE())
    labels = torch.arange(32) % 3 * 4
    found = compare(
        model,
        {"exact": Sampler(exact(1e-5), UniformTime(1), denoise=False), "noisy": euler_maruyama},
        [8],
        None,
        n=32,
        shape=(1,),
        labels=labels,
        progress=False,
        batch_size=10,
    )
    # float32
    assert found["error"][0] < 1e-3
    assert math.isnan(found["error"][1])
    comparison = Comparison(model, None, n=32, shape=(1,), batch_size=10, labels=labels)
    times = torch.tensor([1.0, 1e-3], dtype=torch.float64)
    start, end = comparison.starts(0, 1.0), comparison.endpoints(0, times, denoise=False)
    # The flow of a normal density keeps the standardised state.
    std = [math.sqrt(0.25 * float(model.sde.alpha(t)) ** 2 + float(model.sde.sigma(t)) ** 2) for t in times]
    alpha = [float(model.sde.alpha(t)) for t in times]
    mean = labels[:, None]
    torch.testing.assert_close(end, (start - alpha[0] * mean) * std[1] / std[0] + alpha[1] * mean, rtol=0, atol=2e-4)


@pytest.mark.slow
def test_pandas_is_loaded_only_where_it_is_needed() -> None:
    code = "import sys, scoresde, scoresde.sampling, scoresde.metrics; assert 'pandas' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("statistics", [None, Statistics(torch.zeros(2), 1.0)])
def test_refuses_data_in_other_units(model: GaussianMixtureScore, data: Tensor, statistics: Statistics | None) -> None:
    model = GaussianMixtureScore(model.weights, model.means, torch.tensor([0.1, 0.2], dtype=torch.float64), model.sde)
    model.statistics = statistics
    pixels = (50 * data + 128).round()
    for name in ("data", "floor"):
        sets = {"data": data, "floor": data} | {name: pixels.to(torch.uint8)}
        with pytest.raises(ValueError, match=f"the {name} samples have dtype uint8, .*: encode both with"):
            Comparison(model, sets["data"], floor=sets["floor"])
    if statistics is not None:
        with pytest.raises(ValueError, match=r"the data samples are integers from .*, which are not the same units"):
            Comparison(model, pixels)
    else:
        found = frame(model, [3], pixels)
        assert found["problem"].str.contains("which are not the same units").all()
    # A function of the caller's may bring samples to the data's units.
    both = frame(model, [3], pixels, postprocess=lambda x: (50 * x + 128).round())
    assert (both["problem"] == "").all()
    assert (
        "frechet_distance" not in Comparison(model, 3 * data).floor
    )  # other data, or a poor model: not for us to judge


def test_a_model_with_a_transform_is_compared_in_model_space() -> None:
    sde, shift = VPSDE(), torch.tensor([1000.0, -3.0], dtype=torch.float64)
    weights, means = torch.ones(2), torch.tensor([[-1.0, 0.0], [1.0, 0.5]])
    exact, moved = (GaussianMixtureScore(weights, means, torch.full((2,), 0.1), sde) for _ in range(2))
    moved.transform = Affine(shift, 20.0)
    data = exact.sample(64, 0.0, torch.Generator().manual_seed(0))
    frames = [
        compare(m, {"heun": Sampler(Heun(), KarrasGrid(5))}, [], x, postprocess=lambda v: v, progress=False)
        for m, x in ((exact, data), (moved, shift + 20 * data))
    ]
    for name in ("error", "frechet_distance", "sliced_wasserstein"):
        assert frames[1][name].tolist() == pytest.approx(frames[0][name].tolist(), rel=1e-6)
