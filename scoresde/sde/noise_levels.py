"""How far noise levels may lie apart, and how far a Langevin step may go at each (Song & Ermon 2020).

They are techniques 2 and 4 of the paper.

Levels σ_1 > ... > σ_L are in a geometric sequence, γ = σ_{i−1}/σ_i. Both techniques look at one training sample alone,
around which the noised density is N(0, σ² I) in D dimensions.

References:
    Song & Ermon 2020, Improved techniques for training score-based generative models,
        https://arxiv.org/abs/2006.09011
"""

import math
from functools import cache

from scoresde.numerics.values import at_least, positive, whole_number

__all__ = ["annealed_variance", "langevin_step", "level_count", "level_overlap", "level_ratio"]

# Radii within so many standard deviations of their mean belong to a level.
_WIDTH = 3.0


def level_overlap(ratio: float, dim: int, exact: bool = True) -> float:
    """The share of the draws at one noise level whose radius is one of the next larger level.

    The radii of a level are those between the quantiles Φ(−3) and Φ(3). With ‖x‖ taken as normal, with mean √D σ and
    variance σ²/2 (proposition 2), the share is

        Φ(√(2D) (γ − 1) + 3γ) − Φ(√(2D) (γ − 1) − 3γ),

    which is close where D is large. The exact distribution, χ with D degrees of freedom, serves every D.

    Args:
        ratio: Ratio γ of the two levels, at least 1.
        dim: Number D of elements of a sample.
        exact: Use the χ distribution; False for the paper's formula.

    Raises:
        ValueError: A ratio below 1, or no dimension.

    >>> cifar = (50 / 0.01) ** (1 / 231)  # the paper's 232 levels for CIFAR-10
    >>> round(level_overlap(cifar, 3072, exact=False), 3), round(level_overlap(cifar, 3072), 3)
    (0.567, 0.559)
    """
    from scipy.stats import chi, norm

    at_least("ratio", ratio, 1.0)
    dim = whole_number("dim", dim)
    if not exact:
        apart = math.sqrt(2 * dim) * (ratio - 1)
        return float(norm.cdf(apart + _WIDTH * ratio) - norm.cdf(apart - _WIDTH * ratio))
    # The upper end by the survival function, which is accurate there.
    low, high = chi.ppf(norm.sf(_WIDTH), dim), chi.isf(norm.sf(_WIDTH), dim)
    return float(chi.cdf(ratio * high, dim) - chi.cdf(ratio * low, dim))


@cache
def level_ratio(dim: int, overlap: float = 0.5, exact: bool = True) -> float:
    """The ratio γ of neighbouring noise levels at which they overlap so far (technique 2).

    Args:
        dim: Number D of elements of a sample.
        overlap: The share of draws that `level_overlap` gives.
        exact: Use the χ distribution; False for the paper's formula, which has no solution in four dimensions or fewer.

    Raises:
        ValueError: An overlap that no ratio has.

    >>> round(level_ratio(3072), 4), round(level_ratio(2), 1)
    (1.0395, 22.7)
    """
    from scipy.optimize import brentq

    dim = whole_number("dim", dim)
    top = level_overlap(1.0, dim, exact)
    if not 0 < overlap < top:
        raise ValueError(f"overlap is {overlap}, expected a share between 0 and {top:.4f}, that of equal levels")
    # By the formula the overlap comes near Φ(√(2D) + 3) − Φ(√(2D) − 3) at last, and rises again in few dimensions.
    far = next((2.0**k for k in range(1, 60) if level_overlap(2.0**k, dim, exact) < overlap), None)
    if far is None:
        raise ValueError(
            f"no ratio of levels in {dim} dimensions overlaps by {overlap} in the formula for many: use exact=True"
        )
    return float(brentq(lambda ratio: level_overlap(ratio, dim, exact) - overlap, 1.0, far, xtol=1e-12))


def level_count(sigma_min: float, sigma_max: float, ratio: float) -> int:
    """The number of levels from σ_max to σ_min, at least 2, whose ratio is at most the given one.

    Raises:
        ValueError: Levels that are out of order, or a ratio that is not above 1.

    >>> level_count(0.01, 1.0, 100 ** (1 / 9))  # NCSN's ten levels
    10
    """
    if not 0 < sigma_min < sigma_max < math.inf:
        raise ValueError(f"expected 0 < sigma_min < sigma_max, got sigma_min={sigma_min}, sigma_max={sigma_max}")
    if not ratio > 1:
        raise ValueError(f"ratio is {ratio}, expected more than 1")
    # A hair of slack: a ratio that was computed from a number of levels gives this number again.
    return max(2, 1 + math.ceil(math.log(sigma_max / sigma_min) / math.log(ratio) - 1e-6))


def annealed_variance(step: float, ratio: float, steps: int) -> float:
    """The variance s²/σ² after the Langevin steps at a level, from that of the level before (proposition 3).

    Each step x ← x + h σ² score + √(2h) σ z on N(0, σ² I) takes the variance v σ² to ((1 − h)² v + 2h) σ². After T
    steps from v = γ² it is

        (1 − h)^{2T} (γ² − b) + b,    b = 2h/(1 − (1 − h)²) = 2/(2 − h).

    Args:
        step: The step h, in units of σ²; ε/σ_L² in the paper's notation.
        ratio: Ratio γ of the level before to this one.
        steps: Number T of steps.

    >>> round(annealed_variance(0.062, (50 / 0.01) ** (1 / 231), 5), 4)  # CIFAR-10, as published
    1.0555
    """
    bias = 2 / (2 - step)
    return (1 - step) ** (2 * steps) * (ratio**2 - bias) + bias


@cache
def langevin_step(ratio: float, steps: int) -> float:
    """The Langevin step h = ε/σ_L² with which the variance comes closest to that of the level (technique 4).

    It looks at one level, reached with the exact variance of the level before. Over many levels the excess adds up: for
    CIFAR-10, to 1.13 instead of 1.06.

    `annealed_variance` is above 1 for every h in (0, 1): a short step leaves the variance of the level before, and a
    long one has a bias of its own. The best h is the minimum between.

    Args:
        ratio: Ratio γ of neighbouring levels, above 1.
        steps: Number T of steps at each level.

    Raises:
        ValueError: A ratio that is not above 1, or no step.

    >>> round(1e-4 * langevin_step((50 / 0.01) ** (1 / 231), 5), 7)  # ε for CIFAR-10; 6.2e-6 in the paper
    6.2e-06
    """
    from scipy.optimize import minimize_scalar

    positive("ratio - 1", ratio - 1)
    steps = whole_number("steps", steps)

    # In log h, since the best step of many is short.
    def variance(log_step: float) -> float:
        return annealed_variance(math.exp(log_step), ratio, steps)

    found = minimize_scalar(variance, bounds=(math.log(1e-12), 0.0), method="bounded", options={"xatol": 1e-9})
    return math.exp(float(found.x))
