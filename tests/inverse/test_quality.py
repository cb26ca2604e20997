"""Figures of posterior samples are what they are of samples whose law is known."""

import math

import pytest
import torch

from scoresde.inverse import (
    GaussianNoise,
    MatrixOperator,
    NoNoise,
    Problem,
    central_coverage,
    central_interval,
    psnr,
    residual_ratio,
)
from tests.problems import F64, generator


def test_the_ratio_of_peak_to_noise_is_that_of_the_mean_square() -> None:
    truth = torch.rand(3, 1, 4, 4, generator=generator())
    samples = truth[:, None] + torch.tensor([0.1, 0.01]).reshape(1, 2, 1, 1, 1)
    expected = torch.tensor([20.0, 40.0], dtype=F64).expand(3, 2)
    torch.testing.assert_close(psnr(samples, truth), expected, rtol=0, atol=1e-3)
    torch.testing.assert_close(psnr(255 * samples[:, 0], 255 * truth, peak=255.0), expected[:, 0], rtol=0, atol=1e-3)
    assert psnr(truth, truth).tolist() == [math.inf] * 3


@pytest.mark.parametrize("n", [2, 5, 9, 20])
def test_draws_of_one_law_are_covered_as_often_as_the_interval_says(n: int) -> None:
    draws = torch.randn(20_000, n + 1, 1, generator=generator(), dtype=F64)
    share = float(central_coverage(draws[:, 1:], draws[:, 0]).mean())
    expected = central_interval(n)[1]
    assert abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / 20_000)


def test_integers_are_covered_as_often_as_continuous_values() -> None:
    draws = torch.randint(0, 3, (20_000, 10, 1), generator=generator())
    shares = central_coverage(draws[:, 1:], draws[:, 0])
    assert abs(float(shares.mean()) - 0.8) < 4 * float(shares.std()) / math.sqrt(20_000)


def test_samples_that_are_too_narrow_cover_less() -> None:
    truth = torch.randn(1000, 4, generator=generator(1))
    samples = 0.5 * torch.randn(1000, 9, 4, generator=generator(2))
    assert float(central_coverage(samples, truth).mean()) < 0.6


@pytest.mark.parametrize("n", [1, 9])
@pytest.mark.parametrize("level", [0.0, 1.0])
def test_an_interval_needs_samples_and_a_probability(n: int, level: float) -> None:
    with pytest.raises(ValueError, match="at least 2 samples" if n == 1 and 0 < level < 1 else "between 0 and 1"):
        central_interval(n, level)
    with pytest.raises(ValueError, match="at least 2 samples, and n is 1"):
        central_coverage(torch.zeros(3, 1, 2), torch.zeros(3, 2))


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"samples have shape \(3, 2, 4\) and the truth \(2, 4\), expected \(B, n"):
        psnr(torch.zeros(3, 2, 4), torch.zeros(2, 4))


def test_the_residual_of_the_truth_is_the_noise() -> None:
    x = torch.randn(4, 500, generator=generator(), dtype=F64)
    operator = MatrixOperator(torch.randn(400, 500, generator=generator(1), dtype=F64))
    measurement = Problem(operator, GaussianNoise(0.3)).measure(x)
    torch.testing.assert_close(residual_ratio(measurement, x), torch.ones(4, dtype=F64), rtol=0, atol=0.15)
    exact = Problem(operator, NoNoise()).measure(x)
    shifted = exact.problem.given(exact.y + 0.5)
    torch.testing.assert_close(residual_ratio(shifted, x), torch.full((4,), 0.5, dtype=F64))
