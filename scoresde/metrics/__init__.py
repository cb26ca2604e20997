"""Sample-quality metrics with error bars: generated samples `a` against a reference `b`, or an exact density."""

from scoresde.metrics.classes import Classifier, class_metrics, fit_classifier, label_metrics
from scoresde.metrics.clipped import clipped_metrics
from scoresde.metrics.divergences import Divergences, kl_divergences, nats_lost
from scoresde.metrics.estimate import Estimate
from scoresde.metrics.evaluate import evaluate_samples
from scoresde.metrics.features import PCA
from scoresde.metrics.frechet import frechet_distance, frechet_from_moments
from scoresde.metrics.frechet_reference import frechet_infinity, frechet_to_reference, kernel_to_reference
from scoresde.metrics.manifold import density_coverage, manifold_metrics, precision_recall
from scoresde.metrics.memorisation import Neighbours, memorisation_metrics
from scoresde.metrics.mixtures import Mixture, Modes, mixture_modes
from scoresde.metrics.mmd import GaussianKernel, PolynomialKernel, mmd
from scoresde.metrics.modes import mixture_of, mode_metrics, mode_shares
from scoresde.metrics.published import CLIPFeatures, DINOv2Features, InceptionFeatures
from scoresde.metrics.reference import ReferenceStatistics
from scoresde.metrics.shares import Shares, shares_of
from scoresde.metrics.spectrum import PrincipalDirections, Spectrum, principal_directions, spectrum
from scoresde.metrics.wasserstein import sliced_wasserstein

__all__ = [
    "PCA",
    "CLIPFeatures",
    "Classifier",
    "DINOv2Features",
    "Divergences",
    "Estimate",
    "GaussianKernel",
    "InceptionFeatures",
    "Mixture",
    "Modes",
    "Neighbours",
    "PolynomialKernel",
    "PrincipalDirections",
    "ReferenceStatistics",
    "Shares",
    "Spectrum",
    "class_metrics",
    "clipped_metrics",
    "density_coverage",
    "evaluate_samples",
    "fit_classifier",
    "frechet_distance",
    "frechet_from_moments",
    "frechet_infinity",
    "frechet_to_reference",
    "kernel_to_reference",
    "kl_divergences",
    "label_metrics",
    "manifold_metrics",
    "memorisation_metrics",
    "mixture_modes",
    "mixture_of",
    "mmd",
    "mode_metrics",
    "mode_shares",
    "nats_lost",
    "precision_recall",
    "principal_directions",
    "shares_of",
    "sliced_wasserstein",
    "spectrum",
]
