import math

import numpy as np
import pytest
import scipy.linalg
import torch

from scoresde.metrics import PCA, frechet_distance, frechet_from_moments
from scoresde.metrics.frechet import _measured, _moments


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_covariance(dimension: int, rank: int, seed: int) -> torch.Tensor:
    factor = normal(dimension, rank, seed=seed)
    return factor @ factor.T / rank


def test_moments_closed_forms() -> None:
    zero, eye = torch.zeros(3, dtype=torch.float64), torch.eye(3, dtype=torch.float64)
    # Commuting covariances: |δ|² + Σ (s − r)² over the standard deviations.
    delta = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    s, r = torch.tensor([1.0, 2.0, 0.0]).double(), torch.tensor([3.0, 1.5, 2.0]).double()
    expected = 5.25 + 4 + 0.25 + 4
    assert frechet_from_moments(delta, s.square().diag(), zero, r.square().diag()) == pytest.approx(expected)
    assert frechet_from_moments(zero, eye, zero, 0 * eye) == pytest.approx(3.0)


def test_moments_match_scipy_sqrtm() -> None:
    mean_a, mean_b = normal(6, seed=1), normal(6, seed=2)
    cov_a, cov_b = random_covariance(6, 8, 3), random_covariance(6, 8, 4)
    root = np.real(scipy.linalg.sqrtm((cov_a @ cov_b).numpy()))
    expected = (mean_a - mean_b).square().sum() + (cov_a + cov_b).trace() - 2 * np.trace(root)
    assert frechet_from_moments(mean_a, cov_a, mean_b, cov_b) == pytest.approx(float(expected), rel=1e-9)


def test_singular_covariances_keep_precision() -> None:
    zero = torch.zeros(5, dtype=torch.float64)
    cov = random_covariance(5, 2, 1)
    assert frechet_from_moments(zero, cov, zero, cov) < 1e-12
    # Orthogonal supports: the cross term is 0, not the 1e-8 that roots of rounding errors would leave.
    rotation = torch.linalg.qr(normal(4, 4)).Q
    first = rotation[:, :2] @ rotation[:, :2].T
    second = rotation[:, 2:] @ rotation[:, 2:].T
    assert frechet_from_moments(zero[:4], first, zero[:4], second) == pytest.approx(4.0, abs=1e-13)


def test_gaussian_samples_reach_the_closed_form() -> None:
    n, dimension = 20_000, 4
    cov_a, cov_b = random_covariance(dimension, 6, 1), random_covariance(dimension, 6, 2)
    mean = torch.tensor([0.5, 0.0, -1.0, 2.0], dtype=torch.float64)
    a = normal(n, dimension, seed=3) @ torch.linalg.cholesky(cov_a).T + mean
    b = normal(n, dimension, seed=4) @ torch.linalg.cholesky(cov_b).T
    exact = frechet_from_moments(mean, cov_a, torch.zeros_like(mean), cov_b)
    estimate = frechet_distance(a, b)
    # The bias, of order F²/n · tr Σ = 1e-3, is far below the error bar.
    assert estimate.n == n
    assert abs(estimate.value - exact) < 4 * estimate.stderr
    assert estimate.stderr < 0.03 * exact


def test_identical_sets_give_zero_and_shifts_give_their_square() -> None:
    a = normal(100, 3)
    assert frechet_distance(a, a).value < 1e-12
    assert frechet_distance(a + torch.tensor([3.0, 0.0, 4.0]), a).value == pytest.approx(25.0)


def test_covariances_are_unbiased() -> None:
    # One dimension: (Δ mean)² + (Δ standard deviation)², the deviations with n − 1.
    a = torch.tensor([[0.0], [2.0], [4.0]])
    b = torch.tensor([[1.0], [1.0], [4.0]])
    assert frechet_distance(a, b).value == pytest.approx((2 - math.sqrt(3)) ** 2)


def test_fewer_samples_than_dimensions() -> None:
    a, b = normal(10, 40), normal(10, 40, seed=1)
    estimate = frechet_distance(a, b)
    assert 0 < estimate.value < math.inf
    assert 0 < estimate.stderr < math.inf
    assert frechet_distance(a, a).value < 1e-11


