"""The probability-flow ODE with a step size for every sample: against exact flows, and how samples part ways."""

import math
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import Tensor

from scoresde.numerics.ode import DOP853, TSIT5, Status
from scoresde.sampling.adaptive import TABLEAUS, Adaptive
from scoresde.sampling.external import ScipyODE
from scoresde.sampling.grids import ExplicitTimes, UniformLogSNR
from scoresde.sampling.sampler import Sampler
from scoresde.sampling.samples import Samples
from scoresde.sampling.slopes import slope_terms
from scoresde.sampling.solver import NonFiniteError, Report, Solver, StoppedError
from scoresde.score import GaussianMixtureScore, ScoreModel
from scoresde.sde import EDMSDE, SDE, VPSDE
from scoresde.sde.coordinates import Angle, Coordinate, LevelRatio, LogSNR, NoiseLevel, SignalLevel, Straight, Time
from tests.problems import SDES, SMOOTH, Mixture, gaussian

F64 = torch.float64
PLANAR = Mixture("full", (2,))


def start(model: GaussianMixtureScore, n: int) -> Tensor:
    return model.sample(n, model.sde.t_max, torch.Generator().manual_seed(0))


def run(solver: Solver, model: ScoreModel, x: Tensor, times: Tensor | None = None, **options: Any) -> Samples:
    """Over the SDE's interval in one step of the grid if no times are given; the last state itself."""
    times = UniformLogSNR(1)(model.sde) if times is None else times
    return Sampler(solver, ExplicitTimes(times.tolist()), denoise=False)(model, x_init=x, **options)


def states(solver: Solver, model: ScoreModel, x: Tensor, times: Tensor) -> tuple[list[Tensor], Report]:
    """Past the sampler, which refuses what is not finite."""
    found, steps = [], solver.solve(model, x, times, lambda *_: torch.zeros_like(x))
    while True:
        try:
            found.append(next(steps))
        except StopIteration as stop:
            return found, stop.value


@lru_cache
def reference(name: str) -> tuple[GaussianMixtureScore, Tensor, Tensor]:
    """A mixture, a start, and where scipy takes it."""
    model = PLANAR.model(SDES[name])
    x = start(model, 32)
    return model, x, run(ScipyODE("DOP853", 1e-12, 1e-12), model, x).x


@pytest.mark.parametrize("method", TABLEAUS)
def test_the_flow_of_a_gaussian(sde: SDE, method: str) -> None:
    """It keeps (x − M)/√V in every direction."""
    model, tol = gaussian(sde, (2,), (0.7, -0.2), (0.3, 2.0)), 1e-6
    x = start(model, 4)
    times = UniformLogSNR(1)(sde)
    alpha, sigma = (v[:, None] for v in (sde.alpha(times), sde.sigma(times)))
    mean, spread = alpha * model.means, (alpha**2 * model.variances + sigma**2).sqrt()
    wanted = mean[1] + spread[1] * (x - mean[0]) / spread[0]
    out = run(Adaptive(method, tol, tol), model, x)
    torch.testing.assert_close(out.x, wanted, rtol=20 * tol, atol=20 * tol)
    assert out.status is not None
    assert not out.status.any()


@pytest.mark.parametrize("method", TABLEAUS)
@pytest.mark.parametrize("name", SMOOTH)
def test_scipy_agrees(name: str, method: str) -> None:
    """The error is proportional to the tolerance; that of single starts jumps with the number of their steps."""
    model, x, wanted = reference(name)
    first = 1e-4 if method == "bosh3" else 1e-5
    tolerances = (first, 0.1 * first, 0.01 * first)
    errors = [(run(Adaptive(method, tol, tol), model, x).x - wanted).abs() for tol in tolerances]
    for tol, error in zip(tolerances, errors, strict=True):
        assert 0.05 * tol < float(error.max()) < 5 * tol
    mean = [float(error.square().mean()) for error in errors]
    assert math.log10(mean[0] / mean[2]) / 4 == pytest.approx(1, abs=0.25)


COORDINATES = [Time(), NoiseLevel(), LogSNR(), SignalLevel(), Angle(0.3), Straight(), Straight(2.0), LevelRatio(0.3)]


