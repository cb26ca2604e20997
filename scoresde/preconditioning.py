"""Preconditionings of score networks, under the name that configurations use."""

from scoresde.score.preconditioning import (
    Coefficients,
    EDMPreconditioning,
    FlowPreconditioning,
    NoisePreconditioning,
    Preconditioning,
    ScorePreconditioning,
    UnscaledScorePreconditioning,
    VelocityPreconditioning,
)

__all__ = [
    "Coefficients",
    "EDMPreconditioning",
    "FlowPreconditioning",
    "NoisePreconditioning",
    "Preconditioning",
    "ScorePreconditioning",
    "UnscaledScorePreconditioning",
    "VelocityPreconditioning",
]
