"""Information of data under a model: by noise level, of conditions, against another model, and locally."""

from scoresde.information.classes import ClassInformation, class_information
from scoresde.information.conditional import ConditionalInformation, conditional_information
from scoresde.information.denoising import DenoisingInformation, denoising_information
from scoresde.information.dimension import LocalDimension, flipd
from scoresde.information.model_divergence import ModelDivergence, kl_divergence
from scoresde.information.noisy_accuracy import NoisyAccuracy, noisy_accuracy
from scoresde.information.three_ways import Agreement, ThreeWays, three_ways

__all__ = [
    "Agreement",
    "ClassInformation",
    "ConditionalInformation",
    "DenoisingInformation",
    "LocalDimension",
    "ModelDivergence",
    "NoisyAccuracy",
    "ThreeWays",
    "class_information",
    "conditional_information",
    "denoising_information",
    "flipd",
    "kl_divergence",
    "noisy_accuracy",
    "three_ways",
]
