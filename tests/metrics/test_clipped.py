"""Clipped density and coverage: loops, known expectations, and a score that falls linearly with bad samples."""

import math

import pytest
import torch
from torch import Tensor

from scoresde.metrics import clipped_metrics, manifold_metrics
from scoresde.metrics.clipped import good_share
from tests.problems import F64

NAMES = ("clipped_density", "clipped_coverage")


def normal(n: int, dimension: int, seed: int) -> Tensor:
    return torch.randn(n, dimension, dtype=F64, generator=torch.Generator().manual_seed(seed))


def slow_metrics(a: Tensor, b: Tensor, k: int) -> dict[str, float]:
    """Both values by their definition, point by point, before the cut at 1."""
    xs, ys = a.tolist(), b.tolist()
    radii = [sorted(math.dist(c, o) for j, o in enumerate(ys) if j != i)[k - 1] for i, c in enumerate(ys)]
    median = sorted(radii)[(len(radii) - 1) // 2]
    clipped = [min(r, median) for r in radii]

    def balls(point: list[float], own: int | None) -> int:
        near = (math.dist(point, c) <= r + 1e-12 for c, r in zip(ys, clipped, strict=True))
        return sum(inside for i, inside in enumerate(near) if i != own)

    of_samples = sum(min(1.0, balls(x, None) / k) for x in xs) / len(xs)
    of_reference = sum(min(1.0, balls(y, i) / k) for i, y in enumerate(ys)) / len(ys)
    reached = (sum(math.dist(x, c) <= r + 1e-12 for x in xs) for c, r in zip(ys, radii, strict=True))
    covered = sum(min(1.0, d / k) for d in reached) / len(ys)
    return {
        "clipped_density": of_samples / of_reference,
        "clipped_coverage": good_share(covered, len(xs), len(ys), k),
    }


@pytest.mark.parametrize(("n", "k"), [(15, 1), (30, 3), (41, 5)])
def test_values_are_those_of_loops(n: int, k: int) -> None:
    a, b = 1.2 * normal(n, 2, 0) + 0.5, normal(n, 2, 1)
    expected = slow_metrics(a, b, k)
    found = clipped_metrics(a, b, k)
    for name in NAMES:
        assert found[name].value == pytest.approx(min(expected[name], 1.0), abs=1e-12)


@pytest.mark.parametrize(("references", "k", "good"), [(50, 5, 50), (50, 5, 20), (200, 3, 60)])
def test_expected_coverage_of_good_samples(references: int, k: int, good: int) -> None:
    """The expectation behind `good_share`, by uniform numbers: it does not depend on the distribution."""
    draw = torch.Generator().manual_seed(0)
    mean, repeats = 0.0, 400
    for _ in range(repeats):
        # Circular distances, so that no reference sample lies at an edge.
        y, x = torch.rand(references, generator=draw, dtype=F64), torch.rand(good, generator=draw, dtype=F64)
        between, to_samples = ((y[:, None] - z).abs() for z in (y, x))
        between, to_samples = (torch.minimum(d, 1 - d) for d in (between, to_samples))
        radius = between.sort(1).values[:, k]
        mean += float(((to_samples <= radius[:, None]).sum(1) / k).clamp(max=1).mean()) / repeats
    n = 80
    assert good_share(mean, n, references, k) == pytest.approx(good / n, abs=0.012)


@pytest.mark.parametrize("bad", [0.0, 0.2, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("dimension", [2, 16])
def test_scores_fall_linearly_with_the_share_of_bad_samples(bad: float, dimension: int) -> None:
    values: dict[str, list[float]] = {name: [] for name in NAMES}
    n = 400
    for seed in range(8):
        a, b = normal(n, dimension, 2 * seed), normal(n, dimension, 2 * seed + 1)
        a[: round(bad * n)] += 30
        for name, found in clipped_metrics(a, b, seed=seed).items():
            values[name].append(found.value)
            assert abs(found.value - (1 - bad)) < 4 * found.stderr + 0.03
    for name in NAMES:
        # The cut at 1 takes half of the scatter from the mean over exact samples.
        assert sum(values[name]) / 8 == pytest.approx(1 - bad, abs=0.05)


def test_coverage_falls_with_lost_modes_and_density_does_not() -> None:
    centres = 20 * torch.arange(4, dtype=F64)[:, None] * torch.ones(1, 2, dtype=F64)
    b = normal(400, 2, 0) + centres[torch.arange(400) % 4]
    a = normal(400, 2, 1) + centres[torch.arange(400) % 2]
    found = clipped_metrics(a, b)
    assert found["clipped_coverage"].value == pytest.approx(0.5, abs=0.05)
    assert found["clipped_density"].value == pytest.approx(1.0, abs=0.15)


def test_outliers_in_the_reference_do_not_excuse_bad_samples() -> None:
    """Bad samples lie in the wide balls of a few outliers: density is misled, the clipped one is not."""
    b = normal(400, 8, 0)
    b[:12] = 20 * normal(12, 8, 1)
    a = normal(400, 8, 2)
    a[:200] = 8 * normal(200, 8, 3)
    assert clipped_metrics(a, b)["clipped_density"].value == pytest.approx(0.5, abs=0.1)
    assert manifold_metrics(a, b)["density"].value > 0.75


@pytest.mark.parametrize("bad", [0.0, 0.4])
def test_standard_errors_are_not_too_small(bad: float) -> None:
    """The jackknife errs on the large side, by up to about twice where the distributions agree."""
    values, errors = torch.zeros(2, 40, dtype=F64), torch.zeros(2, 40, dtype=F64)
    for seed in range(40):
        a, b = normal(200, 4, 1000 + 2 * seed), normal(200, 4, 1001 + 2 * seed)
        a[: round(bad * 200)] += 30
        for i, found in enumerate(clipped_metrics(a, b, seed=seed).values()):
            values[i, seed], errors[i, seed] = found.value, found.stderr
    ratio = errors.mean(1) / values.std(1)
    assert bool((ratio > 0.85).all())
    assert bool((ratio < (2.2 if bad else 4.0)).all())  # the cut at 1 halves the scatter


def test_k_is_checked() -> None:
    with pytest.raises(ValueError, match="k must be between 1 and"):
        clipped_metrics(normal(20, 2, 0), normal(20, 2, 1), k=20)
    with pytest.raises(ValueError, match="k must be between 1 and 9, got 10"):
        good_share(0.5, 10, 10, 10)
