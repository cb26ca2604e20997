"""Errors of mean and covariance without the bias that a finite number of samples brings."""

import torch
from torch import Tensor

from scoresde.arguments import checked

__all__ = ["covariance_error", "mean_error", "spread"]


@checked
def mean_error(x: Tensor, mean: Tensor, covariance: Tensor) -> float:
    """|E x − m|²/tr Σ, without bias: 0 on average for exact samples, and so negative for some.

    The square is the product of the errors of two halves of the samples, whose chance is independent.

    Args:
        x: Independent samples, `(n, D)`.
        mean: The exact mean m, `(D,)`.
        covariance: The exact covariance Σ, `(D, D)`.
    """
    a, b = (half.mean(0) - mean for half in _halves(x))
    return float(a @ b / covariance.trace())


@checked
def covariance_error(x: Tensor, covariance: Tensor) -> float:
    """‖cov x − Σ‖²/‖Σ‖² in the norm of Frobenius, without bias, likewise."""
    a, b = (half.T.cov() - covariance for half in _halves(x))
    return float((a * b).sum() / covariance.square().sum())


@checked
def spread(x: Tensor, covariance: Tensor) -> float:
    """tr cov x/tr Σ: 1 on average for exact samples."""
    return float(x.var(0).sum() / covariance.trace())


def _halves(x: Tensor) -> tuple[Tensor, Tensor]:
    order = torch.arange(len(x))
    return x[order % 2 == 0], x[order % 2 == 1]
