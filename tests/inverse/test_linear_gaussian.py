"""A Gaussian given linear measurements agrees with the formulas in matrices, by singular values and without."""

import pytest
import torch
from torch import Tensor

from scoresde.inverse import GaussianNoise, LinearOperator, MatrixOperator, Measurement, MeasurementNoise, Problem
from scoresde.inverse.linear_gaussian import LinearGaussian
from scoresde.inverse.noise import NoNoise
from tests.problems import F64, generator

# Of rank 2: what is measured twice, and a direction that no sample reaches.
MATRIX = torch.tensor([[1.0, 0.5, 0.0, 0.2], [0.0, 2.0, -1.0, 0.3], [1.0, 2.5, -1.0, 0.5]], dtype=F64)
SPREAD = 0.7


class Unknown(LinearOperator):
    """A matrix whose singular values are not known."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__((matrix.shape[1],), (matrix.shape[0],))
        self.register_buffer("values", matrix)

    def measure(self, x: Tensor) -> Tensor:
        return x @ self.get_buffer("values").to(x).T

    def back(self, y: Tensor) -> Tensor:
        return y @ self.get_buffer("values").to(y)

    def decomposed(self) -> None:
        return None


class Uneven(MeasurementNoise):
    """Gaussian noise whose variance differs from number to number and from sample to sample."""

    def draw(self, clean: Tensor, noise: Tensor) -> Tensor:
        return clean + self.variance(clean).sqrt() * noise

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        return torch.distributions.Normal(clean, self.variance(y).sqrt()).log_prob(y).flatten(1).sum(1)

    def variance(self, y: Tensor) -> Tensor:
        return 0.1 + 0.3 * torch.arange(1, y.numel() + 1).to(y).reshape(y.shape)


def measured(noise: MeasurementNoise, known: bool = True, matrix: Tensor = MATRIX, count: int = 5) -> Measurement:
    operator = MatrixOperator(matrix) if known else Unknown(matrix)
    x = torch.randn(count, 4, generator=generator(1), dtype=F64)
    return Problem(operator, noise).measure(x, seed=2)


def dense(given: Measurement, z: Tensor, less: float = 0.0) -> tuple[Tensor, Tensor]:
    """Means `(B, 4)` and covariances `(B, 4, 4)`."""
    matrix = given.operator.matrix()  # type: ignore[operator]
    variance = given.noise.variance(given.y)
    assert variance is not None
    noise = torch.diag_embed(variance.expand_as(given.y).double()) - less**2 * matrix @ matrix.T
    gain = SPREAD**2 * matrix.T @ torch.linalg.pinv(noise + SPREAD**2 * matrix @ matrix.T, hermitian=True)
    means = z + (gain @ given.residual(z)[:, :, None])[:, :, 0]
    return means, SPREAD**2 * (torch.eye(4, dtype=F64) - gain @ matrix)


CASES = [(GaussianNoise(0.3), True), (GaussianNoise(0.3), False), (NoNoise(), True), (NoNoise(), False)]
CASES += [(Uneven(), True), (Uneven(), False), (GaussianNoise(torch.tensor([0.1, 0.3, 2.0])), True)]


@pytest.mark.parametrize(("noise", "known"), CASES)
def test_means_are_those_of_matrices(noise: MeasurementNoise, known: bool) -> None:
    given, z = measured(noise, known), torch.randn(5, 4, generator=generator(3), dtype=F64)
    torch.testing.assert_close(LinearGaussian(given).mean(z, SPREAD), dense(given, z)[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("noise", "known"), CASES)
def test_draws_have_the_moments_of_matrices(noise: MeasurementNoise, known: bool) -> None:
    given, count = measured(noise, known, count=2), 40_000
    z = torch.randn(2, 4, generator=generator(3), dtype=F64)
    means, covariances = dense(given, z)
    source = generator(4)
    for i in range(2):
        one = Problem(given.operator, Fixed(noise, given.y)).given(given.y[i].expand(count, 3))
        x = LinearGaussian(one).draw(
            z[i].expand(count, 4), SPREAD, lambda: torch.randn(count, 4, generator=source, dtype=F64)
        )
        error = covariances[i].diagonal().sqrt() / count**0.5
        assert bool(((x.mean(0) - means[i]).abs() < 5 * error + 1e-9).all())
        scale = covariances[i].diagonal().max()
        torch.testing.assert_close(x.T.cov(), covariances[i], rtol=0, atol=5 * float(scale) * (2 / count) ** 0.5)


class Fixed(MeasurementNoise):
    """Noise with the variance that another has for the first of some measurements that are repeated."""

    def __init__(self, noise: MeasurementNoise, y: Tensor) -> None:
        self.noise, self.y = noise, y

    def draw(self, clean: Tensor, noise: Tensor) -> Tensor:
        raise NotImplementedError

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        raise NotImplementedError

    def variance(self, y: Tensor) -> Tensor:
        variance = self.noise.variance(self.y)
        assert variance is not None
        if variance.ndim == 0:
            return variance
        row = next(i for i in range(len(self.y)) if torch.equal(self.y[i], y[0]))
        return variance.expand(self.y.shape)[row].expand_as(y)


def test_noise_is_taken_off_for_a_copy() -> None:
    matrix, count, less = 0.5 * MATRIX[:2], 40_000, 0.2
    given = measured(GaussianNoise(0.3), matrix=matrix, count=1)
    z, source = torch.randn(1, 4, generator=generator(3), dtype=F64), generator(4)
    mean, covariance = dense(given, z, less)
    many = given.problem.given(given.y.expand(count, 2))
    x = LinearGaussian(many).draw(
        z.expand(count, 4), SPREAD, lambda: torch.randn(count, 4, generator=source, dtype=F64), less
    )
    torch.testing.assert_close(x.mean(0), mean[0], rtol=0, atol=5 * SPREAD / count**0.5)
    torch.testing.assert_close(x.T.cov(), covariance[0], rtol=0, atol=5 * SPREAD**2 * (2 / count) ** 0.5)


def test_the_evidence_is_that_of_matrices_of_any_rank() -> None:
    given, z = measured(GaussianNoise(0.3)), torch.randn(5, 4, generator=generator(3), dtype=F64)
    spread = 0.3**2 * torch.eye(3, dtype=F64) + SPREAD**2 * MATRIX @ MATRIX.T
    exact = torch.distributions.MultivariateNormal(z @ MATRIX.T, spread).log_prob(given.y)
    torch.testing.assert_close(LinearGaussian(given).log_evidence(z, SPREAD**2), exact)


def test_a_sample_does_not_depend_on_its_batch_mates_without_singular_values() -> None:
    given, z = measured(GaussianNoise(1e-3), False), torch.randn(5, 4, generator=generator(3))
    together = LinearGaussian(given).mean(z, SPREAD)
    for i in range(5):
        alone = LinearGaussian(given.rows(slice(i, i + 1))).mean(z[i : i + 1], SPREAD)
        torch.testing.assert_close(alone[0], together[i], rtol=1e-4, atol=1e-5)
