"""Moments of training data."""

import math

import torch
from torch import Tensor

from scoresde.data import Data
from scoresde.data.cache import Cache
from scoresde.data.rows import blocks, is_lazy
from scoresde.statistics import Statistics


def data_statistics(data: Data, dequantise: bool, seed: int = 0) -> Statistics:
    """Moments of the training data in model space, dequantised as in training, in one pass.

    Those of data that are read when they are asked for are kept beside them.

    Args:
        data: The data.
        dequantise: Add uniform noise to discrete data.
        seed: Seed of that noise.
    """
    if not is_lazy(data.train):
        return _estimated(data, dequantise, seed)
    cache = Cache(data.train, data.transform.to_plain(), dequantise, seed)
    known = cache.tensors("statistics")
    if known is not None and {"mean", "std"} <= known.keys():
        return Statistics(known.pop("mean"), known.pop("std"), **known)
    found = _estimated(data, dequantise, seed)
    cache.keep_tensors("statistics", found.state_dict())
    return found


def _estimated(data: Data, dequantise: bool, seed: int) -> Statistics:
    generator = torch.Generator().manual_seed(seed)

    def batch(raw: Tensor) -> Tensor:
        """Samples in model space."""
        discrete = data.transform.levels is not None
        noise = torch.rand(raw.shape, generator=generator) if discrete and dequantise else None
        return data.transform.encode(raw, noise)

    # At most the elements of 4096 samples that are small enough for a covariance.
    at_once = max(1, min(4096, 2**24 // math.prod(data.shape)))
    return Statistics.estimate(batch(raw) for raw in blocks(data.train, at_once))
