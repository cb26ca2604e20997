"""The variance of samples along each principal direction of the data, against that of the data.

Distances between sets of samples weigh a direction by its variance, so noise that is left in the narrowest directions
hardly enters them. Here every direction counts alike, by the ratio of its standard deviations.

Principal directions that are found in the reference set itself fit its noise: along them its smallest variances are too
small, and exact samples would seem too wide. So directions and variances come from different samples. The directions
are given (from training data), or known with the variances (an exact covariance), or found in all but one fold of the
reference, whose variances along them are then those of the fold that was left out.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from scoresde.arguments import as_tensor, checked
from scoresde.metrics.chance import extreme_ratios
from scoresde.metrics.distances import row_blocks
from scoresde.metrics.estimate import Estimate
from scoresde.metrics.features import Samples, finite_rows

__all__ = ["PrincipalDirections", "Spectrum", "principal_directions", "spectrum"]

_RESOLUTION = 1e-4  # of the data's standard deviation; rounding of float32 is far below it
_FOLDS = 5
_ELEMENTS = 2**26  # of the directions of all folds, 512 MiB, above which there are two folds


@dataclass(frozen=True)
class Spectrum:
    """Standard deviations of samples and of the data along G principal directions of the data, the widest first.

    An entry may stand for several directions: where there were fewer data than dimensions, the last one is all that
    is orthogonal to the directions that were found. Its standard deviation is the root of the mean variance.

    Attributes:
        reference_std: Standard deviations of the data, `(G,)` float64.
        std: Standard deviations of the samples, `(G,)` float64.
        stderr: Standard errors of log(std/reference_std), `(G,)`, over fresh draws of both sets, by the delta method.
        dimensions: Number of directions that each entry stands for, `(G,)`.
        n: Number of samples.
    """

    reference_std: Tensor
    std: Tensor
    stderr: Tensor
    dimensions: Tensor
    n: int

    @property
    def ratio(self) -> Tensor:
        """Ratios of the samples' standard deviations to those of the data, `(G,)`."""
        return self.std / self.reference_std

    @property
    def noise_left(self) -> Estimate:
        """The largest ratio of standard deviations over all directions, at least 1 and 1 for exact samples.

        Chance is taken out of it: see `scoresde.metrics.chance.beyond_chance`, with the logarithm of the ratio as the
        deviation. The standard error is that of the direction.
        """
        return self._extremes[0]

    @property
    def too_narrow(self) -> Estimate:
        """The smallest ratio of standard deviations over all directions, at most 1, as for `noise_left`."""
        return self._extremes[1]

    @cached_property
    def _extremes(self) -> tuple[Estimate, Estimate]:
        return extreme_ratios(self.ratio.log(), self.stderr, self.n, ("noise_left", "too_narrow"))