@pytest.mark.parametrize("coordinate", COORDINATES, ids=repr)
def test_every_coordinate_has_the_same_solution(coordinate: Coordinate) -> None:
    for name in ("vp", "flow"):
        model, x, wanted = reference(name)
        solver = Adaptive("dopri5", 1e-8, 1e-8, coordinate)
        torch.testing.assert_close(run(solver, model, x).x, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("coordinate", [*COORDINATES, Angle()], ids=repr)
def test_slope_terms(sde: SDE, coordinate: Coordinate) -> None:
    """n y is x, and a y + b ε is the derivative of y along the flow, by differences of an exact one."""
    model = gaussian(sde, (2,), (0.7, -0.2), (0.3, 2.0))
    low, high = UniformLogSNR(1)(sde).flip(0).tolist()
    t = torch.linspace(low, high, 7, dtype=F64)[1:-1]
    w = coordinate.variable(sde, t)
    z = torch.tensor([0.6, -1.1], dtype=F64)

    def flow(t: Tensor) -> Tensor:
        alpha, sigma = sde.alpha(t)[:, None], sde.sigma(t)[:, None]
        return alpha * model.means + (alpha**2 * model.variances + sigma**2).sqrt() * z

    def y(w: Tensor) -> Tensor:
        t = coordinate.time(sde, w)
        return flow(t) / coordinate.norm(sde, t)[:, None]

    step = 1e-5 * w.abs().clamp_min(1e-3)
    wanted = (y(w + step) - y(w - step)) / (2 * step)[:, None]
    norm, on_y, on_noise = (v[:, None] for v in slope_terms(sde, coordinate, t))
    torch.testing.assert_close(norm * y(w), flow(t), rtol=1e-9, atol=1e-9)
    slope = on_y * y(w) + on_noise * model.noise(flow(t), t)
    torch.testing.assert_close(slope, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))


def test_states_at_the_grid(sde: SDE) -> None:
    model = PLANAR.model(sde)
    x = start(model, 6)
    times = UniformLogSNR(4)(sde)
    exact = run(ScipyODE("DOP853", 1e-11, 1e-11), model, x, times, trajectory=True).trajectory
    out = run(Adaptive("tsit5", 1e-7, 1e-7), model, x, times, trajectory=True)
    assert out.trajectory is not None
    assert exact is not None
    scale = (1 + sde.sigma(times))[:, None, None]  # the tolerance is one of x/n
    # scipy's dense output is of order 7
    assert float(((out.trajectory - exact) / scale).abs().max()) < 3e-6
    assert torch.equal(out.trajectory[-1], out.x)
    assert out.reached is not None
    torch.testing.assert_close(out.reached, torch.full((6,), float(times[-1]), dtype=F64), rtol=1e-12, atol=0)


# -- samples part ways ----------------------------------------------------------------------------------


class Labelled(ScoreModel):
    """A mixture moved and stretched for each sample by its label and its condition; it counts the rows of each."""

    def __init__(self, model: GaussianMixtureScore) -> None:
        super().__init__(model.sde, model.statistics)
        self.model = model
        self.register_buffer("one", torch.ones((), dtype=F64))
        self.rows: Counter[int] = Counter()
        self.calls: list[int] = []

    def denoise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        return self._moved(self.model.denoise, x, t, **cond)

    def noise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        return self._moved(self.model.noise, x, t, **cond)

    def _moved(self, ask: Callable[..., Tensor], x: Tensor, t: Tensor, labels: Tensor, shift: Tensor) -> Tensor:
        assert len(labels) == len(shift) == len(x)
        self.rows.update(labels.tolist())
        self.calls.append(len(x))
        alpha = self.sde.alpha(t).to(x).reshape(-1, 1)
        moved = ask(x - alpha * shift, t)
        return moved + shift if ask == self.model.denoise else moved


@pytest.mark.parametrize("method", ["bosh3", "dop853"])
@pytest.mark.parametrize("steps", [1, 3])
def test_samples_do_not_touch_each_other(method: str, steps: int) -> None:
    """Results and counts are the same in any batch, with conditions of their own; counts are of rows evaluated."""
    n = 8
    model = Labelled(PLANAR.model(VPSDE()))
    x = start(model.model, n) * torch.logspace(-1, 1, n, dtype=F64)[:, None]
    cond = {"labels": torch.arange(n), "shift": torch.linspace(-3, 3, n, dtype=F64)[:, None].expand(n, 2)}
    times, solver = UniformLogSNR(steps)(model.sde), Adaptive(method, 1e-5, 1e-5)
    whole = run(solver, model, x, times, trajectory=True, **cond)
    each = whole.nfe_per_sample
    assert each is not None
    assert whole.trajectory is not None
    assert each.tolist() == [model.rows[i] for i in range(n)]
    assert whole.nfe == each.max()
    assert len(set(each.tolist())) >= 3
    # Who has arrived is not asked about any more: within an interval of the grid batches only shrink.
    assert sum(model.calls) == each.sum() < n * each.max() <= n * len(model.calls)
    assert sum(b > a for a, b in zip(model.calls, model.calls[1:], strict=False)) <= steps - 1
    for size in (1, 3):
        parts = run(solver, model, x, times, batch_size=size, **cond)
        torch.testing.assert_close(parts.x, whole.x, rtol=0, atol=1e-12)
        assert torch.equal(parts.nfe_per_sample, each)  # type: ignore[arg-type]
    order = torch.arange(n - 1, -1, -1)
    turned = run(solver, model, x[order], times, **{k: v[order] for k, v in cond.items()})
    torch.testing.assert_close(turned.x, whole.x[order], rtol=0, atol=1e-12)
    # Each is moved as its condition says: the flow of a shifted density is the shifted flow.
    alpha = model.sde.alpha(times[[0, -1]])
    plain = run(Adaptive("dop853", 1e-10, 1e-10), model.model, x - alpha[0] * cond["shift"], times).x
    torch.testing.assert_close(whole.x, plain + alpha[1] * cond["shift"], rtol=0, atol=5e-4)


