"""The posterior of a mixture agrees with Bayes' rule on a grid."""

import pytest
import torch
from torch import Tensor

from scoresde.inverse import (
    CorrelatedNoise,
    ExactPosterior,
    GaussianNoise,
    MatrixOperator,
    MeasurementNoise,
    NoNoise,
    PoissonNoise,
    Problem,
)
from scoresde.score import GaussianMixtureScore
from scoresde.sde import EDMSDE
from tests.problems import F64


def mixture() -> GaussianMixtureScore:
    covariances = torch.tensor([[[0.5, 0.2], [0.2, 0.3]], [[0.1, 0.0], [0.0, 0.4]], [[0.2, -0.1], [-0.1, 0.2]]])
    return GaussianMixtureScore([0.2, 0.5, 0.3], [[-1.0, 0.0], [1.0, 0.5], [0.0, -1.0]], covariances, EDMSDE())


ONE, TWO = torch.tensor([[1.0, 0.7]], dtype=F64), torch.tensor([[1.0, 0.7], [0.2, -0.5]], dtype=F64)
COVARIANCE = torch.tensor([[0.3, 0.25], [0.25, 0.4]], dtype=F64)


@pytest.mark.parametrize("y", [-1.5, 0.3, 2.0])
@pytest.mark.parametrize(
    ("matrix", "noise"),
    [
        (ONE, GaussianNoise(0.4)),
        (TWO, GaussianNoise(torch.tensor([0.4, 0.9]))),
        (TWO, CorrelatedNoise(COVARIANCE)),
    ],
    ids=["one", "two", "correlated"],
)
def test_a_posterior_is_prior_times_likelihood(y: float, matrix: Tensor, noise: MeasurementNoise) -> None:
    prior = mixture()
    problem = Problem(MatrixOperator(matrix), noise)
    measured = torch.tensor([y, 0.5], dtype=F64)[: len(matrix)]
    posterior = ExactPosterior(prior, problem).given(measured)
    axis = torch.linspace(-6, 6, 601, dtype=F64)
    points = torch.cartesian_prod(axis, axis)
    many = problem.given(measured.expand(len(points), len(matrix)))
    joint = prior.log_prob(points, 0.0) + many.log_likelihood(points)
    evidence = joint.logsumexp(0) + 2 * (axis[1] - axis[0]).log()
    torch.testing.assert_close(posterior.log_prob(points, 0.0).exp(), (joint - evidence).exp(), rtol=0, atol=1e-8)


def test_without_noise_the_measured_value_is_kept() -> None:
    matrix = torch.tensor([[1.0, 0.7]], dtype=F64)
    posterior = ExactPosterior(mixture(), Problem(MatrixOperator(matrix), NoNoise())).given(torch.tensor([0.4]))
    x = posterior.sample(100, 0.0, torch.Generator().manual_seed(0))
    torch.testing.assert_close(x @ matrix.T, torch.full((100, 1), 0.4, dtype=F64), rtol=0, atol=1e-6)


def test_without_noise_what_is_measured_twice_says_nothing_new() -> None:
    matrix = torch.tensor([[1.0, 0.7]], dtype=F64)
    twice = Problem(MatrixOperator(torch.cat([matrix, -2 * matrix, 0 * matrix])), NoNoise())
    once = ExactPosterior(mixture(), Problem(MatrixOperator(matrix), NoNoise())).given(torch.tensor([0.4]))
    posterior = ExactPosterior(mixture(), twice).given(torch.tensor([0.4, -0.8, 0.0]))
    torch.testing.assert_close(posterior.weights, once.weights)
    torch.testing.assert_close(posterior.means, once.means)
    with pytest.raises(ValueError, match="y is no A x, and there is no noise"):
        ExactPosterior(mixture(), twice).given(torch.tensor([0.4, 0.8, 0.0]))


def test_noise_that_is_not_gaussian_is_refused() -> None:
    with pytest.raises(ValueError, match=r"PoissonNoise\(gain=5.0, .* is not Gaussian"):
        ExactPosterior(mixture(), Problem(MatrixOperator(ONE), PoissonNoise(5.0)))
