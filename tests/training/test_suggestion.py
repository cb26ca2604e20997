"""Suggested noise levels and steps: against distances found one by one, closed forms, and models that use them."""

import math
import re
import warnings
from itertools import combinations

import pytest
import torch
from torch import Tensor

from scoresde.data import Data, Discrete, digits, eight_gaussians
from scoresde.sampling import NCSNv2, Sampler, UniformLogSNR
from scoresde.score import EmpiricalScore
from scoresde.sde import NCSNSDE, VESDE, VPSDE
from scoresde.sde.noise_levels import level_overlap
from scoresde.statistics import Statistics
from scoresde.training import Suggestion, suggest
from scoresde.training.noise_range import warn_of_scale
from scoresde.training.suggestion import end_divergence
from tests.problems import F64, generator


def pairwise(x: Tensor) -> float:
    return max(float((a - b).norm()) for a, b in combinations(x.double(), 2))


def test_digits_get_the_techniques_of_the_paper() -> None:
    data = digits()
    found = suggest(data)
    x = data.transform.encode(data.train).flatten(1).double()
    longest = max(float(torch.cdist(part, x).max()) for part in x.split(300))
    assert longest <= found.sigma_max < 1.02 * longest
    assert found.sigma_min == 0.015  # 0.03 standard deviations, where training does not warn
    assert "a hundredth of their range, as 0.01 is of the paper's [0, 1], would be 0.02" in found.reasons["sigma_min"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for sde in (VESDE(found.sigma_min, found.sigma_max), VPSDE(found.beta_min, found.beta_max)):
            warn_of_scale(sde, Statistics.estimate(x), data.transform)
    assert level_overlap(found.ratio, 64) >= 0.5
    assert level_overlap((found.sigma_max / found.sigma_min) ** (1 / (found.levels - 2)), 64) < 0.5
    times = torch.arange(found.levels, 0, -1, dtype=F64) / found.levels
    levels = NCSNSDE(found.levels, found.sigma_min, found.sigma_max)
    step = NCSNv2(steps=5).relative_step(levels.noise_level(times))
    assert found.epsilon == pytest.approx(step * 0.015**2, rel=0.05)  # to two digits


def test_of_many_samples_some_are_compared() -> None:
    x = torch.randn(150, 20, generator=generator(3))
    whole, some = suggest(x, samples=None), suggest(x, samples=20)
    longest = pairwise(x)
    assert (
        f"the largest distance, {longest:.4g}, between two of the 150 training samples (" in whole.reasons["sigma_max"]
    )
    told = re.match(
        r"the largest distance, ([\d.]+), between two of the 150 training samples, of which 20 were compared with each "
        r"other and their farthest with all; at most ([\d.]+) ",
        some.reasons["sigma_max"],
    )
    assert told is not None
    low, high = map(float, told.groups())
    assert 0.85 * longest < low <= longest * 1.001
    assert high >= longest


def test_more_samples_than_memory_should_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scoresde.training.suggestion._ELEMENTS", 1000)
    found = suggest(torch.randn(600, 20, generator=generator()))
    assert found.name == "600 samples of shape (20,), 50 samples of it"
    assert found == suggest(torch.randn(600, 20, generator=generator()))


def test_few_dimensions_are_not_left_with_three_levels() -> None:
    found = suggest(eight_gaussians(500, 10))
    assert 1.8 < found.ratio <= 2
    assert "in 2 dimensions levels overlap by 0.5 up to a ratio of 22.7" in found.reasons["levels"]


@pytest.mark.parametrize("dim", [1, 3])
@pytest.mark.parametrize("signal", [0.01, 0.3])
def test_the_divergence_at_the_end_is_bounded(dim: int, signal: float) -> None:
    """For normal data, whose divergence is known; and it is that of a kernel where the data are one point."""
    for mean, variance in ((0.0, 1.0), (2.0, 0.3), (0.5, 4.0)):
        spread = signal * variance + 1 - signal
        exact = 0.5 * dim * (spread + signal * mean**2 - 1 - math.log(spread))
        assert end_divergence(signal, dim * (mean**2 + variance), dim) >= exact
    point = 0.5 * dim * ((1 - signal) + signal * 4 - 1 - math.log(1 - signal))
    assert end_divergence(signal, 4 * dim, dim) == pytest.approx(point, rel=1e-12)


@pytest.mark.parametrize("nats", [1e-3, 0.1])
def test_betas_leave_as_much_signal_as_is_asked_for(nats: float) -> None:
    x = 3 * torch.randn(2000, 5, generator=generator()) + 1
    found = suggest(x, nats=nats)
    sde = VPSDE(found.beta_min, found.beta_max)
    second = float(x.double().square().sum(1).mean())
    assert 0.5 * nats < end_divergence(float(sde.alpha(torch.tensor(1.0, dtype=F64))) ** 2, second, 5) <= nats
    assert found.beta_min == 0.1  # σ_min is about 0.03, and the level at 1e-3 is 0.01
    assert suggest(x, sigma_min=0.005).beta_min < 0.03


def test_the_smallest_level_of_narrow_data() -> None:
    x = torch.randn(4000, 2, generator=generator()) * torch.tensor([1.0, 0.02])
    found = suggest(x)
    assert found.sigma_min == pytest.approx(2e-4, rel=0.1)
    few = suggest(torch.randn(50, 48, generator=generator()))
    assert few.sigma_min == pytest.approx(0.01, rel=0.1)
    assert "50 samples are too few to tell the narrowest of 48 directions" in few.reasons["sigma_min"]
    assert suggest(x, sigma_min=0.01).reasons["sigma_min"] == "as given"


def test_a_model_under_the_suggestion_makes_the_data() -> None:
    """Annealed Langevin dynamics by the suggested levels and step, on the exact score of eight samples."""
    x = torch.randn(8, 16, generator=generator(1), dtype=F64)
    found = suggest(x, steps=5)
    sde = NCSNSDE(found.levels, found.sigma_min, found.sigma_max)
    sampler = Sampler(NCSNv2(found.epsilon, found.steps), UniformLogSNR(found.levels - 1))
    out = sampler(EmpiricalScore(x, sde), (400, 16), dtype=F64).x
    distance, nearest = torch.cdist(out, x).min(1)
    assert float(distance.max()) < 0.1
    counts = nearest.bincount(minlength=8)
    # Fifty each, and five standard deviations.
    assert bool(((counts - 50).abs() < 5 * math.sqrt(400 * 7 / 64)).all())


def test_text_and_html() -> None:
    found = suggest(torch.randn(50, 64, generator=generator()))
    assert isinstance(found, Suggestion)
    text, page = str(found), found._repr_html_()
    for name, value, reason in found.rows():
        assert re.search(rf"^{name} +{re.escape(value)} +{re.escape(reason)}$", text, re.M)
        assert f"{value}: " in page
    assert all(overrides in text for overrides in found.overrides.values())
    assert "\n" not in repr(found)
    assert repr(found).startswith("Suggestion(name='50 samples of shape (64,)', sigma_min=")


def test_integers_under_a_discrete_transform() -> None:
    raw = torch.randint(0, 4, (100, 1, 2, 2), generator=generator())
    data = Data("few", raw, raw, Discrete(4, 0.0, 1.0))
    found = suggest(data)
    assert found.sigma_min == pytest.approx(0.03 * float(raw.double().std()) / 4, rel=0.1)
    assert found.sigma_max == 1.5  # the cells' centres are 3/4 apart at most, in four dimensions


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps is 0, expected an integer of at least 1"),
        ({"overlap": 0.0}, "overlap is 0.0, expected more than 0 and at most 1"),
        ({"overlap": 1.0}, "overlap is 1.0, expected a share between 0 and 0.9973"),
        ({"nats": -1.0}, "nats is -1.0, expected a positive number of nats"),
        ({"nats": 1e-300}, "nats is 1e-300, expected more than"),
        ({"samples": 1}, "samples is 1, expected an integer of at least 2"),
        ({"sigma_min": 0.0}, "sigma_min is 0.0, expected a positive number"),
        ({"sigma_min": 99.0}, "sigma_min is 99, and the largest distance between samples .*: give a smaller one"),
    ],
)
def test_refusals(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        suggest(torch.randn(30, 3), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.randn(5), "expected at least two samples"),
        (torch.randn(1, 3), "expected at least two samples"),
        (torch.ones(5, 3), "the data are constant"),
        (torch.full((5, 3), math.nan), "NaN"),
    ],
)
def test_data_that_have_no_scale(x: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        suggest(x)
