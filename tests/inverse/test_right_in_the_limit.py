"""TDS and PnP-DM leave the laws that their docstrings say, on a Gaussian, whose posterior is known in closed form."""

import math

import pytest
import torch
from torch import Tensor

from scoresde.inverse import (
    TDS,
    GaussianNoise,
    Mask,
    MatrixOperator,
    Measurement,
    Operator,
    PnPDM,
    PoissonNoise,
    Problem,
    restore,
)
from scoresde.inverse.langevin import NearPoint
from scoresde.score import GaussianMixtureScore
from scoresde.sde import EDMSDE
from tests.problems import F64, correlated, generator, ring

MEAN, VARIANCE = 0.5, 0.8
MODEL = GaussianMixtureScore([1.0], [[MEAN, -MEAN]], [VARIANCE], EDMSDE(0.002, 40.0))
FIRST = Mask(torch.tensor([True, False]))


def measured(y: float, std: float) -> Measurement:
    return Problem(FIRST, GaussianNoise(std)).given(torch.tensor([[y]], dtype=F64))


def posterior(y: float, variance: float) -> tuple[float, float]:
    """Mean and standard deviation of the first number given y with noise of this variance."""
    gain = VARIANCE / (VARIANCE + variance)
    return MEAN + gain * (y - MEAN), math.sqrt(VARIANCE * (1 - gain))


def moments(x: Tensor) -> list[float]:
    return [float(x[:, 0].mean()), float(x[:, 0].std()), float(x[:, 1].mean()), float(x[:, 1].std())]


# With ρ above σ_y, and where noise is taken off for it, below.
@pytest.mark.parametrize(("rho", "unbiased", "variance"), [(0.6, False, 0.4**2 + 0.6**2), (0.4, True, 0.4**2)])
def test_split_gibbs_leaves_its_stationary_law(rho: float, unbiased: bool, variance: float) -> None:
    count, method = 4000, PnPDM(rho, annealed=0.3, prior_steps=20, unbiased=unbiased)
    x = restore(MODEL, measured(2.0, 0.4), method, samples=count, steps=20).x[0]
    mean, std = posterior(2.0, variance)
    error = [std / count**0.5, std / (2 * count) ** 0.5, (VARIANCE / count) ** 0.5, (VARIANCE / count / 2) ** 0.5]
    for found, expected, e in zip(moments(x), [mean, std, -MEAN, math.sqrt(VARIANCE)], error, strict=True):
        assert abs(found - expected) < 4 * e + 0.01 * math.sqrt(VARIANCE)  # the last for the steps of the SDE


class First(Operator):
    """The first number, by an operator that is not known to be linear."""

    def measure(self, x: Tensor) -> Tensor:
        return x[:, :1]


def test_split_gibbs_by_langevin_dynamics_is_that_by_exact_draws() -> None:
    count, (mean, std) = 800, posterior(2.0, 0.4**2 + 0.5**2)
    given = Problem(First((2,), (1,)), GaussianNoise(0.4)).given(torch.tensor([[2.0]], dtype=F64))
    method = PnPDM(0.5, prior_steps=15, langevin_steps=12, unbiased=False)
    found = moments(restore(MODEL, given, method, samples=count, steps=12).x[0])
    assert abs(found[0] - mean) < 4 * std / count**0.5 + 0.01
    assert abs(found[1] - std) < 4 * std / (2 * count) ** 0.5 + 0.01


def test_langevin_dynamics_keep_a_law_that_is_no_gaussian() -> None:
    """A count of 3 of a rate x, near 2: the moments by quadrature."""
    problem = Problem(Mask(torch.tensor([True])), PoissonNoise(1.0))
    count, spread = 4000, 1.5
    given = problem.given(torch.full((count, 1), 3.0, dtype=F64))
    z, source = torch.full((count, 1), 2.0, dtype=F64), generator()
    noise = lambda *_: torch.randn(count, 1, generator=source, dtype=F64)  # noqa: E731
    x = NearPoint(given, 60, 0.1).draw(z, z, spread, noise)
    axis = torch.linspace(1e-3, 14, 4001, dtype=F64)[:, None]
    log = problem.given(torch.full((4001, 1), 3.0, dtype=F64)).log_likelihood(axis)
    weights = (log - (axis[:, 0] - 2).square() / (2 * spread**2)).softmax(0)
    mean = float(weights @ axis[:, 0])
    std = float(weights @ (axis[:, 0] - mean).square()) ** 0.5
    assert abs(float(x.mean()) - mean) < 4 * std / count**0.5
    assert abs(float(x.std()) - std) < 0.06 * std


