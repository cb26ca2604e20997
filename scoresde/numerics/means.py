"""Means of independent values, and sums of stratified ones, with their errors."""

import math

import torch
from torch import Tensor

__all__ = ["collapsed_variance", "independent_error", "mean_and_error", "shared_error"]

# The correlation of the solver's errors of two samples, on the safe side (`shared_error`).
_CORRELATION = 0.2


def mean_and_error(values: Tensor, shared: Tensor | None = None) -> tuple[float, float]:
    """The mean over samples `(n,)` and its standard error, which is NaN for a single sample.

    Args:
        values: The values, whose scatter has the standard error of the mean.
        shared: Standard errors `(n,)` of the values whose errors are correlated, as those of a solver; see
            `shared_error`.
    """
    error = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return values.mean().item(), error if shared is None else math.hypot(error, shared_error(shared))


def independent_error(errors: Tensor) -> float:
    """The standard error of a mean whose values have independent errors, as those of probes.

    Args:
        errors: Standard errors of the values, `(n,)`.
    """
    return errors.square().sum().sqrt().item() / len(errors)


def shared_error(errors: Tensor) -> float:
    """The standard error of a mean whose values have errors that are correlated, as those of a solver.

    With a correlation ρ the variance is (1 − ρ) Σ σ²/n² + ρ (Σ σ/n)². On 45 mixtures the errors of the solver had a
    correlation of 0.02 to 0.16 within the samples of the median mixture, and of up to 0.75 on average of a kind; but
    there the errors are smaller than their standard errors. With 0.2 the true errors of 359 of 360 means of 12 to 24
    samples, on other mixtures, were within two standard errors, and 95 % of them were below 0.42 times the mean of σ.

    Args:
        errors: Standard errors of the values, `(n,)`; NaN where it is not known, and if none is, the result is 0.
    """
    known = errors[errors.isfinite()]
    if not len(known):
        return 0.0
    apart, alike = known.square().sum().item() / len(known) ** 2, known.mean().item() ** 2
    return math.sqrt((1 - _CORRELATION) * apart + _CORRELATION * alike)


def collapsed_variance(terms: Tensor) -> Tensor:
    """The variance `(B,)` of the sums of independent terms `(B, n)`, from the differences of neighbours.

    Terms are taken in pairs, and the last three together if n is odd. The difference of the means in a pair counts as
    random, so that the expectation of the result is too large, never too small (Cochran 1977, Sampling Techniques,
    section 5A.12, collapsed strata).
    """
    count = terms.shape[1]
    if count < 2:
        return torch.full_like(terms[:, 0], math.nan)
    paired = terms[:, : count - 3 * (count % 2)]
    variance = (paired[:, ::2] - paired[:, 1::2]).square().sum(1)
    return variance + 3 * terms[:, -3:].var(1) if count % 2 else variance
