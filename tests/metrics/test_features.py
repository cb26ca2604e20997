from collections.abc import Callable

import numpy as np
import pytest
import torch

from scoresde.data import Discrete
from scoresde.metrics import (
    PCA,
    density_coverage,
    evaluate_samples,
    frechet_distance,
    manifold_metrics,
    mmd,
    precision_recall,
    sliced_wasserstein,
)
from scoresde.metrics.features import paired_features

METRICS = [frechet_distance, sliced_wasserstein, mmd, precision_recall, density_coverage, evaluate_samples]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_raw_features_are_flattened_float64() -> None:
    a, b = normal(5, 2, 3), normal(5, 2, 3, seed=1)
    x, y = paired_features(a.requires_grad_(), b.numpy())
    assert x.dtype == y.dtype == torch.float64
    assert torch.equal(x, a.detach().double().flatten(1))
    assert torch.equal(y, b.double().flatten(1))
    assert paired_features(a[:, 0, 0], b[:, 0, 0])[0].shape == (5, 1)
    assert paired_features(np.ones((4, 2), np.uint8), np.ones((4, 2), np.uint8))[0].dtype == torch.float64


def test_callable_sees_whole_samples_in_batches_without_gradients() -> None:
    seen = []

    def extract(x: torch.Tensor) -> np.ndarray:
        seen.append((tuple(x.shape), torch.is_grad_enabled()))
        return x.mean(2).numpy()

    a, b = normal(700, 3, 4), normal(700, 3, 4, seed=1)
    x, _ = paired_features(a, b, extract)
    assert torch.allclose(x, a.double().mean(2), atol=1e-6)
    assert seen == [((512, 3, 4), False), ((188, 3, 4), False)] * 2


def test_pca_is_fitted_on_the_reference() -> None:
    # The reference varies along axis 0 alone, the generated set along axis 1 alone.
    a, b = torch.zeros(50, 3), torch.zeros(50, 3)
    a[:, 1], b[:, 0] = normal(50), normal(50, seed=1)
    x, y = paired_features(a, b, PCA(1))
    assert x.std() < 1e-6
    assert torch.allclose(y.abs().flatten(), (b[:, 0] - b[:, 0].mean()).abs().double(), atol=1e-6)


def test_pca_errors() -> None:
    with pytest.raises(ValueError, match="at least 1 component, got 0"):
        PCA(0)
    with pytest.raises(ValueError, match="5 components in 20 samples of dimension 3; use at most 3"):
        frechet_distance(normal(20, 3), normal(20, 3), PCA(5))


@pytest.mark.parametrize("metric", METRICS)
def test_bad_samples_are_refused_by_every_metric(metric: Callable[..., object]) -> None:
    good = normal(20, 3)
    bad = good.clone()
    bad[4, 1], bad[5, 2] = torch.nan, torch.inf
    with pytest.raises(ValueError, match="the generated set has 2 NaN or infinite values"):
        metric(bad, good)
    with pytest.raises(ValueError, match="the reference set has 2 NaN"):
        metric(good, bad)
    with pytest.raises(ValueError, match="the features have 40 NaN"):
        metric(good, good, features=lambda x: x[:, :2] * torch.nan)
    with pytest.raises(ValueError, match=r"generated set has 1 samples; this metric needs at least \d"):
        metric(good[:1], good[:1])
    with pytest.raises(ValueError, match=r"shape \(3,\) but reference samples \(2,\)"):
        metric(good, good[:, :2])
    with pytest.raises(ValueError, match=r"15 generated but 20 reference samples.*subsample the larger set to 15"):
        metric(good[:15], good)
    with pytest.raises(ValueError, match=r"have shape \(20, 3, 1\); expected \(20, F\)"):
        metric(good, good, features=lambda x: x[:, :, None])


def test_features_of_different_dimension_are_refused() -> None:
    sizes = iter((2, 3))
    with pytest.raises(ValueError, match="features have dimension 2 and 3"):
        paired_features(normal(9, 4), normal(9, 4), lambda x: x[:, : next(sizes)])


PIXELS = torch.randint(0, 256, (64, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
SAMPLES = Discrete(256).encode(PIXELS.flip(0)) + 0.1 * normal(64, 3, 8, 8)


@pytest.mark.parametrize("metric", [*METRICS, manifold_metrics])
def test_refuses_raw_values_on_one_side(metric: Callable[..., object]) -> None:
    for raw in (PIXELS, PIXELS.int(), PIXELS.numpy()):
        with pytest.raises(ValueError, match=r"the reference samples have dtype .*: encode both with .*transform"):
            metric(SAMPLES, raw)
        with pytest.raises(ValueError, match=r"the generated samples have dtype"):
            metric(raw, SAMPLES, features=PCA(2))
    with pytest.raises(ValueError, match=r"reference samples are integers from 0 to 255, which are not the same"):
        metric(SAMPLES, PIXELS.float())
    kelvin = 20 * normal(64, 3, 8, 8, seed=5) + 287
    with pytest.raises(ValueError, match=r"the generated samples are from .* to .*, which are not the same units"):
        metric(kelvin, SAMPLES)
    metric(SAMPLES, Discrete(256).encode(PIXELS))


@pytest.mark.parametrize(
    "samples",
    [
        1e4 * normal(64, 2),  # diverged
        normal(64, 2) * 1e-3 + 0.5,  # collapsed
        normal(64, 2) + 100.0,  # shifted
        torch.full((64, 2), 1e3),  # a constant
        normal(64, 2).round(),  # counts
        torch.cat((normal(63, 2), torch.full((1, 2), 1e6))),  # an outlier
    ],
)
def test_takes_poor_samples(samples: torch.Tensor) -> None:
    paired_features(samples, normal(64, 2, seed=1))
    paired_features(normal(64, 2, seed=1), samples)


def test_takes_raw_values_on_both_sides_and_what_is_known_to_agree() -> None:
    paired_features(PIXELS, PIXELS.flip(0))
    paired_features(SAMPLES, PIXELS.float(), same_units=True)
    paired_features(SAMPLES, PIXELS, lambda x: x.float().mean(dim=(2, 3)))
