import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from sklearn.datasets import make_moons, make_swiss_roll

from scoresde.data import (
    Data,
    Identity,
    checkerboard,
    eight_gaussians,
    eight_gaussians_mixture,
    grid_gaussians,
    grid_gaussians_mixture,
    swiss_roll,
    two_gaussians,
    two_gaussians_mixture,
    two_moons,
)

ALL: list[Callable[..., Data]] = [checkerboard, eight_gaussians, grid_gaussians, swiss_roll, two_gaussians, two_moons]


@pytest.mark.parametrize("toy", ALL)
def test_sizes_and_seeds(toy: Callable[..., Data]) -> None:
    a, b, c = toy(n_train=50, n_test=20), toy(n_train=60, n_test=20), toy(n_train=50, n_test=20, seed=1)
    assert (a.train.shape, a.test.shape, a.train.dtype) == ((50, 2), (20, 2), torch.float32)
    assert a.name == toy.__name__
    assert a.transform == Identity()
    assert torch.equal(a.test, b.test)  # the test set does not depend on how much there is to train on
    assert torch.equal(a.train, toy(n_train=50, n_test=1).train)
    assert not torch.equal(a.train, c.train)
    same_size = toy(n_train=20, n_test=20)
    assert not torch.equal(same_size.train, same_size.test)


