"""Means of independent values."""

import math

from torch import Tensor

__all__ = ["mean_and_error"]


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """The mean over samples `(n,)` and its standard error, which is NaN for a single sample."""
    error = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return values.mean().item(), error
