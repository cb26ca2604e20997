"""The reverse SDE with a step size for every sample: its steps, the law of its noise, and of what comes out."""

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy.stats import kstest
from torch import Tensor

from scoresde.numerics.ode import Status
from scoresde.numerics.random import SampleNoise
from scoresde.sampling.adaptive_sde import AdaptiveSDE, _Path
from scoresde.sampling.grids import ExplicitTimes, UniformTime
from scoresde.sampling.sampler import Sampler
from scoresde.sampling.samples import Samples
from scoresde.sampling.solver import NonFiniteError, Solver, StoppedError
from scoresde.score import GaussianMixtureScore, ScoreModel
from scoresde.sde import EDMSDE, SDE, VESDE, VPSDE
from tests.problems import Mixture, gaussian

F64 = torch.float64
PLANAR = Mixture("full", (2,))


def start(model: GaussianMixtureScore, n: int, t: float | None = None) -> Tensor:
    return model.sample(n, model.sde.t_max if t is None else t, torch.Generator().manual_seed(0))


def run(solver: Solver, model: ScoreModel, x: Tensor, times: list[float] | None = None, **options: Any) -> Samples:
    times = UniformTime(1)(model.sde).tolist() if times is None else times
    return Sampler(solver, ExplicitTimes(times), denoise=False)(model, x_init=x, **options)


# -- steps ----------------------------------------------------------------------------------------------


def paper(
    solver: AdaptiveSDE, model: ScoreModel, x: Tensor, times: list[float], noise: SampleNoise
) -> tuple[list[Tensor], int, int]:
    """One sample by Jolicoeur-Martineau et al. 2021, algorithm 1, with a list for the Brownian path ahead."""
    sde, t, span = model.sde, times[0], times[0] - times[-1]
    h, before, stops, states = solver.first_step * span, x, times[1:], []
    ahead: list[tuple[float, Tensor]] = []
    attempts = rejections = 0
    while stops:
        z, fresh = noise(), not ahead
        room, known = ahead.pop() if ahead else (t - stops[0], z)
        size = room if room <= 1.1 * h else min(h, room / 2)
        share = size / room
        dw = math.sqrt(size) * z if fresh else share * known + math.sqrt(size * (1 - share)) * z
        if not fresh and size < room:
            ahead.append((room - size, known - dw))
        now, then = torch.tensor(t, dtype=F64), torch.tensor(max(t - size, times[-1]), dtype=F64)
        f, g = sde.drift(x, now), sde.diffusion(now)
        euler = x - size * (f - g**2 * model.score(x, now)) + g * dw
        f, g = sde.drift(euler, then), sde.diffusion(then)
        other = x - size * (f - g**2 * model.score(euler, then)) + g * dw
        delta = torch.maximum(
            torch.tensor(solver.atol, dtype=F64), solver.rtol * torch.maximum(euler.abs(), before.abs())
        )
        error = float(((euler - other) / 2 / delta).norm()) / math.sqrt(x.numel())
        error = max(error, float(sde.log_snr(then) - sde.log_snr(now)) / 2)
        attempts += 1
        h = size * min(max(solver.safety * error**-solver.exponent, 0.1), 2 if error <= 1 else 0.5)
        if error > 1:
            rejections += 1
            ahead.append((size, dw))
            continue
        t, x, before = float(then), (euler + other) / 2, euler
        if t <= stops[0] + 1e-12 * span:
            t = stops.pop(0)
            states.append(x)
    return states, 2 * attempts, rejections


@pytest.mark.parametrize(
    "solver", [AdaptiveSDE(0.05), AdaptiveSDE(0.2, first_step=1.0, safety=0.7, exponent=0.6)], ids=["tight", "loose"]
)
def test_it_is_the_papers_loop(sde: SDE, solver: AdaptiveSDE) -> None:
    """State by state, rejections and the noise that they have looked at included."""
    model, n = PLANAR.model(sde), 2
    x = start(model, n)
    low, high = UniformTime(1)(sde).flip(0).tolist()
    times = [high, 0.4 * high, 0.1 * high, 0.09 * high, low]
    out = run(solver, model, x, times, seed=5, trajectory=True)
    assert out.trajectory is not None
    assert out.nfe_per_sample is not None
    total = 0
    for i in range(n):
        noise = SampleNoise(5, torch.tensor([i]), (2,), F64)
        noise.draws = 1  # the sampler takes the first
        states, nfe, rejections = paper(solver, model, x[i : i + 1], times, noise)
        torch.testing.assert_close(out.trajectory[1:, i], torch.cat(states), rtol=1e-9, atol=1e-9)
        assert int(out.nfe_per_sample[i]) == nfe
        total += rejections
    assert total > 3


