"""Embedded Runge-Kutta with a step size for every sample.

The batch shares calls of the field, not step sizes: each sample has its own time, its own error estimate and
its own controller, and leaves the batch when it arrives. So its result does not depend on its batch mates.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor

__all__ = ["BOSH3", "DOP853", "DORMAND_PRINCE", "TSIT5", "Solution", "Status", "Tableau", "follow", "integrate"]


@dataclass(frozen=True)
class Tableau:
    """An explicit embedded pair, written so that its last stage is the first of the next step.

    Bogacki-Shampine, Dormand-Prince and Tsitouras use that last stage in their error estimate. DOP853 does not:
    there it is the next step's slope alone, which costs it one evaluation on a rejected step and at the end.

    Attributes:
        nodes: c.
        stages: rows of A below the first; the last is the weights b of the step itself.
        error: b − b̂, the weights of the error estimate.
        order: k of a local error estimate that shrinks as step^k.
        coarse: weights of a second estimate, which the first is combined with as in DOP853.
    """

    nodes: tuple[float, ...]
    stages: tuple[tuple[float, ...], ...]
    error: tuple[float, ...]
    order: int
    coarse: tuple[float, ...] | None = None


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

# Tsitouras 2011, table 1
TSIT5 = Tableau(
    nodes=(0, 0.161, 0.327, 0.9, 0.9800255409045097, 1, 1),
    stages=(
        (0.161,),
        (-0.008480655492356989, 0.335480655492357),
        (2.8971530571054935, -6.359448489975075, 4.3622954328695815),
        (5.325864828439257, -11.748883564062828, 7.4955393428898365, -0.09249506636175525),
        (5.86145544294642, -12.92096931784711, 8.159367898576159, -0.071584973281401, -0.028269050394068383),
        (
            0.09646076681806523,
            0.01,
            0.4798896504144996,
            1.379008574103742,
            -3.290069515436081,
            2.324710524099774,
        ),
    ),
    error=(
        -0.00178001105222577714,
        -0.0008164344596567469,
        0.007880878010261995,
        -0.1447110071732629,
        0.5823571654525552,
        -0.45808210592918697,
        1 / 66,
    ),
    order=5,
)

# Hairer, Nørsett & Wanner 1993, II.5 and II.10; the digits are those of Hairer's own program
# fmt: off
DOP853 = Tableau(
    nodes=(0, 0.05260015195876773, 0.0789002279381516, 0.1183503419072274, 0.2816496580927726, 0.3333333333333333, 0.25,
           0.3076923076923077, 0.6512820512820513, 0.6, 0.8571428571428571, 1.0, 1.0),
    stages=(
        (0.05260015195876773,),
        (0.0197250569845379, 0.0591751709536137),
        (0.02958758547680685, 0, 0.08876275643042054),
        (0.2413651341592667, 0, -0.8845494793282861, 0.924834003261792),
        (0.037037037037037035, 0, 0, 0.17082860872947386, 0.12546768756682242),
        (0.037109375, 0, 0, 0.17025221101954405, 0.06021653898045596, -0.017578125),
        (0.03709200011850479, 0, 0, 0.17038392571223998, 0.10726203044637328, -0.015319437748624402,
         0.008273789163814023),
        (0.6241109587160757, 0, 0, -3.3608926294469414, -0.868219346841726, 27.59209969944671, 20.154067550477894,
         -43.48988418106996),
        (0.47766253643826434, 0, 0, -2.4881146199716677, -0.590290826836843, 21.230051448181193, 15.279233632882423,
         -33.28821096898486, -0.020331201708508627),
        (-0.9371424300859873, 0, 0, 5.186372428844064, 1.0914373489967295, -8.149787010746927, -18.52006565999696,
         22.739487099350505, 2.4936055526796523, -3.0467644718982196),
        (2.273310147516538, 0, 0, -10.53449546673725, -2.0008720582248625, -17.9589318631188, 27.94888452941996,
         -2.8589982771350235, -8.87285693353063, 12.360567175794303, 0.6433927460157636),
        (0.054293734116568765, 0, 0, 0, 0, 4.450312892752409, 1.8915178993145003, -5.801203960010585,
         0.3111643669578199, -0.1521609496625161, 0.20136540080403034, 0.04471061572777259),
    ),
    error=(0.01312004499419488, 0, 0, 0, 0, -1.2251564463762044, -0.4957589496572502, 1.6643771824549864,
           -0.35032884874997366, 0.3341791187130175, 0.08192320648511571, -0.022355307863886294, 0),
    order=8,
    coarse=(-0.18980075407240762, 0, 0, 0, 0, 4.450312892752409, 1.8915178993145003, -5.801203960010585,
            -0.4226823213237919, -0.1521609496625161, 0.20136540080403034, 0.02265179219836082, 0),
)
# fmt: on


class Status(IntEnum):
    """How a sample's integration ended."""

    ARRIVED = 0
    #: Its steps became too small to move the time.
    UNDERFLOW = 1
    #: It used up its attempts.
    TOO_MANY_STEPS = 2
    #: The field is not finite however small the step.
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
ErrorNorm = Callable[[Tensor, Tensor, Tensor], Tensor]
Prepare = Callable[[Tensor], Sequence[Any] | Tensor]


def integrate(
    field: Field,
    y: Tensor,
    start: float,
    stop: float,
    error_norm: ErrorNorm,
    tableau: Tableau = DORMAND_PRINCE,
    max_steps: int = 10_000,
    prepare: Prepare | None = None,
) -> Solution:
    """Integrate dy/dt = field from `start` to `stop`, forwards or backwards; see `follow`."""
    (solution,) = follow(field, y, (start, stop), error_norm, tableau, max_steps, prepare)
    return solution


