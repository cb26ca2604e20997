"""Score matching, the bound of a chain and the loss of classifiers, with weightings and noise levels."""

from scoresde.objectives.base import Criterion, Loss, Objective
from scoresde.objectives.chains import ChainLoss
from scoresde.objectives.classification import CrossEntropy
from scoresde.objectives.denoising import DenoisingScoreMatching
from scoresde.objectives.matching import ImplicitScoreMatching, SlicedScoreMatching
from scoresde.objectives.noise_levels import loss_by_noise_level
from scoresde.objectives.steps import LossHistory, StepTimes, UniformSteps
from scoresde.objectives.times import (
    ImportanceSampled,
    LogNormalSigma,
    Times,
    UniformLogSNR,
    UniformTime,
    low_discrepancy,
)
from scoresde.objectives.variational import Hybrid, VariationalBound
from scoresde.objectives.weightings import EDMWeighting, Likelihood, MinSNR, SigmaSquared, StraightVelocity, Weighting

__all__ = [
    "ChainLoss",
    "Criterion",
    "CrossEntropy",
    "DenoisingScoreMatching",
    "EDMWeighting",
    "Hybrid",
    "ImplicitScoreMatching",
    "ImportanceSampled",
    "Likelihood",
    "LogNormalSigma",
    "Loss",
    "LossHistory",
    "MinSNR",
    "Objective",
    "SigmaSquared",
    "SlicedScoreMatching",
    "StepTimes",
    "StraightVelocity",
    "Times",
    "UniformLogSNR",
    "UniformSteps",
    "UniformTime",
    "VariationalBound",
    "Weighting",
    "loss_by_noise_level",
    "low_discrepancy",
]
