"""Sample-quality metrics with error bars: generated samples `a` against a reference `b`, or an exact density."""

from scoresde.metrics.divergences import Divergences, kl_divergences, nats_lost
from scoresde.metrics.estimate import Estimate
from scoresde.metrics.evaluate import evaluate_samples
from scoresde.metrics.features import PCA
from scoresde.metrics.frechet import frechet_distance, frechet_from_moments
from scoresde.metrics.manifold import density_coverage, manifold_metrics, precision_recall
from scoresde.metrics.mixtures import Mixture, Modes, mixture_modes
from scoresde.metrics.mmd import GaussianKernel, PolynomialKernel, mmd
from scoresde.metrics.spectrum import PrincipalDirections, Spectrum, principal_directions, spectrum
from scoresde.metrics.wasserstein import sliced_wasserstein

__all__ = [
    "PCA",
    "Divergences",
    "Estimate",
    "GaussianKernel",
    "Mixture",
    "Modes",
    "PolynomialKernel",
    "PrincipalDirections",
    "Spectrum",
    "density_coverage",
    "evaluate_samples",
    "frechet_distance",
    "frechet_from_moments",
    "kl_divergences",
    "manifold_metrics",
    "mixture_modes",
    "mmd",
    "nats_lost",
    "precision_recall",
    "principal_directions",
    "sliced_wasserstein",
    "spectrum",
]
