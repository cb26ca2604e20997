"""Embedded Runge-Kutta with a step size for every sample.

The batch shares calls of the field, not step sizes: each sample has its own time, its own error estimate and its own
controller, and leaves the batch when it arrives, so that another takes its place if there are more than are worked on
at once. So a result does not depend on batch mates, except through the field: in float32 the rounding of a network's
products depends on the size of the batch. With `grid`, step sizes are those of a grid. A decision at its border, or
between accepting and rejecting, can still differ, which moves a result by about the tolerance.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.numerics.step_sizes import accepted_and_factor, first_step, on_grid
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
    """Status of a sample at the end of its integration."""

    #: At the end of the interval.
    ARRIVED = 0
    #: The steps became too small to move the time.
    UNDERFLOW = 1
    #: All attempts were used up.
    TOO_MANY_STEPS = 2
    #: The field is NaN or infinite there, however small the step.
    NOT_FINITE = 3


@dataclass(frozen=True)
class Solution:
    """The states of all samples at a time, and their cost; all but `y` have one entry `(B,)` per sample.

    Attributes:
        y: State, `(B, N)`.
        t: Time of the state, float64: the end, or where a sample stopped that did not arrive.
        nfe: Evaluations of the field, int64.
        accepted: Accepted steps, int64.
        rejected: Rejected steps, int64.
        status: How the integration ended, int64 of `Status`.
    """

    y: Tensor
    t: Tensor
    nfe: Tensor
    accepted: Tensor
    rejected: Tensor
    status: Tensor

    @property
    def arrived(self) -> Tensor:
        """True for each sample that came to the end, `(B,)`."""
        return self.status == Status.ARRIVED


Field = Callable[[Any, Tensor, Tensor], Tensor]
ErrorNorm = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
Prepare = Callable[[Tensor], Sequence[Any] | Tensor]
Longest = float | Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class AcceptedSteps:
    """Steps that samples have taken; every tensor has one entry (row) for each step.

    Attributes:
        rows: Indices of the samples, int64.
        start: Times at which the steps begin, float64.
        size: Sizes of the steps, float64, negative if backwards.
        y: States at which they begin.
        slopes: Slopes of all stages, including the extra ones of the dense output.
        arrived: Whether it was the sample's last step.
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
    longest: Longest = math.inf,
    grid: float = 0.0,
) -> Solution:
    """Integrate dy/dt = field from `start` to `stop`, forwards or backwards.

    Args:
        start: Time of `y`.
        stop: Time of the solution.

    The other arguments are those of `integrate_through`.

    >>> def decay(t, y, rows):
    ...     return -y
    >>> def error_norm(error, before, after, slope):
    ...     return error.abs().amax(1) / 1e-6
    >>> out = integrate(decay, torch.ones(2, 1, dtype=torch.float64), 0.0, 1.0, error_norm)
    >>> bool(((out.y - math.exp(-1)).abs() < 1e-5).all()), bool(out.arrived.all())
    (True, True)
    """
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
    longest: Longest = math.inf,
    grid: float = 0.0,
) -> Iterator[Solution]:
    """Integrate dy/dt = field along monotone `times` and yield the solution at times[1], times[2], ...

    Step sizes come from a PI controller (Hairer, Nørsett & Wanner 1993, II.4 and IV.2), the first from the algorithm of
    their II.4. A step ends exactly at each of the times, and the next interval continues with the slope and the step
    size of the last. A sample that stops on the way stays where it is.

    The device is waited for once a step, to see whether a sample leaves the batch.

    Args:
        field: Function from (t `(b,)`, y `(b, N)`, rows `(b,)`) to dy/dt `(b, N)`; rows are the indices of the samples
            in y, and the same tensor until a sample leaves.
        y: State at times[0], `(B, N)`.
        times: At least two times.
        error_norm: Function from (local error, y before, y after, slope after), each `(b, N)`, to `(b,)`; a step is
            accepted up to 1.
        tableau: The method.
        max_steps: Attempts per sample in each interval of `times`.
        prepare: Function from the times `(S, b)` of all stages of a step to S values that the field is given in place
            of its t: whatever depends on time alone is computed once a step.
        width: Number of samples to work on at once; all if not given. Others take the places of those that have
            arrived.
        on_steps: Function that is given the steps that are accepted.
        longest: Length of the longest step, or a function from times `(b,)` to the longest steps from there, `(b,)`.
        grid: Distance between the logarithms of neighbouring step sizes, for fields in float32; 0 for steps of any
            size.
    """
    run = _Run(field, y, times, error_norm, tableau, max_steps, prepare or (lambda t: t), on_steps, longest, grid)
    for start, stop in itertools.pairwise(times):
        run.cross(_Interval(start, stop), len(y) if width is None else width)
        yield run.solution()


class _Interval:
    """The way from one time to the next, on which distances are positive."""

    def __init__(self, start: float, stop: float) -> None:
        self.start, self.stop = start, stop
        self.sign, self.span = (1.0 if stop >= start else -1.0), abs(stop - start)
        # A smaller step no longer moves the time.
        self.smallest = max(1e-13 * self.span, 4e-16 * max(abs(start), abs(stop)))