def test_the_denoising_step_is_counted() -> None:
    model = PLANAR.model(EDMSDE())
    x = start(model, 4)
    plain = run(Adaptive(), model, x)
    clean = Sampler(Adaptive(), UniformLogSNR(1))(model, x_init=x)
    assert torch.equal(clean.nfe_per_sample, plain.nfe_per_sample + 1)  # type: ignore[operator, arg-type]
    last = torch.tensor(model.sde.t_min, dtype=F64)
    torch.testing.assert_close(clean.x, model.denoise(plain.x, last), rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", TABLEAUS)
@pytest.mark.parametrize("kind", [VPSDE, EDMSDE])
def test_float32(kind: type[VPSDE] | type[EDMSDE], method: str) -> None:
    model = PLANAR.model(kind())
    x = start(model, 8)
    fine, single = (run(Adaptive(method, 1e-4, 1e-4), model, x.to(dtype)) for dtype in (F64, torch.float32))
    assert single.x.dtype == torch.float32
    assert single.status is not None
    assert not single.status.any()
    torch.testing.assert_close(single.x.double(), fine.x, rtol=0, atol=2e-3)
    # Round-off does not cost many steps.
    assert single.nfe <= 1.3 * fine.nfe


def test_shapes_of_images_and_a_tableau() -> None:
    flat = PLANAR.model(VPSDE())
    x = start(flat, 5)
    shaped = GaussianMixtureScore(flat.weights, PLANAR.means.reshape(3, 1, 2, 1), PLANAR.full, VPSDE())
    out = run(Adaptive("tsit5"), shaped, x.reshape(5, 1, 2, 1))
    torch.testing.assert_close(out.x.flatten(1), run(Adaptive(TSIT5), flat, x).x, rtol=0, atol=1e-12)


# -- samples that stop ----------------------------------------------------------------------------------


class Faulty(ScoreModel):
    """A Gaussian; below a time, the samples of one label get what a fault makes of ε."""

    def __init__(self, sde: SDE, below: float, fault: Callable[[Tensor], Tensor]) -> None:
        super().__init__(sde)
        self.model = gaussian(sde, (2,), (0.7, -0.2), (0.3, 2.0))
        self.below = below
        self.fault = fault
        self.register_buffer("one", torch.ones((), dtype=F64))

    def denoise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        return self.model.denoise(x, t)

    def noise(self, x: Tensor, t: Tensor, *, labels: Tensor | None = None, **cond: Any) -> Tensor:
        eps = self.model.noise(x, t)
        hit = (t < self.below) & (torch.ones(len(x), dtype=torch.bool) if labels is None else labels == 1)
        return torch.where(hit[:, None], self.fault(eps), eps)


def rough(eps: Tensor) -> Tensor:
    """Without end: as a network that was never trained at this noise level may be."""
    return 1e16 * (1 + eps.abs())


FAULTS = [
    (lambda eps: eps * torch.nan, 10_000, Status.NOT_FINITE),
    (lambda eps: eps + torch.inf, 10_000, Status.NOT_FINITE),
    (rough, 10_000, Status.UNDERFLOW),
    (lambda eps: 1e4 * eps, 40, Status.TOO_MANY_STEPS),
]


@pytest.mark.parametrize(("fault", "most", "status"), FAULTS, ids=["nan", "inf", "rough", "stiff"])
def test_a_sample_that_stops_stays(fault: Callable[[Tensor], Tensor], most: int, status: Status) -> None:
    """Where it could be followed to; its batch mates arrive, as they would alone."""
    sde = VPSDE()
    model = Faulty(sde, 0.4, fault)
    x = start(model.model, 3)
    labels = torch.tensor([0, 1, 0])
    times = torch.tensor([1.0, 0.7, 0.3, 0.1, 0.01], dtype=F64)
    solver = Adaptive("dopri5", 1e-6, 1e-6, Time(), max_steps=most)

    def bound(solver: Adaptive) -> tuple[list[Tensor], Report]:
        # Through the sampler's binding, that the labels follow the rows.
        caught: list[tuple[list[Tensor], Report]] = []

        class Spy(Solver):
            def solve(self, model: ScoreModel, x: Tensor, times: Tensor, noise: Any) -> Any:
                caught.append(states(solver, model, x, times))
                yield from caught[0][0]

        run(Spy(), model, x, times, labels=labels)
        return caught[0]

    found, report = bound(solver)
    assert report.status is not None
    assert report.reached is not None
    assert report.status.tolist() == [0, status, 0]
    torch.testing.assert_close(report.reached[[0, 2]], times[[-1, -1]], rtol=0, atol=0)
    reached = float(report.reached[1])
    if status == Status.TOO_MANY_STEPS:
        assert 0.3 < reached <= 0.4 + 1e-3
    else:
        assert reached == pytest.approx(0.4, abs=1e-6)
    for number, state in enumerate(found):
        t = torch.maximum(times[number + 1], torch.tensor([0.0, reached, 0.0], dtype=F64))
        alpha, sigma = (v[:, None] for v in (sde.alpha(t), sde.sigma(t)))
        spread = (alpha**2 * model.model.variances + sigma**2).sqrt()
        first = (sde.alpha(times[0]) ** 2 * model.model.variances + sde.sigma(times[0]) ** 2).sqrt()
        wanted = alpha * model.model.means + spread * (x - sde.alpha(times[0]) * model.model.means) / first
        rows = [0, 2] if status == Status.TOO_MANY_STEPS and number else [0, 1, 2]
        torch.testing.assert_close(state[rows], wanted[rows], rtol=0, atol=1e-4)
    assert torch.equal(found[1][1], found[3][1])
    assert bool(found[3].isfinite().all())

    strict = Adaptive("dopri5", 1e-6, 1e-6, Time(), max_steps=most, strict=True)
    if status == Status.NOT_FINITE:
        for each in (solver, strict):
            with pytest.raises(NonFiniteError, match="^1 of 3 samples .* for sample 1 near t = 0.4: check it there$"):
                run(each, model, x, times, labels=labels)
        return
    reason = status.name.lower().replace("_", " ")
    with pytest.warns(RuntimeWarning, match=rf"^1 of 3 samples stopped on the way \({reason} 1\).*") as record:
        out = run(solver, model, x, times, labels=labels)
    assert len(record) == 1
    assert "\n" not in str(record[0].message)
    assert torch.equal(out.x, found[3])
    assert torch.equal(out.status, report.status)  # type: ignore[arg-type]
    with pytest.raises(StoppedError, match="stopped on the way") as error:
        run(strict, model, x, times, labels=labels)
    assert torch.equal(error.value.x, found[3])
    assert torch.equal(error.value.report.reached, report.reached)  # type: ignore[arg-type]


def test_what_stopped_is_not_denoised() -> None:
    model = Faulty(VPSDE(), 0.4, rough)
    x, labels, times = start(model.model, 3), torch.tensor([0, 1, 0]), torch.tensor([1.0, 0.01], dtype=F64)
    solver = Adaptive(coordinate=Time())
    with pytest.warns(RuntimeWarning, match="underflow 1"):
        plain = run(solver, model, x, times, labels=labels).x
    with pytest.warns(RuntimeWarning, match="underflow 1"):
        out = Sampler(solver, ExplicitTimes(times.tolist()))(model, x_init=x, labels=labels).x
    assert torch.equal(out, torch.where((labels == 1)[:, None], plain, model.denoise(plain, times[-1])))


def test_a_model_that_is_not_finite_at_all() -> None:
    model = Faulty(EDMSDE(), math.inf, lambda eps: eps * torch.nan)
    x = start(model.model, 2)
    found, report = states(Adaptive(), model, x, UniformLogSNR(2)(model.sde))
    assert report.status is not None
    assert report.status.tolist() == [Status.NOT_FINITE] * 2
    assert int(report.nfe.max()) < 200
    torch.testing.assert_close(found[-1], x, rtol=1e-14, atol=0)


def test_bad_arguments() -> None:
    known = "bosh3, dopri5, tsit5, dop853, or an EmbeddedPair"
    with pytest.raises(ValueError, match=f"^method is 'euler', expected one of {known}$"):
        Adaptive("euler")
    for bad in ({"rtol": 0.0}, {"rtol": -1.0}, {"atol": 0.0}, {"atol": math.nan}):
        with pytest.raises(ValueError, match="^rtol=.* and atol=.* must be positive$"):
            Adaptive(**bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="^max_steps is 0, expected at least 1$"):
        Adaptive(max_steps=0)
    assert repr(Adaptive(DOP853)).startswith("Adaptive(method=DOP853, ")
