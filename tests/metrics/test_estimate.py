import math
from collections.abc import Callable

import pytest

from scoresde.metrics import Estimate


@pytest.mark.parametrize(
    ("value", "stderr", "text"),
    [
        (0.1234, 0.0041, "0.123 ± 0.004"),
        (0.1234, 0.0013, "0.1234 ± 0.0013"),
        (0.2, 0.00996, "0.200 ± 0.010"),
        (1234.4, 56.0, "1234 ± 56"),
        (0.0, 0.02, "0.00 ± 0.02"),
        (-1.234e-7, 3e-8, "(-1.2 ± 0.3)e-07"),
        (0.5, 0.0, "0.5 ± 0"),
        (math.nan, 1.0, "nan ± 1"),
    ],
)
def test_prints_value_to_the_digits_of_its_error(value: float, stderr: float, text: str) -> None:
    assert str(Estimate(value, stderr, 1000, "metric")) == f"{text} (n = 1000)"


def test_format_pads_like_a_string() -> None:
    assert f"{Estimate(1.0, 0.3, 9, 'm'):>22}" == "     1.0 ± 0.3 (n = 9)"


def test_difference_adds_errors_in_quadrature() -> None:
    difference = Estimate(5.0, 0.3, 10, "metric") - Estimate(4.0, 0.4, 10, "metric")
    assert (difference.value, difference.n, difference.name) == (1.0, 10, "metric difference")
    assert difference.stderr == pytest.approx(0.5)


def test_compare_is_in_standard_errors() -> None:
    a, b = Estimate(5.0, 0.3, 10, "metric"), Estimate(4.0, 0.4, 10, "metric")
    assert a.compare(b) == pytest.approx(2.0)
    assert b.compare(a) == pytest.approx(-2.0)
    exact = Estimate(1.0, 0.0, 10, "metric")
    assert exact.compare(exact) == 0.0
    assert exact.compare(Estimate(2.0, 0.0, 10, "metric")) == -math.inf


def test_order_is_by_value() -> None:
    a, b = Estimate(1.0, 9.0, 10, "metric"), Estimate(2.0, 0.1, 10, "metric")
    assert a < b
    assert b > a
    assert a <= b
    assert b >= a
    assert max(a, b) is b


@pytest.mark.parametrize(
    "operation", [lambda a, b: a - b, lambda a, b: a < b, lambda a, b: a >= b, lambda a, b: a.compare(b)]
)
def test_other_sample_size_or_metric_is_refused(operation: Callable[[Estimate, Estimate], object]) -> None:
    a = Estimate(1.0, 0.1, 100, "frechet_distance")
    with pytest.raises(ValueError, match=r"frechet_distance at n = .*00 with n = .*00: the bias depends on n"):
        operation(a, Estimate(1.0, 0.1, 200, "frechet_distance"))
    with pytest.raises(ValueError, match=r"cannot compare .*: estimates must be of one metric"):
        operation(a, Estimate(1.0, 0.1, 100, "recall"))
