"""How many modes of a known mixture samples cover, in which proportions, and how many of them lie in a mode."""

import math

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.metrics.estimate import Estimate
from scoresde.metrics.features import Samples, finite_rows
from scoresde.metrics.mixtures import Mixture
from scoresde.metrics.shares import Shares, shares_of

__all__ = ["mixture_of", "mode_metrics", "mode_shares"]

QUALITY = 1 - math.exp(-4.5)
"""Probability of the ball of a mode that samples of high quality lie in: three standard deviations in the plane."""


@checked
def mixture_of(weights: Tensor, means: Tensor, covariances: Tensor) -> Mixture:
    """The mixture of K normal distributions with full covariances.

    Args:
        weights: Weights, `(K,)`.
        means: Means, `(K, F)`.
        covariances: Covariances, `(K, F, F)`, positive definite.
    """
    variances, rotations = torch.linalg.eigh(covariances.double())
    return Mixture(weights.double(), means.double(), variances, rotations)


@checked
def mode_shares(samples: Samples, mixture: Mixture) -> Shares:
    """The shares of the modes among samples `(N, ...)`, each of which belongs to the nearest mode.

    The distance to a mode is that of Mahalanobis. A sample is of high quality, and counts for the coverage of its mode,
    within the distance that holds 98.9 % of the mode: three standard deviations in the plane, as in the literature on
    generative adversarial networks (Srivastava et al. 2017; Lin et al. 2018).

    Raises:
        ValueError: Samples of another dimension than the mixture, or not finite.
    """
    x = finite_rows("samples", samples)
    if x.shape[1] != mixture.means.shape[1]:
        raise ValueError(f"samples have {x.shape[1]} values, the mixture {mixture.means.shape[1]}")
    squares = torch.stack(
        [(mixture.coordinates(x, k).square() / v).sum(1) for k, v in enumerate(mixture.variances)], dim=1
    )
    nearest = squares.min(1)
    return shares_of(nearest.indices, mixture.weights, nearest.values <= _radius(x.shape[1]) ** 2, quality=QUALITY)


@checked
def mode_metrics(samples: Samples, mixture: Mixture) -> tuple[dict[str, Estimate], dict[str, float], Shares]:
    """Coverage and balance of the modes of a mixture by samples `(N, ...)`; see `mode_shares`.

    Returns:
        The estimates `modes_covered`, `high_quality`, `modes_misplaced` and `modes_imbalance`; what each is expected to
        be for exact samples; and the shares.
    """
    shares = mode_shares(samples, mixture)
    n, good = shares.n, float(shares.counts.sum())
    p = (good + 1) / (n + 2)
    quality = Estimate(good / n, math.sqrt(p * (1 - p) / n), n, "high_quality")
    found, expected = shares.metrics("modes")
    return {**found, "high_quality": quality}, {**expected, "high_quality": QUALITY}, shares


def _radius(dimension: int) -> float:
    """The distance in standard deviations that holds `QUALITY` of a normal distribution; 3 in the plane."""
    from scipy.stats import chi2  # slow to import

    return math.sqrt(float(chi2.ppf(QUALITY, dimension)))
