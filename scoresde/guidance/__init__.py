"""Guided score models: the field of a model, bent on the way towards what is asked of samples.

All of them are score models around others, so that they compose, and every solver and comparison takes them. A guided
field is in general the score of no density: see `ScoreModel.is_score`.
"""

from scoresde.guidance.auto import AutoGuidance
from scoresde.guidance.classifier_free import ClassifierFree
from scoresde.guidance.density import DensityGuided
from scoresde.guidance.given import Given
from scoresde.guidance.gradient import ClassifierGuidance, RewardGuidance
from scoresde.guidance.product import Product
from scoresde.guidance.projected import AdaptiveProjected

__all__ = [
    "AdaptiveProjected",
    "AutoGuidance",
    "ClassifierFree",
    "ClassifierGuidance",
    "DensityGuided",
    "Given",
    "Product",
    "RewardGuidance",
]
