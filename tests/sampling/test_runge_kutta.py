"""Runge-Kutta methods: orders on a mixture against a tight reference, EDM's algorithms against their own lines."""

import math
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from typing import Any

import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from scoresde.sampling import ExplicitTimes, Sampler, Solver, UniformLogSNR, UniformTime
from scoresde.sampling.churn import Churn
from scoresde.sampling.runge_kutta import TABLEAUS, Euler, ExplicitTableau, Heun, RungeKutta, stage_times
from scoresde.score import GaussianMixtureScore, Prediction, ScoreModel
from scoresde.sde import EDMSDE, SDE, VESDE, VPSDE, FlowSDE
from scoresde.sde.coordinates import Angle, Coordinate, LevelRatio, LogSNR, NoiseLevel, SignalLevel, Straight, Time
from tests.problems import in_turn, short

F64 = torch.float64
COORDINATES = [Time(), NoiseLevel(), LogSNR(), SignalLevel(), Angle(0.8), Straight(0.8), LevelRatio(0.8)]
ORDERS = {
    "euler": 1,
    "midpoint": 2,
    "heun": 2,
    "ralston": 2,
    "ralston3": 3,
    "heun3": 3,
    "kutta3": 3,
    "rk4": 4,
    "three_eighths": 4,
}


def model_of(sde: SDE) -> GaussianMixtureScore:
    means = torch.tensor([[1.0, 0.5], [-0.8, 0.3], [0.1, -1.0]])
    factor = torch.tensor([[0.5, 0.1], [0.0, 0.4]])
    covariances = torch.stack([0.3 * torch.eye(2), factor @ factor.T, 0.2 * torch.eye(2)])
    return GaussianMixtureScore(torch.tensor([0.2, 0.3, 0.5]), means, covariances, sde)


def reference(model: ScoreModel, x: Tensor, start: float, stop: float, rtol: float = 1e-8) -> Tensor:
    """The endpoint over λ, in which every SDE's flow is smooth: dx/dλ = velocity / (dλ/dt)."""
    sde = model.sde
    ends = sde.log_snr(torch.tensor([start, stop], dtype=F64)).tolist()

    def field(log_snr: float, y: Any) -> Any:
        t = sde.time(torch.tensor(log_snr, dtype=F64)).clamp(sde.t_min, sde.t_max)
        # dλ/dt = −g²/(2σ²)
        rate = -(sde.diffusion(t) ** 2) / (2 * sde.sigma(t) ** 2)
        return (model.velocity(torch.from_numpy(y).reshape(x.shape), t) / rate).numpy().ravel()

    out = solve_ivp(field, ends, x.numpy().ravel(), method="DOP853", rtol=rtol, atol=0.01 * rtol)
    return torch.from_numpy(out.y[:, -1]).reshape(x.shape)


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
    sde = kind()
    model = model_of(sde)
    ends = levels(sde, 1)
    x = model.sample(6, ends[0], torch.Generator().manual_seed(0))
    return model, x, reference(model, x, *ends.tolist(), rtol=1e-12)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "coordinate", "kind"),
    in_turn(list(TABLEAUS), COORDINATES, sdes=(VPSDE, EDMSDE, VESDE)),
    ids=short,
)
def test_order_in_every_coordinate(name: str, coordinate: Coordinate, kind: Callable[[], SDE]) -> None:
    model, x, truth = smooth_problem(kind)
    solver = RungeKutta(name, coordinate)
    errors = [float((final(solver, model, x, levels(model.sde, n)) - truth).square().mean().sqrt()) for n in (20, 40)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(ORDERS[name], abs=0.15)
    assert errors[1] < 0.05


@pytest.mark.parametrize(("solver", "order", "steps"), [(Euler(), 1, 200), (Heun(), 2, 60)], ids=["euler", "heun"])
def test_order_over_the_whole_interval(sde: SDE, solver: Solver, order: int, steps: int) -> None:
    model = model_of(sde)
    start = model.sample(6, sde.t_max, torch.Generator().manual_seed(0))
    times = UniformLogSNR(1)(sde).tolist()
    truth = reference(model, start, times[0], times[-1])
    errors = []
    for n in (steps, 2 * steps):
        x = Sampler(solver, UniformLogSNR(n), denoise=False)(model, x_init=start).x
        errors.append(float((x - truth).square().mean().sqrt()))
    assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.15)
    assert errors[1] < 0.1 * float(truth.std())


