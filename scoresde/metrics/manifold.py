"""Precision, recall, density and coverage: nearest-neighbour balls stand in for a distribution's support."""

from torch import Tensor

from scoresde.arguments import checked
from scoresde.metrics.estimate import Estimate
from scoresde.metrics.features import PCA, FeatureMap, Samples
from scoresde.metrics.subsets import Subsets

__all__ = ["density_coverage", "manifold_estimates", "manifold_metrics", "precision_recall"]


@checked
def precision_recall(
    a: Samples, b: Samples, k: int = 5, features: PCA | FeatureMap | None = None, seed: int = 0
) -> dict[str, Estimate]:
    """Improved precision and recall (Kynkäänniemi et al. 2019, eq. 1 and 2).

    `precision` is the fraction of generated samples within the k-nearest-neighbour ball of some reference
    sample, `recall` the fraction of reference samples within the ball of some generated sample. An outlier
    makes a large ball, so both read high where there are outliers; `density_coverage` suffers less.

    The standard error is that of the delete-a-group jackknife (see `scoresde.metrics.subsets`). If all subsets agree,
    as at 0 and 1, it is that of a proportion with one success and one failure added: no finite n is certain.

    Args:
        a: Generated samples, `(N, ...)`.
        b: Reference samples, `(N, ...)`.
        k: Rank of the nearest neighbour that sets the radius of a ball.
        features: None, a `PCA`, or a function; see `paired_features`.
        seed: Seed of the random groups; it moves only the error bars.

    Returns:
        Estimates by the names `precision` and `recall`.

    Raises:
        ValueError: Samples that do not fit (see `paired_features`), or k not between 1 and what n allows.
    """
    sets = Subsets(a, b, k, features, seed)
    return _precision_recall(sets, sets.memberships(sets.a, sets.b, sets.radii(sets.b)))


@checked
def density_coverage(
    a: Samples, b: Samples, k: int = 5, features: PCA | FeatureMap | None = None, seed: int = 0
) -> dict[str, Estimate]:
    """Density and coverage (Naeem et al. 2020, eq. 3 and 4); only the reference set's balls enter.

    `density` is the mean number of reference balls around a generated sample, divided by k; its expectation
    is 1 for equal distributions and it can exceed 1. `coverage` is the fraction of reference balls that hold
    a generated sample; its expectation is near 1 − 2^-k for equal distributions.

    The standard error is as in `precision_recall`.

    Args:
        a: Generated samples, `(N, ...)`.
        b: Reference samples, `(N, ...)`.
        k: Rank of the nearest neighbour that sets the radius of a ball.
        features: None, a `PCA`, or a function; see `paired_features`.
        seed: Seed of the random groups; it moves only the error bars.

    Returns:
        Estimates by the names `density` and `coverage`.

    Raises:
        ValueError: Samples that do not fit (see `paired_features`), or k not between 1 and what n allows.
    """
    sets = Subsets(a, b, k, features, seed)
    radii = sets.radii(sets.b)
    return _density_coverage(sets, radii, sets.memberships(sets.a, sets.b, radii))


@checked
def manifold_metrics(
    a: Samples, b: Samples, k: int = 5, features: PCA | FeatureMap | None = None, seed: int = 0
) -> dict[str, Estimate]:
    """The estimates of `precision_recall` and `density_coverage`, whose distances are computed once for both."""
    sets = Subsets(a, b, k, features, seed)
    return manifold_estimates(sets, sets.radii(sets.b))


def manifold_estimates(sets: Subsets, radii: Tensor) -> dict[str, Estimate]:
    """The estimates of `manifold_metrics`, given the squared radii of the reference balls in all subsets."""
    inside = sets.memberships(sets.a, sets.b, radii)
    return _precision_recall(sets, inside) | _density_coverage(sets, radii, inside)


def _precision_recall(sets: Subsets, inside: Tensor) -> dict[str, Estimate]:
    held = sets.memberships(sets.b, sets.a, sets.radii(sets.a))
    precision = sets.estimate((inside > 0).to(inside.dtype), "precision")
    recall = sets.estimate((held > 0).to(held.dtype), "recall")
    return {"precision": precision, "recall": recall}


def _density_coverage(sets: Subsets, radii: Tensor, inside: Tensor) -> dict[str, Estimate]:
    reached = (sets.nearest(sets.b, sets.a) <= radii).to(inside.dtype)
    density = sets.estimate(inside / sets.k, "density")
    return {"density": density, "coverage": sets.estimate(reached, "coverage")}
