"""The reverse SDE with a step size for every sample (Jolicoeur-Martineau et al. 2021, algorithm 1)."""

from collections.abc import Generator

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.numerics.ode import Status
from scoresde.sampling.adaptive import check_tolerances, refuse
from scoresde.sampling.solver import Noise, Report, Solver
from scoresde.score import ScoreModel

__all__ = ["AdaptiveSDE"]


@checked
class AdaptiveSDE(Solver):
    """Euler-Maruyama to x', and the mean of it and of a second step with the slope at x' to x'', which is kept.

    x' = x − h (f x − g² s(x, t)) + g ΔW, x'' = (x' + x − h (f' x' − g'² s(x', t − h)) + g' ΔW)/2, with f' and g' at
    t − h. A step is accepted if ‖(x' − x'')/δ‖/√D ≤ 1, δ = max(atol, rtol max(|x'|, |x' of the last step|)); the
    next is θ ‖·‖^(−r) times as long. The estimate has the noise in it, so that in one or two dimensions it can vanish
    by chance, even for a step from the prior to the data: λ = log(α/σ) may grow by at most 2 in a step, and for
    the next step's size half of that growth is an error like the other.

    A rejected step has looked at its noise: drawing anew would thin out the large increments, which does not go away
    with the tolerance. So what is known of the Brownian path is kept, as in Rackauckas & Nie 2017: the first part
    of a rejected increment is drawn from the Brownian bridge, and the rest waits for its turn. After a rejection the
    step at least halves, and as the step size decides, a rest that is a little longer than it is taken whole.

    Sample i's k-th attempt uses row i of the k-th draw. The samples do not wait for each other at the grid's times,
    so states between the ends are held until the last has arrived; a grid of one step needs no such memory. The
    device is waited for once an attempt, to see whether a sample leaves the batch.

    Args:
        rtol: relative tolerance; 0.01 to 0.1 in the paper.
        atol: absolute tolerance of x; in the paper half the distance of two grey levels.
        first_step: the first h, as a part of the grid's interval.
        safety: θ.
        exponent: r, between 0.5 and 1.
        max_steps: attempts of a sample.
        strict: raise where a sample stops on the way.

    Raises:
        ValueError: a parameter that is out of range.
        StoppedError: a sample stopped on the way, if strict.
    """

    def __init__(
        self,
        rtol: float = 0.02,
        atol: float = 0.0078,
        first_step: float = 0.01,
        safety: float = 0.9,
        exponent: float = 0.9,
        max_steps: int = 10_000,
        strict: bool = False,
    ) -> None:
        check_tolerances(rtol, atol, max_steps)
        for name, value in (("first_step", first_step), ("safety", safety), ("exponent", exponent)):
            if not 0 < value <= 1:
                raise ValueError(f"{name} is {value}, expected more than 0 and at most 1")
        self.rtol = rtol
        self.atol = atol
        self.first_step = first_step
        self.safety = safety
        self.exponent = exponent
        self.max_steps = max_steps
        self.strict = strict

    def solve(self, model: ScoreModel, x: Tensor, times: Tensor, noise: Noise) -> Generator[Tensor, None, Report]:
        sde, shape, device, dtype = model.sde, x.shape, x.device, x.dtype
        stops = times[1:].to(device)
        start, inner = float(times[0]), len(stops) - 1
        span = start - float(times[-1])
        rows = torch.arange(len(x), device=device)
        within, path = model, _Path(x.flatten(1))
        # What every sample ends with: its state, time, number of stops reached, attempts and status.
        final, held = x.flatten(1).clone(), x.new_empty(inner, *x.flatten(1).shape)
        reached, counts = torch.empty(len(x), dtype=torch.float64, device=device), rows.new_zeros(3, len(x))
        y = before = final
        t = torch.full_like(reached, start)
        step, stop = torch.full_like(t, self.first_step * span), torch.zeros_like(rows)
        for attempt in range(1, self.max_steps + 1):
            z = noise().flatten(1)
            size, dw = path.propose(step, t - stops[stop], z if len(rows) == len(z) else z[rows])
            now = torch.stack((t, (t - size).clamp_min(float(times[-1]))))
            drift, g = sde.drift_coefficient(now), sde.diffusion(now)
            # x ← a x + b s + g ΔW
            a, b, g = (v.to(dtype)[..., None] for v in (1 - size * drift, size * g**2, g))
            euler = a[0] * y + b[0] * within.score(y.reshape(-1, *shape[1:]), now[0]).flatten(1) + g[0] * dw
            score = within.score(euler.reshape(-1, *shape[1:]), now[1]).flatten(1)
            better = 0.5 * (euler + y + (a[1] - 1) * euler + b[1] * score + g[1] * dw)
            scale = (self.rtol * torch.maximum(euler.abs(), before.abs())).clamp_min(self.atol)
            error = ((euler - better) / scale).square().mean(1).sqrt().double()
            broken = ~error.isfinite()
            error = torch.where(broken, 1e10, torch.maximum(error, 0.5 * sde.log_snr(now).diff(dim=0)[0]))
            ok = error <= 1
            factor = self.safety * error.clamp_min(1e-10) ** -self.exponent
            step = size * torch.where(ok, factor.clamp(0.1, 2.0), factor.clamp(0.1, 0.5))
            full = path.settle(ok, size, dw)
            landed = ok & (now[1] <= stops[stop] + 1e-12 * span)
            t = torch.where(landed, stops[stop], torch.where(ok, now[1], t))
            y, before = torch.where(ok[:, None], better, y), torch.where(ok[:, None], euler, before)
            if inner:
                place = stop.clamp_max(inner - 1)
                held[place, rows] = torch.where((landed & (stop < inner))[:, None], y, held[place, rows])
            finished = landed & (stop == inner)
            stop = torch.where(finished, stop, stop + landed)
            stuck = ~ok & (full | (step < 1e-12 * span))
            leave = finished | stuck if attempt < self.max_steps else torch.ones_like(finished)
            if bool(leave.any()):
                out = rows[leave]
                status = torch.where(stuck, int(Status.UNDERFLOW), int(Status.TOO_MANY_STEPS))
                status = torch.where(broken, int(Status.NOT_FINITE), status).masked_fill_(finished, int(Status.ARRIVED))
                final[out], reached[out] = y[leave], t[leave]
                counts[:, out] = torch.stack((stop + finished, torch.full_like(stop, attempt), status))[:, leave]
                keep = ~leave
                rows, y, before, t, step, stop = (v[keep] for v in (rows, y, before, t, step, stop))
                if not len(rows):
                    break
                path.keep(keep)
                within = model.for_rows(rows)
        passed, attempts, status = counts
        report = Report(2 * attempts, status, reached)
        for number in range(inner):
            # A sample that had stopped by then stays where it was.
            yield torch.where((passed > number)[:, None], held[number], final).reshape(shape)
        x = final.reshape(shape)
        yield x
        if self.strict:
            refuse(x, report)
        return report


