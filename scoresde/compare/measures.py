"""Measures of samples: their distance to true endpoints, and their quality against held-out data."""

import hashlib
import math

from torch import Tensor

from scoresde.arguments import checked
from scoresde.metrics import (
    PCA,
    Estimate,
    PrincipalDirections,
    frechet_distance,
    manifold_metrics,
    sliced_wasserstein,
)
from scoresde.metrics.evaluate import FEWEST, widths
from scoresde.metrics.features import FeatureMap, as_features, paired_features

__all__ = ["fingerprint", "quality", "root_mean_square"]


@checked
def quality(
    samples: Tensor,
    data: Tensor,
    features: PCA | FeatureMap | None = None,
    same_units: bool = False,
    directions: PrincipalDirections | None = None,
) -> dict[str, Estimate]:
    """The metrics `COMPARED` of samples against data, by name; see `scoresde.metrics.evaluate_samples`.

    Args:
        samples: The samples, `(n, ...)`.
        data: Held-out data, `(n, ...)`.
        features: The features that the metrics compare; see `scoresde.metrics.features.paired_features`.
        same_units: Whether samples and data are known to be in the same units, so that they are not checked.
        directions: Principal directions of the data with their variances; found in `data` by folds if not given.
    """
    x, y = paired_features(samples, data, features, FEWEST, same_units)
    distances = (
        frechet_distance(x, y, as_features),
        sliced_wasserstein(x, y, features=as_features),
        *(widths(x, y) if callable(features) and directions is None else widths(samples, data, directions)),
    )
    return {e.name: e for e in distances} | manifold_metrics(x, y, features=as_features)


@checked
def root_mean_square(x: Tensor, true: Tensor) -> tuple[float, float]:
    """√(mean d²) of the distances d of samples `(n, ...)` to the true ones, and its standard error.

    The standard error follows by the delta method from the scatter of d²: s(d²)/(2 √n √(mean d²)).
    """
    squares = (x.double() - true.double()).flatten(1).square().sum(1)
    root = math.sqrt(float(squares.mean()))
    if root == 0 or len(squares) < 2:
        return root, 0.0 if root == 0 else math.nan
    return root, float(squares.std()) / (2 * math.sqrt(len(squares)) * root)


def fingerprint(x: Tensor) -> str:
    """16 characters that two tensors share exactly when their shapes and float64 values are the same."""
    values = x.detach().cpu().double().contiguous()
    return hashlib.sha256(str(tuple(values.shape)).encode() + values.numpy().tobytes()).hexdigest()[:16]
