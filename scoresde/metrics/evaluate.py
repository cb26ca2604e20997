"""All sample-quality metrics of one pair of sample sets."""

from scoresde.arguments import checked
from scoresde.metrics.clipped import clipped_estimates
from scoresde.metrics.estimate import Estimate
from scoresde.metrics.features import PCA, FeatureMap, Samples, as_features, paired_features
from scoresde.metrics.frechet import frechet_distance
from scoresde.metrics.manifold import manifold_estimates
from scoresde.metrics.mmd import GaussianKernel, mmd
from scoresde.metrics.spectrum import PrincipalDirections, spectrum
from scoresde.metrics.subsets import Subsets
from scoresde.metrics.wasserstein import sliced_wasserstein

__all__ = [
    "CLASSES",
    "CLIPPED",
    "EXACT",
    "FEWEST",
    "GIVEN",
    "HIGHER_IS_BETTER",
    "LOWER_IS_BETTER",
    "MEMORISATION",
    "METRICS",
    "MODES",
    "NEIGHBOURHOODS",
    "REFERENCE",
    "TITLES",
    "WIDTHS",
    "evaluate_samples",
    "feature_estimates",
    "widths",
]

TITLES = {
    "frechet_distance": "Fréchet distance",
    "sliced_wasserstein": "sliced Wasserstein distance",
    "mmd_polynomial": "MMD², polynomial kernel",
    "mmd_gaussian": "MMD², Gaussian kernel",
    "noise_left": "noise left",
    "too_narrow": "too narrow",
    "nats_lost": "nats lost",
    "kl_to_model": "KL(samples‖model)",
    "kl_to_samples": "KL(model‖samples)",
    "weight_error": "weights of modes",
    "widest": "widest mode",
    "narrowest": "narrowest mode",
    "modes_misplaced": "samples in the wrong mode",
    "modes_imbalance": "KL of the modes' shares",
    "high_quality": "samples within 3σ of a mode",
    "classes_misplaced": "samples of the wrong class",
    "classes_imbalance": "KL of the classes' shares",
    "classifier_accuracy": "accuracy of the classifier",
    "copies": "copies of training data",
    "nearer_than_held_out": "nearer than held-out data",
    "authenticity": "authentic samples",
    "frechet_to_reference": "Fréchet distance to the reference",
    "frechet_infinity": "Fréchet distance at infinite n",
    "kernel_to_reference": "kernel distance to the reference",
}
"""Titles of the metrics whose names are not words that a reader would use."""
DISTANCES = ("frechet_distance", "sliced_wasserstein", "mmd_polynomial", "mmd_gaussian")
WIDTHS = ("noise_left", "too_narrow")
NEIGHBOURHOODS = ("precision", "recall", "density", "coverage")
CLIPPED = ("clipped_density", "clipped_coverage")
METRICS = DISTANCES + WIDTHS + NEIGHBOURHOODS + CLIPPED
"""The metrics of samples against data, in the order in which they are shown."""
MODES = ("modes_covered", "modes_misplaced", "modes_imbalance", "high_quality")
"""Measures of samples of data that know their modes."""
CLASSES = ("classes_covered", "classes_misplaced", "classes_imbalance", "classifier_accuracy")
"""Measures of samples of data with labels."""
GIVEN = ("labels_right",)
"""Measures of samples that are drawn given labels."""
MEMORISATION = ("copies", "nearer_than_held_out", "authenticity")
"""Measures of samples against the training data."""
REFERENCE = ("frechet_to_reference", "frechet_infinity", "kernel_to_reference")
"""Measures of samples against reference statistics in a file."""
EXACT = ("nats_lost", "kl_to_model", "kl_to_samples", "weight_error", "widest", "narrowest")
"""Further measures of samples of a model whose density is known."""
HIGHER_IS_BETTER = (
    "too_narrow", *NEIGHBOURHOODS, *CLIPPED, "narrowest", "modes_covered", "high_quality", "classes_covered",
    *GIVEN,
)  # fmt: skip
# Values that are best in between, or say something about the data alone.
_NEITHER = ("nearer_than_held_out", "authenticity", "classifier_accuracy")
LOWER_IS_BETTER = tuple(
    name
    for name in METRICS + MODES + CLASSES + MEMORISATION + REFERENCE + EXACT
    if name not in HIGHER_IS_BETTER and name not in _NEITHER
)
FEWEST = 7
"""Smallest number of samples in each set: 5 neighbours and a jackknife need as many."""
_NEIGHBOURS = 5


@checked
def evaluate_samples(
    a: Samples,
    b: Samples,
    features: PCA | FeatureMap | None = None,
    seed: int = 0,
    same_units: bool = False,
    directions: PrincipalDirections | None = None,
) -> dict[str, Estimate]:
    """Every metric of the package at its default settings, on features computed once.

    Args:
        a: Generated samples, `(N, ...)`.
        b: Reference samples, `(N, ...)`, as many as generated ones.
        features: None, a `PCA`, or a function; see `paired_features`. The widths along principal directions are those
            of the values themselves if it is a `PCA`, which leaves out the narrow directions.
        seed: Seed of the resampling, groups and directions.
        same_units: Whether both sets are known to be in the same units; see `paired_features`.
        directions: Principal directions of the data with their variances; found in `b` by folds if not given. With them
            the widths are those of the values themselves, whatever the features.

    Returns:
        Estimates by the names in `METRICS`.

    Raises:
        ValueError: Samples that do not fit (see `paired_features`), or fewer than 7 (5 neighbours and a jackknife).
    """
    x, y = paired_features(a, b, features, minimum=FEWEST, same_units=same_units)
    own = callable(features) and directions is None
    found = feature_estimates(x, y, seed) | {e.name: e for e in (widths(x, y) if own else widths(a, b, directions))}
    return {name: found[name] for name in METRICS}


@checked
def feature_estimates(x: Samples, y: Samples, seed: int = 0) -> dict[str, Estimate]:
    """Those of `METRICS` that are not `WIDTHS`, by name, of features that are known.

    Args:
        x: Features of generated samples, `(N, F)`.
        y: Those of reference samples, `(N, F)`.
        seed: Seed of the groups and directions.
    """
    x, y = paired_features(x, y, as_features, minimum=FEWEST)
    distances = (
        frechet_distance(x, y, as_features),
        sliced_wasserstein(x, y, seed=seed, features=as_features),
        mmd(x, y, features=as_features),
        mmd(x, y, GaussianKernel(), features=as_features),
    )
    sets = Subsets(x, y, _NEIGHBOURS, as_features, seed)
    radii = sets.radii(sets.b)
    return {e.name: e for e in distances} | manifold_estimates(sets, radii) | clipped_estimates(sets, radii)


def widths(a: Samples, b: Samples, directions: PrincipalDirections | None = None) -> tuple[Estimate, Estimate]:
    """The estimates `noise_left` and `too_narrow` of samples `(N, ...)` against data `(M, ...)`; see `spectrum`.

    Args:
        a: Generated samples.
        b: Reference samples, which are not looked at if there are directions.
        directions: Principal directions of the data with their variances.
    """
    found = spectrum(a, b) if directions is None else directions(a)
    return found.noise_left, found.too_narrow
