"""Precision, recall, density and coverage: nearest-neighbour balls stand in for a distribution's support.

Error bars. Bootstrap resamples hold duplicates, whose distance of 0 shrinks the nearest-neighbour balls, so
they describe another statistic. Instead this is the delete-a-group jackknife: the samples are split at random
into G groups, group g is left out of both sets, and the variance is (G − 1)/G Σ_g (θ_g − mean θ)². No subset
has duplicates. By the Efron-Stein inequality Σ_g (θ_g − mean θ)² is on average at least the variance of θ on
G − 1 groups, whatever the statistic, so the error bar errs on the large side: up to about twice the true one
where the two distributions agree, close to it where they differ. (Disjoint blocks err on both sides at small
n.) It covers fresh independent draws of both sets; it does not cover the bias in n.

All G subsets come out of one pass over the distances: leaving out a group changes a ball only if one of the k
nearest neighbours is in it, so 2k neighbours per sample, at most k of them from one group, give every radius.
"""

import math

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.metrics.distances import row_blocks, squared_distances
from scoresde.metrics.estimate import Estimate
from scoresde.metrics.features import PCA, FeatureMap, Samples, paired_features

__all__ = ["density_coverage", "manifold_metrics", "precision_recall"]

_GROUPS = 20  # groups of the jackknife
_PAIRS = 2**18  # pairs of a point and a ball that are looked at together


@checked
def precision_recall(
    a: Samples, b: Samples, k: int = 5, features: PCA | FeatureMap | None = None, seed: int = 0
) -> dict[str, Estimate]:
    """Improved precision and recall (Kynkäänniemi et al. 2019, eq. 1 and 2).

    `precision` is the fraction of generated samples within the k-nearest-neighbour ball of some reference
    sample, `recall` the fraction of reference samples within the ball of some generated sample. An outlier
    makes a large ball, so both read high where there are outliers; `density_coverage` suffers less.

    The standard error is that of the delete-a-group jackknife (see the module). If all subsets agree, as at 0 and 1, it
    is that of a proportion with one success and one failure added: no finite n is certain.

    Args:
        a: Generated samples, `(N, ...)`.
        b: Reference samples, `(N, ...)`.
        k: Rank of the nearest neighbour that sets the radius of a ball.
        features: None, a `PCA`, or a function; see `paired_features`.
        seed: Seed of the random groups; it moves only the error bars.

    Returns:
        Estimates by the names `precision` and `recall`.

    Raises:
        ValueError: Samples that do not fit (see `paired_features`), or k not between 1 and what n allows.
    """
    sets = _Subsets(a, b, k, features, seed)
    return _precision_recall(sets, sets.memberships(sets.a, sets.b, sets.radii(sets.b)))


@checked
def density_coverage(
    a: Samples, b: Samples, k: int = 5, features: PCA | FeatureMap | None = None, seed: int = 0
) -> dict[str, Estimate]:
    """Density and coverage (Naeem et al. 2020, eq. 3 and 4); only the reference set's balls enter.

    `density` is the mean number of reference balls around a generated sample, divided by k; its expectation
    is 1 for equal distributions and it can exceed 1. `coverage` is the fraction of reference balls that hold
    a generated sample; its expectation is near 1 − 2^-k for equal distributions.

    The standard error is as in `precision_recall`.

    Args:
        a: Generated samples, `(N, ...)`.
        b: Reference samples, `(N, ...)`.
        k: Rank of the nearest neighbour that sets the radius of a ball.
        features: None, a `PCA`, or a function; see `paired_features`.
        seed: Seed of the random groups; it moves only the error bars.

    Returns:
        Estimates by the names `density` and `coverage`.

    Raises:
        ValueError: Samples that do not fit (see `paired_features`), or k not between 1 and what n allows.
    """
    sets = _Subsets(a, b, k, features, seed)
    radii = sets.radii(sets.b)
    return _density_coverage(sets, radii, sets.memberships(sets.a, sets.b, radii))


@checked
def manifold_metrics(
    a: Samples, b: Samples, k: int = 5, features: PCA | FeatureMap | None = None, seed: int = 0
) -> dict[str, Estimate]:
    """The estimates of `precision_recall` and `density_coverage`, whose distances are computed once for both."""
    sets = _Subsets(a, b, k, features, seed)
    radii = sets.radii(sets.b)
    inside = sets.memberships(sets.a, sets.b, radii)
    return _precision_recall(sets, inside) | _density_coverage(sets, radii, inside)


