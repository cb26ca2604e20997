import math

import pytest
import torch

from scoresde.metrics import Estimate, density_coverage, manifold_metrics, precision_recall
from scoresde.metrics import distances as distances_module
from scoresde.metrics.subsets import Subsets

NAMES = ("precision", "recall", "density", "coverage")


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_metrics(a: torch.Tensor, b: torch.Tensor, k: int) -> dict[str, float]:
    def balls(z: list[list[float]]) -> list[tuple[list[float], float]]:
        return [(c, sorted(math.dist(c, z[j]) for j in range(len(z)) if j != i)[k - 1]) for i, c in enumerate(z)]

    def holds(ball: tuple[list[float], float], point: list[float]) -> bool:
        return math.dist(ball[0], point) <= ball[1] + 1e-12

    xs, ys = a.tolist(), b.tolist()
    balls_a, balls_b = balls(xs), balls(ys)
    return {
        "precision": sum(any(holds(ball, x) for ball in balls_b) for x in xs) / len(xs),
        "recall": sum(any(holds(ball, y) for ball in balls_a) for y in ys) / len(ys),
        "density": sum(holds(ball, x) for x in xs for ball in balls_b) / (k * len(xs)),
        "coverage": sum(any(holds(ball, x) for x in xs) for ball in balls_b) / len(ys),
    }


def values(estimates: dict[str, Estimate]) -> dict[str, float]:
    return {name: e.value for name, e in estimates.items()}


@pytest.mark.parametrize(("n", "k"), [(3, 1), (12, 1), (23, 3), (25, 5)])
def test_matches_loops_and_jackknife_matches_recomputation(n: int, k: int) -> None:
    a, b = 1.3 * normal(n, 2) + 0.4, normal(n, 2, seed=1)
    result = manifold_metrics(a, b, k, seed=5)
    assert values(result) == pytest.approx(slow_metrics(a, b, k))
    # The error bars again, each subset computed from scratch; the groups are the implementation's.
    sets = Subsets(a, b, k, None, 5)
    subsets = [slow_metrics(sets.a[keep], sets.b[keep], k) for keep in sets.kept.T[:-1]]
    for name in NAMES:
        thetas = [s[name] for s in subsets]
        mean = sum(thetas) / len(thetas)
        variance = (len(thetas) - 1) / len(thetas) * sum((t - mean) ** 2 for t in thetas)
        if variance > 1e-20:
            assert result[name].stderr == pytest.approx(math.sqrt(variance))
        else:
            assert result[name].stderr > 0


def test_groups_partition_the_samples() -> None:
    sets = Subsets(normal(43, 2), normal(43, 2), 5, None, 0)
    assert sets.kept.shape == (43, 21)
    assert sets.kept[:, -1].all()
    assert torch.equal((~sets.kept).sum(1), torch.ones(43, dtype=torch.long))
    assert set((~sets.kept[:, :-1]).sum(0).tolist()) == {2, 3}


def test_parts_and_blocks_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = normal(50, 3) + 0.5, normal(50, 3, seed=1)
    together = manifold_metrics(a, b)
    assert tuple(together) == NAMES
    assert precision_recall(a, b) | density_coverage(a, b) == together
    monkeypatch.setattr(distances_module, "BLOCK", 50 * 7)
    assert manifold_metrics(a, b) == together


def test_disjoint_sets() -> None:
    result = manifold_metrics(normal(100, 2) + 100, normal(100, 2, seed=1))
    assert set(values(result).values()) == {0.0}
    # Nothing seen in 100 trials: (1/102)(101/102)/100, not certainty.
    assert result["recall"].stderr == pytest.approx(math.sqrt(101) / 1020)


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_a_copy_of_the_reference(offset: float) -> None:
    # Each ball holds its centre and its k neighbours, the k-th exactly on the rim: density (k + 1)/k.
    a = normal(80, 3) + offset
    result = manifold_metrics(a[torch.randperm(80, generator=torch.Generator().manual_seed(1))], a, k=4)
    assert values(result) == pytest.approx({"precision": 1, "recall": 1, "density": 1.25, "coverage": 1})


