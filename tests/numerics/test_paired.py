"""Paired differences against closed forms, and the sign test against SciPy's binomial test."""

import math

import pytest
import torch
from scipy.stats import binomtest

from scoresde.numerics.means import mean_and_error, shared_error
from scoresde.numerics.paired import PairedDifference, sign_test
from tests.problems import F64, generator


@pytest.mark.parametrize(("more", "less"), [(1, 0), (3, 3), (9, 2), (2, 9), (60, 41), (700, 500), (41_000, 40_300)])
def test_the_sign_test_is_the_exact_binomial_test(more: int, less: int) -> None:
    assert sign_test(more, less) == pytest.approx(binomtest(more, more + less).pvalue, rel=1e-8)


def test_a_difference_by_hand() -> None:
    difference = PairedDifference.of([1.0, 2.0, 3.0, 4.0], [1.5, 2.5, 3.0, 3.0])
    assert difference.values.tolist() == [0.5, 0.5, 0.0, -1.0]
    assert (difference.mean, difference.total) == (0.0, 0.0)
    assert difference.stderr == pytest.approx(math.sqrt(0.5 / 4))  # (0.25 + 0.25 + 1) / 3
    assert difference.total_stderr == pytest.approx(4 * difference.stderr)
    assert (difference.more, difference.less, difference.ties) == (2, 1, 1)
    assert difference.p_value == 1.0  # 2 of 3
    # Variances of 1, 2, 3, 4 and of 1.5, 2.5, 3, 3.
    assert difference.unpaired_stderr == pytest.approx(math.sqrt((5 / 3 + 1.5 / 3) / 4))
    assert difference.gain == pytest.approx(math.sqrt((5 / 3 + 1.5 / 3) / 0.5))


def test_the_error_is_that_of_what_differs() -> None:
    """x + e and x + f differ by f − e, whatever the scatter of x is: of 400 means, 95 % lie within two errors."""
    g = generator()
    common = 10 * torch.randn(400, 50, generator=g, dtype=F64)
    e, f = torch.randn(2, 400, 50, generator=g, dtype=F64)
    pairs = [PairedDifference(x + a, x + 2 * b + 0.3) for x, a, b in zip(common, e, f, strict=True)]
    inside = [abs(p.mean - 0.3) < 2 * p.stderr for p in pairs]
    assert 0.92 < sum(inside) / len(inside) < 0.98
    assert pairs[0].stderr == pytest.approx(math.sqrt(5 / 50), rel=0.3)
    assert pairs[0].unpaired_stderr > 5 * pairs[0].stderr


def test_an_error_that_samples_share_does_not_fall_with_their_number() -> None:
    """As for errors with a correlation of 0.2: √0.2 of their mean is left however many there are."""
    values, errors = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([0.1, 0.3, math.nan, 0.2])
    draws = torch.randn(4, 200_000, dtype=F64, generator=torch.Generator().manual_seed(4))
    correlated = math.sqrt(0.2) * draws[:1] + math.sqrt(0.8) * draws[1:]
    wanted = (torch.tensor([0.1, 0.3, 0.2])[:, None] * correlated).mean(0).std().item()
    assert shared_error(errors) == pytest.approx(wanted, rel=0.01)
    assert shared_error(torch.full((10_000,), 0.3)) == pytest.approx(math.sqrt(0.2) * 0.3, rel=1e-3)
    assert shared_error(torch.full((2,), math.nan)) == 0.0
    mean, error = mean_and_error(values, errors)
    assert (mean, error) == (2.5, pytest.approx(math.hypot(math.sqrt(5 / 3 / 4), shared_error(errors))))
    assert math.isnan(mean_and_error(values[:1], errors[:1])[1])


def test_what_lies_within_a_shared_error_is_no_difference() -> None:
    first, second = [2.0, 3.0, 4.0], [2.1, 3.2, 4.3]  # 0.200 ± 0.058
    found = PairedDifference.of(first, second, shared=0.09)
    assert found.stderr == PairedDifference.of(first, second).stderr
    assert not found.apart
    words = "A and B cannot be told apart: they differ by 0.200 ± 0.058 u, and their solvers may err by 0.09"
    assert found.verdict("A", "B", "u", True) == words
    assert PairedDifference.of(first, second, shared=0.08).apart


def test_the_same_values_are_ties() -> None:
    difference = PairedDifference.of([1.0, 2.0], [1.0, 2.0])
    assert (difference.ties, difference.p_value, difference.stderr) == (2, 1.0, 0.0)
    assert not difference.apart
    assert difference.gain is None
    assert difference.verdict("A", "B", "nats", False) == "A and B cannot be told apart: they differ by 0 nats"


@pytest.mark.parametrize(
    ("second", "lower_is_better", "verdict"),
    [
        ([2.1, 3.2, 4.0], True, "A and B cannot be told apart: they differ by 0.100 ± 0.058 u"),
        ([2.1, 3.2, 4.3], True, "A is better than B by 0.200 ± 0.058 u"),
        ([2.1, 3.2, 4.3], False, "B is better than A by 0.200 ± 0.058 u"),
        ([1.9, 2.8, 3.7], True, "B is better than A by 0.200 ± 0.058 u"),
    ],
)
def test_the_verdict_knows_the_direction(second: list[float], lower_is_better: bool, verdict: str) -> None:
    difference = PairedDifference.of([2.0, 3.0, 4.0], second)
    assert difference.verdict("A", "B", "u", lower_is_better) == verdict


def test_one_sample_has_no_error() -> None:
    difference = PairedDifference.of([1.0], [1.5])
    assert math.isnan(difference.stderr)
    assert difference.gain is None
    assert difference.verdict("A", "B", "nats", False).startswith("A and B cannot be told apart: they differ by 0.5")


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ([1.0], [1.0, 2.0], r"shapes \(1,\) and \(2,\)"),
        ([], [], "expected"),
        ([1.0, math.nan], [1.0, 2.0], "not all finite"),
    ],
)
def test_what_is_no_pair_is_refused(first: list[float], second: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PairedDifference.of(first, second)
