"""Shares of modes and classes: known samplers, the expectations of exact samples, and errors by repetition."""

import math

import pytest
import torch
from torch import Tensor

from scoresde.data import digits, grid_gaussians_mixture
from scoresde.metrics import Shares, class_metrics, fit_classifier, mixture_of, mode_metrics, mode_shares, shares_of
from tests.problems import F64

GRID = mixture_of(*grid_gaussians_mixture())
EQUAL = torch.full((25,), 1 / 25, dtype=F64)


def grid_samples(n: int, seed: int, modes: list[int] | None = None, std: float = 0.05) -> Tensor:
    """Samples of some of the modes of the grid, each as likely as the others."""
    draw = torch.Generator().manual_seed(seed)
    chosen = torch.tensor(range(25) if modes is None else modes)
    means = GRID.means[chosen[torch.randint(len(chosen), (n,), generator=draw)]]
    return means + std * torch.randn(n, 2, dtype=F64, generator=draw)


def repeated(p: Tensor, n: int, m: int | None = None, weights: Tensor = EQUAL, repeats: int = 300) -> list[Shares]:
    """Shares of n samples of groups with probabilities p, in each repeat with weights counted in m data if given."""
    draw, out = torch.Generator().manual_seed(1), []
    for _ in range(repeats):
        groups = torch.multinomial(p, n, replacement=True, generator=draw)
        counted = weights
        if m is not None:
            counted = torch.bincount(torch.multinomial(weights, m, True, generator=draw), minlength=len(weights))
        out.append(shares_of(groups, counted, m=m))
    return out


def moments(found: list[Shares], name: str) -> tuple[float, float, float]:
    """Mean and standard deviation of an estimate over repeats, and its mean standard error."""
    values = torch.tensor([[getattr(s, name).value, getattr(s, name).stderr] for s in found], dtype=F64)
    return float(values[:, 0].mean()), float(values[:, 0].std()), float(values[:, 1].mean())


def test_exact_samples_of_the_grid() -> None:
    found, expected, _ = mode_metrics(grid_samples(2000, 0), GRID)
    assert list(found) == ["modes_covered", "modes_misplaced", "modes_imbalance", "high_quality"] == list(expected)
    assert found["modes_covered"].value == expected["modes_covered"] == 1
    assert expected["high_quality"] == pytest.approx(1 - math.exp(-4.5))
    for name in list(found)[1:]:
        assert abs(found[name].value - expected[name]) < 3 * found[name].stderr


@pytest.mark.parametrize("lost", [1, 5, 20])
def test_lost_modes_are_counted(lost: int) -> None:
    """K of 25 modes, equally likely: covered K/25, misplaced 1 − K/25, divergence log(25/K)."""
    kept = 25 - lost
    found, _, shares = mode_metrics(grid_samples(4000, lost, list(range(kept))), GRID)
    assert found["modes_covered"].value == kept / 25
    assert found["modes_misplaced"].value == pytest.approx(lost / 25, abs=3 * found["modes_misplaced"].stderr)
    assert found["modes_imbalance"].value == pytest.approx(math.log(25 / kept), abs=4 * found["modes_imbalance"].stderr)
    assert int((shares.counts == 0).sum()) == lost


def test_a_mode_needs_a_sample_of_high_quality() -> None:
    between = GRID.means[:1] + torch.tensor([[0.0, 0.2]], dtype=F64)  # four standard deviations away
    found = mode_metrics(torch.cat((grid_samples(100, 0, [7]), between.repeat(20, 1))), GRID)[0]
    assert found["modes_covered"].value == 1 / 25
    assert found["high_quality"].value == pytest.approx(100 / 120, abs=0.03)


def test_distances_are_those_of_mahalanobis() -> None:
    """A long mode keeps a sample that is nearer to the mean of a narrow one."""
    covariances = torch.stack((torch.diag(torch.tensor([1.0, 1e-4])), 1e-4 * torch.eye(2)))
    mixture = mixture_of(torch.tensor([0.5, 0.5]), torch.tensor([[0.0, 0.0], [1.0, 0.0]]), covariances)
    assert mode_shares(torch.tensor([[0.7, 0.0], [1.01, 0.0]], dtype=F64), mixture).counts.tolist() == [1, 1]


