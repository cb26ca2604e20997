"""A multistep solver that takes its steps in parallel, by Picard sweeps over a window (Shih et al. 2023).

A method without corrector is a triangular system. With P_i the prediction at x_i,

    x_{i+1} = on_x x_i + Σ_j w_ij P_{i−j} + on_mean m + on_noise z_i.

A sweep evaluates P at guesses of many states in one call of the network, and solves for the states after them. How
fast this converges depends on how much P changes with x. So what a sweep holds fixed is Q in P = u x + v Q, for
another coordinate's prediction Q, and u x stays unknown: the solution is the same, and for normal data, whose Q in
their `Angle` does not depend on x, one sweep finds it.
"""

import math
from collections.abc import Generator

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.sampling.adams import Multistep
from scoresde.sampling.adams_plan import AdamsStep
from scoresde.sampling.slopes import data_std, slope_terms
from scoresde.sampling.solver import Noise, Report, Solver
from scoresde.score import ScoreModel
from scoresde.sde import SDE
from scoresde.sde.coordinates import Angle, Coordinate, NoiseLevel

__all__ = ["Picard"]


@checked
class Picard(Solver):
    """The steps of a `Multistep` method, many at once (ParaDiGMS; Shih et al. 2023, algorithm 1).

    The first state of the window is known, so a sweep makes the next one exact and moves the window on by 1 step at
    least: n steps take n sweeps at most. It moves on to the first state that the sweep changed by more than the
    tolerance. The state x_i passes if

        ‖Δx_i‖²/N ≤ tolerance² σ_i² (1 − e^{−2h}),

    with N its elements and h the step in λ that leads to it; on the right is the variance of the noise of an ancestral
    step, as in the paper. States that come into the window are guessed with the last prediction for all of them,
    where the paper copies the last state, and the first sweep evaluates the start alone.

    Each sample has its own window, and leaves the batch when it has arrived. `Samples.nfe_per_sample` counts all
    evaluations of a sample, `Samples.sweeps` the calls of the network that it took part in: its latency.

    A call has up to `window` rows for each sample. Memory is for the n + 1 states of the path, for as many again if
    the method is stochastic or centred, and for about 6 `window` more during a sweep. All states are given when the
    last sample has arrived; the device is waited for once a sweep.

    Args:
        method: what to solve for, of any order, coordinate and noise; DDIM if not given. The noise is what `method`
            would draw by itself from the same seed.
        window: steps at once.
        tolerance: of a state's last change, in units of a step's noise; 0 for the method's own result to round-off.
        splitting: whose prediction a sweep holds fixed; `Angle` with the data's standard deviation (1 if the model
            does not know it) if not given. The method's own coordinate is the paper's choice.

    Raises:
        ValueError: a method with a corrector or a Gaussian start, a window below 1, a negative tolerance; fewer steps
            than a strict method needs.
    """

    def __init__(
        self,
        method: Multistep | None = None,
        window: int = 64,
        tolerance: float = 0.1,
        splitting: Coordinate | None = None,
    ) -> None:
        method = Multistep(1, coordinate=NoiseLevel()) if method is None else method
        if method.corrector:
            raise ValueError(f"the method has corrector={method.corrector}, expected 0: a sweep has a predictor only")
        if method.start != "model":
            raise ValueError(f"the method has start={method.start!r}, expected 'model'")
        if isinstance(window, bool) or int(window) != window or window < 1:
            raise ValueError(f"window is {window!r}, expected a whole number of at least 1")
        if not 0 <= tolerance < math.inf:
            raise ValueError(f"tolerance is {tolerance}, expected a number of at least 0")
        self.method = method
        self.window = int(window)
        self.tolerance = tolerance
        self.splitting = splitting

    @property
    def stochastic(self) -> bool:
        return self.method.stochastic

    def general(self) -> "Picard":
        return Picard(self.method.general(), self.window, self.tolerance, self.splitting)

    def solve(self, model: ScoreModel, x: Tensor, times: Tensor, noise: Noise) -> Generator[Tensor, None, Report]:
        sde, shape, device, steps = model.sde, x.shape, x.device, len(times) - 1
        std = data_std(model)
        coordinate, plan = self.method.plan(sde, times, std)
        self.method.require_steps(steps)
        order = min(self.method.order, steps)
        splitting = Angle(std) if self.splitting is None else self.splitting
        # Q = a x + b ε, for a call has many times
        norm, on_y, on_noise = slope_terms(sde, splitting, times)
        a, b = (v.to(x)[:, None] for v in (on_y / norm, on_noise))
        on_states, on_values = (v.to(x)[..., None] for v in _split(sde, times, plan, order, coordinate, splitting))
        added = self._added(model, x, plan, noise)
        ancestral = sde.sigma(times[1:]) * (-torch.expm1(-2 * sde.log_snr(times).diff())).sqrt()
        limit = torch.cat((torch.zeros(1), self.tolerance * ancestral)).to(x)
        when = times.to(device)

        states = x.new_empty(steps + 1, *x.flatten(1).shape)
        states[0] = x.flatten(1)
        past = states.new_zeros(order - 1, *states.shape[1:])
        # On the CPU, so that what a sweep has to do is known without waiting.
        rows, front = torch.arange(len(x)), torch.zeros(len(x), dtype=torch.int64)
        counts = torch.zeros(2, len(x), dtype=torch.int64)
        width = 1
        while len(rows):
            # The guesses to evaluate, one sample after the other.
            size = (steps - front).clamp(max=width)
            counts[:, rows] += torch.stack((size, torch.ones_like(size)))
            owner, first = torch.arange(len(rows)).repeat_interleave(size), size.cumsum(0) - size
            place = (torch.arange(len(owner)) + (front - first)[owner]).to(device)
            who = rows[owner].to(device)
            guess = states[place, who]
            eps = model.for_rows(who).noise(guess.reshape(-1, *shape[1:]), when[place]).flatten(1)
            value = torch.addcmul(a[place] * guess, b[place], eps)

            # As many states ahead as the next window may need, the last Q standing for those to come.
            ahead = torch.arange(width + self.window - 1)[:, None]
            values = torch.cat((past, value[(first + ahead.minimum(size - 1)).to(device)]))
            at, here = (front + ahead).clamp(max=steps).to(device), rows.to(device)
            path = torch.zeros_like(values[order - 1 :]) if added is None else added[at, here]
            for j, weight in enumerate(on_values[:, at]):
                path.addcmul_(weight, values[order - 1 - j : len(values) - j])
            latest = [states[(at[0] - j).clamp(min=0), here] for j in range(order)]
            for new, *ratios in zip(path, *on_states[:, at], strict=True):
                for ratio, state in zip(ratios, latest, strict=True):
                    new.addcmul_(ratio, state)
                latest = [new, *latest[:-1]]

            to = (at + 1).clamp(max=steps)
            change = (path - states[to, here])[: width - 1].square().mean(2).sqrt()
            passed = (change <= limit[to[: width - 1]]).long().cumprod(0).sum(0)
            states[to, here] = path
            moved = (1 + passed.cpu()).minimum(size)
            front = front + moved
            kept = (front < steps).nonzero()[:, 0]
            past = values[(moved[kept] + torch.arange(order - 1)[:, None]).to(device), kept.to(device)]
            rows, front, width = rows[kept], front[kept], self.window
        for state in states[1:]:
            # Not a view, which would keep all of them alive.
            yield state.reshape(shape).clone()
        return Report(counts[0], sweeps=counts[1])

    def _added(self, model: ScoreModel, x: Tensor, plan: list[AdamsStep], noise: Noise) -> Tensor | None:
        """on_mean m + on_noise z of every step, `(n + 1, B, N)` with zeros at the end; None if there is neither."""
        known = model.statistics
        mean = known.mean.to(x).flatten() if self.method.centre and known is not None else None
        if mean is None and not any(step.on_noise for step in plan):
            return None
        added = x.new_zeros(len(plan) + 1, *x.flatten(1).shape)
        for total, step in zip(added, plan, strict=False):
            if step.on_noise:
                total.add_(noise(*step.clock).flatten(1), alpha=step.on_noise)
            if mean is not None:
                total.add_(mean, alpha=step.predictor.on_mean)
        return added


def _split(
    sde: SDE, times: Tensor, plan: list[AdamsStep], order: int, coordinate: Coordinate, splitting: Coordinate
) -> tuple[Tensor, Tensor]:
    """Weights `(order, n + 1)` of x_{i−j} and Q_{i−j} in step i; the last is one that stays, for those at the end."""
    alpha, sigma = sde.alpha(times), sde.sigma(times)
    (p, q), (own_p, own_q) = coordinate.target(sde, times), splitting.target(sde, times)
    # P = u x + v Q, from x = α x₀ + σ ε
    det = alpha * own_q - sigma * own_p
    u, v = (p * own_q - q * own_p) / det, (alpha * q - sigma * p) / det
    weights = torch.zeros(order, len(times), dtype=torch.float64)
    for i, step in enumerate(plan):
        used = step.predictor.values
        weights[: len(used), i] = torch.tensor(used, dtype=torch.float64)
    # Those before the start have weight 0.
    back = (torch.arange(len(times)) - torch.arange(order)[:, None]).clamp(min=0)
    on_states = weights * u[back]
    on_states[0] += torch.tensor([*(step.on_x for step in plan), 1.0], dtype=torch.float64)
    return on_states, weights * v[back]