# -- the Brownian path ----------------------------------------------------------------------------------


def adversary(seed: int, dw: Tensor, size: Tensor) -> Tensor:
    """Accepts what is small, or down, and now and then what is not."""
    luck = torch.rand(len(dw), generator=torch.Generator().manual_seed(seed), dtype=F64)
    return ((dw[:, 0] < 0.3 * size.sqrt()) & (dw.abs().amax(1) < 1.5 * size.sqrt())) | (luck < 0.25)


@pytest.mark.slow
def test_rejections_do_not_colour_the_noise() -> None:
    """Increments over two intervals are standard normal and independent; what is accepted and what waits adds up."""
    n, dim = 20_000, 2
    draws = torch.Generator().manual_seed(1)
    path, stop = _Path(torch.zeros(n, dim, dtype=F64)), torch.zeros(n, dtype=torch.int64)
    t, ends = torch.zeros(n, dtype=F64), torch.tensor([1.0, 2.0, math.inf], dtype=F64)
    drawn, passed, rejected = torch.zeros(n, dim, dtype=F64), t.clone(), stop.clone()
    total = torch.zeros(3, n, dim, dtype=F64)
    ids = torch.arange(n)
    for attempt in range(1000):
        wish = 0.02 + 0.6 * torch.rand(len(ids), generator=draws, dtype=F64) ** 3
        fresh = path.depth == 0
        size, dw = path.propose(wish, ends[stop] - t, torch.randn(len(ids), dim, generator=draws, dtype=F64))
        drawn[ids] += torch.where(fresh[:, None], dw, 0.0)
        passed[ids] += torch.where(fresh, size, 0.0)
        assert bool((size <= 1.1 * wish).all())
        ok = adversary(attempt, dw, size)
        full = path.settle(ok, size, dw)
        assert not full.any()
        total[stop, ids] += torch.where(ok[:, None], dw, 0.0)
        rejected[ids] += ~ok
        t = torch.where(ok, t + size, t)
        # Accepted, and waiting in the stack: together all that was ever drawn afresh.
        inside = torch.arange(path.levels)[:, None] < path.depth
        waiting = torch.where(inside[..., None], path.increments, 0.0).sum(0)
        torch.testing.assert_close(total[:, ids].sum(0) + waiting, drawn[ids], rtol=0, atol=1e-12)
        torch.testing.assert_close(t + torch.where(inside, path.lengths, 0.0).sum(0), passed[ids], rtol=0, atol=1e-12)
        landed = ok & (t >= ends[stop] - 1e-12)
        stop = stop + landed
        keep = stop < 2
        path.keep(keep)
        ids, t, stop = ids[keep], t[keep], stop[keep]
        if not len(ids):
            break
    assert not len(ids)
    assert float(rejected.double().mean()) > 5
    flat = total[:2].reshape(2, -1)
    assert flat.mean(1).abs().max() < 4 / math.sqrt(n * dim)
    assert (flat.square().mean(1) - 1).abs().max() < 4 * math.sqrt(2 / (n * dim))
    for sums in flat:
        assert kstest(sums.numpy(), "norm").pvalue > 1e-3
    corr = torch.corrcoef(torch.cat([total[0].T, total[1].T]))
    assert (corr - torch.eye(4, dtype=F64)).abs().max() < 4.5 / math.sqrt(n)