@dataclass
class _Active:
    """The samples that are worked on, one entry (row) each.

    Attributes:
        rows: Indices of the samples.
        y: States.
        slope: Values of the field at the states.
        step: Sizes of the next steps.
        previous: Errors of the last steps.
        gone: Distances covered in the interval.
        accepted: Accepted steps in the interval.
        tries: Attempts in the interval.
    """

    rows: Tensor
    y: Tensor
    slope: Tensor
    step: Tensor
    previous: Tensor
    gone: Tensor
    accepted: Tensor
    tries: Tensor

    def chosen(self, mask: Tensor) -> "_Active":
        return _Active(*(v[mask] for v in vars(self).values()))

    def joined(self, others: "_Active") -> "_Active":
        pairs = zip(vars(self).values(), vars(others).values(), strict=True)
        return _Active(*(torch.cat(pair) for pair in pairs))


class _Attempt(NamedTuple):
    """A step that every active sample has tried.

    Attributes:
        size: Distances.
        state: States at the end.
        slopes: Slopes of all stages, the last at the end.
        error: Norms of the local errors, in units of the tolerance.
        ok: Whether the step is accepted.
        factor: Ratios of the next step size to this.
        finished: Whether the step is accepted and ends the interval.
    """

    size: Tensor
    state: Tensor
    slopes: list[Tensor]
    error: Tensor
    ok: Tensor
    factor: Tensor
    finished: Tensor


