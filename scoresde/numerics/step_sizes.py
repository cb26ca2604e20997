"""Step sizes of embedded Runge-Kutta pairs: the first, which steps are accepted, and how long the next ones are."""

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["accepted_and_factor", "first_step", "on_grid"]


def first_step(
    slope_at: Callable[[Tensor, Tensor], Tensor],
    y: Tensor,
    slope: Tensor,
    start: float,
    stop: float,
    error_norm: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor],
    order: int,
) -> Tensor:
    """First step sizes `(b,)`, from the sizes of y, of y' and of a difference quotient of y'.

    The algorithm of Hairer, Nørsett & Wanner 1993, II.4; it takes one more evaluation of the field.

    Args:
        slope_at: Function from times `(b,)` and states `(b, N)` to slopes y'.
        y: States at `start`, `(b, N)`.
        slope: Slopes there, `(b, N)`.
        start: Time at which the integration begins.
        stop: Time at which it ends.
        error_norm: As for `integrate_through`.
        order: Order k of a local error that shrinks as step^k.
    """
    sign, span = (1.0 if stop >= start else -1.0), abs(stop - start)
    size = error_norm(slope, y, y, slope).double()
    # The trial step moves y by a hundredth of y, or of the tolerance if that is more: less is lost in round-off.
    trial = (0.01 * error_norm(y, y, y, slope).double().clamp_min(1) / size.clamp_min(1e-10)).clamp_max(0.1 * span)
    # A field that is not finite for one sample must not give the others a time that is not.
    trial = torch.where(trial.isfinite(), trial, 1e-6 * span)
    signed = (sign * trial).to(y.dtype)[:, None]
    later = slope_at(start + sign * trial, torch.addcmul(y, signed, slope))
    bend = error_norm(later - slope, y, y, slope).double() / trial
    largest = torch.maximum(size, bend).clamp_min(1e-10)
    step = torch.minimum(100 * trial, (0.01 / largest) ** (1 / order)).clamp_max(span)
    return torch.where(step.isfinite(), step, 1e-6 * span)


def on_grid(step: Tensor, grid: float) -> Tensor:
    """The nearest of the step sizes e^{k grid}, k an integer.

    The rounding of a float32 field depends on how many samples share a call, and so do its error estimates. Steps that
    follow them exactly would differ by as much, relatively, and results by that share of the solver's error. Between
    the borders of this grid they are the same.
    """
    return (grid * (step.log() / grid).round()).exp() if grid else step


def accepted_and_factor(error: Tensor, previous: Tensor, order: int) -> tuple[Tensor, Tensor]:
    """The steps that are accepted, and the ratios of the next step sizes to these.

    The PI controller of Hairer, Nørsett & Wanner 1993, IV.2, with the limits of their II.4.

    Args:
        error: Norms of the local errors in units of the tolerance, `(b,)`.
        previous: Those of the last accepted steps, `(b,)`.
        order: Order k of a local error that shrinks as step^k.

    >>> error = torch.tensor([0.01, 1.0, 4.0])
    >>> ok, factor = accepted_and_factor(error, torch.ones(3), 5)
    >>> ok.tolist(), [round(f, 3) for f in factor.tolist()]
    ([True, True, False], [1.715, 0.9, 0.682])
    """
    error = error.clamp_min(1e-10)
    ok = error <= 1
    factor = 0.9 * error ** (-0.7 / order) * previous ** (0.4 / order)
    # A step after a rejected one does not grow.
    return ok, torch.where(ok, factor.clamp(0.2, 10.0), (0.9 * error ** (-1 / order)).clamp(0.1, 0.9))
