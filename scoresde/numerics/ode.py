"""Embedded Runge-Kutta with a step size for every sample.

The batch shares calls of the field, not step sizes: each sample has its own time, its own error estimate and
its own controller, and leaves the batch when it arrives, for another one to take its place if there are more than
are worked on at once. So its result does not depend on its batch mates, but for what the field does: in float32 the
rounding of a network's products depends on the size of the batch. With `grid`, step sizes are those of a grid. A
decision at its border, or between accepting and rejecting, can still differ, which moves a result by about the
tolerance.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.numerics.tableaus import BOSH3, DOP853, DORMAND_PRINCE, TSIT5, EmbeddedPair

__all__ = [
    "BOSH3",
    "DOP853",
    "DORMAND_PRINCE",
    "TSIT5",
    "AcceptedSteps",
    "EmbeddedPair",
    "Solution",
    "Status",
    "integrate",
    "integrate_through",
]


class Status(IntEnum):
    """How a sample's integration ended."""

    ARRIVED = 0
    #: Its steps became too small to move the time.
    UNDERFLOW = 1
    #: It used up its attempts.
    TOO_MANY_STEPS = 2
    #: The field is not finite there, or however small the step.
    NOT_FINITE = 3


@dataclass(frozen=True)
class Solution:
    """Where every sample is and what it took; all but `y` have one entry `(B,)` per sample.

    Attributes:
        y: `(B, N)`, the state.
        t: float64, its time: the end, or where a sample stopped that did not arrive.
        nfe: int64, evaluations of the field.
        accepted: int64, steps taken.
        rejected: int64, steps tried in vain.
        status: int64, of `Status`.
    """

    y: Tensor
    t: Tensor
    nfe: Tensor
    accepted: Tensor
    rejected: Tensor
    status: Tensor

    @property
    def arrived(self) -> Tensor:
        """Whether a sample came to the end."""
        return self.status == Status.ARRIVED


Field = Callable[[Any, Tensor, Tensor], Tensor]
ErrorNorm = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
Prepare = Callable[[Tensor], Sequence[Any] | Tensor]


@dataclass(frozen=True)
class AcceptedSteps:
    """Steps that samples have taken, all tensors with one entry (row) for each.

    Attributes:
        rows: int64, the samples.
        start: float64, the times where they begin.
        size: float64, how far they go, negative if backwards.
        y: the states there.
        slopes: the slopes of all stages, the extra ones of the dense output included.
        arrived: whether it was the sample's last.
    """

    rows: Tensor
    start: Tensor
    size: Tensor
    y: Tensor
    slopes: list[Tensor]
    arrived: Tensor


@checked
def integrate(
    field: Field,
    y: Tensor,
    start: float,
    stop: float,
    error_norm: ErrorNorm,
    tableau: EmbeddedPair = DORMAND_PRINCE,
    max_steps: int = 10_000,
    prepare: Prepare | None = None,
    width: int | None = None,
    on_steps: Callable[[AcceptedSteps], None] | None = None,
    longest: float = math.inf,
    grid: float = 0.0,
) -> Solution:
    """Integrate dy/dt = field from `start` to `stop`, forwards or backwards; see `integrate_through`."""
    (solution,) = integrate_through(
        field, y, (start, stop), error_norm, tableau, max_steps, prepare, width, on_steps, longest, grid
    )
    return solution