def test_the_part_of_a_rejected_increment_is_a_bridge() -> None:
    """Given W(1), W(s) is N(s W(1), s (1 − s)): for those alone that were rejected for their W(1)."""
    n, s = 40_000, 0.3
    generator = torch.Generator().manual_seed(2)
    path, one = _Path(torch.zeros(n, 1, dtype=F64)), torch.ones(n, dtype=F64)
    size, whole = path.propose(one, one, torch.randn(n, 1, generator=generator, dtype=F64))
    assert torch.equal(size, one)
    ok = whole[:, 0] < 0.4
    path.settle(ok, size, whole)
    path.keep(~ok)
    whole, one = whole[~ok], one[~ok]
    size, part = path.propose(s * one, one, torch.randn(len(one), 1, generator=generator, dtype=F64))
    torch.testing.assert_close(size, s * one, rtol=1e-15, atol=0)
    z = (part - s * whole) / math.sqrt(s * (1 - s))
    assert kstest(z[:, 0].numpy(), "norm").pvalue > 1e-3
    assert abs(float(torch.corrcoef(torch.cat([z, whole], 1).T)[0, 1])) < 4 / math.sqrt(len(one))
    path.settle(one > 0, size, part)
    # What is left is taken whole, where the wish is not far off.
    size, rest = path.propose(0.65 * one, one, torch.full_like(whole, 7.0))
    torch.testing.assert_close(size, 0.7 * one, rtol=1e-15, atol=0)
    torch.testing.assert_close(part + rest, whole, rtol=0, atol=1e-14)
    assert not path.depth.any()


def test_a_path_says_when_it_is_full() -> None:
    path, one = _Path(torch.zeros(1, 1, dtype=F64)), torch.ones(1, dtype=F64)
    full, wish = [], one
    for _ in range(path.levels + 1):
        size, dw = path.propose(wish, one, one[:, None])
        full.append(bool(path.settle(one < 0, size, dw)))
        wish = size / 2
    assert full == [False] * path.levels + [True]


# -- laws -----------------------------------------------------------------------------------------------


def moments(model: GaussianMixtureScore, x: Tensor, t: Tensor) -> tuple[float, float]:
    """Errors of mean and variance: the first in standard deviations, the second relative."""
    alpha = float(model.sde.alpha(t))
    variance = 0.3 * alpha**2 + float(model.sde.sigma(t)) ** 2
    return (float(x.mean()) - 0.7 * alpha) / math.sqrt(variance), float(x.var()) / variance - 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", [VPSDE, VESDE, EDMSDE])
def test_a_gaussian_comes_out(kind: Callable[[], SDE]) -> None:
    """In one dimension, where a step's error depends most on its noise: drawn anew after a rejection, the variance
    would come out twice to four times as large."""
    sde, n = kind(), 6000
    model = gaussian(sde, (1,))
    times = UniformTime(3)(sde)
    out = run(AdaptiveSDE(), model, start(model, n), times.tolist(), seed=1, trajectory=True)
    assert out.trajectory is not None
    for x, t in zip(out.trajectory[1:], times[1:], strict=True):
        mean, variance = moments(model, x, t)
        # The bias was measured at up to 0.005 with 80,000 numbers.
        assert abs(mean) < 4 / math.sqrt(n) + 0.01
        assert abs(variance) < 4 * math.sqrt(2 / n) + 0.01
    standard = (out.x[:, 0] - out.x.mean()) / out.x.std()
    assert kstest(standard.numpy(), "norm").pvalue > 1e-3
    assert float(standard.abs().max()) < 5


@pytest.mark.slow
@pytest.mark.parametrize("kind", [VPSDE, VESDE, EDMSDE])
def test_the_bias_shrinks_with_the_tolerance(kind: Callable[[], SDE]) -> None:
    """The variance of a Gaussian comes out 4 to 9 per cent too small at a tolerance of 0.5."""
    model = gaussian(kind(), (2,))
    x, last = start(model, 10_000), UniformTime(1)(model.sde)[-1]
    coarse, fine = (moments(model, run(AdaptiveSDE(rtol=r, atol=0.4 * r), model, x).x, last)[1] for r in (0.5, 0.05))
    assert -0.13 < coarse < -0.03
    assert abs(fine) < 0.03


def test_no_step_from_noise_to_data_passes_by_luck() -> None:
    """In one dimension the error of a step may vanish by chance: at this tolerance 1 in 200 went that way."""
    model = gaussian(EDMSDE(), (1,))
    out = run(AdaptiveSDE(rtol=0.1, atol=0.04), model, start(model, 10_000), seed=1)
    assert float((out.x - 0.7).abs().max()) < 5.5 * math.sqrt(0.3)


