"""Two sets of samples and their nearest neighbours in all subsets of a delete-a-group jackknife.

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
from collections.abc import Iterator

import torch
from torch import Tensor

from scoresde.metrics.distances import row_blocks, squared_distances
from scoresde.metrics.estimate import Estimate
from scoresde.metrics.features import PCA, FeatureMap, Samples, paired_features

__all__ = ["Subsets"]

_GROUPS = 20  # groups of the jackknife
_PAIRS = 2**18  # pairs of a point and a ball that are looked at together


class Subsets:
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

    def counts_within(self, z: Tensor, other: Tensor, radii: Tensor) -> Tensor:
        """Number of `other` within each of z's own radius, at most k, for each subset, `(N, G + 1)`."""
        out = torch.empty_like(radii)
        for rows, candidates, kept in self._candidates(z, other, self.k, exclude_self=False):
            inside = (candidates[:, :, None] <= radii[rows, None]) & kept
            out[rows] = inside.sum(1).clamp(max=self.k).to(out.dtype)
        return out

    def _neighbours(self, z: Tensor, other: Tensor, k: int, exclude_self: bool) -> Tensor:
        out = torch.empty(len(other), self.groups + 1, dtype=z.dtype)
        for rows, candidates, kept in self._candidates(z, other, k, exclude_self):
            out[rows] = candidates.gather(1, (kept.cumsum(1) < k).sum(1))
        return out

    def _candidates(
        self, z: Tensor, other: Tensor, k: int, exclude_self: bool
    ) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Rows of z, squared distances in rising order that include the k nearest in every subset, and which it has.

        The distances are `(rows, at most 2 k)`, and `(rows, at most 2 k, G + 1)` says which are in which subset.
        """
        n, groups = len(other), self.groups
        size = -(-n // groups)
        for rows in row_blocks(n, n):
            distances = squared_distances(z[rows], other)
            if exclude_self:
                distances[torch.arange(len(distances)), torch.arange(rows.start, rows.stop)] = math.inf
            distances = torch.nn.functional.pad(distances, (0, size * groups - n), value=math.inf)
            # Column c is in group c % G. The k nearest of each group include those of any union of groups.
            each = distances.view(-1, size, groups).topk(min(k, size), dim=1, largest=False).values
            candidates, order = each.flatten(1).topk(min(2 * k, each[0].numel()), largest=False)
            yield rows, candidates, (order % groups)[:, :, None] != torch.arange(groups + 1)

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

    def column_means(self, scores: Tensor) -> Tensor:
        """Mean of per-sample scores `(N, G + 1)` over the samples of each subset, `(G + 1,)`."""
        return (scores * self.kept).sum(0) / self.kept.sum(0)

    def estimate(self, scores: Tensor, name: str) -> Estimate:
        """Mean of per-sample scores `(N, G + 1)`, with the jackknife's standard error."""
        return self.estimate_of(self.column_means(scores), name)

    def estimate_of(self, values: Tensor, name: str) -> Estimate:
        """A statistic that was computed in each subset, `(G + 1,)`, with the jackknife's standard error.

        If all subsets agree it is that of a proportion with one success and one failure added.
        """
        n, value = len(self.kept), values[-1].item()
        variance = (self.groups - 1) * values[:-1].var(correction=0).item()
        if variance == 0:
            p = (min(value, 1.0) * n + 1) / (n + 2)
            variance = p * (1 - p) / n
        return Estimate(value, math.sqrt(variance), n, name)