@checked
def integrate_through(
    field: Field,
    y: Tensor,
    times: Sequence[float],
    error_norm: ErrorNorm,
    tableau: EmbeddedPair = DORMAND_PRINCE,
    max_steps: int = 10_000,
    prepare: Prepare | None = None,
    width: int | None = None,
    on_steps: Callable[[AcceptedSteps], None] | None = None,
    longest: float = math.inf,
    grid: float = 0.0,
) -> Iterator[Solution]:
    """Integrate dy/dt = field along monotone `times` and yield the solution at times[1], times[2], ...

    Step sizes by a PI controller (Hairer, Nørsett & Wanner 1993, II.4 and IV.2); the first by their II.4
    algorithm. A step ends exactly at each of the times, and the next interval goes on with the slope and the
    step size of the last. A sample that stops on the way stays where it is.

    The device is waited for once a step, to see whether a sample leaves the batch.

    Args:
        field: maps (t `(b,)`, y `(b, N)`, rows `(b,)`) to dy/dt `(b, N)`; rows are the samples' places in y, and
            the same tensor until a sample leaves.
        y: `(B, N)`, the state at times[0].
        times: at least two.
        error_norm: maps (local error, y before, y after, slope after), each `(b, N)`, to `(b,)`; up to 1 a step is
            accepted.
        tableau: the method.
        max_steps: attempts per sample in each interval of `times`.
        prepare: maps the times `(S, b)` of all stages of a step to S things, which the field is given instead of
            its t: whatever depends on time alone is computed once a step.
        width: samples to work on at once; all if not given. Others take the places of those that have arrived.
        on_steps: is given the steps that are accepted.
        longest: no step is longer.
        grid: between the logarithms of neighbouring step sizes, for fields in float32; 0 for steps of any size.
    """
    device, stages = y.device, len(tableau.stages)
    width = len(y) if width is None else width
    prepare = prepare or (lambda t: t)
    nodes, extra_nodes = (
        torch.tensor(c, dtype=torch.float64, device=device)[:, None] for c in (tableau.nodes[1:], tableau.extra_nodes)
    )
    zero = torch.zeros(len(y), dtype=torch.int64, device=device)
    nfe, accepted, rejected, status = (zero.clone() for _ in range(4))
    t = torch.full((len(y),), times[0], dtype=torch.float64, device=device)
    # The clone and the others are written to below.
    y = y.clone()
    step, previous = torch.zeros_like(t), torch.ones_like(t)
    every = (y, torch.zeros_like(y), step, previous)

    def begin(new: Tensor, fresh: bool) -> tuple[Tensor, ...]:
        """State, slope, step and previous error of samples at the start of an interval, or of everything."""
        y, slope, step, previous = (v[new] for v in every)
        if fresh and len(new):
            # A field may give the same memory again.
            slope = field(prepare(t[new][None])[0], y, new).clone()
            step = _first_step(field, prepare, y, slope, times[0], times[-1], error_norm, tableau, new)
            # Where the field is not finite at the start, no step is small enough.
            step = _on_grid(step, grid).masked_fill(~slope.isfinite().all(1), 0.0)
            nfe[new] += 2
        return y, slope, step, previous

    for number, (start, stop) in enumerate(itertools.pairwise(times)):
        sign, span = (1.0 if stop >= start else -1.0), abs(stop - start)
        # Below this a step no longer moves the time.
        smallest = max(1e-13 * span, 4e-16 * max(abs(start), abs(stop)))
        waiting = (status == Status.ARRIVED).nonzero()[:, 0]
        rows, waiting = waiting[:width], waiting[width:]
        y, slope, step, previous = begin(rows, number == 0)
        # `gone` is the distance covered; `slope` the field at its end.
        gone, steps, tries = torch.zeros_like(step), torch.zeros_like(rows), torch.zeros_like(rows)
        while len(rows):
            tries += 1
            step = step.clamp_max(longest)
            last = gone + step >= span * (1 - 1e-12)
            size = torch.where(last, span - gone, step)
            signed = (sign * size).to(y.dtype)[:, None]
            places = prepare(start + sign * (gone + nodes * size))
            slopes, state = [slope], y
            for place, row in zip(places, tableau.stages, strict=True):
                state = torch.addcmul(y, signed, _weighted(row, slopes))
                slopes.append(field(place, state, rows))
            error = error_norm(signed * _weighted(tableau.error, slopes), y, state, slopes[-1]).double()
            if tableau.coarse is not None:
                rough = signed * _weighted(tableau.coarse, slopes)
                coarse = error_norm(rough, y, state, slopes[-1]).double()
                # Hairer, Nørsett & Wanner 1993, eq. II.10.17
                error = error**2 / torch.hypot(error, 0.1 * coarse).clamp_min(1e-300)
            broken = ~error.isfinite()
            ok, factor = _control(torch.where(broken, 1e10, error), previous, tableau.order)
            finished = ok & last
            if on_steps is not None and bool(ok.any()):
                begun = start + sign * gone
                took = (rows, begun, sign * size, finished, y, *slopes)
                taken, begun, moved, final, before, *each = took if bool(ok.all()) else tuple(v[ok] for v in took)
                for place, row in zip(prepare(begun + extra_nodes * moved), tableau.extra, strict=True):
                    at = torch.addcmul(before, moved.to(y.dtype)[:, None], _weighted(row, each))
                    each.append(field(place, at, taken))
                nfe[taken] += len(tableau.extra)
                on_steps(AcceptedSteps(taken, begun, moved, before, each, final))
            gone = torch.where(ok, gone + size, gone)
            y = torch.where(ok[:, None], state, y)
            slope = torch.where(ok[:, None], slopes[-1], slope)
            previous = torch.where(ok, error.clamp_min(1e-4), previous)
            steps += ok
            # A step cut short at the end says little about the next.
            step = _on_grid(torch.where(finished, torch.maximum(step, size * factor), size * factor), grid)
            stuck = ~finished & (step < smallest)
            leave = finished | stuck | (tries >= max_steps)
            if bool(leave.any()):
                done = rows[leave]
                for whole, part in zip(every, (y, slope, step, previous), strict=True):
                    whole[done] = part[leave]
                t[done] = torch.where(finished, stop, start + sign * gone)[leave]
                nfe[done] += tries[leave] * stages
                accepted[done] += steps[leave]
                rejected[done] += (tries - steps)[leave]
                reason = torch.where(stuck, int(Status.UNDERFLOW), int(Status.TOO_MANY_STEPS))
                reason = torch.where(broken, int(Status.NOT_FINITE), reason)
                status[done] = torch.where(finished, int(Status.ARRIVED), reason)[leave]
                keep = ~leave
                rows, y, gone, slope, step, previous, steps, tries = (
                    v[keep] for v in (rows, y, gone, slope, step, previous, steps, tries)
                )
                # A few at once, since a call for one costs as much as for many.
                if len(waiting) and len(rows) <= 0.75 * width:
                    new, waiting = waiting[: width - len(rows)], waiting[width - len(rows) :]
                    zeros = torch.zeros_like(new)
                    joined = zip(
                        (rows, y, slope, step, previous, gone, steps, tries),
                        (new, *begin(new, number == 0), zeros.double(), zeros, zeros),
                        strict=True,
                    )
                    rows, y, slope, step, previous, gone, steps, tries = (torch.cat(pair) for pair in joined)
        yield Solution(*(v.clone() for v in (every[0], t, nfe, accepted, rejected, status)))


