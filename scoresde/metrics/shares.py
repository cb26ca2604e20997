"""How samples share out over the modes or classes of the data: how many they reach, and in which proportions.

A sampler that has lost modes covers fewer of them than exact samples do, which a finite n lets miss some too; one that
prefers modes has other shares than the data, as have exact samples by chance. Each number comes with what exact samples
of the same n are expected to have, so that neither is mistaken for the other.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.metrics.estimate import Estimate

__all__ = ["Shares", "shares_of"]


@dataclass(frozen=True)
class Shares:
    """Counts of samples in K groups against those that are expected.

    Attributes:
        counts: Samples that count for a group, `(K,)` float64: all of it, or those of high quality.
        members: Samples nearest to a group, of high quality or not, `(K,)` float64.
        weights: Shares of the groups in the data, `(K,)` float64, whose sum is 1.
        n: Number of samples.
        m: Number of data that the weights were counted in; None for weights that are exact.
        quality: Probability that an exact sample of a group counts for it.
    """

    counts: Tensor
    members: Tensor
    weights: Tensor
    n: int
    m: int | None = None
    quality: float = 1.0

    @property
    def share(self) -> Tensor:
        """Shares of the groups in the samples, `(K,)`."""
        return self.members / self.n

    @property
    def share_stderr(self) -> Tensor:
        """Standard errors of the shares, `(K,)`, with one success and one failure added: no finite n is certain."""
        p = (self.members + 1) / (self.n + 2)
        return (p * (1 - p) / self.n).sqrt()

    @property
    def covered(self) -> Estimate:
        """The share of groups with at least one sample that counts.

        Its standard error is over fresh samples, of which a group of expected count λ is missed with probability e^−λ.
        Σ e^−λ (1 − e^−λ) has the unbiased estimate f₁ − f₂ + f₃ − … with the numbers f_c of groups of c samples, a
        series that is cut after f₁ − f₂/2, or is what the counts in the place of λ say where that is more. The variance
        is this less f₁²/n, since a sample in one group is in no other.
        """
        present = self.counts > 0
        misses = torch.exp(-self.counts[present])
        once, twice = (float((self.counts == c).sum()) for c in (1, 2))
        variance = max(once - twice / 2, float((misses * (1 - misses)).sum())) - once**2 / self.n
        groups = int((self.weights > 0).sum())
        variance = variance if variance > 1e-12 else 0.0  # no digit of which is shown
        value = float((present & (self.weights > 0)).sum()) / groups
        return Estimate(value, math.sqrt(variance) / groups, self.n, "covered")

    @property
    def covered_expected(self) -> float:
        """The expectation of `covered` for exact samples: the mean of 1 − (1 − q w)ⁿ.

        Of weights that were counted in m ≥ n data it is the share of groups that n of these data are expected to cover,
        drawn without replacement, which is unbiased.
        """
        positive = self.weights[self.weights > 0]
        if self.m is not None and self.n <= self.m and self.quality == 1:
            n, m, rest = self.n, self.m, self.m - positive * self.m
            left = (rest - n + 1).clamp(min=1).lgamma()
            log_missed = (rest + 1).lgamma() - left - math.lgamma(m + 1) + math.lgamma(m - n + 1)
            return float(1 - torch.where(rest.round() >= n, log_missed.exp(), torch.zeros_like(rest)).mean())
        return float(-torch.expm1(self.n * torch.log1p(-self.quality * positive.clamp(max=1 - 1e-15))).mean())

    @property
    def misplaced(self) -> Estimate:
        """The total variation ½ Σ |share − weight|: the share of samples that would have to change their group.

        Its standard error is by the delta method, with that of the weights if they were counted. It is too large by
        about 1.7 where nothing but chance is seen, and at least 1/n: one sample may be elsewhere.
        """
        sign = (self.share - self.weights).sign() / 2
        variance = _spread(self.share, sign) / self.n
        if self.m is not None:
            variance += _spread(self.weights, sign) / self.m
        value = float((self.share - self.weights).abs().sum()) / 2
        return Estimate(value, math.sqrt(max(variance, 1 / self.n**2)), self.n, "misplaced")

    @property
    def misplaced_expected(self) -> float:
        """The expectation of `misplaced` for exact samples."""
        return sum(_mean_difference(self.n, self.m, float(w)) for w in self.weights) / 2

    @property
    def imbalance(self) -> Estimate:
        """The divergence KL(share ‖ weight) in nats, less what chance adds to it.

        Chance adds (K − 1)/(2n) on average, and (K − 1)/(2m) if the weights were counted (Paninski 2003), so that 0 is
        what exact samples have on average once most groups have some. All samples in one group make log(1/w). The
        standard error is that of the delta method, or that of a χ² variable where this is larger, as it is where the
        shares are right or groups are missing and all others as frequent as they should be.
        """
        weights, share = self.weights, self.share
        if self.m is not None:
            # Half a datum in each group: counts of 0 are not impossible.
            weights = (weights * self.m + 0.5) / (self.m + 0.5 * len(weights))
        inside = share > 0
        if bool((inside & (weights <= 0)).any()):
            return Estimate(math.inf, math.nan, self.n, "imbalance")
        ratio = torch.where(inside, share / weights.clamp(min=1e-300), torch.ones_like(share)).log()
        reached = int((weights > 0).sum()) - 1
        noise = reached * (1 / self.n + (0.0 if self.m is None else 1 / self.m)) / 2
        variance = _spread(share, ratio) / self.n
        if self.m is not None:
            variance += _spread(weights, share / weights) / self.m
        variance = max(variance, 2 * noise**2 / max(reached, 1))
        return Estimate(float((share * ratio).sum()) - noise, math.sqrt(variance), self.n, "imbalance")

    def metrics(self, groups: str) -> tuple[dict[str, Estimate], dict[str, float]]:
        """The estimates by their names `{groups}_covered`, ..., and what each is expected to be for exact samples.

        Args:
            groups: What the groups are called: modes or classes.
        """
        made = {
            f"{groups}_covered": (self.covered, self.covered_expected),
            f"{groups}_misplaced": (self.misplaced, self.misplaced_expected),
            f"{groups}_imbalance": (self.imbalance, 0.0),
        }
        found = {name: Estimate(e.value, e.stderr, e.n, name) for name, (e, _) in made.items()}
        return found, {name: expected for name, (_, expected) in made.items()}


@checked
def shares_of(
    groups: Tensor,
    weights: Tensor | Sequence[float],
    counted: Tensor | None = None,
    m: int | None = None,
    quality: float = 1.0,
) -> Shares:
    """The shares of K groups among samples.

    Args:
        groups: Group of each sample, `(N,)` integers 0 .. K − 1.
        weights: Shares of the groups in the data, `(K,)`; they are divided by their sum.
        counted: Whether each sample is good enough to count as one of its group, `(N,)`; all are if not given.
        m: Number of data that the weights were counted in; None for weights that are exact.
        quality: Probability that an exact sample of a group counts for it.

    Raises:
        ValueError: No samples, groups that are no integers 0 .. K − 1, or weights that are negative or all 0.
    """
    w = torch.as_tensor(weights, dtype=torch.float64).cpu()
    groups = groups.cpu()
    if w.ndim != 1 or not bool((w >= 0).all()) or not float(w.sum()) > 0:
        raise ValueError(f"weights must be (K,), none negative and some positive, got {w.tolist()}")
    if groups.ndim != 1 or len(groups) == 0 or groups.is_floating_point():
        raise ValueError(f"groups must be (N,) integers with N of at least 1, got {tuple(groups.shape)} {groups.dtype}")
    if int(groups.min()) < 0 or int(groups.max()) >= len(w):
        raise ValueError(f"groups must lie in 0..{len(w) - 1}, got {int(groups.min())} to {int(groups.max())}")
    inside = torch.ones(len(groups), dtype=torch.bool) if counted is None else counted.cpu()
    members, counts = (torch.bincount(g, minlength=len(w)).double() for g in (groups, groups[inside]))
    return Shares(counts, members, w / w.sum(), len(groups), m, quality)


def _spread(p: Tensor, value: Tensor) -> float:
    """The variance of a value over groups of probabilities p."""
    mean = (p * value).sum()
    return float((p * (value - mean).square()).sum())


def _mean_difference(n: int, m: int | None, w: float) -> float:
    """E|X/n − Y/m| of independent binomial counts X and Y of probability w, with Y/m = w if m is None.

    By E|X − Y| = ∫ F + G − 2 F G of the distribution functions F and G, which are steps.
    """
    from scipy.stats import binom  # slow to import

    x = np.arange(n + 1) / n
    y = np.array([w]) if m is None else np.arange(m + 1) / m
    edges = np.union1d(x, y)
    middle = (edges[1:] + edges[:-1]) / 2
    f = binom.cdf(np.floor(middle * n + 1e-9), n, w)
    g = (middle > w).astype(float) if m is None else binom.cdf(np.floor(middle * m + 1e-9), m, w)
    return float(((f + g - 2 * f * g) * np.diff(edges)).sum())
