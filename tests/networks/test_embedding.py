import math

import pytest
import torch
from torch import nn

from scoresde.networks import (
    MLP,
    FourierFeatures,
    GaussianFourierFeatures,
    LevelEmbedding,
    PositionalFeatures,
    TableEmbedding,
    UNet,
)

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


def test_level_embedding_has_a_vector_for_each_level_and_a_line_between_two() -> None:
    embedding = LevelEmbedding(5, 0.01, 100.0, 8).double()
    vectors = embedding.vectors.weight
    sigma = torch.logspace(-2, 2, 5, dtype=torch.float64)
    torch.testing.assert_close(embedding(sigma.log() / 4), vectors)
    between = embedding(torch.tensor([10**0.25], dtype=torch.float64).log() / 4)[0]
    torch.testing.assert_close(between, 0.75 * vectors[2] + 0.25 * vectors[3])
    ends = embedding(torch.tensor([1e-9, 1e9], dtype=torch.float64).log() / 4)
    torch.testing.assert_close(ends, vectors[[0, -1]])


def test_table_embedding_has_a_vector_for_each_index_and_a_line_between_two() -> None:
    embedding = TableEmbedding(5, 8)
    vectors = embedding.vectors.weight
    assert torch.equal(embedding(torch.arange(5.0)), vectors)
    torch.testing.assert_close(
        embedding(torch.tensor([2.25, -3.0, 9.0])),
        torch.stack((0.75 * vectors[2] + 0.25 * vectors[3], vectors[0], vectors[4])),
    )
    with pytest.raises(ValueError, match="steps must be at least 2 and dim at least 1, got 1 and 8"):
        TableEmbedding(1, 8)


def test_level_embedding_differs_by_level_and_is_trained() -> None:
    embedding = LevelEmbedding(232, 0.01, 50.0, 16)
    levels = torch.linspace(math.log(0.01), math.log(50.0), 232) / 4
    features = embedding(levels)
    torch.testing.assert_close(features, embedding.vectors.weight, rtol=0, atol=2e-3)  # float32 of 231 places
    features.square().sum().backward()
    assert embedding.vectors.weight.grad is not None
    assert bool((embedding.vectors.weight.grad.abs().amax(1) > 0).all())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, 0.1, 1.0), "levels must be at least 2 and dim at least 1, got 1 and 64"),
        ((4, 0.1, 1.0, 0), "levels must be at least 2 and dim at least 1, got 4 and 0"),
        ((4, 1.0, 0.1), "expected 0 < sigma_min < sigma_max, got sigma_min=1.0, sigma_max=0.1"),
    ],
)
def test_level_embedding_refuses(arguments: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LevelEmbedding(*arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("network", [MLP((1, 4, 4), 16, 2), UNet((1, 4, 4), 8)], ids=["mlp", "unet"])
def test_networks_take_level_embeddings_under_vmap_and_jvp(network: nn.Module) -> None:
    network.conditioning.embedding = LevelEmbedding(5, 0.01, 1.0, 64)  # type: ignore[union-attr]
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    x, c = torch.randn(3, 1, 4, 4), torch.tensor([0.01, 0.1, 0.5]).log() / 4
    low, high = network.eval()(x, c), network(x, c + 0.3)
    assert not torch.allclose(low, high)
    tangents = torch.randn(2, *x.shape)
    moved = torch.func.vmap(lambda v: torch.func.jvp(lambda y: network(y, c), (x,), (v,))[1])(tangents)
    assert moved.shape == tangents.shape
