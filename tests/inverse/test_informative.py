"""Directions whose noise hides the data count as not measured, each measurement by its own noise."""

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from scoresde.inverse import (
    ALD,
    DDNM,
    DDRM,
    ILVR,
    MCG,
    GaussianNoise,
    MatrixOperator,
    Method,
    NoNoise,
    Problem,
    Projection,
    RePaint,
)
from scoresde.inverse.informative import informative, variances_along
from scoresde.inverse.linear_gaussian import Coefficients
from scoresde.score import GaussianMixtureScore
from scoresde.sde import EDMSDE
from tests.problems import F64, correlated, generator

# One value is measured well, and of the other there is 0.001 in noise of 0.1: 100 times what the data vary by.
OPERATOR = MatrixOperator(torch.tensor([[1.0, 0.0], [0.0, 1e-3]]))
PRIOR = GaussianMixtureScore([1.0], [[0.5, -0.5]], [1.0], EDMSDE(0.002, 40.0))
METHODS: list[Callable[[float | None], Method]] = [
    lambda cutoff: DDRM(cutoff=cutoff),
    lambda cutoff: DDNM(cutoff=cutoff),
    lambda cutoff: RePaint(2, 2, cutoff),
    lambda cutoff: ILVR(cutoff=cutoff),
    lambda cutoff: MCG(cutoff=cutoff),
    lambda cutoff: Projection(cutoff=cutoff),
]


@pytest.mark.parametrize("make", METHODS)
def test_what_noise_hides_is_drawn_as_if_it_were_not_measured(make: Callable[[float | None], Method]) -> None:
    y = torch.tensor([[0.8, 0.1]], dtype=F64).expand(50, 2)
    both = Problem(OPERATOR, GaussianNoise(0.1)).given(y)
    first = Problem(MatrixOperator(torch.tensor([[1.0, 0.0]])), GaussianNoise(0.1)).given(y[:, :1])
    expected, found = (make(1.0).draw(PRIOR, given, 10).x for given in (first, both))
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)  # the gradient of MCG has it all
    published = make(None).draw(PRIOR, both, 10).x
    # RePaint leaves alone what has more noise than the state in any case.
    assert float((published - expected)[:, 1].abs().mean()) > 0.1 or isinstance(make(None), RePaint)


def test_every_direction_is_judged_by_the_variance_of_the_data_along_it() -> None:
    prior = correlated(EDMSDE())
    assert prior.statistics is not None
    matrix = torch.randn(3, 6, generator=generator(), dtype=F64)
    given = Problem(MatrixOperator(matrix), GaussianNoise(0.5)).given(torch.zeros(1, 3, dtype=F64))
    known = Coefficients(given)
    right = torch.linalg.svd(matrix).Vh[:3]
    found = variances_along(known.basis, prior, given)
    torch.testing.assert_close(found, (right @ prior.statistics.covariance @ right.T).diagonal())
    limit = float((known.deviation[0] / found.sqrt()).sort().values[1]) * 1.001
    kept = Coefficients(informative(given, prior, limit))
    one = torch.ones(1, 3, dtype=F64)
    moved = kept.basis.to_right(kept.basis.from_right(one))[0]
    torch.testing.assert_close(moved, (known.deviation[0] <= limit * found.sqrt()).double())
    assert int(moved.round().sum()) == 2


class TwoNoises(GaussianNoise):
    """A standard deviation for each measurement."""

    def variance(self, y: Tensor) -> Tensor:
        return torch.tensor([[0.01], [1e6]], dtype=F64)[: len(y)]


def test_each_measurement_has_its_own_directions() -> None:
    given = Problem(MatrixOperator(torch.eye(2)), TwoNoises(0.1)).given(torch.zeros(2, 2, dtype=F64))
    values = informative(given, PRIOR, 1.0).operator.singular_values  # type: ignore[attr-defined]
    assert values.from_right(torch.ones(2, 2)).abs().tolist() == [[1.0, 1.0], [0.0, 0.0]]


def test_without_noise_nothing_is_left_out() -> None:
    given = Problem(OPERATOR, NoNoise()).given(torch.zeros(1, 2))
    assert informative(given, PRIOR, 1.0) is given


def test_the_pull_of_ald_has_the_length_that_is_asked_for() -> None:
    given = Problem(MatrixOperator(30 * torch.eye(2)), GaussianNoise(0.1)).given(torch.tensor([[3.0, 1.0]]))
    t, x = torch.tensor(0.5), torch.tensor([[1.0, -2.0]], dtype=F64)
    score = PRIOR.score(x, t)
    pulls = {r: ALD(relative=r).posterior(PRIOR, given).score(x, t) - score for r in (None, 5.0)}
    assert float(pulls[5.0].norm()) == pytest.approx(5 * float(score.norm()), rel=1e-6)
    torch.testing.assert_close(pulls[5.0] / pulls[5.0].norm(), pulls[None] / pulls[None].norm())
    assert bool(ALD(relative=5.0).draw(PRIOR, given, 60).x.isfinite().all())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DDRM(cutoff=0.0), "cutoff is 0.0, expected a positive number"),
        (lambda: ILVR(cutoff=-1.0), "cutoff is -1.0, expected a positive number"),
        (lambda: ALD(relative=0.0), "relative is 0.0, expected a positive number"),
    ],
)
def test_bad_settings_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make()
