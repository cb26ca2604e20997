"""Clipped density and clipped coverage, whose values are shares of good samples (Salvy et al. 2025)."""

from functools import cache

import numpy as np
import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.metrics.estimate import Estimate
from scoresde.metrics.features import PCA, FeatureMap, Samples
from scoresde.metrics.subsets import Subsets

__all__ = ["clipped_estimates", "clipped_metrics", "good_share"]


@checked
def clipped_metrics(
    a: Samples, b: Samples, k: int = 5, features: PCA | FeatureMap | None = None, seed: int = 0
) -> dict[str, Estimate]:
    """Clipped density and clipped coverage (Salvy et al. 2025).

    With radii r_i, the distance of reference sample i to its k-th neighbour among the reference samples:

    `clipped_density` is the mean over generated samples of min(1, c_j/k), with the number c_j of reference balls around
    sample j, whose radii are no larger than the median radius. It is divided by the same mean over the reference
    samples, each in the balls of the others.

    `clipped_coverage` is g of the mean over reference samples of min(1, d_i/k), with the number d_i of generated
    samples in ball i. g is the inverse of the mean that m good samples among n are expected to have, where the others
    are far away, so that the value is m/n: see `good_share`.

    Both are at most 1, fall linearly with the share of bad samples, and an outlier among the reference samples adds no
    more than any other sample: it has no larger ball in the first, and one ball in the second. The cut at 1 makes the
    mean over exact samples a little smaller than 1. The standard error is that of the jackknife (see
    `scoresde.metrics.subsets`) of the values before they are cut.

    Args:
        a: Generated samples, `(N, ...)`.
        b: Reference samples, `(N, ...)`.
        k: Rank of the nearest neighbour that sets the radius of a ball.
        features: None, a `PCA`, or a function; see `paired_features`.
        seed: Seed of the random groups; it moves only the error bars.

    Returns:
        Estimates by the names `clipped_density` and `clipped_coverage`.

    Raises:
        ValueError: Samples that do not fit (see `paired_features`), or k not between 1 and what n allows.
    """
    sets = Subsets(a, b, k, features, seed)
    return clipped_estimates(sets, sets.radii(sets.b))


def clipped_estimates(sets: Subsets, radii: Tensor) -> dict[str, Estimate]:
    """The estimates of `clipped_metrics`, given the squared radii of the reference balls in all subsets."""
    density = _clipped_density(sets, radii)
    covered = sets.column_means(sets.counts_within(sets.b, sets.a, radii) / sets.k)
    sizes = sets.kept.sum(0).tolist()
    coverage = torch.tensor(
        [good_share(value, size, size, sets.k) for value, size in zip(covered.tolist(), sizes, strict=True)],
        dtype=torch.float64,
    )
    return {
        name: _cut(sets.estimate_of(columns, name))
        for name, columns in (("clipped_density", density), ("clipped_coverage", coverage))
    }


def _cut(found: Estimate) -> Estimate:
    return Estimate(min(found.value, 1.0), found.stderr, found.n, found.name)


def _clipped_density(sets: Subsets, radii: Tensor) -> Tensor:
    """The clipped density before the cut at 1, in each subset, `(G + 1,)`."""
    medians = [radii[kept, g].median() for g, kept in enumerate(sets.kept.T)]
    clipped = torch.minimum(radii, torch.stack(medians))
    of_samples = sets.memberships(sets.a, sets.b, clipped)
    # Each reference sample lies in its own ball, which does not count.
    of_reference = (sets.memberships(sets.b, sets.b, clipped) - 1).clamp(min=0)
    means = [sets.column_means((c / sets.k).clamp(max=1)) for c in (of_samples, of_reference)]
    return means[0] / means[1].clamp(min=1e-300)


@checked
def good_share(mean: float, n: int, references: int, k: int) -> float:
    """The share of good samples among n for which the mean of min(1, d_i/k) is expected to be `mean`.

    A ball that reaches to the k-th of N − 1 other reference samples holds a mass u of the distribution that is
    Beta(k, N − k), whatever the distribution, and of m good samples a number d that is binomial given u. So the
    expectation of min(1, d/k) is one of a beta-binomial variable. Between whole m the share is linear; beyond n the
    slope at n is continued.

    Args:
        mean: Mean of min(1, d_i/k), in [0, 1].
        n: Number of samples.
        references: Number N of reference samples, more than k.
        k: Rank of the neighbour that sets the radius.

    >>> round(good_share(0.0, 100, 100, 5), 6), 0.99 < good_share(0.76, 100, 100, 5) < 1.01
    (0.0, True)
    """
    expected = _expected_means(n, references, k)
    if mean <= expected[-1]:
        return float(np.interp(mean, expected, np.arange(n + 1))) / n
    slope = expected[-1] - expected[-2]
    return 1 + float((mean - expected[-1]) / slope) / n


@cache
def _expected_means(n: int, references: int, k: int) -> np.ndarray:
    """E min(1, d/k) for m = 0 .. n good samples, `(n + 1,)`."""
    if not 1 <= k < references:
        raise ValueError(f"k must be between 1 and {references - 1}, got {k}")
    from scipy.special import betaln, gammaln  # slow to import

    m = np.arange(n + 1)[:, None]
    j = np.arange(min(k, n + 1))
    # Σ_{j < k} (k − j) P(d = j) is what is missing of k; j > m has probability 0.
    possible = j <= m
    rest = np.where(possible, m - j, 0)
    log_p = gammaln(m + 1) - gammaln(j + 1) - gammaln(rest + 1)
    log_p = log_p + betaln(k + j, references - k + rest) - betaln(k, references - k)
    missing = np.where(possible, (k - j) * np.exp(log_p), 0.0).sum(1)
    expected: np.ndarray = 1 - missing / k
    expected[0] = 0.0
    return expected