@pytest.mark.parametrize("toy", ALL)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_train": 0}, "at least 1, got 0 and 2000"),
        ({"n_test": -1}, "and -1"),
        ({"seed": -3}, "seed must be"),
    ],
)
def test_refusals(toy: Callable[..., Data], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        toy(**arguments)


@pytest.mark.parametrize("std", [0.0, -1.0, math.nan, math.inf])
def test_mixtures_refuse_a_width_that_is_none(std: float) -> None:
    for function in (eight_gaussians_mixture, grid_gaussians_mixture, eight_gaussians, grid_gaussians):
        with pytest.raises(ValueError, match="std must be positive and finite"):
            function(std=std)


def test_curves_refuse_negative_noise() -> None:
    for function in (two_moons, swiss_roll):
        with pytest.raises(ValueError, match="noise must be a finite standard deviation of at least 0"):
            function(noise=-0.1)


def test_exact_mixtures() -> None:
    weights, means, covariances = eight_gaussians_mixture(0.05)
    assert weights.dtype == means.dtype == covariances.dtype == torch.float64
    assert torch.allclose(weights, torch.full((8,), 0.125, dtype=torch.float64))
    assert torch.allclose(means.norm(dim=1), torch.ones(8, dtype=torch.float64))
    assert torch.allclose(means[1], torch.full((2,), math.sqrt(0.5), dtype=torch.float64))
    assert torch.allclose(covariances, 0.0025 * torch.eye(2, dtype=torch.float64).expand(8, 2, 2))
    weights, means, _ = grid_gaussians_mixture()
    assert (len(weights), float(weights.sum())) == (25, pytest.approx(1))
    assert means[0].tolist() == [-1, -1]
    assert means[7].tolist() == [-0.5, 0.0]


@pytest.mark.parametrize(
    ("data", "mixture"),
    [
        (eight_gaussians(n_train=80_000, std=0.1), eight_gaussians_mixture(0.1)),
        (grid_gaussians(n_train=80_000, std=0.1), grid_gaussians_mixture(0.1)),
    ],
    ids=["ring", "grid"],
)
def test_samples_have_the_mixtures_moments(data: Data, mixture: tuple[torch.Tensor, ...]) -> None:
    weights, means, covariances = mixture
    x, labels = data.train.double(), data.train_labels
    assert labels is not None
    assert data.num_classes == len(weights)
    counts = labels.bincount(minlength=len(weights))
    # Five standard errors: binomial counts, means of n normals, and variances with relative error sqrt(2/n).
    assert torch.all((counts - weights * len(x)).abs() < 5 * (weights * len(x)).sqrt())
    for k, n in enumerate(counts.tolist()):
        part = x[labels == k]
        assert torch.all((part.mean(dim=0) - means[k]).abs() < 5 * 0.1 / math.sqrt(n))
        assert torch.all((part.T.cov() - covariances[k]).abs() < 5 * 0.01 * math.sqrt(2 / n))
    # E|x|² = mean |μ|² + 2 std²: 1 + 0.02 on the ring, 2·0.5 + 0.02 on the grid.
    assert float(x.square().sum(dim=1).mean()) == pytest.approx(1.02, abs=5 * 0.8 / math.sqrt(len(x)))


def test_two_gaussians_have_the_moments_of_their_mixture() -> None:
    weights, means, covariances = two_gaussians_mixture()
    data = two_gaussians(n_train=50_000)
    assert data.train_labels is not None
    share = data.train_labels.double().mean()
    assert float(share) == pytest.approx(float(weights[1]), abs=5 * 0.4 / math.sqrt(50_000))
    for k in (0, 1):
        part = data.train[data.train_labels == k].double()
        assert torch.all((part.mean(dim=0) - means[k]).abs() < 5 / math.sqrt(len(part)))
        assert torch.all((part.T.cov() - covariances[k]).abs() < 5 * math.sqrt(2 / len(part)))


def test_labels_can_be_left_out() -> None:
    for function in (eight_gaussians, grid_gaussians, two_gaussians, two_moons):
        data = function(labels=False)
        assert data.train_labels is None
        assert torch.equal(data.train, function().train)


def test_checkerboard_fills_the_dark_squares_evenly() -> None:
    x = checkerboard(n_train=80_000).train.double()
    square = ((x + 1) * 2).floor().long()
    assert int(square.min()) == 0
    assert int(square.max()) == 3
    assert torch.all(square.sum(dim=1) % 2 == 0)
    counts = torch.bincount(square[:, 0] * 4 + square[:, 1], minlength=16)
    dark = counts[counts > 0]
    assert len(dark) == 8
    assert torch.all((dark - 10_000).abs() < 5 * 100)
    inside = (x + 1) * 2 - square
    assert torch.all((inside.mean(dim=0) - 0.5).abs() < 5 * math.sqrt(1 / 12 / 80_000))


def test_two_moons_lie_on_scikit_learns_curves() -> None:
    data = two_moons(n_train=1000, noise=0.0)
    curve, moon = make_moons(4000, noise=0.0)
    reference = torch.from_numpy(curve) - torch.tensor([0.5, 0.25])
    # 2000 points over a length of π: no point of the curve is further than π/4000 from one of them.
    for label in (0, 1):
        points = data.train[data.train_labels == label].double()
        nearest = torch.cdist(points, reference[moon == label]).amin(dim=1)
        assert float(nearest.max()) < 1.01 * math.pi / 4000
    assert torch.all((data.train.mean(dim=0)).abs() < 0.15)


def test_swiss_roll_lies_on_scikit_learns_curve() -> None:
    x = swiss_roll(n_train=1000, noise=0.0).train
    curve, _ = make_swiss_roll(20_000, random_state=0)
    reference = torch.from_numpy(curve[:, [0, 2]]).float() / (4.5 * math.pi)
    assert float(torch.cdist(x, reference).amin(dim=1).max()) < 5e-3
    assert float(x.norm(dim=1).max()) <= 1 + 1e-6
    assert float(x.norm(dim=1).min()) == pytest.approx(1 / 3, abs=0.01)


@pytest.mark.parametrize("toy", [two_moons, swiss_roll])
def test_noise_has_the_declared_width(toy: Callable[..., Data]) -> None:
    # The points' draws come first from the stream, so the same curve points return with and without noise.
    difference = toy(n_train=20_000, noise=0.3).train - toy(n_train=20_000, noise=0.0).train
    assert float(difference.std()) == pytest.approx(0.3, rel=5 / math.sqrt(2 * 40_000))


def test_sizes_are_within_the_memory_allowed() -> None:
    with pytest.raises(ValueError, match="two_moons: 10000000000 and 2000 samples would take .* SCORESDE_MEMORY="):
        two_moons(n_train=10**10)