def test_fewer_samples_than_features_agree_with_the_moments() -> None:
    a, b = torch.randn(2, 12, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    by_moments = frechet_from_moments(a.mean(0), a.T.cov(), b.mean(0), b.T.cov())
    assert frechet_distance(a, b, resamples=2).value == pytest.approx(by_moments, rel=1e-9)


def test_invariance_to_order_and_common_rotation() -> None:
    a, b = normal(60, 5), normal(60, 5, seed=1) * 2 + 1
    rotation = torch.linalg.qr(normal(5, 5, seed=2)).Q
    value = frechet_distance(a, b).value
    assert frechet_distance(a.flip(0), b).value == pytest.approx(value, rel=1e-12)
    assert frechet_distance(a @ rotation, b @ rotation).value == pytest.approx(value, rel=1e-10)
    assert frechet_distance(b, a).value == pytest.approx(value, rel=1e-12)
    assert frechet_distance(a, b, PCA(5)).value == pytest.approx(value, rel=1e-10)


@pytest.mark.parametrize(("scale_a", "scale_b"), [(1.3, 1.0), (0.2, 2.0)])
def test_error_bar_agrees_with_the_spread_over_repeats(scale_a: float, scale_b: float) -> None:
    estimates = [
        frechet_distance(
            normal(200, 3, seed=2 * r) * scale_a + 0.5, normal(200, 3, seed=2 * r + 1) * scale_b, resamples=20
        )
        for r in range(60)
    ]
    spread = torch.tensor([e.value for e in estimates]).std().item()
    reported = torch.tensor([e.stderr for e in estimates]).square().mean().sqrt().item()
    # 60 repeats know their spread to 9 %; 1.35 is over three times that.
    assert 1 / 1.35 < reported / spread < 1.35


def test_error_bar_is_not_too_small_where_the_distributions_agree() -> None:
    estimates = [
        frechet_distance(normal(200, 3, seed=2 * r), normal(200, 3, seed=2 * r + 1), resamples=20) for r in range(60)
    ]
    spread = torch.tensor([e.value for e in estimates]).std().item()
    reported = torch.tensor([e.stderr for e in estimates]).square().mean().sqrt().item()
    assert 1 < reported / spread < 2.6  # about 2, see the docstring


def test_seed_and_resamples() -> None:
    a, b = normal(50, 2), normal(50, 2, seed=1)
    assert frechet_distance(a, b) == frechet_distance(a, b, seed=4)
    assert frechet_distance(a, b, None, 5, 3) == frechet_distance(a, b, resamples=5, seed=3)
    assert frechet_distance(a, b, resamples=5, seed=3).stderr != frechet_distance(a, b, resamples=5, seed=4).stderr
    with pytest.raises(ValueError, match="resamples must be at least 2 for a standard error, got 1"):
        frechet_distance(a, b, resamples=1)


@pytest.mark.parametrize(("n", "width"), [(400, 20), (100, 20), (30, 60)])
@pytest.mark.parametrize("scale", [1.0, 1.3])
def test_the_standard_error_is_that_of_fresh_samples(n: int, width: int, scale: float) -> None:
    """Also with fewer samples than features; it may be too large where both are of one distribution."""
    spread = torch.arange(1, width + 1).double() ** -0.5
    found = [
        frechet_distance(scale * spread * normal(n, width, seed=2 * k), spread * normal(n, width, seed=2 * k + 1))
        for k in range(60)
    ]
    scatter = torch.tensor([e.value for e in found]).std().item()
    ratio = torch.tensor([e.stderr for e in found]).mean().item() / scatter
    assert 0.7 < ratio < (1.8 if scale == 1 else 1.4)


def test_effects_are_slopes() -> None:
    """Towards a sample the distance changes by its effect, in both sets, also with fewer samples than features."""
    for n, width in ((40, 5), (8, 12)):
        sets = normal(n, width), 1.2 * normal(n, width, seed=1) + 0.3
        value, effects = _measured(*sets)
        for side in (0, 1):
            found = [_moments(x) for x in sets]
            mean, covariance = found[side]
            apart, step = sets[side][3] - mean, 1e-6
            found[side] = mean + step * apart, covariance + step * (torch.outer(apart, apart) - covariance)
            slope = (frechet_from_moments(*found[0], *found[1]) - value) / step
            expected = effects[side][3] - effects[side].sum() / (n - 1)
            assert slope == pytest.approx(float(expected), rel=1e-3)
