"""Score matching: denoising, implicit and sliced, with their weightings and distributions of noise levels."""

from scoresde.objectives.base import Loss, Objective
from scoresde.objectives.denoising import DenoisingScoreMatching
from scoresde.objectives.matching import ImplicitScoreMatching, SlicedScoreMatching
from scoresde.objectives.noise_levels import loss_by_noise_level
from scoresde.objectives.times import (
    ImportanceSampled,
    LogNormalSigma,
    Times,
    UniformLogSNR,
    UniformTime,
    low_discrepancy,
)
from scoresde.objectives.weightings import EDMWeighting, Likelihood, MinSNR, SigmaSquared, Weighting

__all__ = [
    "DenoisingScoreMatching",
    "EDMWeighting",
    "ImplicitScoreMatching",
    "ImportanceSampled",
    "Likelihood",
    "LogNormalSigma",
    "Loss",
    "MinSNR",
    "Objective",
    "SigmaSquared",
    "SlicedScoreMatching",
    "Times",
    "UniformLogSNR",
    "UniformTime",
    "Weighting",
    "loss_by_noise_level",
    "low_discrepancy",
]