@pytest.mark.parametrize("name", list(TABLEAUS))
def test_order_conditions(name: str) -> None:
    """Butcher's conditions: Σ b_i Φ_i(τ) = 1/γ(τ) for every rooted tree τ up to the order."""
    tableau = TABLEAUS[name]
    count = len(tableau.nodes)
    a = torch.zeros(count, count, dtype=F64)
    for j, row in enumerate(tableau.stages, 1):
        a[j, :j] = torch.tensor(row, dtype=F64)
    b, c = torch.tensor(tableau.weights, dtype=F64), torch.tensor(tableau.nodes, dtype=F64)
    trees = [
        (1, torch.ones_like(c), 1),
        (2, c, 2),
        (3, c**2, 3),
        (3, a @ c, 6),
        (4, c**3, 4),
        (4, c * (a @ c), 8),
        (4, a @ c**2, 12),
        (4, a @ a @ c, 24),
    ]
    for order, elementary, gamma in trees:
        if order <= ORDERS[name]:
            assert float(b @ elementary) == pytest.approx(1 / gamma, abs=1e-14)


def test_one_step_by_hand() -> None:
    model = model_of(VPSDE())
    x = torch.tensor([[0.3, -1.2]], dtype=F64)
    times = UniformTime(1, t_min=0.5, t_max=0.6)(model.sde)
    first = model.velocity(x, times[0])
    euler = x - 0.1 * first
    heun = x - 0.05 * (first + model.velocity(euler, times[1]))
    half = times.mean()
    second = model.velocity(x - 0.05 * first, half)
    third = model.velocity(x - 0.05 * second, half)
    fourth = model.velocity(x - 0.1 * third, times[1])
    classical = x - 0.1 * (first + 2 * second + 2 * third + fourth) / 6
    for solver, wanted in ((Euler(), euler), (Heun(), heun), (RungeKutta("rk4"), classical)):
        torch.testing.assert_close(final(solver, model, x, times), wanted, rtol=0, atol=1e-13)


def test_euler_in_the_noise_level_is_ddim(sde: SDE) -> None:
    model = model_of(sde)
    times = UniformLogSNR(3)(sde)
    x = wanted = model.sample(4, times[0], torch.Generator().manual_seed(1))
    for t, s in pairwise(times):
        noise, mean = model.noise(wanted, t), model.denoise(wanted, t)
        wanted = sde.alpha(s) * mean + sde.sigma(s) * noise
    torch.testing.assert_close(final(Euler(NoiseLevel()), model, x, times), wanted, rtol=1e-9, atol=1e-9)


def test_exact_where_the_velocity_is_constant() -> None:
    """A point under the straight interpolant: x_t = (1 − t) μ + t ε moves at ε − μ; one step of any is exact."""
    model = GaussianMixtureScore(torch.ones(1), torch.tensor([[0.4, -2.0]]), torch.zeros(1), FlowSDE())
    noise = torch.tensor([[1.0, 0.5], [-0.3, 2.0]], dtype=F64)
    x = 0.001 * model.means + 0.999 * noise
    for name in TABLEAUS:
        out = Sampler(RungeKutta(name), UniformTime(1), denoise=False)(model, x_init=x).x
        torch.testing.assert_close(out, 0.999 * model.means + 0.001 * noise, rtol=0, atol=1e-9)


# -- EDM ------------------------------------------------------------------------------------------------

SIGMAS = (9.0, 4.0, 1.7, 0.6, 0.2, 0.05)


def edm_times(sde: SDE) -> Tensor:
    return sde.time(-torch.tensor(SIGMAS, dtype=F64).log())


