"""Exponential Runge-Kutta methods: orders, the papers' own lines, and exact laws of the noise."""

import math
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from typing import Any

import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from scoresde.numerics.brownian import BrownianPath
from scoresde.numerics.phi import phi
from scoresde.sampling import Sampler, Solver, UniformLogSNR
from scoresde.sampling.exponential import RES, SEEDS, DPMSolverSinglestep, ExponentialRungeKutta, ExponentialTableau
from scoresde.score import GaussianMixtureScore, Prediction, ScoreModel
from scoresde.sde import EDMSDE, SDE, VPSDE
from tests.problems import gaussian, in_turn, short

F64 = torch.float64


def model_of(sde: SDE) -> GaussianMixtureScore:
    means = torch.tensor([[1.0, 0.5], [-0.8, 0.3], [0.1, -1.0]])
    factor = torch.tensor([[0.5, 0.1], [0.0, 0.4]])
    covariances = torch.stack([0.3 * torch.eye(2), factor @ factor.T, 0.2 * torch.eye(2)])
    return GaussianMixtureScore(torch.tensor([0.2, 0.3, 0.5]), means, covariances, sde)


def levels(sde: SDE, steps: int, first: float = 3.0, last: float = 0.3) -> Tensor:
    """Times at noise levels s = σ/α from `first` to `last`, uniform in λ."""
    return sde.time(torch.linspace(-math.log(first), -math.log(last), steps + 1, dtype=F64))


def final(
    solver: Solver, model: ScoreModel, x: Tensor, times: Tensor, noise: Callable[..., Tensor] | None = None
) -> Tensor:
    def silent(*_: float) -> Tensor:
        raise AssertionError("drew noise")

    for state in solver.solve(model, x, times, noise or silent):
        x = state
    return x


@lru_cache
def smooth_problem(kind: Callable[[], SDE]) -> tuple[ScoreModel, Tensor, Tensor]:
    """A model, x/α at s = 3 and x/α at s = 0.3, from d(x/α)/ds = ε."""
    plain = model_of(EDMSDE())
    x = plain.sample(6, 3.0, torch.Generator().manual_seed(0))

    def slope(s: float, y: Any) -> Any:
        return plain.noise(torch.from_numpy(y).reshape(x.shape), s).numpy().ravel()

    out = solve_ivp(slope, (3.0, 0.3), x.numpy().ravel(), method="DOP853", rtol=1e-12, atol=1e-14)
    return model_of(kind()), x, torch.from_numpy(out.y[:, -1]).reshape(x.shape)


DETERMINISTIC = [
    *[(DPMSolverSinglestep(order, p), order) for order in (1, 2, 3) for p in ("noise", "data")],
    *[(RES(2, c2, prediction=p), 2) for c2 in (0.3, 0.5, 1.0) for p in ("noise", "data")],
    *[(RES(3, *c, prediction=p), 3) for c in ((0.5, 1.0), (1 / 3, 2 / 3), (0.4, 0.9)) for p in ("noise", "data")],
    *[(SEEDS(order, tau=0.0), order) for order in (1, 2, 3)],
]


