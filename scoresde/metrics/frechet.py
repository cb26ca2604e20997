"""Fréchet distance between Gaussian fits (FID, on whatever features are given)."""

import math

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.metrics.estimate import Estimate
from scoresde.metrics.features import PCA, FeatureMap, Samples, paired_features

__all__ = ["frechet_distance", "frechet_from_moments"]


@checked
def frechet_distance(
    a: Samples, b: Samples, features: PCA | FeatureMap | None = None, resamples: int | None = None, seed: int = 0
) -> Estimate:
    """Squared Fréchet distance between the Gaussians fitted to two sample sets (Heusel et al. 2017, eq. 6).

    ‖μ_a − μ_b‖² + tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½), with the unbiased sample covariances; they may be singular.

    The standard error is that over fresh draws of both sets, by the first-order effect of each sample on the distance.
    It does not cover the bias, which is positive, of order F/n and often larger than the error bar: compare only at
    equal n. If the two distributions agree, the distance is of second order in the sampling noise. On normal data it
    was then 1.0 to 1.6 times the true standard error, and 0.8 to 1.3 times where they differ; that of a bootstrap was
    1.2 to 2.6 times and 0.8 to 1.8 times.

    Args:
        a: Generated samples, `(N, ...)`.
        b: Reference samples, `(N, ...)`.
        features: None, a `PCA`, or a function; see `paired_features`.
        resamples: Number of resamples of a bootstrap, at least 2, for its standard error in the place of the other.
            Each costs as much as the distance itself, O(F³) for F features, or O(N²F) if there are fewer samples.
        seed: Seed of the resampling.

    Raises:
        ValueError: Samples that do not fit (see `paired_features`) or fewer than 2 resamples.
    """
    if resamples is not None and resamples < 2:
        raise ValueError(f"resamples must be at least 2 for a standard error, got {resamples}")
    x, y = paired_features(a, b, features)
    n = len(x)
    value, effects = _measured(x, y)
    if resamples is None:
        return Estimate(value, math.hypot(*(float(e.std()) for e in effects)) / n**0.5, n, "frechet_distance")
    generator = torch.Generator().manual_seed(seed)
    replicates = torch.empty(resamples, dtype=torch.float64)
    for r in range(resamples):
        i, j = torch.randint(n, (2, n), generator=generator)
        replicates[r] = _distance(x[i], y[j])
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
    return _total((mean_a - mean_b).square().sum(), trace, cross)


def _distance(x: Tensor, y: Tensor) -> float:
    if len(x) >= x.shape[1]:
        return frechet_from_moments(*_moments(x), *_moments(y))
    (mean_x, a), (mean_y, b) = _scaled(x), _scaled(y)
    cross = torch.linalg.svdvals(a @ b.T).sum()
    return _total((mean_x - mean_y).square().sum(), a.square().sum() + b.square().sum(), cross)


def _measured(x: Tensor, y: Tensor) -> tuple[float, tuple[Tensor, Tensor]]:
    """The distance, and the first-order effects of all samples on it, `(N,)` of each set.

    A sample at d from its mean moves the distance by 2 (μ − μ_o)·d + |d|² − dᵀ T d, with μ_o the mean of the other set
    and T = Σ^(−½) (Σ^½ Σ_o Σ^½)^½ Σ^(−½), where Σ is not singular. With Σ^½ Σ_o^½ = P S Qᵀ the root is P S Pᵀ.
    """
    n = len(x)
    (mean_x, a), (mean_y, b) = _scaled(x), _scaled(y)
    if n >= x.shape[1]:
        (root_x, inverse_x), (root_y, inverse_y) = _roots(a.T @ a), _roots(b.T @ b)
        p, s, q = torch.linalg.svd(root_x @ root_y)
        bent = [(c @ inverse @ turn).square() @ s for c, inverse, turn in ((a, inverse_x, p), (b, inverse_y, q.T))]
    else:
        # With fewer samples than features, Σ = AᵀA and Σ_o = BᵀB, and the singular values of Σ^½ Σ_o^½ are those of
        # ABᵀ, which is (N, N).
        p, s, q = torch.linalg.svd(a @ b.T)
        bent = [turn.square() @ s for turn in (p, q.T)]
    apart = mean_x - mean_y
    distance = _total(apart.square().sum(), a.square().sum() + b.square().sum(), s.sum())
    scale = (n - 1) ** 0.5  # of d to the rows of A and B
    return distance, (
        2 * scale * (a @ apart) + (n - 1) * (a.square().sum(1) - bent[0]),
        -2 * scale * (b @ apart) + (n - 1) * (b.square().sum(1) - bent[1]),
    )


def _total(of_means: Tensor, traces: Tensor, cross: Tensor) -> float:
    return max(float(of_means + traces - 2 * cross), 0.0)  # rounding can leave −1e-15 for equal arguments


def _scaled(x: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of samples `(N, F)`, and A `(N, F)` of which their unbiased covariance is AᵀA."""
    mean = x.mean(0)
    return mean, (x - mean) / (len(x) - 1) ** 0.5


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    mean = x.mean(0)
    centred = x - mean
    return mean, centred.T @ centred / (len(x) - 1)


def _sqrt(cov: Tensor) -> Tensor:
    """The symmetric square root, with eigenvalues below their rounding error (1e-16, the roots 1e-8) taken as 0."""
    return _roots(cov)[0]


def _roots(cov: Tensor) -> tuple[Tensor, Tensor]:
    """The symmetric square root, and its inverse in the directions in which it is not 0."""
    values, vectors = torch.linalg.eigh(cov)
    floor = len(values) * torch.finfo(values.dtype).eps * values[-1]
    root: Tensor = (vectors * torch.where(values > floor, values, 0).sqrt()) @ vectors.T
    inverse: Tensor = (vectors * torch.where(values > floor, values, torch.inf).rsqrt()) @ vectors.T
    return root, inverse
