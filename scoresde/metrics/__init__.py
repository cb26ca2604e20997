"""Sample-quality metrics with error bars: generated samples `a` against a reference `b`."""

from scoresde.metrics.estimate import Estimate
from scoresde.metrics.evaluate import evaluate_samples
from scoresde.metrics.features import PCA
from scoresde.metrics.frechet import frechet_distance, frechet_from_moments
from scoresde.metrics.manifold import density_coverage, manifold_metrics, precision_recall
from scoresde.metrics.mmd import GaussianKernel, PolynomialKernel, mmd
from scoresde.metrics.wasserstein import sliced_wasserstein

__all__ = [
    "PCA",
    "Estimate",
    "GaussianKernel",
    "PolynomialKernel",
    "density_coverage",
    "evaluate_samples",
    "frechet_distance",
    "frechet_from_moments",
    "manifold_metrics",
    "mmd",
    "precision_recall",
    "sliced_wasserstein",
]
