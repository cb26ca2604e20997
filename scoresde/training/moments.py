"""Moments of training data."""

import math

import torch
from torch import Tensor

from scoresde.data import Data
from scoresde.statistics import Statistics


def data_statistics(data: Data, dequantise: bool, seed: int = 0) -> Statistics:
    """Moments of the training data in model space, dequantised as in training.

    Args:
        data: The data.
        dequantise: Add uniform noise to discrete data.
        seed: Seed of that noise.
    """
    generator = torch.Generator().manual_seed(seed)

    def batch(raw: Tensor) -> Tensor:
        """Samples in model space."""
        discrete = data.transform.levels is not None
        noise = torch.rand(raw.shape, generator=generator) if discrete and dequantise else None
        return data.transform.encode(raw, noise)

    # At most the elements of 4096 samples that are small enough for a covariance.
    at_once = max(1, min(4096, 2**24 // math.prod(data.shape)))
    return Statistics.estimate(batch(raw) for raw in torch.split(data.train, at_once))