class _Run:
    """An integration: its settings, and what is known of every sample, active or not."""

    def __init__(
        self,
        field: Field,
        y: Tensor,
        times: Sequence[float],
        error_norm: ErrorNorm,
        tableau: EmbeddedPair,
        max_steps: int,
        prepare: Prepare,
        on_steps: Callable[[AcceptedSteps], None] | None,
        longest: Longest,
        grid: float,
    ) -> None:
        self.field, self.times, self.error_norm, self.tableau = field, times, error_norm, tableau
        self.max_steps, self.prepare, self.on_steps = max_steps, prepare, on_steps
        self.longest, self.grid = longest, grid
        self._nodes, self._extra_nodes = (
            torch.tensor(c, dtype=torch.float64, device=y.device)[:, None]
            for c in (tableau.nodes[1:], tableau.extra_nodes)
        )
        self.t = torch.full((len(y),), times[0], dtype=torch.float64, device=y.device)
        # The clone is written to.
        self.y, self.slope = y.clone(), torch.zeros_like(y)
        self.step, self.previous = torch.zeros_like(self.t), torch.ones_like(self.t)
        self.nfe, self.accepted, self.rejected, self.status = (
            torch.zeros(len(y), dtype=torch.int64, device=y.device) for _ in range(4)
        )
        self._fresh = True  # until the first interval is crossed

    def solution(self) -> Solution:
        """The states as they are now, which later intervals do not change."""
        return Solution(*(v.clone() for v in (self.y, self.t, self.nfe, self.accepted, self.rejected, self.status)))

    def cross(self, interval: _Interval, width: int) -> None:
        """Take all samples that have not stopped to the end of the interval, `width` at a time."""
        waiting = (self.status == Status.ARRIVED).nonzero()[:, 0]
        active, waiting = self._begin(waiting[:width]), waiting[width:]
        while len(active.rows):
            active.tries += 1
            attempt = self._attempt(active, interval)
            if self.on_steps is not None and bool(attempt.ok.any()):
                self.on_steps(self._accepted_steps(active, attempt, interval))
            self._move(active, attempt)
            stuck = ~attempt.finished & (active.step < interval.smallest)
            leave = attempt.finished | stuck | (active.tries >= self.max_steps)
            if bool(leave.any()):
                self._store(active, attempt, interval, stuck, leave)
                active = active.chosen(~leave)
                # A few join at once, since a call of the field for one costs as much as for many.
                if len(waiting) and len(active.rows) <= 0.75 * width:
                    room = width - len(active.rows)
                    active, waiting = active.joined(self._begin(waiting[:room])), waiting[room:]
        self._fresh = False

    def _begin(self, rows: Tensor) -> _Active:
        """Samples at the start of an interval; in the first one their slopes and step sizes are computed."""
        y, slope, step, previous = (v[rows] for v in (self.y, self.slope, self.step, self.previous))
        if self._fresh and len(rows):

            def slope_at(t: Tensor, y: Tensor) -> Tensor:
                return self.field(self.prepare(t[None])[0], y, rows)

            # A field may return the same memory again.
            slope = slope_at(self.t[rows], y).clone()
            step = first_step(slope_at, y, slope, self.times[0], self.times[-1], self.error_norm, self.tableau.order)
            # No step is small enough if the field is not finite at the start.
            step = on_grid(step, self.grid).masked_fill(~slope.isfinite().all(1), 0.0)
            self.nfe[rows] += 2
        zeros = torch.zeros_like(rows)
        return _Active(rows, y, slope, step, previous, torch.zeros_like(step), zeros, zeros.clone())

    def _attempt(self, active: _Active, interval: _Interval) -> _Attempt:
        """One step of every active sample, and whether its error is small enough."""
        y = active.y
        active.step = self._bounded(active, interval)
        last = active.gone + active.step >= interval.span * (1 - 1e-12)
        size = torch.where(last, interval.span - active.gone, active.step)
        signed = (interval.sign * size).to(y.dtype)[:, None]
        places = self.prepare(interval.start + interval.sign * (active.gone + self._nodes * size))
        slopes, state = [active.slope], y
        for place, row in zip(places, self.tableau.stages, strict=True):
            state = torch.addcmul(y, signed, _weighted(row, slopes))
            slopes.append(self.field(place, state, active.rows))
        error = self._error(signed, slopes, y, state)
        bounded = torch.where(error.isfinite(), error, 1e10)
        ok, factor = accepted_and_factor(bounded, active.previous, self.tableau.order)
        return _Attempt(size, state, slopes, error, ok, factor, ok & last)

    def _bounded(self, active: _Active, interval: _Interval) -> Tensor:
        """The next step sizes `(b,)`, none of them longer than the longest."""
        if callable(self.longest):
            return torch.minimum(active.step, self.longest(interval.start + interval.sign * active.gone))
        return active.step.clamp_max(self.longest)

    def _error(self, signed: Tensor, slopes: list[Tensor], y: Tensor, state: Tensor) -> Tensor:
        """Norms `(b,)` of the local error, from one estimate or from two."""
        estimates = (self.tableau.error, self.tableau.coarse)
        error, *coarse = (
            self.error_norm(signed * _weighted(weights, slopes), y, state, slopes[-1]).double()
            for weights in estimates
            if weights is not None
        )
        # Hairer, Nørsett & Wanner 1993, eq. II.10.17
        return error**2 / torch.hypot(error, 0.1 * coarse[0]).clamp_min(1e-300) if coarse else error

    def _accepted_steps(self, active: _Active, attempt: _Attempt, interval: _Interval) -> AcceptedSteps:
        """The accepted steps with the extra stages of the dense output, which are evaluated here."""
        ok = attempt.ok
        begun, moved = interval.start + interval.sign * active.gone, interval.sign * attempt.size
        parts = (active.rows, begun, moved, attempt.finished, active.y, *attempt.slopes)
        rows, begun, moved, finished, y, *slopes = parts if bool(ok.all()) else tuple(v[ok] for v in parts)
        places = self.prepare(begun + self._extra_nodes * moved)
        for place, row in zip(places, self.tableau.extra, strict=True):
            state = torch.addcmul(y, moved.to(y.dtype)[:, None], _weighted(row, slopes))
            slopes.append(self.field(place, state, rows))
        self.nfe[rows] += len(self.tableau.extra)
        return AcceptedSteps(rows, begun, moved, y, slopes, finished)

    def _move(self, active: _Active, attempt: _Attempt) -> None:
        """Move the samples whose steps are accepted, and set the size of everyone's next step."""
        ok, size = attempt.ok, attempt.size
        active.gone = torch.where(ok, active.gone + size, active.gone)
        active.y = torch.where(ok[:, None], attempt.state, active.y)
        active.slope = torch.where(ok[:, None], attempt.slopes[-1], active.slope)
        active.previous = torch.where(ok, attempt.error.clamp_min(1e-4), active.previous)
        active.accepted += ok
        # A step cut short at the end says little about the next.
        following = size * attempt.factor
        following = torch.where(attempt.finished, torch.maximum(active.step, following), following)
        active.step = on_grid(following, self.grid)

    def _store(self, active: _Active, attempt: _Attempt, interval: _Interval, stuck: Tensor, leave: Tensor) -> None:
        """Write down the samples that leave the batch: the state, its cost, and why they leave."""
        rows, finished = active.rows[leave], attempt.finished
        for name in ("y", "slope", "step", "previous"):
            getattr(self, name)[rows] = getattr(active, name)[leave]
        self.t[rows] = torch.where(finished, interval.stop, interval.start + interval.sign * active.gone)[leave]
        self.nfe[rows] += active.tries[leave] * len(self.tableau.stages)
        self.accepted[rows] += active.accepted[leave]
        self.rejected[rows] += (active.tries - active.accepted)[leave]
        reason = torch.where(stuck, int(Status.UNDERFLOW), int(Status.TOO_MANY_STEPS))
        reason = torch.where(attempt.error.isfinite(), reason, int(Status.NOT_FINITE))
        self.status[rows] = torch.where(finished, int(Status.ARRIVED), reason)[leave]


def _weighted(weights: Sequence[float], slopes: list[Tensor]) -> Tensor:
    """The sum Σ w k over the stages whose weight is not 0."""
    (first, k), *rest = [(w, k) for w, k in zip(weights, slopes, strict=True) if w]
    total = first * k
    for w, k in rest:
        total = total.add_(k, alpha=w)
    return total
