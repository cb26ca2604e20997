"""The covariance Σ_y + A V Aᵀ of measurements whose samples have a covariance V, and its inverse.

V is that of x₀ given x_t = α x₀ + σ ε, with ρ = σ/α. It is r² I with r² = s² ρ²/(s² + ρ²) where nothing is known of the
data but a standard deviation s, or (Σ⁻¹ + I/ρ²)⁻¹ where they are taken as normal with the covariance Σ.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor

from scoresde.inverse.operator import LinearOperator, Operator
from scoresde.inverse.problem import Measurement
from scoresde.numerics.conjugate_gradients import conjugate_gradients
from scoresde.statistics import Statistics

__all__ = ["NormalCovariance", "isotropic_solution", "posterior_variance"]

_LARGEST = 512  # numbers of a measurement, for an eigendecomposition at each noise level
_ITERATIONS = 50  # where the operator does not know its singular values


def posterior_variance(level: Tensor, std: float) -> Tensor:
    """r² = s² ρ²/(s² + ρ²), the variance of x₀ given x_t for data N(m, s² I) at the noise level ρ = σ/α."""
    return level.square() / (1 + (level / std).square())


def isotropic_solution(measurement: Measurement, spread: Tensor, error: Tensor) -> Tensor:
    """(Σ_y + r² A Aᵀ)⁻¹ e, up to what Aᵀ takes to 0.

    It is by singular values where the operator knows them and the noise has one variance for all numbers of a
    measurement, and by conjugate gradients otherwise, which cost no evaluation of the model.

    Args:
        measurement: The measurements of B samples, of a linear operator and of Gaussian noise.
        spread: r², of a shape that broadcasts to samples.
        error: e `(B, *measured)`.
    """
    operator, variance = measurement.operator, noise_variance(measurement, error)
    assert isinstance(operator, LinearOperator)
    values = operator.singular_values
    if values is not None and _is_one(variance):
        level = spread.reshape(-1, 1) if spread.ndim else spread
        variance = variance.reshape(-1, 1) if variance.ndim else variance
        return values.from_left(values.to_left(error) / (variance + level * values.values.to(error).square()))
    spread = spread.reshape(-1, *[1] * (error.ndim - 1)) if spread.ndim else spread

    def applied(u: Tensor) -> tuple[Tensor, Tensor]:
        image = variance * u + spread * operator.measure(operator.back(u))
        return image, u

    return conjugate_gradients(applied, error, min(_ITERATIONS, 2 * math.prod(error.shape[1:])))[0]


def isotropic_root(measurement: Measurement, spread: Tensor, noise: Tensor, like: Tensor) -> Tensor:
    """Draws of N(0, (Σ_y + r² A Aᵀ)⁻¹), of the shape of `like`, up to what Aᵀ takes to 0.

    Args:
        measurement: The measurements, of an operator that knows its singular values.
        spread: r², as for `isotropic_solution`.
        noise: Noise `(B, D)` of as many numbers as a sample has.
        like: Measurements `(B, *measured)`.
    """
    operator, variance = measurement.operator, noise_variance(measurement, like)
    assert isinstance(operator, LinearOperator)
    values = operator.singular_values
    assert values is not None
    level = spread.reshape(-1, 1) if spread.ndim else spread
    variance = variance.flatten(1).mean(1, keepdim=True) if variance.ndim else variance
    scale = variance + level * values.values.to(like).square()
    return values.from_left(noise[:, : len(values.values)] / scale.sqrt())


def noise_variance(measurement: Measurement, like: Tensor) -> Tensor:
    """The variance Σ_y of each number of measurements, of a shape that broadcasts to `like`, in its dtype."""
    variance = measurement.noise.variance(measurement.y)
    assert variance is not None
    if 0 < variance.ndim < like.ndim:  # one for all samples
        variance = variance[None]
    return variance.to(like)


class NormalCovariance:
    """The inverse of Σ_y + A V Aᵀ as a function of the noise level, for data that are taken as normal.

    For noise that has not one variance for all numbers of a measurement, their mean stands for it, so that it is a
    preconditioner only.

    Args:
        statistics: The moments of the data, with a covariance.
        operator: A linear operator.
    """

    def __init__(self, statistics: Statistics, operator: LinearOperator) -> None:
        variances, directions = statistics.eigh()
        self.directions = directions
        images = operator.measure(directions.T.reshape(-1, *operator.shape).double()).flatten(1)
        self.variances, self.images = variances.cpu(), images.T.cpu()
        self._at = lru_cache(maxsize=None)(self._decomposed)
        shape = (len(self.images), len(self.variances))
        self._mix = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    @classmethod
    def of(cls, statistics: Statistics | None, operator: Operator) -> "NormalCovariance | None":
        """That of a covariance and an operator, if there is one and it is small enough to be decomposed at each
        noise level."""
        if not isinstance(operator, LinearOperator) or math.prod(operator.measured) > _LARGEST:
            return None
        if statistics is None or statistics.covariance is None:
            return None
        return cls(statistics, operator)

    def _decomposed(self, level: float, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
        """Eigenvalues and eigenvectors of A V Aᵀ."""
        values, vectors = self._of_kept(self._kept(torch.tensor(level, dtype=torch.float64)))
        return values.to(device, dtype), vectors.to(device, dtype)

    def _kept(self, level: Tensor) -> Tensor:
        """The variances of V in the principal directions, `(D,)`, or `(B, D)` for levels `(B, 1)`."""
        variances, square = self.variances.to(level.device), level.double().square()
        return variances * square / (variances + square)

    def _of_kept(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        images = self.images.to(kept.device)
        values, vectors = torch.linalg.eigh((images * kept[..., None, :]) @ images.T)
        return values.clamp_min(0), vectors

    def solve(self, error: Tensor, level: Tensor, variance: Tensor) -> Tensor:
        """(Σ_y + A V Aᵀ)⁻¹ e.

        Args:
            error: e `(B, *measured)`.
            level: The noise level ρ = σ/α, `()`, or one for each sample; one on the CPU is decomposed once.
            variance: Σ_y, of a shape that broadcasts to e.
        """
        weights, vectors = self._weights(error, level, variance)
        return _times(_times(error.flatten(1), vectors) * weights, vectors.mT).reshape(error.shape)

    def log_density(self, error: Tensor, level: Tensor, variance: Tensor) -> Tensor:
        """log N(e; 0, Σ_y + A V Aᵀ) in nats, `(B,)`, of noise that is not 0; arguments as for `solve`."""
        weights, vectors = self._weights(error, level, variance)
        square = _times(error.flatten(1), vectors).square() * weights
        log_two_pi = math.log(2 * math.pi)
        return -0.5 * (square - weights.log() + log_two_pi).sum(1)

    def root(self, noise: Tensor, level: Tensor, variance: Tensor) -> Tensor:
        """Draws `(B, M)` of N(0, (Σ_y + A V Aᵀ)⁻¹), from noise `(B, D)` of the length √D, mixed by a fixed matrix."""
        weights, vectors = self._weights(noise, level, variance)
        mixed = noise @ (self._mix.to(noise).T / math.sqrt(noise.shape[1]))
        return _times(mixed * weights.sqrt(), vectors.mT)

    def spread(self, v: Tensor, level: Tensor) -> Tensor:
        """V v of samples `(B, ...)`."""
        directions = self.directions.to(v)
        kept = self._kept(level.reshape(-1, 1) if level.ndim else level).to(v)
        return ((v.flatten(1) @ directions * kept) @ directions.T).reshape(v.shape)

    def _weights(self, like: Tensor, level: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Eigenvalues of the inverse, and eigenvectors."""
        if level.ndim == 0 and level.device.type == "cpu":
            values, vectors = self._at(float(level), like.dtype, like.device)
        else:
            values, vectors = (v.to(like) for v in self._of_kept(self._kept(level.reshape(-1, 1))))
        if variance.ndim:
            variance = variance.flatten(1).mean(1, keepdim=True)
        scale = variance + values
        # Without noise, what the operator does not measure has no variance, and no error.
        least = torch.finfo(scale.dtype).eps * values.amax(-1, keepdim=True)
        return torch.where(scale > least, 1 / scale, 0.0), vectors


def _times(x: Tensor, matrices: Tensor) -> Tensor:
    """x `(B, M)` times a matrix, or one for each row."""
    return (x[:, None] @ matrices)[:, 0] if matrices.ndim == 3 else x @ matrices


def _is_one(variance: Tensor) -> bool:
    """Whether there is one variance for all numbers of a measurement."""
    return variance.ndim == 0 or variance.shape[1:].numel() == 1
