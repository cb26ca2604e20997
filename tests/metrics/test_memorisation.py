"""Copies of training data: samplers that copy a known share, and models that copy nothing, good and poor."""

import pytest
import torch
from torch import Tensor

from scoresde.metrics import PCA, Estimate, memorisation_metrics
from scoresde.metrics.memorisation import neighbours
from tests.problems import F64

NAMES = ["copies", "nearer_than_held_out", "authenticity"]


def sets(
    seed: int, dimension: int, n: int = 200, train: int = 800, held_out: int = 200, copied: float = 0.0,
    noise: float = 0.0, scale: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Samples of a sampler that copies a share of the training data, training data and held-out data, all normal."""
    draw = torch.Generator().manual_seed(seed)

    def normal(rows: int) -> Tensor:
        return torch.randn(rows, dimension, dtype=F64, generator=draw)

    data, test, samples = normal(train), normal(held_out), scale * normal(n)
    chosen = torch.rand(n, generator=draw) < copied
    count = int(chosen.sum())
    samples[chosen] = data[torch.randint(train, (count,), generator=draw)] + noise * normal(count)
    return samples, data, test


def repeats(count: int, *, of_held_out: bool = False, **options: float) -> dict[str, tuple[float, float, float]]:
    """Mean and standard deviation of each estimate over repeats, and its mean standard error."""
    found: list[dict[str, Estimate]] = []
    for seed in range(count):
        found.append(memorisation_metrics(*sets(seed, **options))[int(of_held_out)])  # type: ignore[arg-type]
    out = {}
    for name in NAMES:
        values = torch.tensor([[e[name].value, e[name].stderr] for e in found], dtype=F64)
        out[name] = float(values[:, 0].mean()), float(values[:, 0].std()), float(values[:, 1].mean())
    return out


@pytest.mark.parametrize(("dimension", "noise"), [(2, 1e-3), (12, 0.05)])
@pytest.mark.parametrize("copied", [0.1, 0.5, 1.0])
def test_the_share_of_copies_is_found(dimension: int, noise: float, copied: float) -> None:
    mean, spread, stderr = repeats(20, dimension=dimension, copied=copied, noise=noise)["copies"]
    assert mean == pytest.approx(copied, abs=4 * spread / 20**0.5 + 0.01)
    assert 0.7 * spread < stderr < 1.5 * spread + 0.01


@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("dimension", [2, 12])
def test_models_that_do_not_copy_have_no_copies_good_or_poor(dimension: int, scale: float) -> None:
    mean, spread, stderr = repeats(30, dimension=dimension, scale=scale)["copies"]
    assert abs(mean) < 4 * spread / 30**0.5 + 1e-12
    assert 0.75 * spread < stderr < 1.5 * spread + 0.01


def test_held_out_data_are_no_copies() -> None:
    """Also where they are the samples, each left out of its own neighbours, with pairs that are near each other."""
    found = repeats(40, of_held_out=True, dimension=2)
    mean, spread, stderr = found["copies"]
    assert abs(mean) < 4 * spread / 40**0.5
    assert 0.75 * spread < stderr < 1.4 * spread
    assert found["nearer_than_held_out"][0] == pytest.approx(0.5, abs=1e-12)


def test_exact_samples_are_as_near_as_held_out_data() -> None:
    found = repeats(40, dimension=6)
    for name, expected in (("nearer_than_held_out", 0.5), ("authenticity", None)):
        mean, spread, stderr = found[name]
        held_out = repeats(40, of_held_out=True, dimension=6)[name][0]
        assert mean == pytest.approx(held_out if expected is None else expected, abs=4 * spread / 40**0.5)
        assert 0.75 * spread < stderr < 1.4 * spread


def test_copies_are_nearer_and_not_authentic() -> None:
    some, held_out, nearest = memorisation_metrics(*sets(0, 6, copied=0.4, noise=0.01))
    assert list(some) == NAMES == list(held_out)
    # Copies are nearer than all held-out data, the others as near: 0.4 + 0.6/2.
    assert some["nearer_than_held_out"].value == pytest.approx(0.7, abs=4 * some["nearer_than_held_out"].stderr)
    assert some["authenticity"].value == pytest.approx(0.6 * held_out["authenticity"].value, abs=0.1)
    assert int((nearest.ratio < 0.1).sum()) == pytest.approx(80, abs=25)
    poor = memorisation_metrics(*sets(0, 6, scale=4.0))[0]
    assert poor["nearer_than_held_out"].value < 0.1
    assert poor["authenticity"].value > 0.85


def test_exact_copies_in_both_sets_are_no_evidence() -> None:
    """A sample that is in the training and in the held-out data alike has no ratio."""
    samples, train, test = sets(0, 4)
    train[:50], test[:50] = samples[:50], samples[:50]
    found = memorisation_metrics(samples, train, test)
    assert abs(found[0]["copies"].value) < 0.03
    assert bool((found[2].ratio[:50] == 1).all())


def test_small_noise_is_told_from_none_far_from_the_origin() -> None:
    """Distances of copies are far below the rounding of squared distances."""
    samples, train, test = sets(0, 3, copied=1.0, noise=1e-9)
    _, _, found = memorisation_metrics(samples + 1e3, train + 1e3, test + 1e3)
    assert float(found.train[:, 0].max()) < 1e-7


def test_neighbours_are_those_of_all_distances() -> None:
    samples, train, test = sets(3, 5, n=30, train=40, held_out=20)
    found = neighbours(samples, train, test)
    for distances, data in ((found.train, train), (found.held_out, test)):
        torch.testing.assert_close(distances, torch.cdist(samples, data).sort(1).values[:, :2])
    assert torch.equal(found.nearest, torch.cdist(samples, train).argmin(1))
    assert neighbours(test, train).sizes == (40, 19)


def test_features_are_used() -> None:
    """Copies that differ from the training data in a direction that is left out."""
    samples, train, test = sets(0, 8, copied=1.0)
    far = torch.zeros_like(samples)
    far[:, 7] = 1.0
    train[:, 7] *= 0.01
    test[:, 7] *= 0.01
    assert memorisation_metrics(samples + far, train, test, PCA(7))[0]["copies"].value > 0.95
    assert memorisation_metrics(samples + far, train, test)[0]["copies"].value < 0.5


def test_bad_sets_are_rejected_in_one_line() -> None:
    samples, train, test = sets(0, 4, n=10, train=20, held_out=10)
    with pytest.raises(ValueError, match="a sample has a different shape in each set"):
        memorisation_metrics(samples[:, :3], train, test)
    with pytest.raises(ValueError, match="the held-out data are 2, expected at least 3"):
        memorisation_metrics(samples, train, test[:2])
    train[0, 0] = torch.nan
    with pytest.raises(ValueError, match="the training data has 1 NaN"):
        memorisation_metrics(samples, train, test)