@pytest.mark.parametrize(("n", "m"), [(40, None), (500, None), (500, 500), (60, 300)])
def test_exact_samples_have_the_expected_numbers(n: int, m: int | None) -> None:
    found, some = repeated(EQUAL, n, m), 1 if m is None else 12
    for name in ("covered", "misplaced"):
        expected = sum(getattr(s, f"{name}_expected") for s in found[:some]) / some
        mean, spread, _ = moments(found, name)
        assert mean == pytest.approx(expected, abs=4 * spread / math.sqrt(len(found)) + 1e-5)


def test_exact_samples_have_no_imbalance() -> None:
    for n, m in ((500, None), (500, 500)):
        mean, spread, _ = moments(repeated(EQUAL, n, m), "imbalance")
        assert abs(mean) < 4 * spread / math.sqrt(300) + 0.002  # of second order in 25/n


@pytest.mark.parametrize(
    ("name", "tilt", "n", "m", "most"),
    [
        ("covered", 1.0, 40, None, 1.25),
        ("covered", 4.0, 60, None, 1.25),
        ("misplaced", 1.0, 500, None, 1.8),
        ("misplaced", 4.0, 1000, None, 1.15),
        ("misplaced", 4.0, 500, 500, 1.45),
        ("imbalance", 1.0, 500, None, 1.8),
        ("imbalance", 4.0, 1000, None, 1.2),
        ("imbalance", 4.0, 500, 500, 1.5),
    ],
)
def test_standard_errors_are_those_of_repeats(name: str, tilt: float, n: int, m: int | None, most: float) -> None:
    """Close where the shares differ from those of the data, and on the large side where nothing but chance is seen."""
    p = torch.linspace(1, tilt, 25, dtype=F64)
    _, spread, stderr = moments(repeated(p / p.sum(), n, m), name)
    assert 0.85 < stderr / spread < most


def test_shares_have_error_bars() -> None:
    p = torch.linspace(1, 4, 25, dtype=F64) / 62.5
    found = repeated(p, 500)
    spread = torch.stack([s.share for s in found]).std(0)
    torch.testing.assert_close(found[0].share_stderr, spread, rtol=0.35, atol=0)


def test_samples_in_groups_without_data_are_infinitely_imbalanced() -> None:
    found = shares_of(torch.tensor([0, 1, 2]), torch.tensor([0.5, 0.5, 0.0]))
    assert found.imbalance.value == math.inf
    assert found.covered.value == 1
    assert found.misplaced.value == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("groups", "weights", "message"),
    [
        (torch.tensor([0, 3]), [1.0, 1.0], r"groups must lie in 0\.\.1, got 0 to 3"),
        (torch.tensor([0.0]), [1.0], r"integers"),
        (torch.tensor([], dtype=torch.long), [1.0], r"N of at least 1"),
        (torch.tensor([0]), [0.0, 0.0], r"weights must be \(K,\)"),
        (torch.tensor([0]), [-1.0, 2.0], r"weights must be \(K,\)"),
    ],
)
def test_shares_reject_what_they_cannot_count(groups: Tensor, weights: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        shares_of(groups, weights)


# ---------------------------------------------------------------- classes


def test_classes_of_digits() -> None:
    """The classifier is good, says so, and sees which classes samples lack."""
    data = digits()
    assert data.train_labels is not None
    assert data.test_labels is not None
    x, y = data.transform.encode(data.train), data.transform.encode(data.test)
    classifier = fit_classifier(x, data.train_labels, y, data.test_labels, 10)
    assert classifier.accuracy.value > 0.98
    assert bool((classifier(y) == fit_classifier(x, data.train_labels, y, data.test_labels, 10)(y)).all())
    found, expected, _ = class_metrics(x[:360], y, classifier)
    assert found["classes_covered"].value == 1
    assert abs(found["classes_misplaced"].value - expected["classes_misplaced"]) < 3 * found["classes_misplaced"].stderr
    without = x[(data.train_labels != 3) & (data.train_labels != 8)][:360]
    found, expected, shares = class_metrics(without, y, classifier)
    assert float(shares.share[[3, 8]].sum()) < 0.02
    assert found["classes_misplaced"].value > expected["classes_misplaced"] + 3 * found["classes_misplaced"].stderr
    assert found["classes_imbalance"].value == pytest.approx(math.log(10 / 8), abs=0.06)


def test_a_classifier_needs_two_classes() -> None:
    x, labels = torch.randn(10, 3), torch.zeros(10, dtype=torch.long)
    with pytest.raises(ValueError, match="all of class 0, expected at least two"):
        fit_classifier(x, labels, x, labels, 2)
