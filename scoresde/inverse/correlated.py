"""Gaussian noise with any covariance, and measurements in units in which it has none."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.inverse.matrix import MatrixOperator
from scoresde.inverse.noise import GaussianNoise, MeasurementNoise
from scoresde.inverse.problem import Measurement, Problem

__all__ = ["CorrelatedNoise", "decorrelated"]

_SYMMETRIC = 1e-6  # the largest difference from the transpose, as a part of the largest variance


@checked
class CorrelatedNoise(MeasurementNoise):
    """y = A(x) + N(0, Σ).

    Methods see the measurements L⁻¹ y = L⁻¹ A(x) + N(0, I) with Σ = L Lᵀ, see `decorrelated`, so that any of them is
    for such noise.

    Args:
        covariance: Σ, `(M, M)`, of the M numbers of a measurement in their order.

    Raises:
        ValueError: A matrix that is not symmetric and positive definite.
    """

    def __init__(self, covariance: Tensor) -> None:
        given = covariance.double().cpu()
        if given.ndim != 2 or given.shape[0] != given.shape[1] or not bool(given.isfinite().all()):
            raise ValueError(f"covariance has shape {tuple(given.shape)}, expected finite numbers of shape (M, M)")
        root, failed = torch.linalg.cholesky_ex(given)
        if not bool((given - given.T).abs().max() <= _SYMMETRIC * given.abs().max()) or bool(failed):
            raise ValueError(
                "covariance is not symmetric and positive definite; measurements without noise are NoNoise()"
            )
        self.matrix, self.root = given, root

    def draw(self, clean: Tensor, noise: Tensor) -> Tensor:
        correlated: Tensor = noise.flatten(1) @ self.root.to(noise).T
        return clean + correlated.reshape(clean.shape)

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        root = self.root.to(y)
        error = torch.linalg.solve_triangular(root, (y - clean).flatten(1).T, upper=False)
        constant = 0.5 * math.log(2 * math.pi) * len(root) + root.diagonal().log().sum()
        log_prob: Tensor = -0.5 * error.square().sum(0) - constant
        return log_prob

    def variance(self, y: Tensor) -> Tensor:
        variances: Tensor = self.matrix.diagonal().to(y)
        return variances.reshape(y.shape[1:])

    def covariance(self, measured: Sequence[int]) -> Tensor:
        matrix: Tensor = self.matrix
        return matrix

    def check(self, measured: Sequence[int]) -> None:
        if math.prod(measured) != len(self.matrix):
            raise ValueError(
                f"covariance has shape {tuple(self.matrix.shape)}, and a measurement {math.prod(measured)} numbers"
            )

    def __repr__(self) -> str:
        return f"CorrelatedNoise({len(self.matrix)}×{len(self.matrix)})"


def decorrelated(measurement: Measurement) -> Measurement:
    """The same measurements in units in which the noise of their numbers is independent.

    They are as they are but for `CorrelatedNoise`, where y becomes L⁻¹ y `(B, M)` with noise of the standard deviation
    1, and A becomes L⁻¹ A.
    """
    noise = measurement.noise
    if not isinstance(noise, CorrelatedNoise):
        return measurement
    count = len(noise.root)
    inverse = torch.linalg.solve_triangular(noise.root, torch.eye(count, dtype=torch.float64), upper=False)
    units = MatrixOperator(inverse, measurement.operator.measured).to(measurement.y.device)
    return Measurement(Problem(units @ measurement.operator, GaussianNoise(1.0)), units.measure(measurement.y))
