"""Embedded Runge-Kutta with a step size for every sample.

The batch shares calls of the field, not step sizes: each sample has its own time, its own error estimate and
its own controller, and leaves the batch when it arrives. So its result does not depend on its batch mates.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["BOSH3", "DORMAND_PRINCE", "Solution", "Tableau", "integrate"]


@dataclass(frozen=True)
class Tableau:
    """An explicit embedded pair whose last stage is the first of the next step.

    Attributes:
        nodes: c.
        stages: rows of A below the first; the last is the weights b of the step itself.
        error: b − b̂, the weights of the error estimate.
        order: of the embedded (lower-order) solution, plus one.
    """

    nodes: tuple[float, ...]
    stages: tuple[tuple[float, ...], ...]
    error: tuple[float, ...]
    order: int


# Bogacki & Shampine 1989
BOSH3 = Tableau(
    nodes=(0, 1 / 2, 3 / 4, 1),
    stages=((1 / 2,), (0, 3 / 4), (2 / 9, 1 / 3, 4 / 9)),
    error=(2 / 9 - 7 / 24, 1 / 3 - 1 / 4, 4 / 9 - 1 / 3, -1 / 8),
    order=3,
)

# Dormand & Prince 1980
DORMAND_PRINCE = Tableau(
    nodes=(0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1, 1),
    stages=(
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    ),
    error=(
        35 / 384 - 5179 / 57600,
        0,
        500 / 1113 - 7571 / 16695,
        125 / 192 - 393 / 640,
        -2187 / 6784 + 92097 / 339200,
        11 / 84 - 187 / 2100,
        -1 / 40,
    ),
    order=5,
)


@dataclass(frozen=True)
class Solution:
    """The state at the end, `(B, N)`, and for each sample `(B,)` the evaluations and whether it arrived."""

    y: Tensor
    nfe: Tensor
    arrived: Tensor


Field = Callable[[Tensor, Tensor, Tensor], Tensor]
ErrorNorm = Callable[[Tensor, Tensor, Tensor], Tensor]


def integrate(
    field: Field,
    y: Tensor,
    start: float,
    stop: float,
    error_norm: ErrorNorm,
    tableau: Tableau = DORMAND_PRINCE,
    max_steps: int = 10_000,
) -> Solution:
    """Integrate dy/dt = field from `start` to `stop`, forwards or backwards.

    Step sizes by a PI controller (Hairer, Nørsett & Wanner 1993, II.4 and IV.2); the first by their II.4
    algorithm; the last ends exactly at `stop`.

    Args:
        field: maps (t `(b,)`, y `(b, N)`, rows `(b,)`) to dy/dt `(b, N)`; rows are the samples' places in y.
        y: `(B, N)`, the state at `start`.
        start: first time.
        stop: last time.
        error_norm: maps (local error, y before, y after), each `(b, N)`, to `(b,)`; up to 1 a step is accepted.
        tableau: the method.
        max_steps: attempts per sample; a sample that needs more is left where it is.
    """
    total, device = y.shape[0], y.device
    sign = 1.0 if stop >= start else -1.0
    span = abs(stop - start)
    done_y, nfe = y.clone(), torch.zeros(total, dtype=torch.int64, device=device)
    arrived = torch.zeros(total, dtype=torch.bool, device=device)
    rows = torch.arange(total, device=device)
    # `gone` is the distance covered; `slope` the field at its end.
    gone = torch.zeros(total, dtype=y.dtype, device=device)
    slope = field(start + sign * gone, y, rows)
    step = _first_step(field, y, slope, start, sign, span, error_norm, tableau, rows)
    nfe += 2
    previous = torch.ones_like(gone)
    exponent = 1 / tableau.order
    for _ in range(max_steps):
        last = gone + step >= span * (1 - 1e-12)
        step = torch.where(last, span - gone, step)
        signed = (sign * step)[:, None]
        slopes = [slope]
        state = y
        for node, row in zip(tableau.nodes[1:], tableau.stages, strict=True):
            move = sum((k if w == 1 else w * k for w, k in zip(row, slopes, strict=True) if w), start=0.0)
            state = y + signed * move
            slopes.append(field(start + sign * (gone + node * step), state, rows))
        nfe[rows] += len(tableau.stages)
        error = signed * sum((w * k for w, k in zip(tableau.error, slopes, strict=True) if w), start=0.0)
        size = error_norm(error, y, state)
        size = torch.where(size.isfinite(), size, torch.full_like(size, 1e10)).clamp_min(1e-10)
        ok = size <= 1
        factor = 0.9 * size ** (-0.7 * exponent) * previous ** (0.4 * exponent)
        # A step after a rejected one does not grow.
        factor = torch.where(ok, factor.clamp(0.2, 10.0), (0.9 * size**-exponent).clamp(0.1, 0.9))
        gone = torch.where(ok, gone + step, gone)
        y = torch.where(ok[:, None], state, y)
        slope = torch.where(ok[:, None], slopes[-1], slope)
        previous = torch.where(ok, size.clamp_min(1e-4), previous)
        finished = ok & last
        step = step * factor
        # Steps that no longer move the time.
        stuck = ~finished & (step < 1e-13 * span)
        leave = finished | stuck
        if bool(leave.any()):
            done_y[rows[leave]] = y[leave]
            arrived[rows[finished]] = True
            keep = ~leave
            rows, y, gone, slope, step, previous = (v[keep] for v in (rows, y, gone, slope, step, previous))
            if not len(rows):
                break
    else:
        done_y[rows] = y
    return Solution(done_y, nfe, arrived)


def _first_step(
    field: Field,
    y: Tensor,
    slope: Tensor,
    start: float,
    sign: float,
    span: float,
    error_norm: ErrorNorm,
    tableau: Tableau,
    rows: Tensor,
) -> Tensor:
    """Hairer, Nørsett & Wanner 1993, II.4: from the sizes of y' and of a difference quotient of it."""
    size = error_norm(slope, y, y)
    trial = (0.01 / size.clamp_min(1e-10)).clamp_max(0.1 * span)
    ahead = y + (sign * trial)[:, None] * slope
    bend = error_norm(field(start + sign * trial, ahead, rows) - slope, y, y) / trial
    largest = torch.maximum(size, bend).clamp_min(1e-10)
    step = torch.minimum(100 * trial, (0.01 / largest) ** (1 / tableau.order)).clamp_max(span)
    return torch.where(step.isfinite(), step, 1e-6 * torch.full_like(step, span))
