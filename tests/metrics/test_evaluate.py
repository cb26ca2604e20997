import pytest
import torch

from scoresde.metrics import (
    PCA,
    GaussianKernel,
    PrincipalDirections,
    clipped_metrics,
    evaluate_samples,
    frechet_distance,
    manifold_metrics,
    mmd,
    sliced_wasserstein,
    spectrum,
)
from scoresde.metrics.evaluate import METRICS


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_every_metric_under_its_own_name() -> None:
    a, b = normal(40, 1, 3, 3), normal(40, 1, 3, 3, seed=1)
    result = evaluate_samples(a, b, PCA(4), seed=2)
    separate = [
        frechet_distance(a, b, PCA(4), seed=2),
        sliced_wasserstein(a, b, seed=2, features=PCA(4)),
        mmd(a, b, features=PCA(4)),
        mmd(a, b, GaussianKernel(), PCA(4)),
        # Of all values: a projection on the widest directions leaves out those that tell.
        spectrum(a, b).noise_left,
        spectrum(a, b).too_narrow,
        *manifold_metrics(a, b, features=PCA(4), seed=2).values(),
        *clipped_metrics(a, b, features=PCA(4), seed=2).values(),
    ]
    assert list(result.values()) == separate
    assert all(name == e.name and e.n == 40 and e.stderr > 0 for name, e in result.items())


def test_is_reproducible_and_sees_a_worse_model() -> None:
    b, good, bad = normal(200, 5), normal(200, 5, seed=1), 2 * normal(200, 5, seed=2) + 1
    first, second = evaluate_samples(good, b), evaluate_samples(bad, b)
    assert first == evaluate_samples(good, b)
    for name in ("frechet_distance", "sliced_wasserstein", "mmd_polynomial", "mmd_gaussian"):
        assert second[name].compare(first[name]) > 3
    for name in ("precision", "density", "coverage"):
        assert second[name].compare(first[name]) < -3


def test_too_few_samples() -> None:
    with pytest.raises(ValueError, match="generated set has 6 samples; this metric needs at least 7"):
        evaluate_samples(normal(6, 2), normal(6, 2))
    assert list(evaluate_samples(normal(7, 2), normal(7, 2, seed=1))) == list(METRICS)


def test_widths_along_given_directions_or_of_features() -> None:
    a, b = normal(500, 3) * torch.tensor([1.0, 1.0, 0.5]), normal(500, 3, seed=1) * torch.tensor([1.0, 1.0, 0.1])
    exact = PrincipalDirections.exact(torch.diag(torch.tensor([1.0, 1.0, 0.01])))
    found = evaluate_samples(a, b, directions=exact)
    assert found["noise_left"] == exact(a).noise_left
    assert abs(found["noise_left"].value - 5) < 0.6
    assert evaluate_samples(a, b, lambda x: x[:, :2])["noise_left"].value == 1