def test_lattice_ties_count_as_inside() -> None:
    grid = torch.cartesian_prod(torch.arange(5.0), torch.arange(5.0)) / 3
    a, b = grid + torch.tensor([1 / 3, 0.0]), grid
    assert values(manifold_metrics(a, b, k=2)) == pytest.approx(slow_metrics(a.double(), b.double(), 2))


def test_same_distribution_has_the_known_expectations() -> None:
    # A ball's radius is the k-th of n − 1 distances; the n generated distances are exchangeable with these:
    # density is 1, and no generated sample is closer with probability Π (n − 1 − i)/(2n − 1 − i).
    n, k, repeats = 100, 3, 60
    results = [manifold_metrics(normal(n, 2, seed=2 * r), normal(n, 2, seed=2 * r + 1), k) for r in range(repeats)]
    missed = math.prod((n - 1 - i) / (2 * n - 1 - i) for i in range(k))
    for name, expected in (("density", 1.0), ("coverage", 1 - missed)):
        sample = torch.tensor([r[name].value for r in results])
        assert abs(sample.mean().item() - expected) < 3.5 * sample.std().item() / math.sqrt(repeats)
    for name in ("precision", "recall"):
        assert 0.9 < sum(r[name].value for r in results) / repeats < 1


def test_a_dropped_mode_lowers_recall_and_coverage_only() -> None:
    centres = torch.tensor([[-10.0, 0.0], [10.0, 0.0]], dtype=torch.float64)
    labels = torch.arange(400) % 2
    b = normal(400, 2) + centres[labels]
    a = normal(400, 2, seed=1) + centres[0]
    e = manifold_metrics(a, b)
    assert e["precision"].value > 0.95
    assert 0.9 < e["density"].value < 1.1
    assert 0.45 < e["recall"].value <= 0.5
    assert 0.45 < e["coverage"].value <= 0.5


def test_precision_and_recall_swap_with_the_sets() -> None:
    a, b = 0.3 * normal(200, 2), normal(200, 2, seed=1)
    forward, backward = values(precision_recall(a, b)), values(precision_recall(b, a))
    assert forward == {"precision": backward["recall"], "recall": backward["precision"]}
    assert forward["precision"] > 0.95 > 0.6 > forward["recall"]


def test_invariance_to_order_and_common_rotation() -> None:
    a, b = normal(60, 4) + 0.5, normal(60, 4, seed=1)
    rotation = torch.linalg.qr(normal(4, 4, seed=2)).Q
    expected = values(manifold_metrics(a, b))
    assert values(manifold_metrics(a.flip(0), b.roll(9, 0))) == pytest.approx(expected)
    assert manifold_metrics(a @ rotation, b @ rotation) == manifold_metrics(a, b)
    assert values(manifold_metrics(a, b, seed=7)) == pytest.approx(expected)


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (1.0, 1.2)])
def test_error_bars_are_never_small_and_at_most_2_5_times_large(shift: float, scale: float) -> None:
    # The jackknife's mean is at least the variance (Efron-Stein); 50 repeats know their spread to 10 %.
    results = [
        manifold_metrics(normal(200, 3, seed=2 * r) * scale + shift, normal(200, 3, seed=2 * r + 1), seed=r)
        for r in range(50)
    ]
    for name in NAMES:
        spread = torch.tensor([r[name].value for r in results]).std().item()
        reported = torch.tensor([r[name].stderr for r in results]).square().mean().sqrt().item()
        assert 0.8 < reported / spread < 2.5, name


def test_errors() -> None:
    a = normal(30, 2)
    with pytest.raises(ValueError, match="k must be between 1 and 27 for n = 30, got 28"):
        precision_recall(a, a, k=28)
    with pytest.raises(ValueError, match="k must be between 1 and 27 for n = 30, got 0"):
        density_coverage(a, a, k=0)
    with pytest.raises(ValueError, match="need at least 3 samples in each set, got 2"):
        manifold_metrics(a[:2], a[:2], k=1)
    assert len(manifold_metrics(a, a, k=27)) == 4
