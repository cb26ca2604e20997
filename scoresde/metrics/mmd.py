"""Maximum mean discrepancy (MMD); with the cubic kernel it is the kernel inception distance (KID) on given features."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.metrics.distances import row_blocks, squared_distances
from scoresde.metrics.estimate import Estimate
from scoresde.metrics.features import PCA, FeatureMap, Samples, paired_features

__all__ = ["GaussianKernel", "Kernel", "PolynomialKernel", "mmd"]

_MEDIAN_SAMPLES = 2000


@checked
@dataclass(frozen=True)
class PolynomialKernel:
    """The kernel k(x, y) = (x·y/F + 1)^degree, at degree 3 that of KID (Bińkowski et al. 2018, eq. 4).

    Args:
        degree: Degree of the polynomial.
    """

    degree: int = 3
    name: ClassVar[str] = "mmd_polynomial"

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Kernel matrix `(N, M)` of x `(N, F)` and y `(M, F)`."""
        return (x @ y.T).div_(x.shape[1]).add_(1).pow_(self.degree)


@checked
@dataclass(frozen=True)
class GaussianKernel:
    """The kernel k(x, y), the mean over scales s of exp(−‖x − y‖²/(2 s² h²)) with the bandwidth h.

    Args:
        bandwidth: Bandwidth h in the units of the features; if not given, the median distance within the reference set
            (of at most 2000 evenly spaced samples), which is the same for every model measured against it.
        scales: Multiples of h, mixed with equal weights.
    """

    bandwidth: float | None = None
    scales: tuple[float, ...] = (0.5, 1.0, 2.0)
    name: ClassVar[str] = "mmd_gaussian"

    def __post_init__(self) -> None:
        if not self.scales or min(self.scales) <= 0:
            raise ValueError(f"scales must be one or more positive numbers, got {self.scales}")
        if self.bandwidth is not None and not self.bandwidth > 0:
            raise ValueError(f"bandwidth must be positive, got {self.bandwidth}")

    def fit(self, reference: Tensor) -> "GaussianKernel":
        """This kernel with the bandwidth of the median heuristic for reference features `(N, F)`."""
        some = reference[:: -(-len(reference) // _MEDIAN_SAMPLES)]
        some = some - some.mean(0)
        i, j = torch.triu_indices(len(some), len(some), offset=1)
        median = squared_distances(some, some)[i, j].median().sqrt().item()
        if median == 0:
            raise ValueError("the reference set's median distance is 0; give GaussianKernel a bandwidth")
        return GaussianKernel(median, self.scales)

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Kernel matrix `(N, M)` of x `(N, F)` and y `(M, F)`."""
        if self.bandwidth is None:
            raise ValueError("GaussianKernel has no bandwidth yet; call fit(reference) or give one")
        exponent = squared_distances(x, y).div_(-2 * self.bandwidth**2)
        out = torch.zeros_like(exponent)
        for scale in self.scales:
            out += (exponent / scale**2).exp_()
        return out.div_(len(self.scales))


Kernel = PolynomialKernel | GaussianKernel | Callable[[Tensor, Tensor], Tensor]


@checked
def mmd(a: Samples, b: Samples, kernel: Kernel | None = None, features: PCA | FeatureMap | None = None) -> Estimate:
    """Unbiased squared maximum mean discrepancy (Gretton et al. 2012, eq. 3); it can be negative.

        mean_{i≠j} k(a_i, a_j) + mean_{i≠j} k(b_i, b_j) − 2 mean_{ij} k(a_i, b_j)

    Its expectation is the MMD² of the distributions at every n.

    The standard error is analytic: a bootstrap's duplicates would put k(a_i, a_i) among the i ≠ j terms. The variance
    is the sum of the first- and second-order parts of the U-statistic's Hoeffding decomposition, so the error bar holds
    both if the distributions differ (first order) and if they agree (second order alone; there it is up to half too
    large, because the estimated first-order part is cut off at 0). It covers fresh draws of both sets, but not the
    choice of the median bandwidth.

    Args:
        a: Generated samples, `(N, ...)`.
        b: Reference samples, `(N, ...)`.
        kernel: The kernel, `PolynomialKernel()` if not given. `GaussianKernel()` takes its bandwidth from `b`. Any
            positive definite function from `(N, F)` and `(M, F)` to `(N, M)` will do.
        features: None, a `PCA`, or a function; see `paired_features`.

    Raises:
        ValueError: Samples that do not fit (see `paired_features`), or fewer than 4 (the variance needs 4).
    """
    x, y = paired_features(a, b, features, minimum=4)
    kernel = PolynomialKernel() if kernel is None else kernel
    if isinstance(kernel, GaussianKernel):
        centre = y.mean(0)  # distances do not see it, rounding does
        x, y = x - centre, y - centre
        if kernel.bandwidth is None:
            kernel = kernel.fit(y)
    n = len(x)
    row_xx, mean_xx, second_xx = _within(kernel, x)
    row_yy, mean_yy, second_yy = _within(kernel, y)
    row_xy, row_yx, mean_xy, second_xy = _between(kernel, x, y)
    # The noise of the row means themselves is of second order and is subtracted from the first-order part.
    first_x = (row_xx - row_xy).var().item() - second_xx / (n - 1) - second_xy / n
    first_y = (row_yy - row_yx).var().item() - second_yy / (n - 1) - second_xy / n
    variance = 4 / n * max(first_x + first_y, 0.0) + 2 / (n * (n - 1)) * (second_xx + second_yy) + 4 / n**2 * second_xy
    name = kernel.name if isinstance(kernel, PolynomialKernel | GaussianKernel) else "mmd"
    return Estimate(mean_xx + mean_yy - 2 * mean_xy, math.sqrt(variance), n, name)


def _within(kernel: Callable[[Tensor, Tensor], Tensor], x: Tensor) -> tuple[Tensor, float, float]:
    """Row means and mean of k(x_i, x_j) over i ≠ j, and the variance of its doubly centred part."""
    n = len(x)
    sums, squares = torch.empty(n, dtype=x.dtype), 0.0
    for rows in row_blocks(n, n):
        k = kernel(x[rows], x)
        k[torch.arange(len(k)), torch.arange(rows.start, rows.stop)] = 0
        sums[rows] = k.sum(1)
        squares += k.square_().sum().item()
    row = sums / (n - 1)
    mean = row.mean().item()
    effect = (row - mean) * (n - 1) / (n - 2)
    residual = squares - n * (n - 1) * mean**2 - 2 * (n - 2) * effect.square().sum().item()
    # n(n−1)/2 pairs, less 1 for the mean and n − 1 for the effects, leave n(n−3)/2; each pair counted twice.
    return row, mean, max(residual, 0.0) / (n * (n - 3))


def _between(kernel: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, float, float]:
    """Row means, column means and mean of k(x_i, y_j), and the variance of its doubly centred part."""
    n = len(x)
    row, column, squares = torch.empty(n, dtype=x.dtype), torch.zeros(n, dtype=x.dtype), 0.0
    for rows in row_blocks(n, n):
        k = kernel(x[rows], y)
        row[rows] = k.mean(1)
        column += k.sum(0) / n
        squares += k.square_().sum().item()
    mean = row.mean().item()
    effects = (row - mean).square().sum().item() + (column - mean).square().sum().item()
    residual = squares - n * n * mean**2 - n * effects
    return row, column, mean, max(residual, 0.0) / (n - 1) ** 2
