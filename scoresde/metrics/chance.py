"""What is left of the largest of many deviations once chance has been taken out of it."""

import math
from statistics import NormalDist

import torch
from torch import Tensor

from scoresde.metrics.estimate import Estimate

__all__ = ["beyond_chance", "extreme_ratios"]

_LEVEL = 0.05  # how often exact samples may have a number that differs from what it is without error


def beyond_chance(deviation: Tensor, stderr: Tensor, level: float = _LEVEL) -> Tensor:
    """Deviations with their sampling error taken out, of the shape of `deviation`; 0 where chance explains them.

        sign(d) √max(d² − (z s)², 0)

    Here s is the standard error of d, and z the normal quantile of level/(2 M) for M deviations (Bonferroni), so that
    all of them are 0 with a probability of 1 − level if there is nothing to see. The square root leaves a deviation far
    above its error almost as it is.

    Args:
        deviation: Deviations d, whose expectation is 0 where nothing is wrong.
        stderr: Their standard errors s; infinite where a deviation is not known.
        level: Probability with which any is not 0 although nothing is wrong.
    """
    z = NormalDist().inv_cdf(1 - level / (2 * max(deviation.numel(), 1)))
    return (deviation.square() - (z * stderr).square()).clamp(min=0).sqrt() * deviation.sign()


def extreme_ratios(log_ratio: Tensor, stderr: Tensor, n: int, names: tuple[str, str]) -> tuple[Estimate, Estimate]:
    """The largest and the smallest ratio, at least and at most 1, each with chance taken out; NaN if none is known.

    Args:
        log_ratio: Logarithms of ratios.
        stderr: Their standard errors; infinite where a ratio is not known.
        n: Number of samples.
        names: Names of the two estimates.
    """
    log_ratio, stderr = log_ratio.flatten(), stderr.flatten()
    if not bool(stderr.isfinite().any()):
        return Estimate(math.nan, math.nan, n, names[0]), Estimate(math.nan, math.nan, n, names[1])
    left = beyond_chance(log_ratio, stderr)
    out = []
    for name, sign in zip(names, (1, -1), strict=True):
        # Where chance explains everything, the direction that deviates most says how well 1 is known.
        ranked = torch.where(stderr.isfinite(), sign * log_ratio, -math.inf)
        index = int((sign * left if bool((sign * left > 0).any()) else ranked).argmax())
        value = math.exp(sign * max(sign * float(left[index]), 0.0))
        out.append(Estimate(value, value * float(stderr[index]), n, name))
    return out[0], out[1]
