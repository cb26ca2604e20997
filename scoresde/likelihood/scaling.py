"""Scalings of the state of the probability-flow ODE by the data's mean and covariance.

With x̃ = x/α and σ̃ = σ/α the state is y = (Σ + σ̃² I)^(−1/2) (x̃ − m). For normal data of mean m and covariance Σ it
is standard normal at every time and stands still under the flow, so that only what is not normal has to be followed.
Σ may be known as a number, a diagonal in the data's own basis or that of a cosine transform, or a matrix, of which
the largest eigenvalues may do.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.numerics.dct import DCT
from scoresde.statistics import Statistics

__all__ = ["CovarianceScaling", "DCTScaling", "DiagonalScaling", "ScalarScaling", "Scaling", "Spread"]


class Spread:
    """Σ, by what a function of it does to a vector.

    Args:
        values: `(k,)` float64, different eigenvalues.
        counts: `(k,)`, how often each occurs.
        basis: `(D, k − 1)` eigenvectors of all values but the last, which is that of all other directions; without
            it the values are those of the elements, or one for all.
    """

    def __init__(self, values: Tensor, counts: Tensor, basis: Tensor | None = None) -> None:
        self.values, self.counts, self.basis = values, counts, basis

    def to(self, device: torch.device) -> "Spread":
        basis = None if self.basis is None else self.basis.to(device)
        return Spread(self.values.to(device), self.counts.to(device), basis)

    def apply(self, factors: Tensor, y: Tensor) -> Tensor:
        """f(Σ) y for y `(b, D)` and the values of f `(b, k)`."""
        if self.basis is None:
            return factors * y
        rest = factors[:, -1:]
        return torch.addmm(rest * y, (y @ self.basis) * (factors[:, :-1] - rest), self.basis.mT)

    def trace(self, factors: Tensor) -> Tensor:
        """tr f(Σ), `(b,)`."""
        return factors @ self.counts


class DCTSpread(Spread):
    """Σ with the DCT's basis for eigenvectors.

    Args:
        values: `(D,)` float64, the variances of the coefficients.
        dct: the transform.
    """

    def __init__(self, values: Tensor, dct: DCT) -> None:
        super().__init__(values, torch.ones_like(values))
        self.dct = dct

    def to(self, device: torch.device) -> "DCTSpread":
        return DCTSpread(self.values.to(device), self.dct.to(device))

    def apply(self, factors: Tensor, y: Tensor) -> Tensor:
        return self.dct.inverse(factors * self.dct(y))


class Scaling(ABC):
    """What is taken for the covariance of the data."""

    @abstractmethod
    def spread(self, statistics: Statistics | None, size: int) -> Spread:
        """The covariance of samples of `size` numbers; the identity where nothing is known."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in vars(self).items())})"


def _alike(variance: float, size: int) -> Spread:
    return Spread(torch.tensor([variance], dtype=torch.float64), torch.tensor([size], dtype=torch.float64))


class ScalarScaling(Scaling):
    """Σ = s² I, with s² the variance averaged over the elements."""

    def spread(self, statistics: Statistics | None, size: int) -> Spread:
        return _alike(1.0 if statistics is None else float(statistics.std) ** 2, size)


class DiagonalScaling(Scaling):
    """The variance of each element; that of all where the model does not know them."""

    def spread(self, statistics: Statistics | None, size: int) -> Spread:
        variances = None if statistics is None else statistics.variances
        if variances is None:
            return ScalarScaling().spread(statistics, size)
        return Spread(variances, torch.ones_like(variances))


class DCTScaling(Scaling):
    """The variance of each coefficient of the data's `DCT`; that of all elements where the model does not know them.

    For images, whose covariance is nearly diagonal there; a state takes two small matrix products, never one of D × D.
    """

    def spread(self, statistics: Statistics | None, size: int) -> Spread:
        variances = None if statistics is None else statistics.dct_variances
        if statistics is None or variances is None:
            return ScalarScaling().spread(statistics, size)
        return DCTSpread(variances, DCT(statistics.shape, variances.device))


@checked
class CovarianceScaling(Scaling):
    """The covariance matrix; `DCTScaling` where the model does not know it.

    Args:
        rank: number of directions of largest variance that are kept, the others having the mean of theirs; all if not
            given. A state then takes 2 rank numbers of memory traffic for each of its own.
    """

    def __init__(self, rank: int | None = None) -> None:
        if rank is not None and rank < 1:
            raise ValueError(f"rank is {rank}, expected at least 1")
        self.rank = rank

    def spread(self, statistics: Statistics | None, size: int) -> Spread:
        if statistics is None or statistics.covariance is None:
            return DCTScaling().spread(statistics, size)
        values, vectors = statistics.eigh()
        kept = size if self.rank is None else min(self.rank, size)
        # Ascending: the last are the largest.
        others, top = values[: size - kept], values[size - kept :]
        rest = others.mean() if len(others) else values[:1].mean()
        counts = torch.ones(kept + 1, dtype=torch.float64)
        counts[-1] = size - kept
        return Spread(torch.cat((top, rest[None])), counts, vectors[:, size - kept :])


def log_determinant(spread: Spread, norms: Tensor) -> float:
    """Σ log n over all directions for `norms` `(k,)`."""
    return math.fsum((spread.counts * norms.log()).tolist())