def edm_algorithm(
    model: ScoreModel, x: Tensor, churn: float, low: float, high: float, s_noise: float, draws: list[Tensor]
) -> tuple[Tensor, int]:
    """Karras et al. 2022, algorithm 2 (and 1, without churn), in σ with a final σ of 0; as in our `Sampler`, the
    last noise level is not churned. Returns the sample and the number of evaluations."""
    sigmas = [*SIGMAS, 0.0]
    steps, calls = len(SIGMAS), 0
    draws = list(draws)

    def slope(x: Tensor, sigma: float) -> Tensor:
        nonlocal calls
        calls += 1
        return (x - model.denoise(x, sigma)) / sigma

    for i, (sigma, following) in enumerate(pairwise(sigmas)):
        inside = low <= sigma <= high and i < steps - 1
        gamma = min(churn / steps, math.sqrt(2) - 1) if inside else 0.0
        hat = min(sigma * (1 + gamma), model.sde.t_max)
        if hat > sigma:
            x = x + math.sqrt(hat**2 - sigma**2) * s_noise * draws.pop(0)
        d = slope(x, hat)
        nxt = x + (following - hat) * d
        if following > 0:
            nxt = x + (following - hat) * (d + slope(nxt, following)) / 2
        x = nxt
    assert not draws
    return x, calls


def draws_of(count: int, like: Tensor) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(like.shape, dtype=F64, generator=generator) for _ in range(count)]


@pytest.mark.parametrize("kind", [EDMSDE, VPSDE, FlowSDE])
def test_algorithm_1(kind: Callable[[], SDE]) -> None:
    edm, model = model_of(EDMSDE()), model_of(kind())
    x = SIGMAS[0] * draws_of(1, torch.zeros(5, 2))[0]
    wanted, calls = edm_algorithm(edm, x, 0.0, 0.0, math.inf, 1.0, [])
    times = edm_times(model.sde)
    for churn in (None, Churn(0.0), Churn(40.0, s_min=100.0)):
        sampler = Sampler(Heun(NoiseLevel(), churn), ExplicitTimes(times.tolist()))
        out = sampler(model, x_init=model.sde.alpha(times[0]) * x)
        torch.testing.assert_close(out.x, wanted, rtol=0, atol=1e-9)
        # n noise levels and 0: 2n − 1.
        assert out.nfe == calls == 2 * len(SIGMAS) - 1


@pytest.mark.parametrize("kind", [EDMSDE, VPSDE])
@pytest.mark.parametrize(
    ("churn", "count"),
    [(Churn(1.2), 5), (Churn(40.0, 0.1, 5.0, 1.003), 4), (Churn(0.5, 0.5, 0.7), 1)],
    ids=repr,
)
def test_algorithm_2(churn: Churn, count: int, kind: Callable[[], SDE]) -> None:
    edm, model = model_of(EDMSDE()), model_of(kind())
    x, *draws = draws_of(count + 1, torch.zeros(5, 2))
    x = SIGMAS[0] * x
    wanted, _ = edm_algorithm(edm, x, churn.amount, churn.s_min, churn.s_max, churn.s_noise, draws)
    times = edm_times(model.sde)
    left = list(draws)
    end = final(Heun(NoiseLevel(), churn), model, model.sde.alpha(times[0]) * x, times, lambda *_: left.pop(0))
    assert not left
    torch.testing.assert_close(model.denoise(end, times[-1]), wanted, rtol=0, atol=1e-9)


def test_churn_does_not_leave_the_interval(sde: SDE) -> None:
    times = UniformLogSNR(40)(sde)
    start, spread = Churn(1e6).starts(sde, times)
    assert (start <= sde.t_max).all()
    assert (start >= times[:-1]).all()
    # At t_max there is nothing to add; next to it the level is clamped to that of t_max.
    assert start[0] == sde.t_max
    assert spread[0] == 0
    assert (spread[1:] > 0).all()
    level, raised = (-sde.log_snr(times[:-1])).exp(), (-sde.log_snr(start)).exp()
    torch.testing.assert_close(spread**2, raised**2 - level**2, rtol=1e-6, atol=1e-12)
    top = float((-sde.log_snr(torch.tensor(sde.t_max, dtype=F64))).exp())
    torch.testing.assert_close(raised, (math.sqrt(2) * level).clamp(max=top), rtol=1e-9, atol=0)