@pytest.mark.parametrize(("case", "kind"), in_turn(DETERMINISTIC, sdes=(VPSDE, EDMSDE)), ids=short)
def test_order(case: tuple[Solver, int], kind: Callable[[], SDE]) -> None:
    solver, order = case
    model, x, truth = smooth_problem(kind)
    errors = []
    for steps in (20, 40):
        times = levels(model.sde, steps)
        first, last = model.sde.alpha(times[[0, -1]])
        errors.append(float((final(solver, model, first * x, times) / last - truth).square().mean().sqrt()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.15)
    assert errors[1] < 0.02


def test_the_published_third_order_needs_its_last_node_at_two_thirds() -> None:
    """DPM-Solver-3 with r₂ = 0.9: b₃ = φ₂/r₂ and a₃₂ = (r₂²/r₁) φ₂(r₂ z) give second order."""
    r1, r2 = 0.4, 0.9
    published = ExponentialTableau((0, r1, r2), ((), (((r2**2 / r1, 2, r2),),)), ((), ((1 / r2, 2, 1.0),)))
    model, x, truth = smooth_problem(EDMSDE)
    errors = {}
    for name, solver in (("published", ExponentialRungeKutta(published, "noise")), ("ours", RES(3, r1, r2))):
        errors[name] = [float((final(solver, model, x, levels(model.sde, n)) - truth).abs().max()) for n in (40, 80)]
    a, b = errors["published"]
    assert math.log2(a / b) == pytest.approx(2, abs=0.15)
    assert errors["ours"][1] < 0.1 * b


# -- order conditions -----------------------------------------------------------------------------------

Z = torch.tensor([-20.0, -2.0, -0.1, 0.0, 0.1, 2.0, 6.0], dtype=F64)


def table(solver: ExponentialRungeKutta) -> tuple[Tensor, Tensor, Tensor]:
    """c `(s,)`, a `(7, s, s)` and b `(7, s)` at the seven z."""
    rows = solver._tableau.coefficients(Z)
    return torch.tensor(solver.nodes, dtype=F64), rows[:, :-1], rows[:, -1]


@pytest.mark.parametrize(("solver", "order"), DETERMINISTIC, ids=[repr(s) for s, _ in DETERMINISTIC])
def test_order_conditions(solver: ExponentialRungeKutta, order: int) -> None:
    """Hochbruck & Ostermann 2005, table 2, for every z; at z = 0 these are Butcher's conditions."""
    c, a, b = table(solver)
    torch.testing.assert_close(b.sum(1), phi(1, Z), rtol=1e-13, atol=1e-14)
    rows = torch.stack([n * phi(1, n * Z) for n in c], dim=1)
    torch.testing.assert_close(a.sum(2), rows, rtol=1e-13, atol=1e-14)
    assert (a.triu() == 0).all()
    zero = int((Z == 0).nonzero())
    stiff = isinstance(solver, RES) or order == 3
    if order >= 2:
        assert float(b[zero] @ c) == pytest.approx(1 / 2)
    if order >= 2 and stiff:
        torch.testing.assert_close(b @ c, phi(2, Z), rtol=1e-13, atol=1e-14)
    if order == 3:
        assert float(b[zero] @ c**2) == pytest.approx(1 / 3)
        # Σ b_i ψ_{2,i} = 0 with ψ_{2,i} = φ₂(c_i z) c_i² − Σ_k a_ik c_k, up to one common factor φ₂.
        psi = torch.stack([n**2 * phi(2, n * Z) for n in c], dim=1) - a @ c
        torch.testing.assert_close(((b * psi)[:, 1:]).sum(1), torch.zeros_like(Z), rtol=0, atol=1e-13)


def test_stiff_order() -> None:
    """y' = L (y − cos w) − sin w with L = −1000: RES 2S keeps second order, DPM-Solver-2's weights lose one."""
    rate = -1000.0

    def error(solver: ExponentialRungeKutta, steps: int) -> float:
        h = 1 / steps
        rows = solver._tableau.coefficients(torch.tensor(rate * h, dtype=F64)).tolist()
        y, w = 1.0, 0.0
        for _ in range(steps):
            forces = [-rate * math.cos(w + c * h) - math.sin(w + c * h) for c in solver.nodes]
            y = math.exp(rate * h) * y + h * sum(b * f for b, f in zip(rows[-1], forces, strict=True))
            w += h
        return abs(y - math.cos(1))

    slopes = [math.log2(error(s, 10) / error(s, 20)) for s in (RES(2), DPMSolverSinglestep(2))]
    assert slopes[0] == pytest.approx(2, abs=0.15)
    assert slopes[1] == pytest.approx(1, abs=0.15)


# -- the papers' algorithms -----------------------------------------------------------------------------


class Papers:
    """Lu et al. 2022a and 2022b, and Gonzalez et al. 2023, step by step in their notation."""

    def __init__(self, sde: SDE, start: float, stop: float, nodes: tuple[float, ...]) -> None:
        lam = sde.log_snr(torch.tensor([start, stop], dtype=F64))
        self.h = float(lam[1] - lam[0])
        self.t = [start, *sde.time(lam[0] + self.h * torch.tensor(nodes, dtype=F64)).tolist(), stop]
        at = torch.tensor(self.t, dtype=F64)
        self.alpha, self.sigma = sde.alpha(at).tolist(), sde.sigma(at).tolist()

    def dpm_2(self, model: ScoreModel, x: Tensor) -> Tensor:
        h, a, s, (t, mid, _) = self.h, self.alpha, self.sigma, self.t
        u = a[1] / a[0] * x - s[1] * math.expm1(h / 2) * model.noise(x, t)
        return a[2] / a[0] * x - s[2] * math.expm1(h) * model.noise(u, mid)

    def dpm_3(self, model: ScoreModel, x: Tensor) -> Tensor:
        h, a, s, r1, r2 = self.h, self.alpha, self.sigma, 1 / 3, 2 / 3
        e = model.noise(x, self.t[0])
        u1 = a[1] / a[0] * x - s[1] * math.expm1(r1 * h) * e
        d1 = model.noise(u1, self.t[1]) - e
        u2 = a[2] / a[0] * x - s[2] * math.expm1(r2 * h) * e
        u2 = u2 - s[2] * r2 / r1 * (math.expm1(r2 * h) / (r2 * h) - 1) * d1
        d2 = model.noise(u2, self.t[2]) - e
        return a[3] / a[0] * x - s[3] * math.expm1(h) * e - s[3] / r2 * (math.expm1(h) / h - 1) * d2

    def dpmpp_2s(self, model: ScoreModel, x: Tensor) -> Tensor:
        h, a, s, (t, mid, _) = self.h, self.alpha, self.sigma, self.t
        u = s[1] / s[0] * x - a[1] * math.expm1(-h / 2) * model.denoise(x, t)
        return s[2] / s[0] * x - a[2] * math.expm1(-h) * model.denoise(u, mid)

    def seeds_1(self, model: ScoreModel, x: Tensor, z: Tensor) -> Tensor:
        h, a, s = self.h, self.alpha, self.sigma
        return a[1] / a[0] * x - 2 * s[1] * math.expm1(h) * model.noise(x, self.t[0]) + s[1] * root(2 * h) * z

    def seeds_2(self, model: ScoreModel, x: Tensor, z1: Tensor, z2: Tensor) -> Tensor:
        h, a, s, (t, mid, _) = self.h, self.alpha, self.sigma, self.t
        u = a[1] / a[0] * x - 2 * s[1] * math.expm1(h / 2) * model.noise(x, t) + s[1] * root(h) * z1
        mean = a[2] / a[0] * x - 2 * s[2] * math.expm1(h) * model.noise(u, mid)
        return mean + s[2] * (math.sqrt(math.exp(2 * h) - math.exp(h)) * z1 + root(h) * z2)

    def seeds_3(self, model: ScoreModel, x: Tensor, z1: Tensor, z2: Tensor, z3: Tensor) -> Tensor:
        h, a, s, r1, r2 = self.h, self.alpha, self.sigma, 1 / 3, 2 / 3
        e = model.noise(x, self.t[0])
        u1 = a[1] / a[0] * x - 2 * s[1] * math.expm1(r1 * h) * e + s[1] * root(2 * r1 * h) * z1
        d1 = model.noise(u1, self.t[1]) - e
        u2 = a[2] / a[0] * x - 2 * s[2] * math.expm1(r2 * h) * e
        u2 = u2 - 2 * s[2] * r2 / r1 * (math.expm1(r2 * h) / (r2 * h) - 1) * d1
        u2 = u2 + s[2] * (gap(2 * r2 * h, 2 * r1 * h) * z1 + root(2 * r1 * h) * z2)
        d2 = model.noise(u2, self.t[2]) - e
        mean = a[3] / a[0] * x - 2 * s[3] * math.expm1(h) * e - 2 * s[3] / r2 * (math.expm1(h) / h - 1) * d2
        last = gap(2 * h, 2 * r2 * h) * z1 + gap(2 * r2 * h, 2 * r1 * h) * z2 + root(2 * r1 * h) * z3
        return mean + s[3] * last


def root(v: float) -> float:
    return math.sqrt(math.expm1(v))


def gap(a: float, b: float) -> float:
    return math.sqrt(math.exp(a) - math.exp(b))


PAPERS = [
    (DPMSolverSinglestep(2), Papers.dpm_2, (1 / 2,), 0),
    (DPMSolverSinglestep(3), Papers.dpm_3, (1 / 3, 2 / 3), 0),
    (DPMSolverSinglestep(2, "data"), Papers.dpmpp_2s, (1 / 2,), 0),
    (SEEDS(1, "noise"), Papers.seeds_1, (), 1),
    (SEEDS(2, "noise"), Papers.seeds_2, (1 / 2,), 2),
    (SEEDS(3, "noise"), Papers.seeds_3, (1 / 3, 2 / 3), 3),
]


@pytest.mark.parametrize(
    ("solver", "step", "nodes", "draws"), PAPERS, ids=lambda v: repr(v) if isinstance(v, Solver) else ""
)
def test_the_papers_formulas(sde: SDE, solver: Solver, step: Any, nodes: tuple[float, ...], draws: int) -> None:
    model = model_of(sde)
    times = levels(sde, 3, 8.0, 0.1)
    x = wanted = model.sample(5, times[0], torch.Generator().manual_seed(2))
    z = torch.randn(3 * draws, 5, 2, dtype=F64, generator=torch.Generator().manual_seed(3)).unbind(0)
    left = list(z)
    for i, (start, stop) in enumerate(pairwise(times.tolist())):
        wanted = step(Papers(sde, start, stop, nodes), model, wanted, *z[i * draws : (i + 1) * draws])
    got = final(solver, model, x, times, lambda *_: left.pop(0))
    assert not left
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-9)


