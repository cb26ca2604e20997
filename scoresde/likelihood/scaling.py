"""Scalings of the state of the probability-flow ODE by the data's mean and covariance.

With x̃ = x/α and σ̃ = σ/α the state is y = (Σ + σ̃² I)^(−1/2) (x̃ − m). For normal data of mean m and covariance Σ it
is standard normal at every time and stands still under the flow, so that only what is not normal has to be followed.
Σ may be known as a number, as a diagonal in the data's own basis or that of a cosine transform, or as a matrix, of
which the largest eigenvalues may be enough.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.numerics.dct import DCT
from scoresde.numerics.values import at_least, described
from scoresde.statistics import Statistics

__all__ = ["CovarianceScaling", "DCTScaling", "DiagonalScaling", "ScalarScaling", "Scaling", "Spread"]


class Spread:
    """A covariance Σ that is applied by functions of it.

    >>> spread = Spread(torch.tensor([4.0, 9.0]), torch.ones(2))
    >>> spread.apply(spread.values.sqrt()[None], torch.tensor([[1.0, 1.0]])).tolist()
    [[2.0, 3.0]]

    Args:
        values: Different eigenvalues, `(k,)` float64.
        counts: Number of times that each occurs, `(k,)`.
        basis: Eigenvectors `(D, k − 1)` of all values but the last, which is the eigenvalue of all other directions. If
            not given, the values are the variances of the elements, or one for all elements.
    """

    def __init__(self, values: Tensor, counts: Tensor, basis: Tensor | None = None) -> None:
        self.values, self.counts, self.basis = values, counts, basis

    def to(self, device: torch.device) -> "Spread":
        """The covariance on a device."""
        basis = None if self.basis is None else self.basis.to(device)
        return Spread(self.values.to(device), self.counts.to(device), basis)

    def apply(self, factors: Tensor, y: Tensor) -> Tensor:
        """The products f(Σ) y for vectors y `(b, D)`, by the values `(b, k)` of f at the eigenvalues."""
        if self.basis is None:
            return factors * y
        rest = factors[:, -1:]
        return torch.addmm(rest * y, (y @ self.basis) * (factors[:, :-1] - rest), self.basis.mT)

    def trace(self, factors: Tensor) -> Tensor:
        """The traces `(b,)` of f(Σ), by the values `(b, k)` of f at the eigenvalues."""
        return factors @ self.counts


class DCTSpread(Spread):
    """A covariance whose eigenvectors are the basis of a cosine transform.

    Args:
        values: Variances of the coefficients, `(D,)` float64.
        dct: The transform.
    """

    def __init__(self, values: Tensor, dct: DCT) -> None:
        super().__init__(values, torch.ones_like(values))
        self.dct = dct

    def to(self, device: torch.device) -> "DCTSpread":
        return DCTSpread(self.values.to(device), self.dct.to(device))

    def apply(self, factors: Tensor, y: Tensor) -> Tensor:
        return self.dct.inverse(factors * self.dct(y))


class Scaling(ABC):
    """A choice of the covariance by which the state is scaled."""

    @abstractmethod
    def spread(self, statistics: Statistics | None, size: int) -> Spread:
        """The covariance of samples of `size` elements; the identity if the statistics are not known."""

    def __repr__(self) -> str:
        return described(self)


def _alike(variance: float, size: int) -> Spread:
    return Spread(torch.tensor([variance], dtype=torch.float64), torch.tensor([size], dtype=torch.float64))


class ScalarScaling(Scaling):
    """Σ = s² I, with s² the variance averaged over the elements."""

    def spread(self, statistics: Statistics | None, size: int) -> Spread:
        return _alike(1.0 if statistics is None else float(statistics.std) ** 2, size)


class DiagonalScaling(Scaling):
    """The variance of each element; one for all elements if the model does not know them."""

    def spread(self, statistics: Statistics | None, size: int) -> Spread:
        variances = None if statistics is None else statistics.variances
        if variances is None:
            return ScalarScaling().spread(statistics, size)
        return Spread(variances, torch.ones_like(variances))


class DCTScaling(Scaling):
    """The variance of each coefficient of the data's `DCT`; one for all elements if the model does not know them.

    It suits images, whose covariance is nearly diagonal in that basis. A state takes two small matrix products, never
    one of D × D.
    """

    def spread(self, statistics: Statistics | None, size: int) -> Spread:
        variances = None if statistics is None else statistics.dct_variances
        if statistics is None or variances is None:
            return ScalarScaling().spread(statistics, size)
        return DCTSpread(variances, DCT(statistics.shape, variances.device))


@checked
class CovarianceScaling(Scaling):
    """The covariance matrix; `DCTScaling` if the model does not know it.

    Args:
        rank: Number of directions of largest variance that have a variance of their own; the others have the mean of
            theirs. All directions if not given. A state then takes 2 rank numbers of memory traffic for each of its
            elements.
    """

    def __init__(self, rank: int | None = None) -> None:
        if rank is not None:
            at_least("rank", rank, 1)
        self.rank = rank

    def spread(self, statistics: Statistics | None, size: int) -> Spread:
        if statistics is None or statistics.covariance is None:
            return DCTScaling().spread(statistics, size)
        values, vectors = statistics.eigh()
        rank = size if self.rank is None else min(self.rank, size)
        # The eigenvalues ascend: the last are the largest.
        others, largest = values[: size - rank], values[size - rank :]
        rest = others.mean() if len(others) else values[:1].mean()
        counts = torch.ones(rank + 1, dtype=torch.float64)
        counts[-1] = size - rank
        return Spread(torch.cat((largest, rest[None])), counts, vectors[:, size - rank :])


def log_determinant(spread: Spread, norms: Tensor) -> float:
    """The sum of log n over all directions, for the norms n `(k,)` of the eigenvalues."""
    return math.fsum((spread.counts * norms.log()).tolist())
