"""Fréchet distances from statistics in a file, and their limit for infinitely many samples."""

from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.metrics.estimate import Estimate
from scoresde.metrics.features import Samples, finite_rows
from scoresde.metrics.frechet import frechet_from_moments
from scoresde.metrics.mmd import mmd
from scoresde.metrics.reference import ReferenceStatistics

__all__ = ["fewest_for_infinity", "frechet_infinity", "frechet_to_reference", "kernel_to_reference"]

_PARTS = (1, 2, 3, 5, 10)  # into which samples are divided for the extrapolation
_FEWEST = 2  # samples in a part, for each feature


@checked
def frechet_to_reference(features: Samples, reference: ReferenceStatistics) -> Estimate:
    """Squared Fréchet distance of samples from reference statistics (Heusel et al. 2017, eq. 6).

    The standard error is that over fresh samples, by the first-order effect of each sample on the distance; the
    reference is taken as it is. It does not cover the bias, which is positive and of order F/n: compare only at equal
    n.

    Args:
        features: Features of the samples, `(N, F)`.
        reference: The statistics.

    Raises:
        ValueError: Other features than the reference has.
    """
    x, root = _checked(features, reference), _Root.of(reference)
    return Estimate(root.distance(x), root.stderr(x), len(x), "frechet_to_reference")


def fewest_for_infinity(features: int) -> int:
    """Smallest number of samples for `frechet_infinity` with so many features."""
    return _FEWEST * features * _PARTS[2]


@checked
def frechet_infinity(features: Samples, reference: ReferenceStatistics, seed: int = 0) -> Estimate:
    """The Fréchet distance without the bias of finitely many samples (Chong and Forsyth 2020).

    The distance is linear in 1/n with a small curvature. A line through distances at several n is taken to 1/n = 0.
    Each n is N/k for k of 1, 2, 3, 5 and 10, as far as its parts have twice as many samples as there are features, and
    its distance is the mean over the k parts that samples are divided into: all sizes then have the same samples, and
    what these have by chance moves the line as a whole. The standard error joins it with what the line leaves open. On
    normal data it is too large where both distributions agree, up to twice; what curvature leaves of the bias was at
    most 0.8 of it, at 20 samples for each feature.

    Args:
        features: Features of the samples, `(N, F)`.
        reference: The statistics. Their own bias, of finitely many data, is not corrected.
        seed: Seed of the division.

    Raises:
        ValueError: Other features than the reference has, or too few samples, see `fewest_for_infinity`.
    """
    x, root = _checked(features, reference), _Root.of(reference)
    n, width = x.shape
    if n < (needed := fewest_for_infinity(width)):
        raise ValueError(
            f"{n} samples of {width} features are too few to extrapolate the Fréchet distance, expected at least "
            f"{needed}"
        )
    x = x[torch.randperm(n, generator=torch.Generator().manual_seed(seed))]
    sizes: list[float] = []
    distances: list[float] = []
    for k in (k for k in _PARTS if n // k >= _FEWEST * width):
        size = n // k
        for part in x[: k * size].split(size):
            sizes.append(1 / size)
            distances.append(root.distance(part))
    intercept, variance = _intercept(torch.tensor(sizes).double(), torch.tensor(distances).double())
    stderr = (root.stderr(x) ** 2 + variance) ** 0.5
    return Estimate(intercept, stderr, n, "frechet_infinity")


def _intercept(inverse: Tensor, y: Tensor) -> tuple[float, float]:
    """The intercept of a line through points (1/n, y), and its variance by their scatter about it.

    A distance of a part of n samples has a variance of order 1/n, so points are weighted by n.
    """
    weights = 1 / inverse
    design = torch.stack([torch.ones_like(inverse), inverse], 1)
    normal = torch.linalg.inv(design.T @ (weights[:, None] * design))
    fitted = normal @ (design.T @ (weights * y))
    residual = (weights * (y - design @ fitted).square()).sum() / max(len(y) - 2, 1)
    return float(fitted[0]), float(normal[0, 0] * residual)


@checked
def kernel_to_reference(features: Samples, reference: ReferenceStatistics) -> Estimate | None:
    """The kernel inception distance (Bińkowski et al. 2018) from the features of a reference; None where it has none.

    As many are taken on both sides as the smaller has, the first ones; see `scoresde.metrics.mmd`.

    Args:
        features: Features of the samples, `(N, F)`.
        reference: The statistics, with their features.
    """
    if reference.features is None:
        return None
    x = _checked(features, reference)
    n = min(len(x), len(reference.features))
    found = mmd(x[:n], reference.features[:n], features=lambda values: values)
    return Estimate(found.value, found.stderr, n, "kernel_to_reference")


def _checked(features: Samples, reference: ReferenceStatistics) -> Tensor:
    x = finite_rows("features", features)
    if x.shape[1] != len(reference.mean):
        raise ValueError(
            f"the samples have {x.shape[1]} features and the reference {len(reference.mean)}: compute both by the same "
            "network"
        )
    return x


@dataclass(frozen=True)
class _Root:
    """Reference statistics with the root of their covariance, by which distances and effects are found."""

    mean: Tensor
    covariance: Tensor
    root: Tensor

    @classmethod
    def of(cls, reference: ReferenceStatistics) -> "_Root":
        covariance = (reference.covariance + reference.covariance.T) / 2
        values, vectors = torch.linalg.eigh(covariance)
        return cls(reference.mean, covariance, (vectors * values.clamp(min=0).sqrt()) @ vectors.T)

    def distance(self, x: Tensor) -> float:
        if len(x) <= x.shape[1]:
            return frechet_from_moments(x.mean(0), x.T.cov(), self.mean, self.covariance)
        mean, covariance = x.mean(0), x.T.cov()
        trace = torch.trace(covariance) + torch.trace(self.covariance)
        cross = torch.linalg.eigvalsh(self._inner(covariance)).clamp(min=0).sqrt().sum()
        return max(float((mean - self.mean).square().sum() + trace - 2 * cross), 0.0)

    def stderr(self, x: Tensor) -> float:
        """The standard error of the distance by the first-order effects of the samples.

        To first order a sample moves the distance by 2 (μ − μ_r)·d + dᵀ (I − Σ_r^½ (Σ_r^½ Σ Σ_r^½)^(−½) Σ_r^½) d, with
        d its difference from the mean.
        """
        mean = x.mean(0)
        centred = x - mean
        values, vectors = torch.linalg.eigh(self._inner(x.T.cov()))
        floor = len(values) * torch.finfo(values.dtype).eps * values[-1]
        # Directions in which either covariance is zero have no slope that is known.
        inverse = torch.where(values > floor, values, torch.inf).rsqrt()
        turned = centred @ self.root @ vectors
        effects = centred @ (2 * (mean - self.mean)) + centred.square().sum(1) - (turned.square() @ inverse)
        return float(effects.std() / len(x) ** 0.5)

    def _inner(self, covariance: Tensor) -> Tensor:
        inner = self.root @ covariance @ self.root
        return (inner + inner.T) / 2