# -- noise ----------------------------------------------------------------------------------------------


class Ignorant(ScoreModel):
    """Predicts 0, and keeps the states it was asked about."""

    def __init__(self, sde: SDE) -> None:
        super().__init__(sde)
        self.states: list[Tensor] = []
        self.times: list[float] = []

    def denoise(self, x: Tensor, t: Tensor, **cond: object) -> Tensor:
        raise AssertionError("asked outside prediction")

    def prediction(self, times: Tensor, p: Tensor, q: Tensor) -> Prediction:
        def predict(x: Tensor, i: int, **cond: object) -> Tensor:
            self.states.append(x)
            self.times.append(float(times[i]))
            return torch.zeros_like(x)

        return predict


class Units:
    """Draw k is 1 in row k and 0 elsewhere: the state's rows are then its coefficients."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.intervals: list[tuple[float, float]] = []

    def __call__(self, start: float | None = None, stop: float | None = None) -> Tensor:
        assert start is not None
        assert stop is not None
        self.intervals.append((start, stop))
        return torch.eye(self.size, dtype=F64)[:, len(self.intervals)][:, None]

    def start(self, scale: float) -> Tensor:
        return scale * torch.eye(self.size, dtype=F64)[:, :1]


STOCHASTIC = [*[SEEDS(order, p) for order in (1, 2, 3) for p in ("data", "noise")], RES(3, tau=1.0), RES(2, tau=1.0)]


@pytest.mark.parametrize("solver", STOCHASTIC, ids=repr)
def test_stages_and_steps_have_the_joint_law_of_the_reverse_process(sde: SDE, solver: ExponentialRungeKutta) -> None:
    """With the data at 0, the reverse SDE is the forward one run backwards: Cov(x_s, x_t) = (α_t/α_s) σ_s², t > s."""
    times = levels(sde, 2, 5.0, 0.2)
    model, units = Ignorant(sde), Units(20)
    x = units.start(float(sde.sigma(times[0])))
    end = final(solver, model, x, times, units)
    states = torch.cat([*model.states, end], dim=1)
    at = torch.tensor([*model.times, float(times[-1])], dtype=F64)
    alpha, variance = sde.alpha(at), (sde.sigma(at) / sde.alpha(at)) ** 2
    if solver.prediction == "data":
        law = torch.minimum(variance[:, None], variance)
    else:
        # ε = 0 leaves of x/α what it was at first and the noise, a martingale in s².
        law = 2 * variance[0] - torch.maximum(variance[:, None], variance)
    got, wanted = states.T @ states, alpha[:, None] * alpha * law
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("solver", [SEEDS(1), SEEDS(2), SEEDS(3), RES(2, tau=1.0), RES(3, tau=1.0)], ids=repr)
def test_noise_of_one_path_adds_up_over_a_finer_grid(solver: Solver) -> None:
    """At a point D is constant: on one Brownian path a coarse grid ends exactly where a fine one does."""
    sde = VPSDE()
    model = GaussianMixtureScore(torch.ones(1), torch.zeros(1, 1), torch.zeros(1), sde)
    x = torch.ones(4, 1, dtype=F64)
    ends = [
        final(solver, model, x, levels(sde, n, 9.0, 0.1), BrownianPath(1, torch.arange(4), (1,), F64)) for n in (2, 12)
    ]
    # The path rounds times to 2⁻¹⁶ of an octave.
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=2e-3 * float(ends[1].std()))


@pytest.mark.slow
@pytest.mark.parametrize("tau", [0.5, 1.0])
def test_all_follow_one_path(tau: float) -> None:
    """First strong order, to the same limit for every order and prediction."""
    sde = EDMSDE()
    model = model_of(sde)
    x = model.sample(128, 3.0, torch.Generator().manual_seed(0))

    def end(solver: Solver, steps: int) -> Tensor:
        return final(solver, model, x, levels(sde, steps), BrownianPath(2, torch.arange(128), (2,), F64))

    truth = end(SEEDS(3, tau=tau), 512)
    for solver in (SEEDS(k, p, tau) for k in (1, 2, 3) for p in ("data", "noise")):
        coarse, fine = ((end(solver, n) - truth).square().mean().sqrt() for n in (32, 128))
        assert fine < 0.02
        assert coarse / fine > 4**0.75


@pytest.mark.parametrize(("order", "tau", "steps", "sde"), in_turn([1, 2, 3], [0.4, 1.0, 3.0], [1, 3]), ids=short)
def test_one_point_is_reproduced_exactly(sde: SDE, order: int, tau: float, steps: int) -> None:
    """Data at a point has a constant D: whatever the steps, the marginal N(α μ, σ²) is exact for every τ."""
    model = GaussianMixtureScore(torch.ones(1), torch.zeros(1, 1), torch.zeros(1), sde)
    times = UniformLogSNR(steps)(sde)
    for solver in (SEEDS(order, "data", tau), RES(max(order, 2), tau=tau)):
        units = Units(20)
        end = final(solver, model, units.start(float(sde.sigma(times[0]))), times, units)
        assert float(end.square().sum().sqrt()) == pytest.approx(float(sde.sigma(times[-1])), rel=1e-9)


WEAK = [
    *[(SEEDS(order, p, tau), min(order, 2)) for order in (1, 2, 3) for p in ("data", "noise") for tau in (0.5, 1.0)],
    (RES(2, tau=1.0), 2),
    (RES(3, tau=1.0), 2),
]


def variance_error(solver: ExponentialRungeKutta, sde: SDE, times: Tensor, variance: float = 0.3) -> float:
    """Relative error of the final variance for N(0, variance) data: exact, since the solver is linear in the noise."""
    first, last = (variance * sde.alpha(times[[0, -1]]) ** 2 + sde.sigma(times[[0, -1]]) ** 2).tolist()
    units = Units(1 + len(solver._tableau.nodes) * (len(times) - 1))
    end = final(solver, gaussian(sde, (1,), 0.0, variance), units.start(math.sqrt(first)), times, units)
    return float(end.square().sum()) / last - 1


@pytest.mark.parametrize("kind", [VPSDE, EDMSDE])
@pytest.mark.parametrize(("solver", "order"), WEAK, ids=[repr(s) for s, _ in WEAK])
def test_weak_order(solver: ExponentialRungeKutta, order: int, kind: Callable[[], SDE]) -> None:
    sde = kind()
    errors = [variance_error(solver, sde, levels(sde, steps)) for steps in (60, 120)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.15)
    assert abs(errors[1]) < 0.02


def test_the_third_stage_and_the_data_prediction_pay_on_short_grids() -> None:
    """What the docstring of SEEDS says, over s from 50 to 0.01 in 10 steps."""
    sde = EDMSDE()
    times = levels(sde, 10, 50.0, 0.01)
    factors = {
        (order, p): 1 + variance_error(SEEDS(order, p), sde, times) for order in (1, 2, 3) for p in ("data", "noise")
    }
    wanted = {(1, "noise"): 1.2, (2, "noise"): 9, (3, "noise"): 1.4}
    wanted |= {(1, "data"): 0.5, (2, "data"): 0.8, (3, "data"): 1.001}
    assert factors == pytest.approx(wanted, rel=0.05)


# -- batches, dtypes, counts, mistakes ------------------------------------------------------------------


@pytest.mark.parametrize(
    "solver",
    [*(DPMSolverSinglestep(k, "data") for k in (1, 2, 3)), RES(2), RES(3), SEEDS(3), RES(3, tau=2.0)],
    ids=repr,
)
def test_every_sde_and_short_grids(sde: SDE, solver: Solver) -> None:
    for steps in (1, 2, 5):
        out = Sampler(solver, UniformLogSNR(steps))(model_of(sde), (3, 2))
        # The data prediction is a mean of data, and weights of φ-functions of −h do not grow.
        assert out.x.abs().max() < 30


def test_given_states_are_left_alone() -> None:
    model = model_of(EDMSDE())
    x = torch.ones(2, 2, dtype=F64)
    fixed = torch.ones(2, 2, dtype=F64)
    runs = [list(SEEDS(3).solve(model, x, levels(model.sde, 3), lambda *_: fixed)) for _ in range(2)]
    assert torch.equal(x, torch.ones(2, 2, dtype=F64))
    assert torch.equal(fixed, torch.ones(2, 2, dtype=F64))
    for a, b in zip(*runs, strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(runs[0][0], runs[0][1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DPMSolverSinglestep(4), "order is 4, expected 1, 2 or 3"),
        (lambda: SEEDS(0), "order is 0, expected 1, 2 or 3"),
        (lambda: RES(1), "order is 1, expected 2 or 3"),
        (lambda: SEEDS(2, tau=-0.5), "tau is -0.5, expected 0 or more"),
        (lambda: SEEDS(2, tau=math.nan), "tau is nan, expected 0 or more"),
        (lambda: RES(2, prediction="velocity"), "prediction is 'velocity', expected 'data' or 'noise'"),  # type: ignore[arg-type]
        (lambda: RES(2, c2=0.0), "c2 is 0.0, expected 0 < c2 <= 1"),
        (lambda: RES(3, c2=0.5, c3=0.5), "c2 is 0.5, c3 is 0.5, expected 0 < c2 < c3 <= 1"),
        (lambda: RES(3, c2=2 / 3, c3=1.0), "give anything but 2/3"),
        (lambda: ExponentialTableau((0.1,)), "expected 0 and then increasing numbers up to 1"),
        (lambda: ExponentialTableau((0, 0.5), ((),), ()), r"rows of \[0, 0\] coefficients for 2 nodes"),
    ],
)
def test_mistakes_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
