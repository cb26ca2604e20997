"""Faults that are planted in posterior samples of the 64-dimensional mixture of digits are found."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from scoresde.certificate import Exact, Function, PosteriorExam, digits
from scoresde.certificate.mixtures import draws, generator
from scoresde.inverse import ExactPosterior, GaussianNoise, Mask, Problem

PRIOR = digits()
PROBLEM = Problem(Mask(torch.arange(64).reshape(PRIOR.shape) < 32), GaussianNoise(0.1))


def moved(by: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """Exact draws, changed by a function of them, their mean and their standard deviations."""

    def draw(y: Tensor, n: int, seed: int) -> Tensor:
        exact = ExactPosterior(PRIOR, PROBLEM).given(y[0])
        assert exact.statistics is not None
        assert exact.statistics.covariance is not None
        mean = exact.statistics.mean.double()
        std = exact.statistics.covariance.diagonal().sqrt().reshape(mean.shape)
        return by(draws(exact, n, generator(seed)).reshape(n, *mean.shape), mean, std)

    return draw


@pytest.fixture(scope="module")
def exam() -> PosteriorExam:
    return PosteriorExam(PRIOR, PROBLEM, measurements=32, samples=128)


def test_exact_samples_raise_no_alarm(exam: PosteriorExam) -> None:
    assert exam.run(Exact(PRIOR), 1)["deviates"] == ""


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        (lambda x, mean, std: mean + 1.3**0.5 * (x - mean), "spread"),
        (lambda x, mean, std: mean + 0.7**0.5 * (x - mean), "spread"),
        (lambda x, mean, std: x + 0.2 * std, "mean"),
    ],
)
def test_planted_faults_are_found(exam: PosteriorExam, fault: Callable[..., Tensor], found: str) -> None:
    row = exam.run(Function(moved(fault)), 1)
    assert found in row["deviates"].replace(",", " ").split()
