"""Do samples copy training data? Nearest neighbours among training data, against those among held-out data.

A model that has learned the distribution draws samples that are as near to the training data as held-out data are. One
that has memorised draws them nearer. Distances alone do not tell: poor samples are far from both, and many training
data leave less room between them. So every number here compares training with held-out data around the same samples, or
samples with held-out data around the same training data, and has a value that is known where nothing was memorised.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.metrics.distances import row_blocks, squared_distances
from scoresde.metrics.estimate import Estimate
from scoresde.metrics.features import PCA, FeatureMap, Samples, finite_rows, mapped

__all__ = [
    "Copies",
    "Neighbours",
    "authenticity",
    "copies",
    "memorisation_metrics",
    "nearer_than_held_out",
    "neighbours",
]

COPY = 1 / 3
"""Ratio of the distances to the nearest and the second nearest below which a sample is a copy (Yoon et al. 2023)."""


@dataclass(frozen=True)
class Neighbours:
    """Nearest training and held-out data of samples.

    Attributes:
        train: Distances to the nearest and second nearest training data in rising order, `(N, 2)` float64.
        nearest: Index of the nearest training data, `(N,)`.
        held_out: Distances to the nearest and second nearest held-out data, `(N, 2)`.
        nearest_held_out: Index of the nearest held-out data, `(N,)`.
        sizes: Numbers of training and of held-out data that the neighbours are from.
    """

    train: Tensor
    nearest: Tensor
    held_out: Tensor
    nearest_held_out: Tensor
    sizes: tuple[int, int]

    @property
    def ratio(self) -> Tensor:
        """Distance to the nearest training data by that to the second nearest of all data, `(N,)`; small for copies."""
        second = torch.minimum(self.train[:, 1], self.held_out[:, 0])
        return torch.where(second > 0, self.train[:, 0] / second, torch.ones_like(second))


@dataclass(frozen=True)
class Copies:
    """Samples that copy training data.

    Attributes:
        share: Share of samples that are copies beyond what chance makes: 0 on average where nothing was memorised.
        raw: Share of samples with a ratio below the bound, by chance or not.
        chance: Share of them that chance makes, as the held-out data show.
    """

    share: Estimate
    raw: float
    chance: float


def copies(found: Neighbours, bound: float = COPY, name: str = "copies") -> Copies:
    """The share of samples that copy training data, beyond chance.

    A sample is near one datum if its distance to the nearest of all data, training and held-out, is less than `bound`
    of that to the second nearest. With N training and M held-out data from one distribution, a sample that depends on
    neither is near a training datum N/M times as often as near a held-out one, whatever its own distribution. So

        share = P(near a training datum) − N/M P(near a held-out datum)

    is 0 on average for every model that has not memorised, good or poor, in any dimension; and p for one that copies
    training data with a probability p, with noise below the bound, and has otherwise learned the distribution. A datum
    with a twin in the training data hides its copies.

    The standard error is over samples and the data they are near to: samples with one nearest datum count as a cluster.

    Args:
        found: Nearest neighbours of the samples.
        bound: Ratio below which a sample is near one datum.
        name: Name of the estimate.
    """
    (first, second), (other, after) = found.train.T, found.held_out.T
    near_train = (first < other) & (first < bound * torch.minimum(second, other))
    near_held_out = (other < first) & (other < bound * torch.minimum(first, after))
    odds = found.sizes[0] / found.sizes[1]
    scores = near_train.double() - odds * near_held_out.double()
    # Held-out data are counted on after the training data.
    label = torch.where(first < other, found.nearest, found.sizes[0] + found.nearest_held_out)
    n, value = len(scores), float(scores.mean())
    variance = _clustered(scores, label)
    if variance == 0:
        p = (min(max(value, 0.0), 1.0) * n + 1) / (n + 2)
        variance = p * (1 - p) / n
    raw, chance = float(near_train.double().mean()), odds * float(near_held_out.double().mean())
    return Copies(Estimate(value, math.sqrt(variance), n, name), raw, chance)


def authenticity(found: Neighbours, train: Tensor, name: str = "authenticity") -> Estimate:
    """The share of authentic samples (Alaa et al. 2022, section 3.3).

    A sample is authentic if it is farther from its nearest training datum than that datum is from the nearest other
    training datum. About half of held-out data are, more in many dimensions: compare with their own value.

    Args:
        found: Nearest neighbours of the samples.
        train: Training data that they were found among, `(N, F)`.
        name: Name of the estimate.
    """
    used = found.nearest.unique()
    between = torch.empty(len(train), dtype=torch.float64)
    for rows in row_blocks(len(used), len(train)):
        between[used[rows]] = _two_nearest(train[used[rows]], train)[0][:, 1]
    scores = (found.train[:, 0] > between[found.nearest]).double()
    n, value = len(scores), float(scores.mean())
    p = (value * n + 1) / (n + 2)
    return Estimate(value, math.sqrt(max(_clustered(scores, found.nearest), p * (1 - p) / n)), n, name)


def nearer_than_held_out(samples: Neighbours, held_out: Neighbours, name: str = "nearer_than_held_out") -> Estimate:
    """The probability that a sample is nearer to the training data than a held-out datum is (Meehan et al. 2020).

    It is the Mann-Whitney statistic behind their C_T, as a probability with its standard error: ½ where the samples are
    as near as held-out data, more for a model that copies, less for one whose samples are far from the data. A model
    that copies some data and misses others can have ½ all the same; `copies` sees it.

    Args:
        samples: Nearest neighbours of samples among the training data.
        held_out: Those of held-out data among the same.
        name: Name of the estimate.
    """
    x, y = samples.train[:, 0].contiguous(), held_out.train[:, 0].contiguous()
    ordered_x, ordered_y = x.sort().values, y.sort().values
    # For each sample the share of held-out data farther away, ties by half, and the same for held-out data.
    farther = _shares_above(ordered_y, x)
    nearer = 1 - _shares_above(ordered_x, y)
    value = float(farther.mean())
    variance = float(farther.var() / len(x) + nearer.var() / len(y))
    return Estimate(value, math.sqrt(max(variance, 1 / (12 * len(x) * len(y)))), len(x), name)


@checked
def neighbours(samples: Tensor, train: Tensor, held_out: Tensor | None = None) -> Neighbours:
    """Nearest training and held-out data of samples.

    Args:
        samples: Samples, `(n, F)` float64.
        train: Training data, `(N, F)`, at least 2.
        held_out: Held-out data, `(M, F)`; None where the samples are these: each is left out of its own neighbours.
    """
    own = held_out is None
    others = samples if held_out is None else held_out
    parts = []
    for rows in row_blocks(len(samples), max(len(train), len(others))):
        skip = torch.arange(rows.start, rows.stop) if own else None
        distances, index = _two_nearest(samples[rows], others, skip)
        # Two samples that are each other's nearest are one pair, with the smaller index.
        index = index if skip is None else torch.minimum(index, skip)
        parts.append((*_two_nearest(samples[rows], train), distances, index))
    near, nearest, other, nearest_other = (torch.cat(column) for column in zip(*parts, strict=True))
    return Neighbours(near, nearest, other, nearest_other, (len(train), len(others) - own))


@checked
def memorisation_metrics(
    samples: Samples, train: Samples, held_out: Samples, features: PCA | FeatureMap | None = None
) -> tuple[dict[str, Estimate], dict[str, Estimate], Neighbours]:
    """Whether samples copy training data: `copies`, `nearer_than_held_out` and `authenticity`.

    Args:
        samples: Generated samples, `(n, ...)`.
        train: Training data, `(N, ...)`, all of them: a copy of one that is left out is not seen.
        held_out: Held-out data from the same distribution, `(M, ...)`.
        features: None for the flattened values, a `PCA` (fitted on the held-out data), or a function.

    Returns:
        The estimates of the samples by name; the same of the held-out data, which nobody has copied; and the nearest
        neighbours of the samples.

    Raises:
        ValueError: Fewer than 3 samples in a set, shapes that differ, or values that are not finite.
    """
    sets = {"the samples": samples, "the training data": train, "the held-out data": held_out}
    rows = {name: finite_rows(name, values) for name, values in sets.items()}
    sizes = {name: tuple(values.shape[1:]) for name, values in sets.items()}
    if len(set(sizes.values())) > 1:
        shown = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise ValueError(f"a sample has a different shape in each set ({shown}), expected the same in all three")
    for name, values in rows.items():
        if len(values) < 3:
            raise ValueError(f"{name} are {len(values)}, expected at least 3")
    if features is not None:
        extract = features.fit(held_out) if isinstance(features, PCA) else features
        rows = {name: mapped(torch.as_tensor(values), extract) for name, values in sets.items()}
    centre = rows["the held-out data"].mean(0)
    x, t, h = (values - centre for values in rows.values())
    of_samples, of_held_out = neighbours(x, t, h), neighbours(h, t)
    both = []
    for found in (of_samples, of_held_out):
        estimates = (copies(found).share, nearer_than_held_out(found, of_held_out), authenticity(found, t))
        both.append({e.name: e for e in estimates})
    return both[0], both[1], of_samples


def _two_nearest(x: Tensor, y: Tensor, skip: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Distances of x `(n, F)` to the two nearest of y, `(n, 2)`, and the index of the nearest, `(n,)`.

    Args:
        x: Points.
        y: Points among which neighbours are found.
        skip: For each of x, the index of one of y that does not count.
    """
    squares = squared_distances(x, y)
    if skip is not None:
        squares[torch.arange(len(x)), skip] = math.inf
    found = squares.topk(2, largest=False)
    # Again from differences: a copy's distance is of the order of what rounding leaves of the squares above.
    distances = (x[:, None] - y[found.indices]).norm(dim=2).masked_fill(found.values.isinf(), math.inf)
    order = distances.argsort(dim=1)
    return distances.gather(1, order), found.indices.gather(1, order)[:, 0]


def _clustered(scores: Tensor, label: Tensor) -> float:
    """The variance of the mean of scores, in which those with one label are not independent."""
    _, place = label.unique(return_inverse=True)
    sums = torch.zeros(int(place.max()) + 1, dtype=torch.float64).index_add_(0, place, scores - scores.mean())
    groups = len(sums)
    return float(sums.square().sum()) / len(scores) ** 2 * groups / max(groups - 1, 1)


def _shares_above(ordered: Tensor, values: Tensor) -> Tensor:
    """For each value the share of `ordered` above it, with half of those equal to it."""
    low, high = torch.searchsorted(ordered, values), torch.searchsorted(ordered, values, right=True)
    return 1 - (low + high).double() / (2 * len(ordered))
