"""A multistep solver that takes its steps in parallel, by Picard sweeps over a window (Shih et al. 2023).

A method without corrector is a triangular system. With P_i the prediction at x_i,

    x_{i+1} = on_x x_i + Σ_j w_ij P_{i−j} + on_mean m + on_noise z_i.

A sweep evaluates P at guesses of many states in one call of the network, and solves for the states after them. The
less P changes with x, the faster this converges. A sweep therefore holds Q fixed in P = u x + v Q, where Q is the
prediction of another coordinate, and u x stays unknown. The solution is the same, and for normal data, whose Q in
their `Angle` does not depend on x, one sweep finds it.
"""

from collections.abc import Generator
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.numerics.values import not_negative, whole_number
from scoresde.sampling.adams import Multistep
from scoresde.sampling.adams_plan import AdamsStep
from scoresde.sampling.slopes import slope_terms
from scoresde.sampling.solver import Noise, Report, Solver
from scoresde.score import ScoreModel
from scoresde.sde import SDE
from scoresde.sde.coordinates import Angle, Coordinate, NoiseLevel

__all__ = ["Picard"]


@checked
class Picard(Solver):
    """The steps of a `Multistep` method, many at once (ParaDiGMS).

    The first state of the window is known, so a sweep makes the next state exact and moves the window on by at least
    one step: n steps take at most n sweeps. The window moves to the first state that the sweep changed by more than the
    tolerance. The state x_i passes if

        ‖Δx_i‖²/N ≤ tolerance² σ_i² (1 − e^{−2h}),

    with N its elements and h the step in λ that leads to it. The right-hand side is the variance of the noise of an
    ancestral step, as in the paper. States that come into the window are guessed with the last prediction for all of
    them, where the paper copies the last state, and the first sweep evaluates the start alone.

    Each sample has its own window, and leaves the batch when it has arrived. `Samples.nfe_per_sample` counts all
    evaluations of a sample, `Samples.sweeps` the calls of the network that it took part in, which are its latency.

    A call has up to `window` rows for each sample. Memory holds the n + 1 states of the path, as many again if the
    method is stochastic or centred, and about 6 `window` more during a sweep. All states are yielded when the last
    sample has arrived. A sweep waits for the device once.

    >>> from scoresde.sampling import Multistep, Picard, Sampler, UniformLogSNR
    >>> from scoresde.score import GaussianMixtureScore
    >>> from scoresde.sde import VPSDE
    >>> model = GaussianMixtureScore(torch.ones(1), torch.zeros(1, 2), 0.5 * torch.ones(1), VPSDE())
    >>> parallel = Sampler(Picard(Multistep(1), tolerance=0), UniformLogSNR(20))(model, (3, 2))
    >>> serial = Sampler(Multistep(1), UniformLogSNR(20))(model, (3, 2))
    >>> torch.allclose(parallel.x, serial.x, atol=1e-5), int(parallel.sweeps.max()) < 20
    (True, True)

    Args:
        method: The method whose steps are solved for, of any order, coordinate and noise level; DDIM if not given. The
            noise is what `method` would draw by itself from the same seed.
        window: The number of steps that are solved for at once.
        tolerance: The largest change of a state that passes, in units of a step's noise; 0 gives the method's own
            result to round-off.
        splitting: The coordinate whose prediction a sweep holds fixed; `Angle` with the data's standard deviation (1 if
            the model does not know it) if not given. The method's own coordinate is the paper's choice.

    Raises:
        ValueError: A method with a corrector, a Gaussian start or a safeguard, a window below 1, a negative tolerance,
            or fewer steps than a strict method needs.

    References:
        Shih et al. (2023), Parallel Sampling of Diffusion Models, algorithm 1: https://arxiv.org/abs/2305.16317
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
        if method.safeguard:
            raise ValueError("the method has safeguard=True, expected False: a sweep is linear in the predictions")
        if method.variance not in (None, "posterior"):
            raise ValueError(f"the method has variance={method.variance!r}, expected 'posterior', which is set by time")
        not_negative("tolerance", tolerance, "a number of at least 0")
        self.method = method
        self.window = whole_number("window", window)
        self.tolerance = tolerance
        self.splitting = splitting

    @property
    def stochastic(self) -> bool:
        return self.method.stochastic

    def general(self) -> "Picard":
        return Picard(self.method.general(), self.window, self.tolerance, self.splitting)

    def solve(self, model: ScoreModel, x: Tensor, times: Tensor, noise: Noise) -> Generator[Tensor, None, Report]:
        shape, device, steps = x.shape, x.device, len(times) - 1
        self.method.require_steps(steps)
        system = self._system(model, x, times, noise)
        sigma, step = model.sde.sigma(times[1:]), model.sde.log_snr(times).diff()
        ancestral = sigma * (-torch.expm1(-2 * step)).sqrt()
        limit = torch.cat((torch.zeros(1), self.tolerance * ancestral)).to(x)

        states = x.new_empty(steps + 1, *x.flatten(1).shape)
        states[0] = x.flatten(1)
        past = states.new_zeros(system.order - 1, *states.shape[1:])
        # On the CPU, so that the work of a sweep is known without waiting for the device. The front of a sample is the
        # last state that is known, where its window starts.
        rows, front = torch.arange(len(x)), torch.zeros(len(x), dtype=torch.int64)
        counts = torch.zeros(2, len(x), dtype=torch.int64)
        width = 1
        while len(rows):
            size = (steps - front).clamp(max=width)
            counts[:, rows] += torch.stack((size, torch.ones_like(size)))
            value, first = system.evaluate(model, states, shape, rows, front, size)

            # As many states ahead as the next window may need; the last Q stands for those that come after it.
            ahead = torch.arange(width + self.window - 1)[:, None]
            values = torch.cat((past, value[(first + ahead.minimum(size - 1)).to(device)]))
            at, here = (front + ahead).clamp(max=steps).to(device), rows.to(device)
            path = system.substitute(states, values, at, here)

            # The window moves to the first state that changed by more than the limit, and by one at least.
            to = (at + 1).clamp(max=steps)
            change = (path - states[to, here])[: width - 1].square().mean(2).sqrt()
            passed = (change <= limit[to[: width - 1]]).long().cumprod(0).sum(0)
            states[to, here] = path
            moved = (1 + passed.cpu()).minimum(size)
            front = front + moved

            kept = (front < steps).nonzero()[:, 0]
            past = values[(moved[kept] + torch.arange(system.order - 1)[:, None]).to(device), kept.to(device)]
            rows, front, width = rows[kept], front[kept], self.window
        for state in states[1:]:
            # A copy, since a view would keep all states alive.
            yield state.reshape(shape).clone()
        return Report(counts[0], sweeps=counts[1])

    def _system(self, model: ScoreModel, x: Tensor, times: Tensor, noise: Noise) -> "_System":
        """The coefficients of all steps."""
        coordinate, plan = self.method.plan(model.sde, times, model.data_std)
        splitting = Angle(model.data_std) if self.splitting is None else self.splitting
        # Q = a x + b ε: a batch may have a time for each sample.
        norm, on_y, on_noise = slope_terms(model.sde, splitting, times)
        a, b = (v.to(x)[:, None] for v in (on_y / norm, on_noise))
        order = min(self.method.order, len(plan))
        weights = _split(model.sde, times, plan, order, coordinate, splitting)
        on_states, on_values = (v.to(x)[..., None] for v in weights)
        return _System(times.to(x.device), a, b, on_states, on_values, self._added(model, x, plan, noise))

    def _added(self, model: ScoreModel, x: Tensor, plan: list[AdamsStep], noise: Noise) -> Tensor | None:
        """on_mean m + on_noise z of every step, `(n + 1, B, N)`, the last 0; None if the method has neither term."""
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


@dataclass(frozen=True)
class _System:
    """The triangular system of all n steps, x_{i+1} = Σ_j (on_states_ij x_{i−j} + on_values_ij Q_{i−j}) + added_i.

    Step n, after the last, changes nothing: it stands for the states after the end of the grid.

    Attributes:
        times: `(n + 1,)` on the device.
        a: `(n + 1, 1)`, with Q = a x + b ε.
        b: `(n + 1, 1)`.
        on_states: `(order, n + 1, 1)`.
        on_values: `(order, n + 1, 1)`.
        added: `(n + 1, B, N)`, or None for 0.
    """

    times: Tensor
    a: Tensor
    b: Tensor
    on_states: Tensor
    on_values: Tensor
    added: Tensor | None

    @property
    def order(self) -> int:
        """The number of states and values that a step uses."""
        return len(self.on_states)

    def evaluate(
        self, model: ScoreModel, states: Tensor, shape: tuple[int, ...], rows: Tensor, front: Tensor, size: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Q at the states of all windows in one call: `(sum of size, N)`, and the index `(b,)` of each window's first.

        Args:
            model: The score model.
            states: `(n + 1, B, N)`, the guesses.
            shape: The shape of the batch.
            rows: `(b,)` int64, the samples.
            front: `(b,)` int64, the first state of each sample's window.
            size: `(b,)` int64, the length of each window.
        """
        owner, first = torch.arange(len(rows)).repeat_interleave(size), size.cumsum(0) - size
        index = (torch.arange(len(owner)) + (front - first)[owner]).to(states.device)
        samples = rows[owner].to(states.device)
        guess = states[index, samples]
        eps = model.for_rows(samples).noise(guess.reshape(-1, *shape[1:]), self.times[index]).flatten(1)
        return torch.addcmul(self.a[index] * guess, self.b[index], eps), first

    def substitute(self, states: Tensor, values: Tensor, at: Tensor, rows: Tensor) -> Tensor:
        """Solve for the states after those `at`, from the first on, `(k, b, N)`.

        Args:
            states: `(n + 1, B, N)`, of which those before and at the first of `at` are used.
            values: `(order − 1 + k, b, N)`, Q of the steps before and of the k steps.
            at: `(k, b)` int64, the indices of the steps.
            rows: `(b,)` int64, the samples.
        """
        path = torch.zeros_like(values[self.order - 1 :]) if self.added is None else self.added[at, rows]
        for j, weight in enumerate(self.on_values[:, at]):
            path.addcmul_(weight, values[self.order - 1 - j : len(values) - j])
        latest = [states[(at[0] - j).clamp(min=0), rows] for j in range(self.order)]
        for new, *ratios in zip(path, *self.on_states[:, at], strict=True):
            for ratio, state in zip(ratios, latest, strict=True):
                new.addcmul_(ratio, state)
            latest = [new, *latest[:-1]]
        return path


def _split(
    sde: SDE, times: Tensor, plan: list[AdamsStep], order: int, coordinate: Coordinate, splitting: Coordinate
) -> tuple[Tensor, Tensor]:
    """The weights `(order, n + 1)` of x_{i−j} and of Q_{i−j} in step i; step n leaves the state as it is."""
    alpha, sigma = sde.alpha(times), sde.sigma(times)
    (p, q), (own_p, own_q) = coordinate.target(sde, times), splitting.target(sde, times)
    # P = u x + v Q, by x = α x₀ + σ ε.
    det = alpha * own_q - sigma * own_p
    u, v = (p * own_q - q * own_p) / det, (alpha * q - sigma * p) / det
    weights = torch.zeros(order, len(times), dtype=torch.float64)
    for i, step in enumerate(plan):
        used = step.predictor.values
        weights[: len(used), i] = torch.tensor(used, dtype=torch.float64)
    # Steps before the first have weight 0.
    back = (torch.arange(len(times)) - torch.arange(order)[:, None]).clamp(min=0)
    on_states = weights * u[back]
    on_states[0] += torch.tensor([*(step.on_x for step in plan), 1.0], dtype=torch.float64)
    return on_states, weights * v[back]
