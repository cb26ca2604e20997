"""Guided score models: the field of a model, bent on the way towards what is asked of samples."""

from scoresde.guidance.density import DensityGuided

__all__ = ["DensityGuided"]