def _weighted(weights: Sequence[float], slopes: list[Tensor]) -> Tensor:
    """Σ w k, without the stages that have no weight."""
    (first, k), *rest = [(w, k) for w, k in zip(weights, slopes, strict=True) if w]
    total = first * k
    for w, k in rest:
        total = total.add_(k, alpha=w)
    return total


def _on_grid(step: Tensor, grid: float) -> Tensor:
    """The nearest of the step sizes e^(k grid), k an integer.

    The rounding of a float32 field depends on how many samples share a call, and so do its error estimates. Steps that
    follow them exactly would differ by as much, relatively, and results by that share of the solver's error. Between
    the borders of this grid they are the same.
    """
    return (grid * (step.log() / grid).round()).exp() if grid else step


def _control(error: Tensor, previous: Tensor, order: int) -> tuple[Tensor, Tensor]:
    """Whether a step is accepted, and the factor from its size to the next."""
    error = error.clamp_min(1e-10)
    ok = error <= 1
    factor = 0.9 * error ** (-0.7 / order) * previous ** (0.4 / order)
    # A step after a rejected one does not grow.
    return ok, torch.where(ok, factor.clamp(0.2, 10.0), (0.9 * error ** (-1 / order)).clamp(0.1, 0.9))


def _first_step(
    field: Field,
    prepare: Prepare,
    y: Tensor,
    slope: Tensor,
    start: float,
    stop: float,
    error_norm: ErrorNorm,
    tableau: EmbeddedPair,
    rows: Tensor,
) -> Tensor:
    """Hairer, Nørsett & Wanner 1993, II.4: from the sizes of y, of y' and of a difference quotient of it."""
    sign, span = (1.0 if stop >= start else -1.0), abs(stop - start)
    size = error_norm(slope, y, y, slope).double()
    # It moves y by a hundredth of y, or of the tolerance if that is more: less is lost in round-off.
    trial = (0.01 * error_norm(y, y, y, slope).double().clamp_min(1) / size.clamp_min(1e-10)).clamp_max(0.1 * span)
    # A field that is not finite for one sample must not give the others a time that is not.
    trial = torch.where(trial.isfinite(), trial, 1e-6 * span)
    signed = (sign * trial).to(y.dtype)[:, None]
    ahead = field(prepare((start + sign * trial)[None])[0], torch.addcmul(y, signed, slope), rows)
    bend = error_norm(ahead - slope, y, y, slope).double() / trial
    largest = torch.maximum(size, bend).clamp_min(1e-10)
    step = torch.minimum(100 * trial, (0.01 / largest) ** (1 / tableau.order)).clamp_max(span)
    return torch.where(step.isfinite(), step, 1e-6 * span)
