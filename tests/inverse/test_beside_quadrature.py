"""Methods beside posteriors by quadrature in the plane: operators that are not linear, and Poisson noise."""

import math

import pytest
import torch
from torch import Tensor

from scoresde.inverse import (
    DPS,
    MMPS,
    TDS,
    Clipping,
    GaussianNoise,
    Mask,
    Method,
    PhaseRetrieval,
    PnPDM,
    PoissonNoise,
    Problem,
    restore,
)
from scoresde.metrics import sliced_wasserstein
from scoresde.score import GaussianMixtureScore
from scoresde.sde import EDMSDE
from tests.problems import F64, generator

SDE = EDMSDE(0.002, 20.0)
THREE = GaussianMixtureScore([0.5, 0.3, 0.2], [[-1.0, 0.0], [0.8, 0.6], [0.5, -1.0]], [0.15, 0.1, 0.05], SDE)
EVEN = GaussianMixtureScore([1.0] * 4, [[1.0, 0.3], [-1.0, -0.3], [0.4, 1.2], [-0.4, -1.2]], [0.05] * 4, SDE)
LIGHT = GaussianMixtureScore([0.5, 0.3, 0.2], [[2.0, 3.0], [4.0, 2.0], [5.0, 5.0]], [0.3, 0.2, 0.4], SDE)
CLIPPED = Problem(Clipping((2,), -0.5, 0.5, 1.0), GaussianNoise(0.1)), torch.tensor([[0.5, 0.45]], dtype=F64)
COUNTED = Problem(Mask(torch.tensor([True, True])), PoissonNoise(3.0)), torch.tensor([[4.0, 3.0]], dtype=F64)
MODULI = PhaseRetrieval((2,), 2.0)
TURNED = Problem(MODULI, GaussianNoise(0.1)), MODULI(torch.tensor([[1.1, 0.2]], dtype=F64))
COUNT = 400


class Grid:
    """The posterior on a grid: its mean, its standard deviations, and draws."""

    def __init__(self, prior: GaussianMixtureScore, problem: Problem, y: Tensor, low: float, high: float) -> None:
        axis = torch.linspace(low, high, 601, dtype=F64)
        self.points, self.step = torch.cartesian_prod(axis, axis), float(axis[1] - axis[0])
        given = problem.given(y).rows(torch.zeros(len(self.points), dtype=torch.long))
        density = prior.log_prob(self.points, 0.0) + given.log_likelihood(self.points)
        self.log_evidence = float(density.logsumexp(0)) + 2 * math.log(self.step)
        self.weights = density.softmax(0)
        self.mean = self.weights @ self.points
        self.std = (self.weights @ (self.points - self.mean).square()).sqrt()

    def draw(self, n: int, seed: int) -> Tensor:
        source = generator(seed)
        chosen = torch.multinomial(self.weights, n, replacement=True, generator=source)
        return self.points[chosen] + self.step * (torch.rand(n, 2, generator=source, dtype=F64) - 0.5)


def drawn(prior: GaussianMixtureScore, problem: Problem, y: Tensor, method: Method, steps: int) -> Tensor:
    return restore(prior, problem.given(y), method, samples=COUNT, steps=steps, seed=5).x[0]


def assert_moments(x: Tensor, exact: Grid, slack: float) -> None:
    """Means and deviations are within four standard errors, and a share of the deviation for the steps of the SDE."""
    assert bool(((x.mean(0) - exact.mean).abs() < exact.std * (4 / COUNT**0.5 + slack)).all())
    assert bool(((x.std(0) - exact.std).abs() < exact.std * (4 / (2 * COUNT) ** 0.5 + slack)).all())


@pytest.mark.parametrize(("prior", "case", "ends"), [(THREE, CLIPPED, (-4, 4)), (LIGHT, COUNTED, (0.02, 9))])
def test_split_gibbs_has_the_moments_of_the_posterior(
    prior: GaussianMixtureScore, case: tuple[Problem, Tensor], ends: tuple[float, float]
) -> None:
    exact = Grid(prior, *case, *ends)
    rho = 0.1 if prior is THREE else 0.3
    assert_moments(drawn(prior, *case, PnPDM(rho, prior_steps=20), 60), exact, 0.03)


