"""The reverse SDE with a step size for every sample (Jolicoeur-Martineau et al. 2021, algorithm 1)."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.numerics.ode import Status
from scoresde.numerics.values import fraction
from scoresde.sampling.solver import Noise, Report, Solver, check_tolerances
from scoresde.score import ScoreModel

__all__ = ["AdaptiveSDE"]


@checked
@dataclass(frozen=True, repr=False)
class AdaptiveSDE(Solver):
    """Stochastic Heun steps of a size that the distance to the Euler-Maruyama step decides.

    Euler-Maruyama leads to x', a second step with the slope at x' to x'', and x'' is the result:

        x'  = x − h (f x − g² s(x, t)) + g ΔW
        x'' = (x' + x − h (f' x' − g'² s(x', t − h)) + g' ΔW)/2,  with f' and g' at t − h.

    A step is accepted if ‖(x' − x'')/δ‖/√D ≤ 1, δ = max(atol, rtol max(|x'|, |x' of the last step|)); the next is
    θ ‖·‖^(−r) times as long. The estimate contains the noise, so that in one or two dimensions it can vanish by chance,
    even for a step from the prior to the data. Therefore λ = log(α/σ) may grow by at most 2 in a step, and half of that
    growth is an error like the other for the size of the next step.

    A rejected step has used its noise: a fresh draw would thin out the large increments, by an amount that does not
    vanish with the tolerance. So what is known of the Brownian path is kept, as in Rackauckas & Nie (2017): the first
    part of a rejected increment is drawn from the Brownian bridge, and the rest is used by the steps that follow. The
    step is at least halved after a rejection. As the step size decides, a rest that is slightly longer than the step is
    taken as a whole.

    The k-th attempt of sample i uses row i of the k-th draw, of white noise: other tolerances follow another path.
    Samples do not wait for each other at the grid's times, so states between the ends are held until the last sample
    has arrived; a grid of one step needs no such memory. An attempt reads one value of the device, to see whether a
    sample leaves the batch.

    Args:
        rtol: The relative tolerance; 0.01 to 0.1 in the paper.
        atol: The absolute tolerance of x; in the paper half the distance of two grey levels.
        first_step: The first h, as a fraction of the grid's interval.
        safety: The factor θ.
        exponent: The exponent r, between 0.5 and 1.
        max_steps: The largest number of attempts of a sample.
        strict: Whether to raise if a sample stops on the way.

    Raises:
        ValueError: A parameter that is out of range.
        StoppedError: A sample stopped on the way, if strict.

    References:
        Jolicoeur-Martineau et al. (2021), Gotta Go Fast When Generating Data with Score-Based Models, algorithm 1:
        https://arxiv.org/abs/2105.14080
        Rackauckas & Nie (2017), Adaptive Methods for Stochastic Differential Equations via Natural Embeddings and
        Rejection Sampling with Memory: https://doi.org/10.3934/dcdsb.2017133
    """

    rtol: float = 0.02
    atol: float = 0.0078
    first_step: float = 0.01
    safety: float = 0.9
    exponent: float = 0.9
    max_steps: int = 10_000
    strict: bool = False

    def __post_init__(self) -> None:
        check_tolerances(self.rtol, self.atol, self.max_steps)
        for name in ("first_step", "safety", "exponent"):
            fraction(name, getattr(self, name))

    @property
    def adapts(self) -> bool:
        return True

    @property
    def draws_white(self) -> bool:
        return True

    def solve(self, model: ScoreModel, x: Tensor, times: Tensor, noise: Noise) -> Generator[Tensor, None, Report]:
        stops = times[1:].to(x.device)
        first, last = float(times[0]), float(times[-1])
        shortest = 1e-12 * (first - last)
        active = _Active(x.flatten(1), first, self.first_step * (first - last))
        ends = _Ends(x.flatten(1), len(stops))
        rows_model = model
        for attempt in range(1, self.max_steps + 1):
            z = noise().flatten(1)
            z = z if len(active.rows) == len(z) else z[active.rows]
            size, dw = active.path.propose(active.step, active.t - stops[active.stop], z)
            now = torch.stack((active.t, (active.t - size).clamp_min(last)))
            euler, heun = _pair(rows_model, active.x, x.shape[1:], now, size, dw)
            error = self._error(euler, heun, active.euler)
            broken = ~error.isfinite()
            error = torch.where(broken, 1e10, torch.maximum(error, 0.5 * model.sde.log_snr(now).diff(dim=0)[0]))
            accepted = error <= 1
            full = active.path.settle(accepted, size, dw)

            active.step = size * self._factor(error, accepted)
            landed = accepted & (now[1] <= stops[active.stop] + shortest)
            active.t = torch.where(landed, stops[active.stop], torch.where(accepted, now[1], active.t))
            active.x = torch.where(accepted[:, None], heun, active.x)
            active.euler = torch.where(accepted[:, None], euler, active.euler)
            ends.hold(active, landed)
            finished = landed & (active.stop == len(stops) - 1)
            active.stop = torch.where(finished, active.stop, active.stop + landed)
            stuck = ~accepted & (full | (active.step < shortest))
            leave = finished | stuck if attempt < self.max_steps else torch.ones_like(finished)
            if bool(leave.any()):
                ends.record(active, leave, attempt, finished, _status(finished, broken, stuck))
                active.keep(~leave)
                if not len(active.rows):
                    break
                rows_model = model.for_rows(active.rows)
        for state in ends.states():
            yield state.reshape(x.shape)
        report = Report(2 * ends.attempts, ends.status, ends.t)
        if self.strict:
            report.raise_if_stopped(ends.x.reshape(x.shape))
        return report

    def _error(self, euler: Tensor, heun: Tensor, euler_before: Tensor) -> Tensor:
        """The error estimate of a step in units of the tolerance, `(b,)` float64."""
        scale = (self.rtol * torch.maximum(euler.abs(), euler_before.abs())).clamp_min(self.atol)
        return ((euler - heun) / scale).square().mean(1).sqrt().double()

    def _factor(self, error: Tensor, accepted: Tensor) -> Tensor:
        """The ratio of the next step to this one: a tenth to 2, and at most a half after a rejection."""
        factor = self.safety * error.clamp_min(1e-10) ** -self.exponent
        return torch.where(accepted, factor.clamp(0.1, 2.0), factor.clamp(0.1, 0.5))


def _pair(
    model: ScoreModel, x: Tensor, shape: tuple[int, ...], now: Tensor, size: Tensor, dw: Tensor
) -> tuple[Tensor, Tensor]:
    """x' and x'' of a step, `(b, N)` each.

    Args:
        model: The score model for the samples of the step.
        x: The states, `(b, N)`.
        shape: The shape of a sample.
        now: The times at the start and the end of the step, `(2, b)` float64.
        size: The length of the step, `(b,)` float64.
        dw: The Brownian increment, `(b, N)`.
    """
    drift, g = model.sde.drift_coefficient(now), model.sde.diffusion(now)
    # x ← a x + b s + g ΔW
    a, b, g = (v.to(x.dtype)[..., None] for v in (1 - size * drift, size * g**2, g))
    euler = a[0] * x + b[0] * model.score(x.reshape(-1, *shape), now[0]).flatten(1) + g[0] * dw
    score = model.score(euler.reshape(-1, *shape), now[1]).flatten(1)
    return euler, 0.5 * (euler + x + (a[1] - 1) * euler + b[1] * score + g[1] * dw)


def _status(finished: Tensor, broken: Tensor, stuck: Tensor) -> Tensor:
    """`(b,)` int64, why samples leave the batch."""
    status = torch.where(stuck, int(Status.UNDERFLOW), int(Status.TOO_MANY_STEPS))
    return torch.where(broken, int(Status.NOT_FINITE), status).masked_fill_(finished, int(Status.ARRIVED))


class _Active:
    """The samples that are on their way, each at its own time; b of them.

    Attributes:
        rows: `(b,)` int64, their indices in the batch.
        x: `(b, N)`, their states.
        euler: `(b, N)`, x' of their last accepted steps.
        t: `(b,)` float64, their times.
        step: `(b,)` float64, the lengths that their next steps should have.
        stop: `(b,)` int64, the index of the time of the grid that comes next.
        path: What is known of their Brownian paths.
    """

    def __init__(self, x: Tensor, t: float, step: float) -> None:
        self.rows = torch.arange(len(x), device=x.device)
        self.x = self.euler = x
        self.t = torch.full((len(x),), t, dtype=torch.float64, device=x.device)
        self.step = torch.full_like(self.t, step)
        self.stop = torch.zeros_like(self.rows)
        self.path = _Path(x)

    def keep(self, kept: Tensor) -> None:
        """Drop the samples that are not kept, `(b,)` bool."""
        for name in ("rows", "x", "euler", "t", "step", "stop"):
            setattr(self, name, getattr(self, name)[kept])
        self.path.keep(kept)


class _Ends:
    """The states of all B samples at the times of the grid, and how each of them ended.

    Attributes:
        x: `(B, N)`, their last states.
        t: `(B,)` float64, the times of these.
        passed: `(B,)` int64, the number of times of the grid that they reached.
        attempts: `(B,)` int64, the number of steps, rejected ones included.
        status: `(B,)` int64, of `Status`.
    """

    def __init__(self, x: Tensor, stops: int) -> None:
        self.x = x.clone()
        self.t = torch.empty(len(x), dtype=torch.float64, device=x.device)
        self.passed, self.attempts, self.status = torch.zeros(3, len(x), dtype=torch.int64, device=x.device)
        # States at the times of the grid between the first and the last.
        self.inner = x.new_empty(stops - 1, *x.shape)

    def hold(self, active: _Active, landed: Tensor) -> None:
        """Hold the states of samples that landed, `(b,)` bool, on an inner time of the grid."""
        count = len(self.inner)
        if count:
            # A sample on its last interval writes back what is there.
            index = active.stop.clamp_max(count - 1)
            held = self.inner[index, active.rows]
            self.inner[index, active.rows] = torch.where((landed & (active.stop < count))[:, None], active.x, held)

    def record(self, active: _Active, leave: Tensor, attempt: int, finished: Tensor, status: Tensor) -> None:
        """Record the samples that leave the batch, `(b,)` bool, after so many attempts."""
        rows = active.rows[leave]
        self.x[rows], self.t[rows] = active.x[leave], active.t[leave]
        self.passed[rows] = (active.stop + finished)[leave]
        self.attempts[rows] = attempt
        self.status[rows] = status[leave]

    def states(self) -> Iterator[Tensor]:
        """The states `(B, N)` at each time of the grid; a sample that had stopped before stays where it stopped."""
        for number, held in enumerate(self.inner):
            yield torch.where((self.passed > number)[:, None], held, self.x)
        yield self.x


class _Path:
    """The increments of each sample's Brownian path that rejected steps have drawn, as a stack, the next on top."""

    # The depth of the stack: rejections within rejections. Each halves the step, so that more would be an underflow.
    levels = 12

    def __init__(self, like: Tensor) -> None:
        self.depth = torch.zeros(len(like), dtype=torch.int64, device=like.device)
        self.lengths = torch.zeros(self.levels, len(like), dtype=torch.float64, device=like.device)
        self.increments = like.new_zeros(self.levels, *like.shape)
        self.columns = torch.arange(len(like), device=like.device)

    def propose(self, wish: Tensor, ahead: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """The length of the next step, `(b,)`, and its Brownian increment, `(b, N)`.

        Args:
            wish: The length that the step should have, `(b,)` float64.
            ahead: The largest length, `(b,)` float64.
            z: Standard normal noise, `(b, N)`.
        """
        known = self.depth > 0
        top = (self.depth - 1).clamp_min(0)
        length, increment = self.lengths[top, self.columns], self.increments[top, self.columns]
        room = torch.where(known, length, ahead)
        # The whole room, or at most half of it: no slivers.
        size = torch.where(room <= 1.1 * wish, room, torch.minimum(wish, room / 2))
        # From the Brownian bridge across the known increment, or fresh.
        share = torch.where(known, size / room, 0.0)
        dtype = z.dtype
        dw = share.to(dtype)[:, None] * increment + (size * (1 - share)).sqrt().to(dtype)[:, None] * z
        self.lengths[top, self.columns] = torch.where(known, length - size, length)
        self.increments[top, self.columns] = torch.where(known[:, None], increment - dw, increment)
        self.depth = self.depth - (known & (size == room)).long()
        return size, dw

    def settle(self, ok: Tensor, size: Tensor, dw: Tensor) -> Tensor:
        """Put the increments of rejected steps back; return which stacks were full, `(b,)` bool."""
        place = self.depth.clamp_max(self.levels - 1)
        back = ~ok
        self.lengths[place, self.columns] = torch.where(back, size, self.lengths[place, self.columns])
        self.increments[place, self.columns] = torch.where(back[:, None], dw, self.increments[place, self.columns])
        full = back & (self.depth >= self.levels)
        self.depth = self.depth + (back & ~full).long()
        return full

    def keep(self, kept: Tensor) -> None:
        """Drop the samples that are not kept, `(b,)` bool."""
        self.depth, self.lengths, self.increments = self.depth[kept], self.lengths[:, kept], self.increments[:, kept]
        self.columns = self.columns[: len(self.depth)]
