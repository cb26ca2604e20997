"""A warning where the noise of an SDE does not fit the scale of the data."""

import math
import warnings

import torch
from torch import Tensor

from scoresde.data import Transform
from scoresde.sde import SDE
from scoresde.statistics import Statistics

__all__ = ["warn_of_scale"]

# Range of σ/α that training needs, in standard deviations of the data, and the factor by which it may be missed.
_SMALL, _LARGE, _SLACK = 0.01, 10.0, 3.0
# Means farther from 0 than this, in standard deviations, hide the data from a network.
_OFFSET = 3.0


def warn_of_scale(sde: SDE, statistics: Statistics, transform: Transform) -> None:
    """Warn where σ/α does not reach from about 0.01 to about 10 standard deviations, or the mean is far from 0.

    Standardised data need no warning. Continuous data are looked at channel by channel (the first axis of a sample),
    without constant ones; discrete data, whose borders may hardly vary, as a whole.

    Args:
        sde: The SDE.
        statistics: Moments of the data in model space.
        transform: Transform of the data.
    """
    means, stds = _moments(statistics, transform.levels is None)
    smallest, largest = float(stds.min()), float(stds.max())
    ends = sde.log_snr(torch.tensor([sde.t_min, sde.t_max], dtype=torch.float64))
    low, high = (-ends).exp().tolist()
    remedy = (
        "standardise the data (standardise=auto), or set the range of the SDE"
        if transform.levels is None
        else "give the data another low and high, or set the range of the SDE"
    )
    if low > _SLACK * _SMALL * smallest or high < _LARGE * largest / _SLACK:
        warnings.warn(
            f"σ/α of {sde} runs from {low:.3g} to {high:.3g}, which is {low / smallest:.2g} to {high / largest:.2g} "
            f"standard deviations of the data ({_span(smallest, largest)}), and about 0.01 to 10 are needed: {remedy}",
            UserWarning,
            stacklevel=2,
        )
    offset = float((means.abs() / stds).max())
    if offset > _OFFSET:
        warnings.warn(
            f"the mean of the data is {offset:.3g} standard deviations from 0, which a network can hardly see past: "
            f"{remedy.split(', or')[0]}",
            UserWarning,
            stacklevel=2,
        )


def _moments(statistics: Statistics, by_channel: bool) -> tuple[Tensor, Tensor]:
    """Means and standard deviations `(C,)` of the channels that vary, or `(1,)` of all values."""
    mean, std = statistics.mean.double().cpu(), statistics.std.double().cpu().reshape(1)
    variances = statistics.variances
    if not by_channel or variances is None:
        return mean.mean().reshape(1), std
    means = mean.flatten(1).mean(1) if mean.ndim > 1 else mean
    within = variances.cpu().reshape(len(means), -1).mean(1)
    # The positions of a channel differ in mean, too, which is a part of its spread.
    between = mean.flatten(1).var(1, correction=0) if mean.ndim > 1 else torch.zeros_like(within)
    stds = (within + between).sqrt()
    varying = stds > 0
    return (means[varying], stds[varying]) if bool(varying.any()) else (mean.mean().reshape(1), std)


def _span(low: float, high: float) -> str:
    return f"{low:.3g}" if math.isclose(low, high, rel_tol=1e-6) else f"{low:.3g} to {high:.3g}"