@pytest.mark.slow
def test_a_mixture_comes_out() -> None:
    """By the masses of its three parts, and the mean and covariance of all."""
    model, n = PLANAR.model(VPSDE()), 3000
    x = run(AdaptiveSDE(), model, start(model, n)).x
    exact = model.sample(50_000, model.sde.t_min_sampling, torch.Generator().manual_seed(1))
    assert ((x.mean(0) - exact.mean(0)) / exact.std(0)).abs().max() < 4 / math.sqrt(n) + 0.02
    torch.testing.assert_close(torch.cov(x.T), torch.cov(exact.T), rtol=0.12, atol=0.1)
    shares = [
        torch.bincount((y[:, None] - model.means).norm(dim=2).argmin(1), minlength=3).double() / len(y)
        for y in (x, exact)
    ]
    assert (shares[0] - shares[1]).abs().max() < 4 * math.sqrt(0.25 / n) + 0.01


# -- samples part ways ----------------------------------------------------------------------------------


class Labelled(ScoreModel):
    """A mixture moved by each sample's condition; from a time on, samples of label 1 get what a fault makes of ε."""

    def __init__(self, sde: SDE, fault: Callable[[Tensor], Tensor] | None = None, below: float = 0.4) -> None:
        model = PLANAR.model(sde)
        super().__init__(sde, model.statistics)
        self.model = model
        self.fault = fault
        self.below = below
        self.register_buffer("one", torch.ones((), dtype=F64))
        self.rows: Counter[int] = Counter()
        self.calls: list[int] = []

    def denoise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        raise AssertionError("asked for something else than the score")

    def noise(self, x: Tensor, t: Tensor, *, labels: Tensor, shift: Tensor, **cond: Any) -> Tensor:  # type: ignore[override]
        assert len(labels) == len(shift) == len(x) == len(t)
        self.rows.update(labels.tolist())
        self.calls.append(len(x))
        eps = self.model.noise(x - self.sde.alpha(t).to(x)[:, None] * shift, t)
        return (
            eps
            if self.fault is None
            else torch.where(((t < self.below) & (labels == 1))[:, None], self.fault(eps), eps)
        )


def conditions(n: int) -> dict[str, Tensor]:
    return {"labels": torch.arange(n), "shift": torch.linspace(-3, 3, n, dtype=F64)[:, None].expand(n, 2)}


@pytest.mark.parametrize("steps", [1, 3])
def test_samples_do_not_touch_each_other(steps: int) -> None:
    """The same states and counts in any batch, with conditions of their own; counts are of rows evaluated."""
    n, model, solver = 8, Labelled(VPSDE()), AdaptiveSDE(rtol=0.1)
    x, cond = start(model.model, n), conditions(8)
    times = UniformTime(steps)(model.sde).tolist()
    whole = run(solver, model, x, times, trajectory=True, **cond)
    each = whole.nfe_per_sample
    assert each is not None
    assert whole.trajectory is not None
    assert torch.equal(whole.trajectory[-1], whole.x)
    assert each.tolist() == [model.rows[i] for i in range(n)]
    assert len(set(each.tolist())) > 3
    # Who has arrived is not asked about any more.
    assert model.calls == sorted(model.calls, reverse=True)
    assert len(model.calls) == whole.nfe == each.max()
    assert sum(model.calls) < n * whole.nfe
    for size in (1, 3):
        parts = run(solver, model, x, times, batch_size=size, trajectory=True, **cond)
        torch.testing.assert_close(parts.trajectory, whole.trajectory, rtol=0, atol=1e-12)
        assert torch.equal(parts.nfe_per_sample, each)  # type: ignore[arg-type]
    tail = run(solver, model, x[5:], times, first=5, **{k: v[5:] for k, v in cond.items()})
    torch.testing.assert_close(tail.x, whole.x[5:], rtol=0, atol=1e-12)


def test_float32_and_shapes() -> None:
    """In float32 the same path is followed until an acceptance flips: with this seed, none does."""
    flat = PLANAR.model(VPSDE())
    x = start(flat, 6)
    shaped = GaussianMixtureScore(flat.weights, PLANAR.means.reshape(3, 1, 2, 1), PLANAR.full, VPSDE())
    fine = run(AdaptiveSDE(), flat, x).x
    torch.testing.assert_close(run(AdaptiveSDE(), shaped, x.reshape(6, 1, 2, 1)).x.flatten(1), fine, rtol=0, atol=1e-12)
    single = run(AdaptiveSDE(), flat, x.float()).x
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), fine, rtol=0, atol=1e-3)


