"""Exact posterior samples pass, and deliberately wrong ones are found, by the measures that they are wrong in."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from scoresde.certificate import Exact, Function, PosteriorExam, ring
from scoresde.certificate.mixtures import draws, generator
from scoresde.inverse import DPS, ExactPosterior, GaussianNoise, MatrixOperator, NoNoise, Problem
from scoresde.score import GaussianMixtureScore
from scoresde.sde import EDMSDE
from tests.problems import F64

PRIOR = ring()
FIRST = MatrixOperator(torch.tensor([[1.0, 0.0]]))
PROBLEM = Problem(FIRST, GaussianNoise(0.1))


def posterior(y: Tensor) -> GaussianMixtureScore:
    return ExactPosterior(PRIOR, PROBLEM).given(y[0])


def wider(y: Tensor, n: int, seed: int) -> Tensor:
    exact = posterior(y)
    assert exact.statistics is not None
    mean = exact.statistics.mean.double()
    return mean + (draws(exact, n, generator(seed)) - mean) * 1.3**0.5


def shifted(y: Tensor, n: int, seed: int) -> Tensor:
    exact = posterior(y)
    assert exact.statistics is not None
    return draws(exact, n, generator(seed)) + 0.2 * exact.statistics.covariance.diagonal().sqrt()


def without_a_mode(y: Tensor, n: int, seed: int) -> Tensor:
    exact = posterior(y)
    if len(exact.weights) > 1:
        exact.weights[exact.weights.argmax()] = 1e-300
        exact.weights /= exact.weights.sum()
    return draws(exact, n, generator(seed))


@pytest.fixture(scope="module")
def exam() -> PosteriorExam:
    return PosteriorExam(PRIOR, PROBLEM)


def test_exact_samples_pass(exam: PosteriorExam) -> None:
    row = exam.run(Exact(PRIOR), 1)
    assert row["deviates"] == ""
    assert row["nfe"] == row["vjp"] == 0
    assert abs(row["excess"]) < 3 * row["excess_stderr"]
    for level in (50, 80, 90, 95):
        assert abs(row[f"coverage_{level}"] - level / 100) < 4 * row[f"coverage_{level}_stderr"]
    assert row["modes"] == 1
    assert row["kl"] == row["kl_from"] == 0


@pytest.mark.parametrize(
    ("wrong", "by"),
    [
        (wider, {"spread", "kl", "covariance"}),
        (shifted, {"mean", "kl", "sbc"}),
        (without_a_mode, {"modes", "sw2", "kl"}),
    ],
)
def test_wrong_samples_are_found(exam: PosteriorExam, wrong: Callable[..., Tensor], by: set[str]) -> None:
    row = exam.run(Function(wrong), 1)
    assert by <= set(row["deviates"].split())


def test_the_measures_of_a_wider_posterior_are_those_of_its_factor(exam: PosteriorExam) -> None:
    row = exam.run(Function(wider), 1)
    assert abs(row["spread"] - 1.3) < 4 * row["spread_stderr"]
    assert abs(row["covariance_error"] - 0.3) < 4 * row["covariance_error_stderr"]
    assert row["mean_error"] < 3 * row["mean_error_stderr"]


def test_evaluations_and_products_are_counted(exam: PosteriorExam) -> None:
    row = exam.run(DPS(), 4)
    assert (row["nfe"], row["vjp"]) == (5, 4)


def test_without_noise_there_are_measures_but_no_density() -> None:
    row = PosteriorExam(PRIOR, Problem(FIRST, NoNoise()), measurements=6).run(Exact(PRIOR), 1)
    assert row["deviates"] == ""
    assert row["kl"] != row["kl"]
    assert row["sbc_p"] > 0.001


def test_a_function_gets_what_it_names() -> None:
    prior = GaussianMixtureScore([1.0], torch.zeros(1, 2, dtype=F64), [1.0], EDMSDE(0.002, 80.0))

    def from_the_denoiser(denoiser: Callable[..., Tensor], y: Tensor, noise_std: float, n: int, steps: int) -> Tensor:
        assert y.shape == (1, 1)
        assert (noise_std, steps) == (0.5, 7)
        x = torch.ones(n, 2, dtype=F64)
        torch.testing.assert_close(denoiser(x, 2.0), x / 5)  # N(0, 1) with noise of variance 4
        torch.testing.assert_close(denoiser(x, torch.full((n,), 2.0)), x / 5)
        return x + torch.randn_like(x)

    exam = PosteriorExam(prior, Problem(FIRST, GaussianNoise(0.5)), measurements=2, samples=40)
    first, again = (exam.run(Function(from_the_denoiser), 7) for _ in range(2))
    assert first["nfe"] == 2
    assert first["sw2"] == again["sw2"]  # the global generator has the seed


def test_what_is_no_posterior_sampler_is_refused() -> None:
    with pytest.raises(ValueError, match="wants image, expected arguments named denoiser"):
        Function(lambda image: image)
    with pytest.raises(ValueError, match="expected a Method such as DPS"):
        Function(3)  # type: ignore[arg-type]
    exam = PosteriorExam(PRIOR, PROBLEM, measurements=2, samples=40)
    with pytest.raises(ValueError, match=r"returned shape \(1, 2\), expected samples of shape \(40, 2\)"):
        exam.run(Function(lambda y: torch.zeros(1, 2)), 1)
    with pytest.raises(ValueError, match="40 of 80 samples are not finite"):
        exam.run(Function(lambda y, n: torch.full((n, 2), torch.nan if y > exam.measurement.y.mean() else 0.0)), 1)
    with pytest.raises(ValueError, match="measurements is 1, expected at least 2"):
        PosteriorExam(PRIOR, PROBLEM, measurements=1)