def test_the_evidence_of_tds_has_no_bias() -> None:
    y, std, groups = 2.0, 0.4, 400
    given = measured(y, std).rows(torch.zeros(groups, dtype=torch.long))
    exact = torch.distributions.Normal(MEAN, math.sqrt(VARIANCE + std**2)).log_prob(torch.tensor(y)).double()
    spreads = []
    for twist in ("gaussian", "mean"):
        ratios = (TDS(8, twist).swarms(MODEL, given, 100, seed=1).log_normalisers - exact).exp()  # type: ignore[arg-type]
        spreads.append(float(ratios.std()))
        assert abs(float(ratios.mean()) - 1) < 4 * spreads[-1] / groups**0.5
    # Of a Gaussian the first is exact, so that nothing is left but what the steps err by.
    assert spreads[0] < 0.3 * spreads[1]


def test_tds_comes_to_the_posterior_as_particles_grow() -> None:
    """On a ring, where the twist is wrong, the mean of a nonlinear function comes to that of Bayes' rule."""
    model = ring(EDMSDE(0.002, 20.0))
    given = Problem(FIRST, GaussianNoise(0.1)).given(torch.tensor([[0.7]], dtype=F64))
    axis = torch.linspace(-2, 2, 401, dtype=F64)
    points = torch.cartesian_prod(axis, axis)
    many = given.rows(torch.zeros(len(points), dtype=torch.long))
    weights = (model.log_prob(points, 0.0) + many.log_likelihood(points)).softmax(0)
    exact = float(weights @ (points[:, 0].square() + points[:, 1].abs()))
    errors = {}
    for particles in (1, 16):
        x = restore(model, given, TDS(particles), samples=600, steps=40, seed=3).x[0]
        values = x[:, 0].square() + x[:, 1].abs()
        errors[particles] = abs(float(values.mean()) - exact)
        spread = float(values.std()) / 600**0.5
    assert errors[16] < 4 * spread
    assert errors[1] > 5 * spread


def test_tds_counts_noise_that_is_not_gaussian_exactly() -> None:
    problem = Problem(FIRST, PoissonNoise(2.0, dark=4.0))
    y = torch.tensor([[2.0]], dtype=F64)
    groups = 400
    swarms = TDS(16).swarms(MODEL, problem.given(y.expand(groups, 1)), 80, seed=1)
    axis = torch.linspace(-6, 7, 2001, dtype=F64)
    law = torch.distributions.Normal(MEAN, math.sqrt(VARIANCE)).log_prob(axis)
    points = torch.stack((axis, 0 * axis), 1)
    likelihood = problem.given(y.expand(len(axis), 1)).log_likelihood(points)
    exact = float((law + likelihood).exp().sum() * (axis[1] - axis[0]))
    ratios = swarms.log_normalisers.exp() / exact
    assert abs(float(ratios.mean()) - 1) < 4 * float(ratios.std()) / groups**0.5


def test_the_twist_of_tds_is_exact_for_normal_data_of_any_covariance() -> None:
    known, matrix = correlated(EDMSDE()).statistics, torch.randn(3, 6, generator=generator(2), dtype=F64)
    assert known is not None
    assert known.covariance is not None
    mean, covariance = known.mean, known.covariance
    model = GaussianMixtureScore([1.0], mean[None], covariance[None], EDMSDE(0.002, 40.0))
    problem = Problem(MatrixOperator(matrix), GaussianNoise(0.3))
    y = problem.measure(model.sample(1, 0.0, generator(3)), seed=0)
    law = torch.distributions.MultivariateNormal(matrix @ mean, matrix @ covariance @ matrix.T + 0.09 * torch.eye(3))
    groups, exact = 100, float(law.log_prob(y.y[0]))
    found, published = (
        TDS(4, twist).swarms(model, y.rows(torch.zeros(groups, dtype=torch.long)), 100, seed=1).log_normalisers
        for twist in (None, "mean")
    )
    ratios = (found - exact).exp()
    assert abs(float(ratios.mean()) - 1) < 4 * float(ratios.std()) / groups**0.5
    assert float(found.std()) < 0.3 * float(published.std())
