"""Moment matching is exact for normal data, and its products with the Jacobian are what they are said to be."""

import pytest
import torch

from scoresde.data.affine import Standardise
from scoresde.inverse import (
    MMPS,
    ExactPosterior,
    GaussianNoise,
    MatrixOperator,
    NoNoise,
    PiGDM,
    Problem,
    WholeGradient,
    restore,
)
from scoresde.inverse.method import FieldMethod
from scoresde.score import GaussianMixtureScore
from scoresde.sde import EDMSDE, SDE, VPSDE
from tests.problems import F64, generator

DIM = 6
MATRIX = torch.randn(3, DIM, generator=generator(2), dtype=F64)


def normal(sde: SDE, isotropic: bool = False) -> GaussianMixtureScore:
    factor = torch.randn(DIM, DIM, generator=generator(1), dtype=F64)
    covariance = 0.4 * torch.eye(DIM, dtype=F64) if isotropic else factor @ factor.T / DIM + 0.05 * torch.eye(DIM)
    return GaussianMixtureScore([1.0], torch.ones(1, DIM, dtype=F64), covariance[None], sde)


# One preconditioned step, or as many as there are measurements.
EXACT = [
    (MMPS(), False),
    (MMPS(3, precondition=False), False),
    (MMPS(3, symmetrise=True), False),
    (PiGDM(), True),
    (WholeGradient(), False),
]


@pytest.mark.parametrize(("method", "isotropic"), EXACT, ids=str)
@pytest.mark.parametrize("std", [1e-3, 0.1, 2.0])
@pytest.mark.parametrize("sde", [EDMSDE(), VPSDE()], ids=repr)
def test_the_score_of_a_posterior_of_normal_data_is_exact(
    method: FieldMethod, isotropic: bool, std: float, sde: SDE
) -> None:
    prior = normal(sde, isotropic)
    problem = Problem(MatrixOperator(MATRIX), GaussianNoise(std))
    y = problem.measure(prior.sample(1, 0.0, generator()))
    exact, model = ExactPosterior(prior, problem).given(y.y[0]), method.posterior(prior, y)
    for t in torch.linspace(sde.t_min, sde.t_max, 9, dtype=F64):
        x = exact.sample(20, t, generator(3))
        expected = exact.score(x, t)
        assert (model.score(x, t) - expected).norm() < 1e-6 * expected.norm()


@pytest.mark.parametrize("method", [MMPS(), MMPS(3, precondition=False)], ids=repr)
def test_it_is_so_in_units_of_the_data(method: FieldMethod) -> None:
    """Of the prior z of model space and data x = 2 z − 1."""
    prior = normal(EDMSDE())
    prior.transform = Standardise(-1.0, 2.0)
    inner = Problem(MatrixOperator(2 * MATRIX), GaussianNoise(0.1)).given(torch.randn(1, 3, dtype=F64))
    outer = Problem(MatrixOperator(MATRIX), GaussianNoise(0.1)).given(inner.y - MATRIX.sum(1))
    exact = ExactPosterior(normal(EDMSDE()), inner.problem).given(inner.y[0])
    x, t = exact.sample(20, 1.0, generator(3)), torch.tensor(1.0)
    torch.testing.assert_close(method.posterior(prior, outer).score(x, t), exact.score(x, t), rtol=1e-6, atol=1e-6)


def test_each_sample_has_its_own_measurement() -> None:
    prior = normal(EDMSDE())
    problem = Problem(MatrixOperator(MATRIX), GaussianNoise(0.1))
    y = problem.measure(prior.sample(4, 0.0, generator()))
    x, t = torch.randn(4, DIM, generator=generator(3), dtype=F64), torch.tensor(0.7)
    found = MMPS().posterior(prior, y).score(x, t)
    exact = ExactPosterior(prior, problem)
    for i in range(4):
        torch.testing.assert_close(found[i], exact.given(y.y[i]).score(x[i : i + 1], t)[0])


@pytest.mark.parametrize("noise", [GaussianNoise(0.1), NoNoise()], ids=repr)
def test_samples_have_the_moments_of_the_posterior(noise: GaussianNoise) -> None:
    prior = normal(EDMSDE())
    problem = Problem(MatrixOperator(MATRIX), noise)
    y = problem.measure(prior.sample(1, 0.0, generator()))
    exact = ExactPosterior(prior, problem).given(y.y[0]).statistics
    assert exact is not None
    assert exact.covariance is not None
    x = restore(prior, y, MMPS(), samples=4000, steps=40).x[0]
    torch.testing.assert_close(x.mean(0), exact.mean, rtol=0, atol=0.04)
    torch.testing.assert_close(x.T.cov(), exact.covariance, rtol=0, atol=0.06)
