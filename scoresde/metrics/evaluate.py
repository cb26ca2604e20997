"""All sample-quality metrics of one pair of sample sets."""

from scoresde.arguments import checked
from scoresde.metrics.estimate import Estimate
from scoresde.metrics.features import PCA, FeatureMap, Samples, as_features, paired_features
from scoresde.metrics.frechet import frechet_distance
from scoresde.metrics.manifold import manifold_metrics
from scoresde.metrics.mmd import GaussianKernel, mmd
from scoresde.metrics.wasserstein import sliced_wasserstein

__all__ = ["FEWEST", "HIGHER_IS_BETTER", "LOWER_IS_BETTER", "METRICS", "TITLES", "evaluate_samples"]

TITLES = {
    "frechet_distance": "Fréchet distance",
    "sliced_wasserstein": "sliced Wasserstein distance",
    "mmd_polynomial": "MMD², polynomial kernel",
    "mmd_gaussian": "MMD², Gaussian kernel",
}
"""Titles of the metrics whose names are not words that a reader would use."""
LOWER_IS_BETTER = tuple(TITLES)
HIGHER_IS_BETTER = ("precision", "recall", "density", "coverage")
METRICS = LOWER_IS_BETTER + HIGHER_IS_BETTER
FEWEST = 7
"""Smallest number of samples in each set: 5 neighbours and a jackknife need as many."""


@checked
def evaluate_samples(
    a: Samples, b: Samples, features: PCA | FeatureMap | None = None, seed: int = 0, same_units: bool = False
) -> dict[str, Estimate]:
    """Every metric of the package at its default settings, on features computed once.

    Args:
        a: Generated samples, `(N, ...)`.
        b: Reference samples, `(N, ...)`, as many as generated ones.
        features: None, a `PCA`, or a function; see `paired_features`.
        seed: Seed of the resampling, groups and directions.
        same_units: Whether both sets are known to be in the same units; see `paired_features`.

    Returns:
        Estimates by the names in `METRICS`.

    Raises:
        ValueError: Samples that do not fit (see `paired_features`), or fewer than 7 (5 neighbours and a jackknife).
    """
    x, y = paired_features(a, b, features, minimum=FEWEST, same_units=same_units)
    distances = (
        frechet_distance(x, y, as_features, seed=seed),
        sliced_wasserstein(x, y, seed=seed, features=as_features),
        mmd(x, y, features=as_features),
        mmd(x, y, GaussianKernel(), features=as_features),
    )
    return {e.name: e for e in distances} | manifold_metrics(x, y, features=as_features, seed=seed)