FAULTS = [
    (lambda eps: eps * torch.nan, 10_000, Status.NOT_FINITE),
    (lambda eps: 1e16 * (1 + eps.abs()), 10_000, Status.UNDERFLOW),
    (lambda eps: 1e3 * eps, 150, Status.TOO_MANY_STEPS),
]


@pytest.mark.parametrize(("fault", "most", "status"), FAULTS, ids=["nan", "rough", "stiff"])
def test_a_sample_that_stops_stays(fault: Callable[[Tensor], Tensor], most: int, status: Status) -> None:
    """Where it could be followed to; its batch mates arrive as they would without it."""
    model, cond = Labelled(VPSDE(), fault), conditions(3)
    x, times = start(model.model, 3), [1.0, 0.7, 0.3, 0.1, 0.02]
    solver = AdaptiveSDE(rtol=0.1, max_steps=most)
    good = run(AdaptiveSDE(rtol=0.1), Labelled(VPSDE()), x, times, trajectory=True, **cond).trajectory
    assert good is not None
    if status == Status.NOT_FINITE:
        for strict in (False, True):
            with pytest.raises(NonFiniteError, match="^1 of 3 samples"):
                run(AdaptiveSDE(rtol=0.1, strict=strict), model, x, times, **cond)
        return
    reason = status.name.lower().replace("_", " ")
    with pytest.warns(RuntimeWarning, match=rf"^1 of 3 samples stopped on the way \({reason} 1\)") as record:
        out = run(solver, model, x, times, trajectory=True, **cond)
    assert len(record) == 1
    assert "\n" not in str(record[0].message)
    assert out.trajectory is not None
    assert out.status is not None
    assert out.reached is not None
    assert out.status.tolist() == [0, status, 0]
    assert out.reached[[0, 2]].tolist() == [0.02, 0.02]
    torch.testing.assert_close(out.trajectory[:, [0, 2]], good[:, [0, 2]], rtol=0, atol=1e-12)
    # Up to the fault there is nothing amiss, and behind it nothing happens.
    assert 0.3 < float(out.reached[1]) < 0.45
    torch.testing.assert_close(out.trajectory[1, 1], good[1, 1], rtol=0, atol=1e-12)
    assert bool((out.trajectory[2:, 1] == out.x[1]).all())
    assert bool(out.x.isfinite().all())
    with pytest.raises(StoppedError, match="stopped on the way") as error:
        run(AdaptiveSDE(rtol=0.1, max_steps=most, strict=True), model, x, times, **cond)
    assert torch.equal(error.value.x, out.x)
    assert torch.equal(error.value.report.reached, out.reached)  # type: ignore[arg-type]


def test_a_model_that_is_not_finite_leaves_what_there_was() -> None:
    """Past the sampler, which refuses it."""
    model = PLANAR.model(VPSDE())
    model.means.fill_(math.nan)
    x = torch.ones(2, 2, dtype=F64)
    steps = AdaptiveSDE().solve(model, x, UniformTime(2)(model.sde), SampleNoise(0, torch.arange(2), (2,), F64))
    states = [next(steps), next(steps)]
    with pytest.raises(StopIteration) as stop:
        next(steps)
    report = stop.value.value
    assert report.status.tolist() == [Status.NOT_FINITE] * 2
    assert report.reached.tolist() == [1.0, 1.0]
    assert int(report.nfe.max()) <= 2 * (_Path.levels + 1)
    assert all(torch.equal(state, x) for state in states)


def test_bad_arguments() -> None:
    for bad in ({"rtol": 0.0}, {"atol": -1.0}, {"rtol": math.nan}):
        with pytest.raises(ValueError, match="^rtol=.* and atol=.* must be positive$"):
            AdaptiveSDE(**bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="^max_steps is 0, expected at least 1$"):
        AdaptiveSDE(max_steps=0)
    for name in ("first_step", "safety", "exponent"):
        for value in (0.0, 1.5, math.nan):
            with pytest.raises(ValueError, match=f"^{name} is {value}, expected more than 0 and at most 1$"):
                AdaptiveSDE(**{name: value})  # type: ignore[arg-type]
