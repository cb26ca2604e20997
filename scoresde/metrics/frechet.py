"""Fréchet distance between Gaussian fits (FID, on whatever features are given)."""

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.metrics.estimate import Estimate
from scoresde.metrics.features import PCA, FeatureMap, Samples, paired_features

__all__ = ["frechet_distance", "frechet_from_moments"]


@checked
def frechet_distance(
    a: Samples, b: Samples, features: PCA | FeatureMap | None = None, resamples: int = 50, seed: int = 0
) -> Estimate:
    """Squared Fréchet distance between the Gaussians fitted to two sample sets (Heusel et al. 2017, eq. 6).

    ‖μ_a − μ_b‖² + tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½), with the unbiased sample covariances; they may be singular.

    The standard error is that of the bootstrap, both sets resampled. It covers fresh draws of both sets. It does not
    cover the bias, which is positive, of order F/n and often larger than the error bar: compare only at equal n. If the
    two distributions agree, the distance is of second order in the sampling noise and the bootstrap reports up to about
    twice the true standard error. Each resample costs as much as the distance itself, O(F³) for F features, or O(N²F)
    if there are fewer samples than features.

    Args:
        a: Generated samples, `(N, ...)`.
        b: Reference samples, `(N, ...)`.
        features: None, a `PCA`, or a function; see `paired_features`.
        resamples: Number of bootstrap resamples, at least 2.
        seed: Seed of the resampling.

    Raises:
        ValueError: Samples that do not fit (see `paired_features`) or fewer than 2 resamples.
    """
    if resamples < 2:
        raise ValueError(f"resamples must be at least 2 for a standard error, got {resamples}")
    x, y = paired_features(a, b, features)
    n = len(x)
    generator = torch.Generator().manual_seed(seed)
    replicates = torch.empty(resamples, dtype=torch.float64)
    for r in range(resamples):
        i, j = torch.randint(n, (2, n), generator=generator)
        replicates[r] = _distance(x[i], y[j])
    value = _distance(x, y)
    return Estimate(value, replicates.std().item(), n, "frechet_distance")


@checked
def frechet_from_moments(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    """Squared Fréchet distance between N(mean_a, cov_a) and N(mean_b, cov_b).

    The trace of (Σ_a Σ_b)^½ is the sum of the singular values of Σ_a^½ Σ_b^½. Unlike the square roots of the
    eigenvalues of Σ_a^½ Σ_b Σ_a^½ these keep full precision if a covariance is singular.

    Args:
        mean_a: Mean of one Gaussian, `(F,)`.
        cov_a: Covariance of that Gaussian, `(F, F)`.
        mean_b: Mean of the other, `(F,)`.
        cov_b: Covariance of the other, `(F, F)`.

    >>> frechet_from_moments(torch.zeros(2), torch.eye(2), torch.ones(2), torch.eye(2))
    2.0
    """
    trace = torch.trace(cov_a) + torch.trace(cov_b)
    cross = torch.linalg.svdvals(_sqrt(cov_a) @ _sqrt(cov_b)).sum()
    distance = float((mean_a - mean_b).square().sum() + trace - 2 * cross)
    return max(distance, 0.0)  # rounding can leave −1e-15 for equal arguments


def _distance(x: Tensor, y: Tensor) -> float:
    if len(x) >= x.shape[1]:
        return frechet_from_moments(*_moments(x), *_moments(y))
    # With fewer samples than features, Σ_a = AᵀA and Σ_b = BᵀB, and the singular values of Σ_a^½ Σ_b^½ are those of
    # ABᵀ, which is (N, N).
    mean_x, mean_y = x.mean(0), y.mean(0)
    a, b = ((v - m) / (len(v) - 1) ** 0.5 for v, m in ((x, mean_x), (y, mean_y)))
    cross = torch.linalg.svdvals(a @ b.T).sum()
    distance = float((mean_x - mean_y).square().sum() + a.square().sum() + b.square().sum() - 2 * cross)
    return max(distance, 0.0)


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    mean = x.mean(0)
    centred = x - mean
    return mean, centred.T @ centred / (len(x) - 1)


def _sqrt(cov: Tensor) -> Tensor:
    """The symmetric square root, with eigenvalues below their rounding error (1e-16, the roots 1e-8) taken as 0."""
    values, vectors = torch.linalg.eigh(cov)
    floor = len(values) * torch.finfo(values.dtype).eps * values[-1]
    root: Tensor = (vectors * torch.where(values > floor, values, 0).sqrt()) @ vectors.T
    return root