def linear_variance(solver: Solver, model: ScoreModel, times: Tensor, variance: float) -> float:
    """The variance at the end, exactly, for centred Gaussian data, under which every solver is linear: column 0
    starts from 1 with no noise, column k from 0 with 1 for draw k."""
    size = 1 + 8 * len(times)
    x = torch.zeros(size, 1, dtype=F64)
    x[0] = 1
    drawn = 0

    def noise(*_: float) -> Tensor:
        nonlocal drawn
        drawn += 1
        return torch.eye(size, dtype=F64)[:, drawn : drawn + 1]

    weights = final(solver, model, x, times, noise).flatten()
    return float(weights[0] ** 2 * variance + weights[1:].square().sum())


@pytest.mark.parametrize("kind", [VPSDE, EDMSDE])
def test_churn_keeps_the_variance_of_gaussian_data(kind: Callable[[], SDE]) -> None:
    sde = kind()
    model = GaussianMixtureScore(torch.ones(1), torch.zeros(1, 1), torch.tensor([0.3]), sde)
    errors = {}
    for steps in (60, 120):
        times = levels(sde, steps, 5.0, 0.1)
        first, last = (0.3 * sde.alpha(times[[0, -1]]) ** 2 + sde.sigma(times[[0, -1]]) ** 2).tolist()
        solver = Heun(NoiseLevel(), Churn(4.0))
        errors[steps] = linear_variance(solver, model, times, first) / last - 1
    # The noise is exact, so the second order is Heun's.
    assert math.log2(errors[60] / errors[120]) == pytest.approx(2, abs=0.15)
    assert abs(errors[120]) < 1e-3
    wrong = linear_variance(Heun(NoiseLevel(), Churn(4.0, s_noise=1.1)), model, times, first) / last - 1
    assert wrong > 10 * abs(errors[120])


# -- times, calls, batches ------------------------------------------------------------------------------


class Recorder(ScoreModel):
    """Counts calls of `prediction` and of what it returns, and keeps the times."""

    def __init__(self, model: ScoreModel) -> None:
        super().__init__(model.sde, model.statistics)
        self.model = model
        self.made = 0
        self.calls: list[float] = []

    def denoise(self, x: Tensor, t: Tensor, **cond: object) -> Tensor:
        raise AssertionError("asked outside prediction")

    def prediction(self, times: Tensor, p: Tensor, q: Tensor) -> Prediction:
        inner = self.model.prediction(times, p, q)
        self.made += 1

        def predict(x: Tensor, i: int, **cond: object) -> Tensor:
            self.calls.append(float(times[i]))
            return inner(x, i)

        return predict


@pytest.mark.parametrize("name", list(TABLEAUS))
def test_one_prediction_and_one_call_a_stage(name: str) -> None:
    model = Recorder(model_of(VPSDE()))
    times = levels(model.sde, 4)
    final(RungeKutta(name, Angle()), model, torch.ones(2, 2, dtype=F64), times)
    assert model.made == 1
    count = len(TABLEAUS[name].nodes)
    assert len(model.calls) == 4 * count
    # Every step begins with an evaluation at its own first time.
    assert model.calls[::count] == times[:-1].tolist()


