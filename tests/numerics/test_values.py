import math
from typing import Any

import numpy as np
import pytest
import torch

from scoresde.numerics import values
from scoresde.numerics.values import (
    at_least,
    described,
    expand_to,
    fraction,
    not_negative,
    one_of,
    positive,
    whole_number,
)

NAN = math.nan


class Named:
    def __init__(self, **values: Any) -> None:
        vars(self).update(values)


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (lambda: described(Named(order=2, tau=0.1, _plan=None)), "Named(order=2, tau=0.1)"),
        (lambda: described(Named()), "Named()"),
        (lambda: described(Named(a=1, b="x"), "b"), "Named(b='x')"),
        (lambda: described(Named(a=None, b=2.0), without_none=True), "Named(b=2.0)"),
        (lambda: described(Named(a=20.0, b=1 / 3, n=1_000_000), digits=6), "Named(a=20, b=0.333333, n=1000000)"),
    ],
)
def test_objects_are_described_by_their_values(made: Any, text: str) -> None:
    assert made() == text


class Setting(values.Value):
    def __init__(self, std: Any, times: Any = None) -> None:
        self.std, self.times = std, times


def test_values_are_equal_by_their_attributes() -> None:
    assert Setting(0.5) == Setting(0.5)
    assert hash(Setting(1)) == hash(Setting(1.0))
    assert Setting(1) == Setting(1.0)
    assert Setting(0.5) != Setting(0.5 + 1e-16 * 2)
    assert Setting(0.5) != Named(std=0.5, times=None)
    assert Setting(1, [0.1, 0.2]) != Setting(1, [0.1, 0.3])


def test_values_with_tensors_are_equal_element_by_element() -> None:
    # Neither the digits nor the elements that a tensor's text leaves out are left out here.
    near = torch.ones(3, dtype=torch.float64)
    assert Setting(1, near) == Setting(1, near.clone())
    assert Setting(1, near) != Setting(1, near + 1e-12)
    long = torch.zeros(5000)
    other = long.clone()
    other[2500] = 1
    assert Setting(1, [long]) != Setting(1, [other])
    assert hash(Setting(1, [long])) == hash(Setting(1, [long.clone()]))
    assert Setting(1, np.ones(2)) != Setting(1, np.ones(3))


def test_a_description_reads_back_as_the_same_numbers() -> None:
    x = 0.1 + 0.2
    assert eval(described(Named(x=x)), {"Named": Named}).x == x


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (lambda: whole_number("n", 0), "n is 0, expected an integer of at least 1"),
        (lambda: whole_number("n", 1, at_least=2), "n is 1, expected an integer of at least 2"),
        (lambda: whole_number("n", 2.5), "n is 2.5, expected an integer of at least 1"),
        (lambda: whole_number("n", True), "n is True, expected an integer of at least 1"),
        (lambda: whole_number("n", "3"), "n is '3', expected an integer of at least 1"),
        (lambda: whole_number("n", NAN), "n is nan, expected an integer of at least 1"),
        (lambda: at_least("probes", 0, 1), "probes is 0, expected at least 1"),
        (lambda: at_least("steps", 0, 1, "; use NoCorrector for none"), "steps is 0, .* 1; use NoCorrector for none"),
        (lambda: at_least("power", NAN, 1), "power is nan, expected at least 1"),
        (lambda: positive("snr", 0), "snr is 0, expected a positive number"),
        (lambda: positive("snr", NAN), "snr is nan, expected a positive number"),
        (lambda: positive("snr", math.inf), "snr is inf, expected a positive number"),
        (lambda: positive("tol", -1.0, "a positive number of nats"), "tol is -1.0, expected a positive number of nats"),
        (lambda: positive("tol", -math.inf, finite=False), "tol is -inf, expected a positive number"),
        (lambda: not_negative("tau", -0.5), "tau is -0.5, expected 0 or more"),
        (lambda: not_negative("tau", math.inf), "tau is inf, expected 0 or more"),
        (lambda: not_negative("tau", NAN, finite=False), "tau is nan, expected 0 or more"),
        (lambda: fraction("safety", 0), "safety is 0, expected more than 0 and at most 1"),
        (lambda: fraction("safety", 1.01), "safety is 1.01, expected more than 0 and at most 1"),
        (lambda: fraction("safety", NAN), "safety is nan, expected more than 0 and at most 1"),
        (
            lambda: one_of("mode", "up", ("auto", "reverse", "forward")),
            "mode is 'up', expected 'auto', 'reverse' or 'f",
        ),
        (lambda: one_of("mode", "up", ("auto",)), "mode is 'up', expected 'auto'$"),
    ],
)
def test_values_out_of_range_are_named(check: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        check()


def test_values_in_range_pass() -> None:
    for value in (1, 3.0, np.int64(7)):
        assert whole_number("n", value) == value
        assert type(whole_number("n", value)) is int
    at_least("n", 1, 1)
    positive("x", 1e-300)
    positive("x", math.inf, finite=False)
    not_negative("x", 0)
    not_negative("x", math.inf, finite=False)
    fraction("x", 1)
    one_of("x", 2, (1, 2))


def test_coefficients_are_shaped_for_the_batch() -> None:
    x = torch.zeros(3, 2, 4)
    assert expand_to(torch.ones(3, dtype=torch.float64), x).shape == (3, 1, 1)
    assert expand_to(torch.ones(3, dtype=torch.float64), x).dtype == torch.float32
    assert expand_to(torch.tensor(2.0, dtype=torch.float64), x).shape == ()
    with pytest.raises(ValueError, match=r"t has shape \(2,\), expected \(\) or \(3,\) for x of shape \(3, 2, 4\)"):
        expand_to(torch.ones(2), x)


def test_public_names_exist() -> None:
    assert all(hasattr(values, name) for name in values.__all__)
