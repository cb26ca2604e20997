"""Guided score models: the field of a model, bent on the way towards what is asked of samples.

All of them are score models around others, so that they compose, and every solver and comparison takes them. A guided
field is in general the score of no density: see `ScoreModel.is_score`. A `Target` names a density, of which
`scoresde.sampling.SteeredSampler` draws samples.
"""

from scoresde.guidance.auto import AutoGuidance
from scoresde.guidance.choices import APG, CFG, Auto, ByClassifier, Density, Guidance, NoGuidance
from scoresde.guidance.classifier_free import ClassifierFree
from scoresde.guidance.density import DensityGuided
from scoresde.guidance.flow_density import FlowDensity
from scoresde.guidance.given import Given
from scoresde.guidance.gradient import ClassifierGuidance, RewardGuidance
from scoresde.guidance.product import Product
from scoresde.guidance.projected import AdaptiveProjected
from scoresde.guidance.steering import GuidedTarget, ProductTarget, RewardTarget, Target, TemperedTarget
from scoresde.guidance.thresholded import Thresholded

__all__ = [
    "APG",
    "CFG",
    "AdaptiveProjected",
    "Auto",
    "AutoGuidance",
    "ByClassifier",
    "ClassifierFree",
    "ClassifierGuidance",
    "Density",
    "DensityGuided",
    "FlowDensity",
    "Given",
    "Guidance",
    "GuidedTarget",
    "NoGuidance",
    "Product",
    "ProductTarget",
    "RewardGuidance",
    "RewardTarget",
    "Target",
    "TemperedTarget",
    "Thresholded",
]
