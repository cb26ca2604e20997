"""Score models: around networks, exact, and under another SDE; and classifiers of noised samples."""

from scoresde.score.bound import BoundModel
from scoresde.score.classifier import NoisyClassifier
from scoresde.score.conditions import Conditions, as_conditions
from scoresde.score.exact import EmpiricalScore, GaussianMixtureScore
from scoresde.score.model import Prediction, ScoreModel
from scoresde.score.moved import in_model_space, with_sde
from scoresde.score.network import NetworkScore
from scoresde.score.optimal_variances import OptimalVariances
from scoresde.score.step_rules import StepRule, StepRules

__all__ = [
    "BoundModel",
    "Conditions",
    "EmpiricalScore",
    "GaussianMixtureScore",
    "NetworkScore",
    "NoisyClassifier",
    "OptimalVariances",
    "Prediction",
    "ScoreModel",
    "StepRule",
    "StepRules",
    "as_conditions",
    "in_model_space",
    "with_sde",
]