@pytest.mark.parametrize("coordinate", COORDINATES, ids=lambda c: type(c).__name__)
def test_stages_stay_inside_their_steps(sde: SDE, coordinate: Coordinate) -> None:
    times = UniformLogSNR(50)(sde)
    nodes = (0, 1e-17, 0.25, 1 - 1e-16, 1)
    inner = stage_times(coordinate, sde, times[:-1], times[1:], nodes)
    assert torch.equal(inner[:, 0], times[:-1])
    assert torch.equal(inner[:, -1], times[1:])
    assert (inner <= times[:-1, None]).all()
    assert (inner >= times[1:, None]).all()
    w = coordinate.variable(sde, torch.stack((times[:-1], inner[:, 2], times[1:])))
    torch.testing.assert_close(w[1] - w[0], 0.25 * (w[2] - w[0]), rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("name", list(TABLEAUS))
@pytest.mark.parametrize("coordinate", [Time(), NoiseLevel(), Angle(0.8)], ids=lambda c: type(c).__name__)
def test_every_method_runs_on_the_whole_interval(sde: SDE, name: str, coordinate: Coordinate) -> None:
    # Uniform λ: in other grids a step may be far beyond what a polynomial follows.
    out = Sampler(RungeKutta(name, coordinate), UniformLogSNR(12))(model_of(sde), (3, 2))
    assert out.nfe == 12 * len(TABLEAUS[name].nodes) + 1
    assert out.x.abs().max() < 30


def test_a_deterministic_solver_draws_no_noise() -> None:
    model = model_of(VPSDE())
    x = torch.randn(3, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
    for solver in (Euler(), Heun()):
        a = Sampler(solver, UniformTime(5))(model, x_init=x, seed=0).x
        assert torch.equal(a, Sampler(solver, UniformTime(5))(model, x_init=x, seed=1).x)


def test_the_state_before_a_step_is_left_alone() -> None:
    model = model_of(EDMSDE())
    x = torch.ones(2, 2, dtype=F64)
    solver = Heun(NoiseLevel(), Churn(40.0))
    states = list(solver.solve(model, x, levels(model.sde, 3), lambda *_: torch.ones(2, 2, dtype=F64)))
    again = list(solver.solve(model, x, levels(model.sde, 3), lambda *_: torch.ones(2, 2, dtype=F64)))
    assert torch.equal(x, torch.ones(2, 2, dtype=F64))
    for a, b in zip(states, again, strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(states[0], states[1])


# -- mistakes -------------------------------------------------------------------------------------------


def test_an_unknown_tableau_is_one_line_with_the_known_ones() -> None:
    with pytest.raises(
        ValueError, match=r"tableau is 'rk5', expected one of euler, .*three_eighths, or an ExplicitTableau$"
    ):
        RungeKutta("rk5")


@pytest.mark.parametrize(
    ("nodes", "stages", "weights", "message"),
    [
        ((0, 0.5), (), (0, 1), r"expected stages of \[1\] and 2 weights"),
        ((0, 0.5), ((0.5,),), (1,), r"1 weights, expected .* 2 weights"),
        ((0, 0.5), ((0.4,),), (0, 1), r"sums to 0.4, expected its node 0.5"),
        ((0, 0.5), ((0.5,),), (0, 0.9), r"weights sum to 0.9, expected 1"),
        ((0, 1.5), ((1.5,),), (0, 1), r"all between 0 and 1"),
        ((0.5, 1), ((1,),), (0, 1), r"expected 0 first"),
    ],
)
def test_an_inconsistent_tableau_is_refused(nodes: Any, stages: Any, weights: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExplicitTableau("mine", nodes, stages, weights)


def test_a_tableau_of_ones_own() -> None:
    mine = ExplicitTableau("mine", (0, 0.3), ((0.3,),), (1 - 1 / 0.6, 1 / 0.6))
    model, x, truth = smooth_problem(VPSDE)
    errors = [
        float((final(RungeKutta(mine, LogSNR()), model, x, levels(model.sde, n)) - truth).abs().max()) for n in (40, 80)
    ]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.15)
    assert repr(RungeKutta(mine)) == "RungeKutta(tableau=mine, coordinate=Time(), churn=None)"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"amount": -1.0}, "amount of churn is -1.0, expected 0 or more"),
        ({"amount": math.nan}, "amount of churn is nan"),
        ({"amount": 1.0, "s_min": 2.0, "s_max": 1.0}, "expected 0 <= s_min <= s_max"),
        ({"amount": 1.0, "s_noise": -0.1}, "s_noise of churn is -0.1"),
    ],
)
def test_bad_churn_is_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Churn(**arguments)
