"""The tail of importance weights: a generalised Pareto distribution, its fit, and weights smoothed by it."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["ParetoTail", "fit_pareto", "smoothed_log_weights"]

# Zhang & Stephens 2009: the prior of b, and the number of its support points above √n.
_PRIOR, _POINTS = 3.0, 30
# Vehtari et al. 2024, appendix C: a prior of k at 1/2, worth ten observations.
_OBSERVATIONS, _CENTRE = 10, 0.5
# Weights in a tail, at least, for a fit.
_FEWEST = 5


class ParetoTail(NamedTuple):
    """A generalised Pareto distribution, 1 − (1 + k x/σ)^(−1/k) for x ≥ 0.

    Attributes:
        k: Shape. Moments of an order below 1/k exist.
        scale: Scale σ.
    """

    k: float
    scale: float

    def quantiles(self, p: Tensor) -> Tensor:
        """The quantiles at probabilities `(n,)`."""
        if self.k == 0:
            return -self.scale * torch.log1p(-p)
        return self.scale / self.k * torch.expm1(-self.k * torch.log1p(-p))


def fit_pareto(x: Tensor) -> ParetoTail:
    """The posterior mean of Zhang & Stephens 2009 (New method, eq. 7 to 9), before any prior of k.

    >>> uniform = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    >>> tail = fit_pareto(ParetoTail(0.4, 2.0).quantiles(uniform))
    >>> round(tail.k, 1), round(tail.scale, 1)
    (0.4, 2.0)

    Args:
        x: Excesses over a threshold, `(n,)` float64, increasing, the last above 0.
    """
    n = len(x)
    count = _POINTS + int(math.sqrt(n))
    j = torch.arange(1, count + 1, dtype=torch.float64, device=x.device)
    quartile = x[int(n / 4 + 0.5) - 1].clamp_min(torch.finfo(torch.float64).tiny)
    b = 1 / x[-1] + (1 - (count / (j - 0.5)).sqrt()) / (_PRIOR * quartile)
    k = torch.log1p(-b[:, None] * x).mean(1)
    log_likelihood = n * ((-b / k).log() - k - 1)
    mean = float((log_likelihood.softmax(0) * b).sum())
    shape = float(torch.log1p(-mean * x).mean())
    return ParetoTail(shape, -shape / mean)


def smoothed_log_weights(log_weights: Tensor) -> tuple[Tensor, float]:
    """Pareto-smoothed importance weights, and the shape k̂ of their tail (Vehtari et al. 2024, algorithm 1).

    The largest min(n/5, 3 √n) weights are replaced by quantiles of the distribution that is fitted to them, none
    above the largest weight. Estimates are reliable for k̂ below min(1 − 1/log₁₀ n, 0.7). With too few weights for a
    tail, or one of equal weights, they stay as they are, and k̂ is NaN and −∞.

    Args:
        log_weights: Logarithms of the weights `(n,)` float64, up to a constant; −∞ for a weight of 0.

    References:
        Pareto smoothed importance sampling (Vehtari et al. 2024),
        https://arxiv.org/abs/1507.02646
        A new and efficient estimation method for the generalized Pareto distribution (Zhang & Stephens 2009),
        https://doi.org/10.1198/tech.2009.08017
    """
    n = len(log_weights)
    size = math.ceil(min(0.2 * n, 3 * math.sqrt(n)))
    if size < _FEWEST or size >= n:
        return log_weights, math.nan
    logs, order = (log_weights - log_weights.max()).sort()
    cutoff = logs[-size - 1].exp()
    excess = logs[-size:].exp() - cutoff
    if not bool(excess[-1] > 0):
        return log_weights, -math.inf
    k, scale = fit_pareto(excess)
    k = (size * k + _OBSERVATIONS * _CENTRE) / (size + _OBSERVATIONS)
    smooth = log_weights.clone()
    if math.isfinite(k):
        p = (torch.arange(size, dtype=torch.float64, device=logs.device) + 0.5) / size
        tail = (cutoff + ParetoTail(k, scale).quantiles(p)).log().clamp_max(0.0)
        smooth[order[-size:]] = log_weights.max() + tail
    return smooth, k