class _Path:
    """What is known of each sample's Brownian path ahead: a stack of increments, the nearest on top."""

    #: Rejections within rejections. Each at least halves the step, so that more would be an underflow.
    levels = 12

    def __init__(self, like: Tensor) -> None:
        self.depth = torch.zeros(len(like), dtype=torch.int64, device=like.device)
        self.lengths = torch.zeros(self.levels, len(like), dtype=torch.float64, device=like.device)
        self.increments = like.new_zeros(self.levels, *like.shape)
        self.columns = torch.arange(len(like), device=like.device)

    def propose(self, wish: Tensor, ahead: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """A step `(b,)` of about the wished length, up to `ahead`, and its Brownian increment `(b, N)`."""
        known = self.depth > 0
        top = (self.depth - 1).clamp_min(0)
        length, increment = self.lengths[top, self.columns], self.increments[top, self.columns]
        room = torch.where(known, length, ahead)
        # No slivers: all of it, or at most half.
        size = torch.where(room <= 1.1 * wish, room, torch.minimum(wish, room / 2))
        # Of a bridge across the known increment, or fresh.
        share = torch.where(known, size / room, 0.0)
        dtype = z.dtype
        dw = share.to(dtype)[:, None] * increment + (size * (1 - share)).sqrt().to(dtype)[:, None] * z
        self.lengths[top, self.columns] = torch.where(known, length - size, length)
        self.increments[top, self.columns] = torch.where(known[:, None], increment - dw, increment)
        self.depth = self.depth - (known & (size == room)).long()
        return size, dw

    def settle(self, ok: Tensor, size: Tensor, dw: Tensor) -> Tensor:
        """Put back what was rejected; whether there was no more room for it, `(b,)`."""
        place = self.depth.clamp_max(self.levels - 1)
        back = ~ok
        self.lengths[place, self.columns] = torch.where(back, size, self.lengths[place, self.columns])
        self.increments[place, self.columns] = torch.where(back[:, None], dw, self.increments[place, self.columns])
        full = back & (self.depth >= self.levels)
        self.depth = self.depth + (back & ~full).long()
        return full

    def keep(self, kept: Tensor) -> None:
        """Forget the samples that leave."""
        self.depth, self.lengths, self.increments = self.depth[kept], self.lengths[:, kept], self.increments[:, kept]
        self.columns = self.columns[: len(self.depth)]