@dataclass(frozen=True)
class _Basis:
    """Orthonormal columns `(F, G)`, and whether the complement that they leave is an entry of its own."""

    columns: Tensor
    complement: bool

    def energies(self, centred: Tensor) -> Iterator[Tensor]:
        """Blocks `(B, G)` of squared coordinates of samples `(N, F)`, those of the complement as their mean."""
        for rows in row_blocks(*centred.shape):
            part = centred[rows]
            z = part @ self.columns
            squares = z.square()
            if self.complement:
                # As a residual, since the difference of squared lengths would cancel.
                rest = (part - z @ self.columns.T).square().sum(1, keepdim=True)
                squares = torch.cat((squares, rest / (part.shape[1] - z.shape[1])), 1)
            yield squares

    def variances(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The variance of samples `(N, F)` along each direction, `(G,)`, and its standard error, `(G,)`."""
        n = len(x)
        first = second = torch.zeros((), dtype=x.dtype)
        for squares in self.energies(x - x.mean(0)):
            first, second = first + squares.sum(0), second + squares.square().sum(0)
        mean, mean_square = first / n, second / n
        stderr = ((mean_square - mean.square()).clamp(min=0) / n).sqrt()
        return mean * n / (n - 1), stderr * n / (n - 1)


class PrincipalDirections:
    """Principal directions of the data and the variances along them, to which sets of samples are compared.

    Made by `exact`, `along` or `fit`; `PrincipalDirections(...)(samples)` is the `Spectrum` of samples `(N, ...)`.
    """

    def __init__(
        self, bases: tuple[_Basis, ...], variances: Tensor, stderr: Tensor, resolution: float | None = None
    ) -> None:
        order = variances.argsort(descending=True, stable=True)
        self._last = len(order)
        if bases[0].complement:  # which stays the last
            order = torch.cat((order[order != self._last - 1], order.new_tensor([self._last - 1])))
        self._bases, self._order = bases, order
        self._variances, self._stderr = variances[order], stderr[order]
        columns = bases[0].columns.shape
        dimensions = torch.ones(self._last, dtype=torch.int64)
        if bases[0].complement:
            dimensions[-1] = columns[0] - columns[1]
        self.dimensions = dimensions
        total = float((self._variances * dimensions).sum() / dimensions.sum())
        self._floor = (_RESOLUTION**2 * total) if resolution is None else max(resolution**2, 1e-300)

    @classmethod
    def exact(cls, covariance: Tensor, resolution: float | None = None) -> "PrincipalDirections":
        """Directions and variances of a covariance `(F, F)` that is known."""
        values, vectors = torch.linalg.eigh(covariance.detach().to("cpu", torch.float64))
        return cls((_Basis(vectors, False),), values.clamp(min=0), torch.zeros_like(values), resolution)

    @classmethod
    def along(cls, directions: Tensor, reference: Tensor, resolution: float | None = None) -> "PrincipalDirections":
        """Given orthonormal directions `(F, G)`, with the variances of a reference set `(N, ...)`."""
        columns = directions.detach().to("cpu", torch.float64)
        basis = _Basis(columns, columns.shape[1] < columns.shape[0])
        return cls((basis,), *basis.variances(finite_rows("reference", reference)), resolution)

    @classmethod
    def fit(
        cls, reference: Tensor, resolution: float | None = None, folds: int = _FOLDS, seed: int = 0
    ) -> "PrincipalDirections":
        """Directions of all but one fold of a reference set `(N, ...)`, with the variances of the fold left out.

        The variances of direction i are means over the folds, each of which has an i-th direction of its own.
        """
        x = finite_rows("reference", reference)
        folds = min(folds, len(x) // 2)
        if folds < 2:
            raise ValueError(f"the reference set has {len(x)} samples; principal directions need at least 4")
        if folds * min(x.shape[1], len(x)) * x.shape[1] > _ELEMENTS:
            folds = 2
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
        # Folds of one size have equally many directions.
        held_out = order[: len(x) // folds * folds].reshape(folds, -1)
        bases, variances, errors = [], [], []
        for fold in held_out:
            kept = torch.ones(len(x), dtype=torch.bool)
            kept[fold] = False
            basis = _principal(x[kept])
            variance, error = basis.variances(x[fold])
            bases.append(basis)
            variances.append(variance)
            errors.append(error)
        # The folds that were left out are independent of each other.
        stderr = torch.stack(errors).square().sum(0).sqrt() / folds
        return cls(tuple(bases), torch.stack(variances).mean(0), stderr, resolution)

    def __call__(self, samples: Samples) -> Spectrum:
        """The spectrum of samples `(N, ...)`.

        Raises:
            ValueError: Fewer than 2 samples, another shape than that of the data, or values that are not finite.
        """
        x = finite_rows("samples", samples)
        if x.shape[1] != len(self._bases[0].columns):
            raise ValueError(f"samples have {x.shape[1]} values, the data {len(self._bases[0].columns)}")
        found = [basis.variances(x) for basis in self._bases]
        variances, errors = (torch.stack(v).mean(0)[self._order] for v in zip(*found, strict=True))
        floored, reference = variances + self._floor, self._variances + self._floor
        # Half the standard error of the logarithm of a ratio of variances.
        stderr = torch.hypot(errors / floored, self._stderr / reference) / 2
        return Spectrum(reference.sqrt(), floored.sqrt(), stderr, self.dimensions, len(x))


@checked
def spectrum(
    samples: Samples,
    reference: Samples | None = None,
    *,
    covariance: Tensor | None = None,
    directions: Tensor | None = None,
    resolution: float | None = None,
) -> Spectrum:
    """The standard deviation of samples along each principal direction of the data, and that of the data.

    >>> x = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0))
    >>> found = spectrum(x * torch.tensor([1.0, 0.3]), covariance=torch.diag(torch.tensor([1.0, 0.01])))
    >>> print(found.noise_left, found.too_narrow)  # the narrow direction is three times as wide as it should be
    3.05 ± 0.03 (n = 4000) 1.000 ± 0.011 (n = 4000)

    Args:
        samples: Samples, `(N, ...)`.
        reference: Data, `(M, ...)`, of any number; not needed with a covariance.
        covariance: The exact covariance of flattened data, `(F, F)`.
        directions: Orthonormal directions `(F, G)` in columns that were found in other data than the reference, such
            as training data; what is orthogonal to all of them is one more entry. If neither these nor a covariance are
            given, they are found in the reference by folds.
        resolution: Standard deviation below which directions are not told apart, which is added to both sides in
            quadrature: that of rounding for data of levels. A ten-thousandth of the data's if not given.

    Raises:
        ValueError: Neither or both of reference and covariance, too few samples, shapes that do not fit, or values that
            are not finite.
    """
    if (reference is None) == (covariance is None):
        raise ValueError("spectrum takes a reference set or a covariance, and not both")
    if resolution is not None and not 0 <= resolution < math.inf:
        raise ValueError(f"resolution is {resolution}, expected a standard deviation of at least 0")
    if covariance is not None:
        return PrincipalDirections.exact(covariance, resolution)(samples)
    assert reference is not None
    data = as_tensor("reference", reference)
    if directions is not None:
        return PrincipalDirections.along(directions, data, resolution)(samples)
    return PrincipalDirections.fit(data, resolution)(samples)


@checked
def principal_directions(x: Samples) -> Tensor:
    """Principal directions of samples `(N, ...)`, in orthonormal columns `(F, G)`, the widest first.

    There are as many as dimensions, or one less than samples.

    Raises:
        ValueError: Fewer than 2 samples, or values that are not finite.
    """
    return _principal(finite_rows("x", x)).columns


def _principal(x: Tensor) -> _Basis:
    """The principal directions of samples `(N, F)`, the widest first: as many as these samples have."""
    centred = x - x.mean(0)
    n, dimension = x.shape
    if n > dimension:
        return _Basis(torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(1), False)
    vectors: Tensor = torch.linalg.svd(centred, full_matrices=False).Vh
    return _Basis(vectors[: n - 1].T.contiguous(), True)
