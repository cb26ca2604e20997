import itertools
import math

import pytest
import torch

from scoresde.metrics import sliced_wasserstein
from scoresde.metrics import wasserstein as module


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("dimension", "projections"), [(1, 1), (2, 8), (3, 300), (16, 32)])
def test_shifted_copy_is_exact(dimension: int, projections: int) -> None:
    # Every projection gives W₂² = (θ·δ)², whose mean over an orthonormal basis is |δ|²/F.
    a, delta = normal(30, dimension), normal(dimension, seed=1)
    estimate = sliced_wasserstein(a + delta, a, projections)
    assert estimate.value == pytest.approx(delta.norm().item() / math.sqrt(dimension), rel=1e-12)


def test_shifted_copy_in_expectation_when_projections_do_not_fill_a_basis() -> None:
    a, delta = normal(10, 50), normal(50, seed=1)
    squares = [sliced_wasserstein(a + delta, a, 20, seed=s).value ** 2 for s in range(100)]
    # (θ·δ)² has relative spread √2, the mean of 20 · 100 of them about 3 %.
    assert sum(squares) / 100 == pytest.approx(delta.square().sum().item() / 50, rel=0.12)


def test_one_dimension_is_the_optimal_assignment() -> None:
    a, b = normal(6, 1), 2 * normal(6, 1, seed=1) + 1
    best = min(
        sum((a[i, 0] - b[j, 0]).item() ** 2 for i, j in enumerate(order)) / 6
        for order in itertools.permutations(range(6))
    )
    assert sliced_wasserstein(a, b, 3).value == pytest.approx(math.sqrt(best), rel=1e-12)


def test_scaled_gaussians() -> None:
    # W₂ of N(0, s²) and N(0, r²) is |s − r| in every direction.
    n = 20_000
    estimate = sliced_wasserstein(3 * normal(n, 3), normal(n, 3, seed=1), 30)
    assert abs(estimate.value - 2.0) < 4 * estimate.stderr
    # The potentials, averaged over directions, are (s − r) s |z|²/F and (r − s) r |z|²/F, with Var |z|² = 2F.
    assert estimate.stderr == pytest.approx(math.sqrt((3**2 + 1**2) / (2 * n * 3)), rel=0.05)


def test_identity_order_and_chunking(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = normal(40, 4), normal(40, 4, seed=1) + 1
    assert sliced_wasserstein(a, a).value == 0
    assert sliced_wasserstein(a, a).stderr == 0
    reference = sliced_wasserstein(a, b)
    shuffled = sliced_wasserstein(a.flip(0), b.roll(7, 0))
    assert (shuffled.value, shuffled.stderr) == pytest.approx((reference.value, reference.stderr), rel=1e-12)
    monkeypatch.setattr(module, "BLOCK", 40 * 5)
    chunked = sliced_wasserstein(a, b)
    assert (chunked.value, chunked.stderr) == pytest.approx((reference.value, reference.stderr), rel=1e-12)


def test_common_rotation_changes_only_the_directions() -> None:
    a, b = normal(500, 3), normal(500, 3, seed=1) * torch.tensor([1.0, 2.0, 3.0])
    rotation = torch.linalg.qr(normal(3, 3, seed=2)).Q
    value = sliced_wasserstein(a, b, 3000).value
    # The spread of W₂² over directions is below 100 % of its mean: 1/√3000 · 4 at most, halved by the root.
    assert sliced_wasserstein(a @ rotation, b @ rotation, 3000).value == pytest.approx(value, rel=0.04)


@pytest.mark.parametrize(("shift", "scale", "low", "high"), [(0.7, 1.4, 0.75, 1.35), (0.0, 1.0, 1.0, 2.3)])
def test_error_bar_against_the_spread_over_repeats(shift: float, scale: float, low: float, high: float) -> None:
    # 60 repeats know their spread to 9 %. Where the distributions agree it is up to twice too large.
    estimates = [
        sliced_wasserstein(normal(200, 3, seed=2 * r) * scale + shift, normal(200, 3, seed=2 * r + 1), 30)
        for r in range(60)
    ]
    spread = torch.tensor([e.value for e in estimates]).std().item()
    reported = torch.tensor([e.stderr for e in estimates]).square().mean().sqrt().item()
    assert low < reported / spread < high


def test_error_bar_of_a_set_on_a_line() -> None:
    # All projections of a are one variable, those of b are not: potentials must go to their own samples.
    estimates = [
        sliced_wasserstein(3 * normal(200, 1, seed=2 * r).expand(200, 3), normal(200, 3, seed=2 * r + 1), 30)
        for r in range(60)
    ]
    spread = torch.tensor([e.value for e in estimates]).std().item()
    reported = torch.tensor([e.stderr for e in estimates]).square().mean().sqrt().item()
    assert 0.75 < reported / spread < 1.35


def test_projections_must_be_positive() -> None:
    with pytest.raises(ValueError, match="projections must be at least 1, got 0"):
        sliced_wasserstein(normal(5, 2), normal(5, 2), 0)