class _Subsets:
    """Two sample sets, each split into G groups, and their neighbours in all G + 1 subsets at once.

    Per-sample results are `(N, G + 1)`: column g < G without group g, column G with every sample. Entries of samples
    that column g leaves out are meaningless and dropped by `estimate`.
    """

    def __init__(self, a: Samples, b: Samples, k: int, features: PCA | FeatureMap | None, seed: int) -> None:
        x, y = paired_features(a, b, features)
        n = len(x)
        self.k = k
        self.groups = min(_GROUPS, n)
        largest = n - -(-n // self.groups) - 1
        if not 1 <= k <= largest:
            raise ValueError(
                f"k must be between 1 and {largest} for n = {n}, got {k}"
                if largest > 0
                else f"nearest-neighbour metrics need at least 3 samples in each set, got {n}"
            )
        generator = torch.Generator().manual_seed(seed)
        centre = y.mean(0)
        self.a = (x - centre)[torch.randperm(n, generator=generator)]
        self.b = (y - centre)[torch.randperm(n, generator=generator)]
        group = torch.arange(n) % self.groups
        self.kept = group[:, None] != torch.arange(self.groups + 1)
        # Radii are widened by the rounding of a squared distance, so that ties count as inside.
        self.slack = 1e-13 * max(self.a.square().sum(1).max().item(), self.b.square().sum(1).max().item())

    def radii(self, z: Tensor) -> Tensor:
        """Squared distance from each of z `(N, F)` to its k-th neighbour in z, for each subset, `(N, G + 1)`."""
        return self._neighbours(z, z, self.k, exclude_self=True) + self.slack

    def nearest(self, z: Tensor, other: Tensor) -> Tensor:
        """Squared distance from each of z to the nearest of `other`, for each subset, `(N, G + 1)`."""
        return self._neighbours(z, other, 1, exclude_self=False)

    def _neighbours(self, z: Tensor, other: Tensor, k: int, exclude_self: bool) -> Tensor:
        n, groups = len(other), self.groups
        size = -(-n // groups)
        out = torch.empty(n, groups + 1, dtype=z.dtype)
        for rows in row_blocks(n, n):
            distances = squared_distances(z[rows], other)
            if exclude_self:
                distances[torch.arange(len(distances)), torch.arange(rows.start, rows.stop)] = math.inf
            distances = torch.nn.functional.pad(distances, (0, size * groups - n), value=math.inf)
            # Column c is in group c % G. The k nearest of each group include those of any union of groups.
            each = distances.view(-1, size, groups).topk(min(k, size), dim=1, largest=False).values
            candidates, order = each.flatten(1).topk(min(2 * k, each[0].numel()), largest=False)
            label = order % groups
            rank = (label[:, :, None] != torch.arange(groups + 1)).cumsum(1)
            out[rows] = candidates.gather(1, (rank < k).sum(1))
        return out

    def memberships(self, points: Tensor, centres: Tensor, radii: Tensor) -> Tensor:
        """Number of balls around the centres that hold each point, for each subset, `(N, G + 1)`."""
        out = torch.zeros(len(points), self.groups + 1, dtype=points.dtype)
        widest = radii.amax(1)
        for rows in row_blocks(len(points), len(centres)):
            distances = squared_distances(points[rows], centres)
            for pairs in torch.split((distances <= widest).nonzero(), _PAIRS):
                i, j = pairs.unbind(1)
                inside = (distances[i, j, None] <= radii[j]) & self.kept[j]
                out[rows].index_add_(0, i, inside.to(out.dtype))
        return out

    def estimate(self, scores: Tensor, name: str) -> Estimate:
        """Mean of per-sample scores `(N, G + 1)`, with the jackknife's standard error."""
        n = len(scores)
        means = (scores * self.kept).sum(0) / self.kept.sum(0)
        value = means[-1].item()
        variance = (self.groups - 1) * means[:-1].var(correction=0).item()
        if variance == 0:
            p = (min(value, 1.0) * n + 1) / (n + 2)
            variance = p * (1 - p) / n
        return Estimate(value, math.sqrt(variance), n, name)


def _precision_recall(sets: _Subsets, inside: Tensor) -> dict[str, Estimate]:
    held = sets.memberships(sets.b, sets.a, sets.radii(sets.a))
    precision = sets.estimate((inside > 0).to(inside.dtype), "precision")
    recall = sets.estimate((held > 0).to(held.dtype), "recall")
    return {"precision": precision, "recall": recall}


def _density_coverage(sets: _Subsets, radii: Tensor, inside: Tensor) -> dict[str, Estimate]:
    reached = (sets.nearest(sets.b, sets.a) <= radii).to(inside.dtype)
    density = sets.estimate(inside / sets.k, "density")
    return {"density": density, "coverage": sets.estimate(reached, "coverage")}
