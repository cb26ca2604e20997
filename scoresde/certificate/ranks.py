"""Whether truths are placed among posterior samples as they are among exact ones: ranks, coverage, and their tests.

A truth x* that is drawn from p(x | y) and L samples of p(x | y) are alike, so that for any function f the rank of f(x*)
among the f of the samples is uniform on 0, …, L (simulation-based calibration, Talts et al. 2018). With f the distance
to a point that does not depend on x*, it is the credibility of TARP (Lemos et al. 2023), whose expected coverage is
then the nominal one. With f the exact log-density, the rank says in which region of highest density the truth lies.

A histogram of ranks tells in what samples are wrong: it is a hill where they are too wide, a trough where they are too
narrow, and a slope where they are moved to one side.
"""

import torch
from torch import Tensor

from scoresde.arguments import checked

__all__ = ["BINS", "corrected", "counts", "covered", "expected_counts", "places", "uniformity"]

BINS = 8
"""The number of equal parts of (0, 1) in which ranks are counted."""


@checked
def places(truth: Tensor, samples: Tensor, random: torch.Generator) -> Tensor:
    """The places of truths among samples, in (0, 1): uniform, and independent, where samples are exact.

    The place of rank r among L is (r + U)/(L + 1) with a uniform number U, and ties are ordered by chance.

    Args:
        truth: Values f of the truths, `(..., R)`.
        samples: Values of L samples for each of them, `(..., R, L)`.
        random: The source of U and of the order of ties.
    """
    below = (samples < truth[..., None]).sum(-1).double()
    ties = (samples == truth[..., None]).sum(-1).double()
    uniform = torch.rand(truth.shape, dtype=torch.float64, generator=random)
    return (below + (ties + 1) * uniform) / (samples.shape[-1] + 1)


@checked
def covered(place: Tensor, level: float) -> Tensor:
    """Whether the central credible interval of a level holds the truth, as 0 or 1, of the shape of `place`."""
    return ((2 * place - 1).abs() <= level).double()


@checked
def uniformity(place: Tensor) -> tuple[float, float]:
    """The largest distance of the places' distribution function from a uniform one, and the p-value of it.

    The test is that of Kolmogorov and Smirnov.

    Args:
        place: Independent places, of any shape.
    """
    from scipy.stats import kstest  # slow to import

    found = kstest(place.flatten().numpy(), "uniform")
    return float(found.statistic), float(found.pvalue)


@checked
def counts(place: Tensor) -> list[int]:
    """How many places lie in each of `BINS` equal parts of (0, 1).

    Args:
        place: Places of any shape.
    """
    part = (place.flatten() * BINS).long().clamp(0, BINS - 1)
    return [int(n) for n in torch.bincount(part, minlength=BINS)]


@checked
def expected_counts(truths: int, level: float = 0.99) -> tuple[int, int]:
    """The least and the largest count between which all parts are where ranks are uniform, at a probability.

    It is the interval of a binomial law for each part at such a probability that all of them are inside at `level` or
    above (Bonferroni).

    Args:
        truths: The number of independent truths.
        level: The probability.
    """
    from scipy.stats import binom  # slow to import

    law, tail = binom(truths, 1 / BINS), (1 - level) / (2 * BINS)
    return int(law.ppf(tail)), int(law.isf(tail))


def corrected(p_values: list[float]) -> float:
    """The p-value of the least of several (Bonferroni)."""
    return min(1.0, len(p_values) * min(p_values))
