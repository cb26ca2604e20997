"""How good posterior samples are: distance to the truth, coverage of it, and fit to the measurement."""

from torch import Tensor

from scoresde.arguments import checked
from scoresde.inverse.problem import Measurement

__all__ = ["central_coverage", "central_interval", "psnr", "residual_ratio"]


@checked
def psnr(x: Tensor, truth: Tensor, peak: float = 1.0) -> Tensor:
    """The peak signal-to-noise ratio 10 log₁₀(peak² / MSE) in decibels, of each sample.

    Args:
        x: Samples `(..., *shape)`, as `truth` or with further axes in front of those of a sample.
        truth: What they are of, `(B, *shape)`: `x` is `(B, *shape)` or `(B, n, *shape)`.
        peak: The largest difference of two values.

    Returns:
        `(B,)` or `(B, n)` float64, infinite for samples without error.

    Raises:
        ValueError: Samples of another shape than the truth.

    >>> import torch
    >>> psnr(torch.ones(1, 4), torch.zeros(1, 4), peak=10.0)
    tensor([20.], dtype=torch.float64)
    """
    error = (x.double() - _beside(x, truth).double()).square()
    return 10 * (peak**2 / error.flatten(x.ndim - truth.ndim + 1).mean(-1)).log10()


@checked
def central_interval(n: int, level: float = 0.8) -> tuple[int, float]:
    """The k for which the k-th smallest to the k-th largest of n values is a central interval of this probability.

    A further draw from their law lies in it with the probability (n + 1 − 2 k) / (n + 1).

    Args:
        n: Number of values.
        level: The probability; the nearest that there is for n values is taken.

    Returns:
        k, and the probability.

    Raises:
        ValueError: Fewer than two values, or a level that is not between 0 and 1.

    >>> central_interval(9)
    (1, 0.8)
    """
    if not 0 < level < 1:
        raise ValueError(f"level is {level}, expected a number between 0 and 1")
    if n < 2:
        raise ValueError(f"there is an interval of at least 2 samples, and n is {n}")
    k = min(max(round(0.5 * (1 - level) * (n + 1)), 1), n // 2)
    return k, (n + 1 - 2 * k) / (n + 1)


@checked
def central_coverage(samples: Tensor, truth: Tensor, level: float = 0.8) -> Tensor:
    """The share of the values of each truth that lies in the central interval of its samples' values.

    It is to be compared with the probability of `central_interval`. Where samples are equal to the truth, as of
    integers, its rank is any of theirs, and counts by the share of these that is inside.

    Args:
        samples: `(B, n, *shape)`.
        truth: `(B, *shape)`.
        level: The probability of the interval.

    Returns:
        The shares, `(B,)` float64.

    Raises:
        ValueError: Samples of another shape, or what `central_interval` refuses.

    >>> import torch
    >>> samples = torch.arange(9.0).reshape(1, 9, 1)
    >>> central_coverage(samples, torch.tensor([[4.5]])), central_coverage(samples, torch.tensor([[9.0]]))
    (tensor([1.], dtype=torch.float64), tensor([0.], dtype=torch.float64))
    """
    k, _ = central_interval(samples.shape[1], level)
    truth, n = _beside(samples, truth), samples.shape[1]
    first = (samples < truth).sum(1)  # the smallest rank, of 0 to n
    last = first + (samples == truth).sum(1)
    inside = (last.clamp(max=n - k) - first.clamp(min=k) + 1).clamp(min=0).double() / (last - first + 1)
    return inside.flatten(1).mean(1)


@checked
def residual_ratio(measurement: Measurement, x: Tensor) -> Tensor:
    """The root mean square of (y − A(x)) / σ over the numbers of each measurement, for the σ of its noise.

    It is near 1 for the truth. Without noise, or with one whose variance is not known, σ counts as 1.

    Args:
        measurement: B measurements.
        x: Samples `(B, ...)`, one for each.

    Returns:
        `(B,)` float64.
    """
    variance = measurement.noise.variance(measurement.y)
    residual = measurement.residual(x).double()
    if variance is not None and bool((variance > 0).all()):
        residual = residual / variance.double().sqrt()
    return residual.square().flatten(1).mean(1).sqrt()


def _beside(x: Tensor, truth: Tensor) -> Tensor:
    """The truth, with an axis of length 1 for samples `(B, n, ...)`."""
    if x.shape == truth.shape:
        return truth
    if x.ndim != truth.ndim + 1 or (len(x), *x.shape[2:]) != tuple(truth.shape):
        raise ValueError(
            f"samples have shape {tuple(x.shape)} and the truth {tuple(truth.shape)}, expected (B, n, ...) and (B, ...)"
        )
    return truth[:, None]