def test_the_field_of_dps_comes_near_the_posterior_of_what_was_clipped() -> None:
    exact = Grid(THREE, *CLIPPED, -4, 4)
    reference = exact.draw(COUNT, 1)
    x = drawn(THREE, *CLIPPED, DPS(None), 400)
    unmeasured = THREE.sample(COUNT, 0.0, generator(3))
    far, near = (sliced_wasserstein(each, reference).value for each in (unmeasured, x))
    assert near < 0.15 * far
    # The first number was beyond the range: nothing holds it near the largest value that is measured.
    assert float((x[:, 0] > 0.5 - 3 * 0.1).double().mean()) > 0.99
    assert float((x[:, 0] > 0.8).double().mean()) > 0.4


@pytest.mark.parametrize(("prior", "case"), [(THREE, CLIPPED), (EVEN, TURNED)], ids=["clip", "phase"])
def test_tds_has_evidence_and_moments_with_few_particles(
    prior: GaussianMixtureScore, case: tuple[Problem, Tensor]
) -> None:
    """With the published twist of the denoised mean the mean weight of as many particles is a thousandth of it."""
    exact, groups = Grid(prior, *case, -4, 4), 200
    given = case[0].given(case[1].repeat(groups, 1))
    ratios = {}
    for twist in (None, "mean"):
        found = TDS(16, twist=twist).swarms(prior, given, 60, seed=3)  # type: ignore[arg-type]
        ratios[twist] = float((found.log_normalisers - exact.log_evidence).exp().mean())
        if twist is None:
            weights, x = found.log_weights.softmax(0), found.x
    assert 0.85 < ratios[None] < 1.1
    assert ratios["mean"] < 0.02
    mean = weights @ x
    std = (weights @ (x - mean).square()).sqrt()
    assert bool(((mean - exact.mean).abs() < 0.15 * exact.std).all())
    assert bool(((std / exact.std - 1).abs() < 0.08).all())


def test_dps_returns_both_signs_where_phases_are_lost() -> None:
    """Prior and measurement know no sign: both are as likely, and each sample has the moduli that were measured."""
    problem, y = TURNED
    operator = problem.operator
    x = drawn(EVEN, problem, y, DPS(0.1), 400)
    share = float((x.sum(1) > 0).double().mean())
    assert abs(share - 0.5) < 4 * 0.5 / COUNT**0.5
    residual = (operator(x) - y).square().mean().sqrt()
    unmeasured = (operator(EVEN.sample(COUNT, 0.0, generator(3))) - y).square().mean().sqrt()
    assert float(residual) < 0.1
    assert float(unmeasured) > 0.15
    # The smaller and the larger of the two, in either order.
    size = x.abs().sort(1).values
    torch.testing.assert_close(size.mean(0), torch.tensor([0.2, 1.1], dtype=F64), rtol=0, atol=0.1)


def test_mmps_takes_counts_by_their_variance() -> None:
    """The variance is of the counts, not of the rate: near the posterior, and off by what that leaves."""
    exact = Grid(LIGHT, *COUNTED, 0.02, 9)
    reference = exact.draw(COUNT, 1)
    near = sliced_wasserstein(drawn(LIGHT, *COUNTED, MMPS(), 100), reference).value
    far = sliced_wasserstein(LIGHT.sample(COUNT, 0.0, generator(3)), reference).value
    assert near < 0.5 * far
    bright = Problem(COUNTED[0].operator, PoissonNoise(1000.0))
    x = drawn(LIGHT, bright, COUNTED[1], MMPS(), 100)
    assert_moments(x, Grid(LIGHT, bright, COUNTED[1], 2.0, 5.0), 0.05)