def follow(
    field: Field,
    y: Tensor,
    times: Sequence[float],
    error_norm: ErrorNorm,
    tableau: Tableau = DORMAND_PRINCE,
    max_steps: int = 10_000,
    prepare: Prepare | None = None,
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
        error_norm: maps (local error, y before, y after), each `(b, N)`, to `(b,)`; up to 1 a step is accepted.
        tableau: the method.
        max_steps: attempts per sample in each interval of `times`.
        prepare: maps the times `(S, b)` of all stages of a step to S things, which the field is given instead of
            its t: whatever depends on time alone is computed once a step.
    """
    device, stages = y.device, len(tableau.stages)
    prepare = prepare or (lambda t: t)
    nodes = torch.tensor(tableau.nodes[1:], dtype=torch.float64, device=device)[:, None]
    zero = torch.zeros(len(y), dtype=torch.int64, device=device)
    nfe, accepted, rejected, status = (zero.clone() for _ in range(4))
    t = torch.full((len(y),), times[0], dtype=torch.float64, device=device)
    rows = torch.arange(len(y), device=device)
    # The clones are written to below.
    y, slope = y.clone(), field(prepare(t[None])[0], y, rows).clone()
    step = _first_step(field, prepare, y, slope, times[0], times[-1], error_norm, tableau, rows)
    previous = torch.ones_like(step)
    nfe += 2
    every = (y, slope, step, previous)
    for number, (start, stop) in enumerate(itertools.pairwise(times)):
        sign, span = (1.0 if stop >= start else -1.0), abs(stop - start)
        # Below this a step no longer moves the time.
        smallest = max(1e-13 * span, 4e-16 * max(abs(start), abs(stop)))
        if number:
            rows = (status == Status.ARRIVED).nonzero()[:, 0]
        y, slope, step, previous = (v[rows] for v in every)
        # `gone` is the distance covered; `slope` the field at its end.
        gone, steps = torch.zeros_like(step), torch.zeros_like(rows)
        for attempt in range(1, max_steps + 1):
            if not len(rows):
                break
            last = gone + step >= span * (1 - 1e-12)
            size = torch.where(last, span - gone, step)
            signed = (sign * size).to(y.dtype)[:, None]
            places = prepare(start + sign * (gone + nodes * size))
            slopes, state = [slope], y
            for place, row in zip(places, tableau.stages, strict=True):
                state = torch.addcmul(y, signed, _weighted(row, slopes))
                slopes.append(field(place, state, rows))
            error = error_norm(signed * _weighted(tableau.error, slopes), y, state).double()
            if tableau.coarse is not None:
                coarse = error_norm(signed * _weighted(tableau.coarse, slopes), y, state).double()
                # Hairer, Nørsett & Wanner 1993, eq. II.10.17
                error = error**2 / torch.hypot(error, 0.1 * coarse).clamp_min(1e-300)
            broken = ~error.isfinite()
            ok, factor = _control(torch.where(broken, 1e10, error), previous, tableau.order)
            gone = torch.where(ok, gone + size, gone)
            y = torch.where(ok[:, None], state, y)
            slope = torch.where(ok[:, None], slopes[-1], slope)
            previous = torch.where(ok, error.clamp_min(1e-4), previous)
            steps += ok
            finished = ok & last
            # A step cut short at the end says little about the next.
            step = torch.where(finished, torch.maximum(step, size * factor), size * factor)
            stuck = ~finished & (step < smallest)
            leave = finished | stuck if attempt < max_steps else torch.ones_like(finished)
            if bool(leave.any()):
                done = rows[leave]
                for whole, part in zip(every, (y, slope, step, previous), strict=True):
                    whole[done] = part[leave]
                t[done] = torch.where(finished, stop, start + sign * gone)[leave]
                nfe[done] += attempt * stages
                accepted[done] += steps[leave]
                rejected[done] += attempt - steps[leave]
                reason = torch.where(stuck, int(Status.UNDERFLOW), int(Status.TOO_MANY_STEPS))
                reason = torch.where(broken, int(Status.NOT_FINITE), reason)
                status[done] = torch.where(finished, int(Status.ARRIVED), reason)[leave]
                keep = ~leave
                rows, y, gone, slope, step, previous, steps = (
                    v[keep] for v in (rows, y, gone, slope, step, previous, steps)
                )
        yield Solution(*(v.clone() for v in (every[0], t, nfe, accepted, rejected, status)))


def _weighted(weights: Sequence[float], slopes: list[Tensor]) -> Tensor:
    """Σ w k, without the stages that have no weight."""
    (first, k), *rest = [(w, k) for w, k in zip(weights, slopes, strict=True) if w]
    total = first * k
    for w, k in rest:
        total = total.add_(k, alpha=w)
    return total


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
    tableau: Tableau,
    rows: Tensor,
) -> Tensor:
    """Hairer, Nørsett & Wanner 1993, II.4: from the sizes of y, of y' and of a difference quotient of it."""
    sign, span = (1.0 if stop >= start else -1.0), abs(stop - start)
    size = error_norm(slope, y, y).double()
    # It moves y by a hundredth of y, or of the tolerance if that is more: less is lost in round-off.
    trial = (0.01 * error_norm(y, y, y).double().clamp_min(1) / size.clamp_min(1e-10)).clamp_max(0.1 * span)
    signed = (sign * trial).to(y.dtype)[:, None]
    ahead = field(prepare((start + sign * trial)[None])[0], torch.addcmul(y, signed, slope), rows)
    bend = error_norm(ahead - slope, y, y).double() / trial
    largest = torch.maximum(size, bend).clamp_min(1e-10)
    step = torch.minimum(100 * trial, (0.01 / largest) ** (1 / tableau.order)).clamp_max(span)
    return torch.where(step.isfinite(), step, 1e-6 * span)
