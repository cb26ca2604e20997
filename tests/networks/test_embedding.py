import math

import pytest
import torch
from torch import nn

from scoresde.networks import FourierFeatures, GaussianFourierFeatures, PositionalFeatures

LEVELS = torch.linspace(-2.0, 1.5, 701, dtype=torch.float64)


def test_fourier_features_follow_the_formula() -> None:
    features = FourierFeatures(6, max_frequency=3.0)(torch.tensor([0.5, -1.0]))
    for row, c in zip(features, (0.5, -1.0), strict=True):
        expected = [math.sqrt(2) * math.cos(w * c) for w in (1, 2, 3)]
        expected += [math.sqrt(2) * math.sin(w * c) for w in (1, 2, 3)]
        torch.testing.assert_close(row, torch.tensor(expected))


def test_fourier_features_have_unit_mean_square() -> None:
    features = FourierFeatures(64).double()(LEVELS)
    torch.testing.assert_close(features.square().mean(dim=1), torch.ones_like(LEVELS))


@pytest.mark.parametrize("max_frequency", [3.0, 12.0])
def test_fourier_features_change_no_faster_than_their_highest_frequency(max_frequency: float) -> None:
    embedding = FourierFeatures(64, max_frequency).double()
    slopes = torch.func.jvp(embedding, (LEVELS,), (torch.ones_like(LEVELS),))[1]
    bound = math.sqrt(2) * max_frequency
    # the fastest sine reaches its bound at c = 0, which is on the grid
    assert slopes.abs().max().item() == pytest.approx(bound, rel=1e-6)


def test_default_fourier_features_tell_noise_levels_apart() -> None:
    features = FourierFeatures(64).double()(LEVELS[::10])
    distances = torch.cdist(features, features) + 1e9 * torch.eye(len(features))
    # neighbours are d = 0.05 apart: distance^2 = 4 sum_k (1 - cos(w_k d)), about 2 * 32 * (3^2 / 3) * d^2
    assert distances.min().item() == pytest.approx(math.sqrt(2 * 32 * 3 * 0.05**2), rel=0.05)


def test_gaussian_fourier_features_follow_the_formula() -> None:
    embedding = GaussianFourierFeatures(8, scale=2.0, seed=3)
    draws = torch.randn(4, generator=torch.Generator().manual_seed(3))
    phase = 2 * math.pi * 2.0 * draws * 0.3
    expected = torch.cat((phase.sin(), phase.cos()))
    torch.testing.assert_close(embedding(torch.tensor([0.3]))[0], expected)


def test_gaussian_fourier_features_have_the_asked_scale() -> None:
    frequencies = GaussianFourierFeatures(20000, scale=16.0).frequencies
    # standard error of a standard deviation from n = 10000 draws: scale / sqrt(2 n), five of them
    assert abs(frequencies.std().item() - 16.0) < 5 * 16.0 / math.sqrt(2 * 10000)


def test_gaussian_fourier_features_depend_on_the_seed_alone() -> None:
    torch.manual_seed(0)
    first = GaussianFourierFeatures(16, seed=1)
    torch.manual_seed(1)
    assert torch.equal(first.frequencies, GaussianFourierFeatures(16, seed=1).frequencies)
    assert not torch.equal(first.frequencies, GaussianFourierFeatures(16, seed=2).frequencies)


def test_positional_features_follow_the_formula() -> None:
    features = PositionalFeatures(6, max_period=100.0, scale=5.0)(torch.tensor([0.7]))
    phases = [3.5, 0.35, 0.035]
    expected = [math.sin(p) for p in phases] + [math.cos(p) for p in phases]
    torch.testing.assert_close(features[0], torch.tensor(expected))


def test_only_random_frequencies_are_saved() -> None:
    assert not FourierFeatures(8).state_dict()
    assert not PositionalFeatures(8).state_dict()
    assert list(GaussianFourierFeatures(8).state_dict()) == ["frequencies"]
    source, target = GaussianFourierFeatures(8, seed=1), GaussianFourierFeatures(8, seed=2)
    target.load_state_dict(source.state_dict())
    assert torch.equal(source.frequencies, target.frequencies)


@pytest.mark.parametrize("features", [FourierFeatures, GaussianFourierFeatures, PositionalFeatures])
def test_features_shape_and_odd_dim(features: type[nn.Module]) -> None:
    assert features(10)(torch.zeros(3)).shape == (3, 10)
    with pytest.raises(ValueError, match=r"dim must be an even number of at least ., got 7"):
        features(7)


def test_features_reject_scales_that_are_not_positive() -> None:
    with pytest.raises(ValueError, match="max_frequency must be positive and finite, got 0"):
        FourierFeatures(8, max_frequency=0)
    with pytest.raises(ValueError, match="scale must be positive and finite, got -1"):
        GaussianFourierFeatures(8, scale=-1)
    with pytest.raises(ValueError, match="must be positive and finite, got 0 and 1"):
        PositionalFeatures(8, max_period=0, scale=1)
    with pytest.raises(ValueError, match="at least 4, got 2"):
        PositionalFeatures(2)
