"""The posterior of a mixture agrees with Bayes' rule on a grid."""

import pytest
import torch

from scoresde.inverse import ExactPosterior, GaussianNoise, MatrixOperator, NoNoise, Problem
from scoresde.score import GaussianMixtureScore
from scoresde.sde import EDMSDE
from tests.problems import F64


def mixture() -> GaussianMixtureScore:
    covariances = torch.tensor([[[0.5, 0.2], [0.2, 0.3]], [[0.1, 0.0], [0.0, 0.4]], [[0.2, -0.1], [-0.1, 0.2]]])
    return GaussianMixtureScore([0.2, 0.5, 0.3], [[-1.0, 0.0], [1.0, 0.5], [0.0, -1.0]], covariances, EDMSDE())


@pytest.mark.parametrize("y", [-1.5, 0.3, 2.0])
def test_a_posterior_is_prior_times_likelihood(y: float) -> None:
    prior = mixture()
    problem = Problem(MatrixOperator(torch.tensor([[1.0, 0.7]])), GaussianNoise(0.4))
    measured = torch.tensor([y], dtype=F64)
    posterior = ExactPosterior(prior, problem).given(measured)
    axis = torch.linspace(-6, 6, 601, dtype=F64)
    points = torch.cartesian_prod(axis, axis)
    joint = prior.log_prob(points, 0.0) + problem.given(measured.expand(len(points), 1)).log_likelihood(points)
    evidence = joint.logsumexp(0) + 2 * (axis[1] - axis[0]).log()
    torch.testing.assert_close(posterior.log_prob(points, 0.0).exp(), (joint - evidence).exp(), rtol=0, atol=1e-8)


def test_without_noise_the_measured_value_is_kept() -> None:
    matrix = torch.tensor([[1.0, 0.7]], dtype=F64)
    posterior = ExactPosterior(mixture(), Problem(MatrixOperator(matrix), NoNoise())).given(torch.tensor([0.4]))
    x = posterior.sample(100, 0.0, torch.Generator().manual_seed(0))
    torch.testing.assert_close(x @ matrix.T, torch.full((100, 1), 0.4, dtype=F64), rtol=0, atol=1e-6)
