"""Noise models: their densities are those of what they draw, and what is no noise is refused."""

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from scoresde.inverse import (
    CorrelatedNoise,
    GaussianBlur,
    GaussianNoise,
    Mask,
    MatrixOperator,
    MeasurementNoise,
    NoNoise,
    PoissonNoise,
    Problem,
    decorrelated,
)
from tests.problems import F64

COVARIANCE = torch.tensor([[0.5, 0.2, 0.0], [0.2, 0.3, -0.1], [0.0, -0.1, 0.2]], dtype=F64)
GAUSSIAN: list[MeasurementNoise] = [
    GaussianNoise(0.3),
    GaussianNoise(torch.tensor([0.1, 0.5, 2.0])),
    CorrelatedNoise(COVARIANCE),
]


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=F64)


@pytest.mark.parametrize("noise", GAUSSIAN, ids=repr)
def test_gaussian_noise_has_the_density_and_the_covariance_that_it_says(noise: MeasurementNoise) -> None:
    covariance = noise.covariance((3,))
    assert covariance is not None
    clean, y = normal(5, 3), normal(10, 3)[5:]
    exact = stats.multivariate_normal(np.zeros(3), covariance.numpy()).logpdf((y - clean).numpy())
    np.testing.assert_allclose(noise.log_prob(y, clean).numpy(), exact, rtol=1e-12)
    # Draws are clean + L ε with L Lᵀ = Σ.
    root = noise.draw(torch.zeros(3, 3, dtype=F64), torch.eye(3, dtype=F64)).T
    torch.testing.assert_close(root @ root.T, covariance)
    variance = noise.variance(y)
    assert variance is not None
    torch.testing.assert_close(variance.expand(5, 3), covariance.diagonal().expand(5, 3))


def test_noise_of_images_is_drawn_number_by_number() -> None:
    std = torch.linspace(0.1, 1, 12).reshape(3, 4)
    problem = Problem(GaussianBlur((2, 3, 4), 0.5), GaussianNoise(std))
    x = normal(3, 2, 3, 4).float()
    measured = problem.measure(x, seed=1)
    assert measured.y.dtype == torch.float32
    again = problem.measure(x[1:], seed=1, first=1)
    torch.testing.assert_close(again.y, measured.y[1:], rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match=r"std has shape \(3, 4\), which does not broadcast to .* \(6,\)"):
        Problem(Mask.random((12,), 0.5), GaussianNoise(std))


def test_decorrelated_measurements_have_the_same_likelihood() -> None:
    operator = MatrixOperator(normal(3, 4))
    given = Problem(operator, CorrelatedNoise(COVARIANCE)).given(normal(2, 3))
    white = decorrelated(given)
    assert white.noise == GaussianNoise(1.0)
    x = normal(2, 4)
    shift = white.log_likelihood(x) - given.log_likelihood(x)
    torch.testing.assert_close(shift, (0.5 * COVARIANCE.logdet()).expand(2), rtol=1e-10, atol=0)
    assert decorrelated(white) is white


def test_poisson_counts_have_their_law() -> None:
    noise = PoissonNoise(gain=4.0, dark=0.5, black=-1.0)
    clean = torch.full((20_000, 1), 0.25, dtype=F64)
    counts = 4 * (noise.draw(clean, normal(20_000, 1)) + 1) + 0.5
    torch.testing.assert_close(counts, counts.round())
    kept = np.arange(13)
    seen = np.array([float(counts.eq(float(k)).sum()) for k in kept])
    expected = stats.poisson(5.5).pmf(kept) * 20_000
    rest = 20_000 - seen.sum(), 20_000 - expected.sum()
    statistic = ((seen - expected) ** 2 / expected).sum() + (rest[0] - rest[1]) ** 2 / rest[1]
    assert stats.chi2(13).sf(statistic) > 0.001
    y = noise.draw(clean[:3], normal(3, 1))
    exact = stats.poisson(5.5).logpmf((4 * (y + 1) + 0.5).round().numpy())[:, 0]
    np.testing.assert_allclose(noise.log_prob(y, clean[:3]).numpy(), exact, rtol=1e-10)


def test_poisson_noise_of_much_light_is_nearly_gaussian() -> None:
    noise, clean = PoissonNoise(gain=1e4), torch.full((1, 1), 0.5, dtype=F64)
    y = noise.draw(clean, torch.full((1, 1), 1.5, dtype=F64))
    near = GaussianNoise(float(noise.variance(y).sqrt()))
    assert abs(float(y) - 0.5 - 1.5 * (0.5 / 1e4) ** 0.5) < 2e-4
    # A density of counts, 1/gain apart.
    torch.testing.assert_close(noise.log_prob(y, clean) + np.log(1e4), near.log_prob(y, clean), rtol=0, atol=0.05)


def test_there_is_no_light_below_black() -> None:
    noise = PoissonNoise(gain=10.0)
    dim = torch.tensor([[-3.0]], dtype=F64)
    assert float(noise.draw(dim, torch.tensor([[2.0]], dtype=F64))) == 0
    assert float(noise.log_prob(torch.zeros(1, 1, dtype=F64), dim)) == 0
    assert bool(noise.log_prob(torch.ones(1, 1, dtype=F64), dim).isfinite())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: GaussianNoise(-0.1),
            "std is -0.1, expected a positive number; measurements without noise",
        ),
        (lambda: GaussianNoise([0.1, 0.0]), "std is 0, expected a positive number"),  # type: ignore[arg-type]
        (lambda: CorrelatedNoise(torch.ones(2)), "covariance has shape (2,), expected finite numbers of shape (M, M)"),
        (lambda: CorrelatedNoise(torch.ones(2, 2)), "covariance is not symmetric and positive definite"),
        (lambda: CorrelatedNoise([[1.0, 0.5], [0.0, 1.0]]), "covariance is not symmetric"),  # type: ignore[arg-type]
        (lambda: PoissonNoise(0.0), "gain is 0.0, expected a positive number"),
        (lambda: PoissonNoise(1.0, dark=-1.0), "dark is -1.0, expected 0 or more"),
        (
            lambda: Problem(Mask([True, True]), CorrelatedNoise(torch.eye(3))),
            "covariance has shape (3, 3), and a measurement 2 numbers",
        ),
        (
            lambda: Problem(Mask([True]), PoissonNoise(2.0)).given(torch.tensor([[-1.0]])),
            "y is -1, below 0, that of a count of 0",
        ),
        (lambda: NoNoise().log_prob(torch.ones(1, 1), torch.ones(1, 1)), "measurements without noise have no density"),
    ],
)
def test_bad_noise_is_refused_in_one_line(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        make()
    assert "\n" not in str(error.value)
