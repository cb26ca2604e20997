"""Multistep solvers: weights, orders, and the variance of a Gaussian; `test_named.py` has the published updates."""

import copy
import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from scoresde.numerics.phi import phi
from scoresde.sampling.adams import Multistep
from scoresde.sampling.external import ScipyODE
from scoresde.sampling.grids import ExplicitTimes, KarrasGrid, UniformLogSNR, UniformTime
from scoresde.sampling.sampler import Sampler
from scoresde.sampling.stochasticity import ConstantTau, Eta, IntervalTau, Stochasticity
from scoresde.score import GaussianMixtureScore
from scoresde.sde import EDMSDE, SDE, VPSDE, FlowSDE
from scoresde.sde.coordinates import Angle, Coordinate, LogSNR, NoiseLevel, SignalLevel, Straight, Time
from tests.problems import SDES, Mixture, in_turn, short

DATA: dict[str, Any] = {"coordinate": SignalLevel(), "interpolation": LogSNR()}
NOISE: dict[str, Any] = {"coordinate": NoiseLevel(), "interpolation": LogSNR()}


def run(solver: Multistep, model: GaussianMixtureScore, times: Tensor, x: Tensor, seed: int = 0) -> Tensor:
    return Sampler(solver, ExplicitTimes(times.tolist()), denoise=False)(model, x_init=x, seed=seed).x


class _Recorded:
    """Standard normal draws that a test can read again."""

    def __init__(self, like: Tensor) -> None:
        self.generator = torch.Generator().manual_seed(5)
        self.like = like
        self.draws: list[Tensor] = []

    def __call__(self, start: float | None = None, stop: float | None = None) -> Tensor:
        self.draws.append(torch.randn(self.like.shape, dtype=self.like.dtype, generator=self.generator))
        return self.draws[-1]


@pytest.fixture
def start() -> Tensor:
    return 2 * torch.randn(7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def _levels(sde: SDE, times: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return sde.alpha(times), sde.sigma(times), sde.log_snr(times)


# -- published formulas, written out ---------------------------------------------------------------------


def test_ddim_is_the_same_in_every_coordinate_without_memory(sde: SDE, planar: Mixture, start: Tensor) -> None:
    # one value: x₀ and ε both constant is a straight line only for these two; the rest differ at second order
    model, times = planar.model(sde), UniformLogSNR(5)(sde)
    x = run(Multistep(1, **DATA), model, times, start)
    torch.testing.assert_close(run(Multistep(1, **NOISE), model, times, start), x, rtol=1e-10, atol=1e-10)
    assert not torch.allclose(run(Multistep(1), model, times, start), x, rtol=1e-3)


def test_third_order_weights_are_those_of_the_phi_functions(sde: SDE) -> None:
    # ∫ e^{−(λ_t − λ)} L_j(λ) dλ by Newton's differences: φ₁, φ₂ and twice φ₃
    times = UniformLogSNR(6)(sde)
    a, _, lam = _levels(sde, times)
    _, steps = Multistep(3, **DATA).plan(sde, times)
    for i in range(2, 6):
        h = lam[i + 1] - lam[i]
        nodes = (lam[[i, i - 1, i - 2]] - lam[i]) / h
        moments = torch.stack([h * math.factorial(k) * (phi(k + 1, -h)) for k in range(3)])
        # moments of θ^k under e^{−h(1 − θ)} dθ
        inverse = torch.linalg.inv(torch.stack([nodes**k for k in range(3)]))
        expected = a[i + 1] * inverse @ moments
        torch.testing.assert_close(
            torch.tensor(steps[i].predictor[0], dtype=torch.float64), expected, rtol=1e-9, atol=1e-12
        )


# -- orders ----------------------------------------------------------------------------------------------

FAMILIES: dict[str, dict[str, Coordinate | None]] = {
    "data": DATA,
    "noise": NOISE,
    "rho": {"coordinate": NoiseLevel()},
    "tab": {"coordinate": NoiseLevel(), "interpolation": Time()},
    "angle": {"coordinate": Angle(1.2)},
    "straight": {"coordinate": Straight()},
    "angle_in_log_snr": {"coordinate": Angle(), "interpolation": LogSNR()},
}


@pytest.fixture(scope="module")
def references() -> dict[str, tuple[GaussianMixtureScore, Tensor, Tensor]]:
    result = {}
    for name, sde in (("vp", VPSDE(t_min=1e-3)), ("edm", EDMSDE(0.02, 80.0)), ("flow", FlowSDE())):
        model = Mixture("full", (2,)).model(sde)
        x = model.sample(6, sde.t_max, torch.Generator().manual_seed(1))
        exact = Sampler(ScipyODE("DOP853", 1e-13, 1e-13), UniformTime(1), denoise=False)(model, x_init=x).x
        result[name] = (model, x, exact)
    return result


@pytest.mark.parametrize(
    ("orders", "family", "name"),
    in_turn([(1, 0), (2, 0), (3, 0), (1, 1), (2, 2)], list(FAMILIES), sdes=("vp", "edm", "flow")),
    ids=short,
)
def test_order(
    references: dict[str, tuple[GaussianMixtureScore, Tensor, Tensor]], name: str, family: str, orders: tuple[int, int]
) -> None:
    model, x, exact = references[name]
    order, corrector = orders
    solver = Multistep(order, corrector, **FAMILIES[family])
    nominal = corrector + 1 if corrector else order
    errors = [
        float((run(solver, model, _graded(model.sde, n), x) - exact).norm())
        for n in ((100, 200) if nominal < 3 else (200, 400))
    ]
    assert abs(math.log2(errors[0] / errors[1]) - nominal) < 0.15, errors


def _graded(sde: SDE, steps: int) -> Tensor:
    """Uniform in λ but for a ramp of small first steps: those of lower order would leave an error of second order."""
    first, last = (float(sde.log_snr(torch.tensor(t, dtype=torch.float64))) for t in (sde.t_max, sde.t_min))
    lam = torch.linspace(first, last, steps + 1, dtype=torch.float64)
    ramp = first + (lam[1] - lam[0]) * 2.0 ** torch.arange(-10, 0, dtype=torch.float64)
    times = sde.time(torch.cat((lam[:1], ramp, lam[1:])))
    times[0], times[-1] = sde.t_max, sde.t_min
    return times


@pytest.mark.parametrize(
    ("orders", "family", "name"),
    in_turn([(4, 0), (3, 3), (4, 4)], ["data", "noise", "rho", "tab", "angle", "straight"], sdes=("vp", "flow")),
    ids=short,
)
def test_high_order(
    references: dict[str, tuple[GaussianMixtureScore, Tensor, Tensor]], name: str, family: str, orders: tuple[int, int]
) -> None:
    model, x, exact = references[name]
    order, corrector = orders
    nominal = corrector + 1 if corrector else order
    errors = [
        float((run(Multistep(order, corrector, **FAMILIES[family]), model, _graded(model.sde, n), x) - exact).norm())
        for n in ((250, 500) if nominal == 4 else (400, 800))
    ]
    assert abs(math.log2(errors[0] / errors[1]) - nominal) < 0.15, errors


# -- stochastic ------------------------------------------------------------------------------------------


def _variance(solver: Multistep, sde: SDE, times: Tensor, std: float) -> float:
    """The variance of the last state for data N(0, std²), exactly: the solver is linear in the start and the draws."""
    model = GaussianMixtureScore(torch.ones(1), torch.zeros(1, 1), torch.tensor([std**2]), sde)
    steps = len(times) - 1
    x = torch.zeros(steps + 1, 1, dtype=torch.float64)
    x[0] = math.hypot(float(sde.alpha(times[0])) * std, float(sde.sigma(times[0])))
    draw = iter(torch.eye(steps + 1, dtype=torch.float64)[1:, :, None])
    *_, x = solver.solve(model, x, times, lambda start=None, stop=None: next(draw))
    return float(x.square().sum())


STOCHASTIC = {
    "ancestral": (Multistep(1, tau=Eta(1.0), **DATA), 1),
    "dpmpp_1m_sde": (Multistep(1, tau=1.0, **DATA), 1),
    "dpmpp_2m_sde": (Multistep(2, weights="bh2", tau=1.0, **DATA), 2),
    "exact_2": (Multistep(2, tau=1.0, **DATA), 2),
    "dpmpp_3m_sde": (Multistep(3, tau=1.0, **DATA), 2),
    "sa_solver": (Multistep(3, 3, tau=0.7, **DATA), 2),
    "noise_2": (Multistep(2, tau=1.0, **NOISE), 2),
    "straight": (Multistep(2, coordinate=Straight(), tau=1.0), 2),
}


@pytest.mark.parametrize("name", STOCHASTIC)
@pytest.mark.parametrize("sde", [VPSDE(), EDMSDE()], ids=["vp", "edm"])
def test_weak_order_of_the_variance(name: str, sde: SDE) -> None:
    solver, nominal = STOCHASTIC[name]
    std = 0.5
    errors = []
    # The slope is 2.12 up to 400 steps in one, and falls to 2.
    for n in (400, 800) if name == "sa_solver" else (200, 400):
        times = _graded(sde.between(float(sde.time(torch.tensor(3.0).double())), sde.t_max), n)
        true = float((sde.alpha(times[-1]) * std) ** 2 + sde.sigma(times[-1]) ** 2)
        errors.append(abs(_variance(solver, sde, times, std) - true))
    # the noise within a step moves P, which no polynomial through its past sees: order 2 is the most there is
    assert abs(math.log2(errors[0] / errors[1]) - nominal) < 0.1, errors


@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("steps", [1, 3, 20])
def test_the_angle_of_the_data_has_the_variance_of_a_gaussian_exactly(sde: SDE, tau: float, steps: int) -> None:
    # P is 0, and the noise restores what the linear part takes
    times = KarrasGrid(steps)(sde)
    true = float((sde.alpha(times[-1]) * 0.5) ** 2 + sde.sigma(times[-1]) ** 2)
    solver = Multistep(min(steps, 3), coordinate=Angle(0.5), tau=tau)
    assert _variance(solver, sde, times, 0.5) == pytest.approx(true, rel=1e-10)


def test_a_point_mass_is_hit_exactly_with_data_prediction(sde: SDE) -> None:
    for tau in (ConstantTau(0.3), ConstantTau(1.5), IntervalTau(1.0, 0.1, 2.0), Eta(0.6)):
        times = KarrasGrid(7)(sde)
        solver = Multistep(1, tau=tau, **DATA)
        got = _variance(solver, sde, times, 1e-9)
        assert got == pytest.approx(float(sde.sigma(times[-1]) ** 2), rel=1e-9)


def test_no_noise_is_drawn_outside_the_interval(planar: Mixture, start: Tensor) -> None:
    sde = EDMSDE()
    times = KarrasGrid(20)(sde)
    noise = _Recorded(start)
    list(Multistep(2, tau=IntervalTau(1.0, 0.05, 2.0), **DATA).solve(planar.model(sde), start, times, noise))
    inside = ((times[1:] < 2.0) & (times[:-1] > 0.05)).sum()
    assert len(noise.draws) == int(inside)


def test_tau_of_zero_is_the_ode(planar: Mixture, start: Tensor) -> None:
    model, times = planar.model(VPSDE()), KarrasGrid(9)(VPSDE())
    assert torch.equal(
        run(Multistep(3, 2, tau=0.0, **DATA), model, times, start), run(Multistep(3, 2, **DATA), model, times, start)
    )


def test_a_stochastic_corrector_keeps_the_predictors_noise(planar: Mixture, start: Tensor) -> None:
    noise = _Recorded(start)
    list(Multistep(2, 2, tau=1.0, **DATA).solve(planar.model(VPSDE()), start, KarrasGrid(9)(VPSDE()), noise))
    assert len(noise.draws) == 9


@pytest.mark.parametrize("tau", [Eta(1.0), 1.0, 0.5])
def test_mixture_is_sampled(planar: Mixture, tau: Stochasticity | float) -> None:
    sde = VPSDE()
    model = planar.model(sde)
    x = Sampler(Multistep(2, tau=tau, **DATA), UniformLogSNR(200), denoise=False)(model, (4000, 2), seed=1).x
    exact = model.sample(4000, sde.t_min_sampling, torch.Generator().manual_seed(2))
    # mean and covariance: standard errors of 4000 draws, five of them
    spread = exact.std(0) / math.sqrt(4000)
    assert bool(((x.mean(0) - exact.mean(0)).abs() < 5 * 1.5 * spread).all())
    assert torch.allclose(x.T.cov(), exact.T.cov(), atol=5 * 1.5 * float(exact.var(0).max()) * math.sqrt(2 / 4000))


# -- what holds for all ----------------------------------------------------------------------------------

SETTINGS = [
    Multistep(3, 3, centre=True, start="gaussian"),
    Multistep(2, weights="bh2", tau=1.0, **DATA),
    Multistep(4, coordinate=NoiseLevel(), weights="uniform", lower_order_final=True),
    Multistep(2, 1, coordinate=Straight(0.7), tau=0.5, centre=True),
]


@pytest.mark.parametrize("solver", SETTINGS, ids=range(len(SETTINGS)))
@pytest.mark.parametrize("name", ["vp", "ve", "edm"])
def test_float32_agrees_with_float64(solver: Multistep, name: str, planar: Mixture) -> None:
    model = planar.model(SDES[name])
    sampler = Sampler(solver, KarrasGrid(20))
    fine, coarse = (sampler(model, (50, 2), seed=4, dtype=d).x for d in (torch.float64, torch.float32))
    assert coarse.dtype == torch.float32
    scale = float(model.sde.sigma(torch.tensor(model.sde.t_max)))
    # round-off of the first states, carried to the end; and draws that differ by float32
    assert float((coarse - fine).abs().median()) < 2e-6 * max(scale, 1.0)


def test_evaluations() -> None:
    model = Mixture("full", (2,)).model(VPSDE())
    for solver, nfe in ((Multistep(3, 3), 7), (Multistep(3, 3, start="gaussian"), 6), (Multistep(1), 7)):
        assert Sampler(solver, KarrasGrid(7), denoise=False)(model, (2, 2)).nfe == nfe
        assert Sampler(solver, KarrasGrid(7))(model, (2, 2)).nfe == nfe + 1


def test_the_gaussian_start_is_exact_for_a_gaussian(planar: Mixture) -> None:
    # and stays a good guess for a mixture, whose third cumulants are small at t_max
    sde = VPSDE()
    single = GaussianMixtureScore(torch.ones(1), planar.means[:1], planar.full[:1], sde)
    x = single.sample(20, sde.t_max, torch.Generator().manual_seed(1))
    times = UniformLogSNR(12)(sde)
    mine, models = (run(Multistep(3, 2, start=s, centre=True), single, times, x) for s in ("gaussian", "model"))  # type: ignore[arg-type]
    torch.testing.assert_close(mine, models, rtol=1e-9, atol=1e-9)
    model = planar.model(sde)
    mine, models = (run(Multistep(3, 2, start=s, centre=True), model, times, x) for s in ("gaussian", "model"))  # type: ignore[arg-type]
    assert 0 < float((mine - models).abs().max()) < 0.02


def test_the_gaussian_start_is_not_used_under_conditions() -> None:
    class Conditional(GaussianMixtureScore, same_field=True):
        def takes_condition(self, name: str) -> bool:
            return name == "labels"

        def denoise(self, x: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
            return super().denoise(x, t)

        def noise(self, x: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
            return super().noise(x, t)

    model = Conditional(torch.ones(2), torch.eye(2), torch.full((2,), 0.01), VPSDE())
    sampler = Sampler(Multistep(2, start="gaussian"), KarrasGrid(7), denoise=False)
    assert sampler(model, (2, 2)).nfe == 6
    assert sampler(model, (2, 2), labels=torch.tensor([0, 1])).nfe == 7


def test_centring_commutes_with_a_shift_of_the_data(sde: SDE, planar: Mixture) -> None:
    times = KarrasGrid(6)(sde)
    shift = torch.tensor([30.0, -7.0], dtype=torch.float64)
    model = GaussianMixtureScore(planar.weights, planar.means, planar.full, sde)
    moved = GaussianMixtureScore(planar.weights, planar.means + shift, planar.full, sde)
    x = model.sample(5, sde.t_max, torch.Generator().manual_seed(1))
    solver = Multistep(3, 3, centre=True, tau=None)
    a = run(solver, model, times, x)
    b = run(solver, moved, times, x + sde.alpha(times[0]) * shift)
    torch.testing.assert_close(b - sde.alpha(times[-1]) * shift, a, rtol=1e-8, atol=1e-8)


def test_lower_order_final_ends_with_a_step_of_first_order(planar: Mixture) -> None:
    sde = VPSDE()
    _, steps = Multistep(3, lower_order_final=True, **DATA).plan(sde, KarrasGrid(6)(sde))
    assert [len(s.predictor[0]) for s in steps] == [1, 2, 3, 3, 2, 1]


def test_a_thousand_steps_keep_to_the_reference(planar: Mixture) -> None:
    model = planar.model(VPSDE())
    x = model.sample(5, 1.0, torch.Generator().manual_seed(1))
    fine = [Sampler(Multistep(4, 4), UniformLogSNR(n), denoise=False)(model, x_init=x).x for n in (1000, 500)]
    torch.testing.assert_close(*fine, rtol=1e-7, atol=1e-7)


def test_bfloat16_network_around_a_float32_state() -> None:
    from scoresde.networks import MLP
    from scoresde.preconditioning import EDMPreconditioning
    from scoresde.score import NetworkScore

    torch.manual_seed(0)
    network = MLP(shape=(4,), width=16, blocks=1)
    with torch.no_grad():
        for parameter in network.parameters():  # the last layer starts at 0
            parameter.add_(0.1 * torch.randn_like(parameter))
    out = [
        Sampler(Multistep(2, 1), KarrasGrid(5))(
            NetworkScore(net, VPSDE(), EDMPreconditioning()), (3, 4), dtype=torch.float32
        ).x
        for net in (network, copy.deepcopy(network).bfloat16())
    ]
    assert out[1].dtype == torch.float32
    assert 0 < float((out[0] - out[1]).abs().max()) < 0.1


def test_too_few_steps_lower_the_order_with_one_warning(planar: Mixture, start: Tensor) -> None:
    model, times = planar.model(VPSDE()), KarrasGrid(2)(VPSDE())
    with pytest.warns(UserWarning, match="order 4 needs at least 4 steps, the grid has 2") as caught:
        x = run(Multistep(4, **DATA), model, times, start)
    assert len(caught) == 1
    assert torch.equal(x, run(Multistep(2, **DATA), model, times, start))
    with pytest.raises(ValueError, match="order 4 needs at least 4 steps, the grid has 2: take more steps or a lower"):
        run(Multistep(4, strict=True, **DATA), model, times, start)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"order": 5}, "order is 5, expected 1, 2, 3 or 4"),
        ({"order": 0}, "order is 0"),
        ({"corrector": 5}, "corrector is 5"),
        ({"weights": "bh3"}, "weights is 'bh3', expected 'exact', 'uniform', 'bh1' or 'bh2'"),
        ({"start": "zero"}, "start is 'zero', expected 'model' or 'gaussian'"),
        ({"tau": -0.1}, "tau is -0.1, expected a number of at least 0"),
        ({"tau": math.nan}, "tau is nan"),
    ],
)
def test_wrong_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Multistep(**arguments)  # type: ignore[arg-type]


def test_wrong_stochasticity() -> None:
    with pytest.raises(ValueError, match="eta is 1.5, expected a number from 0"):
        Eta(1.5)
    with pytest.raises(ValueError, match="expected 0 < s_min < s_max"):
        IntervalTau(1.0, 2.0, 1.0)
    with pytest.raises(ValueError, match="tau is -1"):
        IntervalTau(-1.0)
    with pytest.raises(ValueError, match="std is 0.0, expected a positive number"):
        Angle(0.0)


@pytest.mark.parametrize("share", [0.25, 0.6])
def test_a_relaxed_corrector_makes_a_share_of_the_change(share: float) -> None:
    """After the first step, whose predictor and value at the end are the same whatever the corrector does."""
    model = GaussianMixtureScore(
        torch.ones(2), torch.tensor([[1.0, 0.5], [-0.8, 0.3]]), torch.tensor([0.1, 0.3]), VPSDE()
    )
    x = model.sample(5, 1.0, torch.Generator().manual_seed(0))
    times = UniformLogSNR(4)(model.sde)

    def first(corrector: int, relaxation: float) -> Tensor:
        method = Multistep(2, corrector, Angle(0.7), centre=True, relaxation=relaxation)
        with torch.no_grad():
            return next(iter(method.solve(model, x, times, lambda *_: x)))

    plain, whole = first(0, 1.0), first(2, 1.0)
    assert (plain - whole).abs().max() > 1e-3
    torch.testing.assert_close(first(2, share), torch.lerp(plain, whole, share), rtol=1e-12, atol=1e-12)
    for bad in (0.0, 1.5, -1.0):
        with pytest.raises(ValueError, match=r"relaxation is .*, expected more than 0 and at most 1"):
            Multistep(relaxation=bad)


@pytest.mark.parametrize(("order", "corrector"), [(2, 1), (4, 1), (3, 2), (2, 3)])
def test_a_relaxed_corrector_keeps_the_values_that_it_needs(order: int, corrector: int) -> None:
    """Every step of both is consistent, so that the end converges whichever uses more values."""
    model = GaussianMixtureScore(
        torch.ones(2), torch.tensor([[1.0, 0.5], [-0.8, 0.3]]), torch.tensor([0.1, 0.3]), VPSDE()
    )
    x = model.sample(20, 1.0, torch.Generator().manual_seed(0))
    method = Multistep(order, corrector, centre=True, relaxation=0.5)
    coarse, fine = (Sampler(method, UniformLogSNR(n))(model, x_init=x).x for n in (100, 400))
    assert float((coarse - fine).norm(dim=1).max()) < 0.01


def test_a_plan_is_made_anew_for_other_times_sdes_and_data() -> None:
    method = Multistep(3, 2)
    cases = [
        (VPSDE(), UniformLogSNR(5), 1.0),
        (VPSDE(), UniformLogSNR(5), 0.5),
        (EDMSDE(), UniformLogSNR(5), 0.5),
        (EDMSDE(), KarrasGrid(5), 0.5),
        (EDMSDE(), KarrasGrid(6), 0.5),
    ]
    for sde, grid, std in cases:
        _, first = method.plan(sde, grid(sde), std)
        assert method.plan(sde, grid(sde), std)[1] is first
        assert first == Multistep(3, 2).plan(sde, grid(sde), std)[1]
    with pytest.raises(dataclasses.FrozenInstanceError):
        method.order = 2  # type: ignore[misc]


def test_methods_of_the_same_settings_are_equal_and_share_their_plans() -> None:
    sde, times = VPSDE(), UniformLogSNR(5)(VPSDE())
    made = [Multistep(2, tau=t, **DATA) for t in (1.0, ConstantTau(1.0), 0.5, None)]
    assert made[0] == made[1]
    assert len(set(made)) == 3
    assert made[0].plan(sde, times)[1] is made[1].plan(sde, times)[1]
    assert made[0].plan(sde, times)[1] is not made[2].plan(sde, times)[1]
    assert repr(made[1]) == repr(made[0])


class _Knots(LogSNR):
    """A coordinate with a setting that has no hash."""

    def __init__(self, knots: list[float]) -> None:
        self.knots = knots


def test_a_coordinate_of_ones_own_may_hold_a_list(planar: Mixture, start: Tensor) -> None:
    model, times = planar.model(VPSDE()), UniformLogSNR(5)(VPSDE())
    made = [run(Multistep(2, coordinate=c), model, times, start) for c in (LogSNR(), _Knots([0.5]))]
    assert torch.equal(*made)
    assert Multistep(coordinate=_Knots([0.5])) == Multistep(coordinate=_Knots([0.5]))
    assert Multistep(coordinate=_Knots([0.5])) != Multistep(coordinate=_Knots([0.6]))


@dataclasses.dataclass
class _Sheet(FlowSDE):
    """An SDE that has no hash, as data classes are by default."""

    row: int = 3

    def __post_init__(self) -> None:
        super().__init__()


def test_an_sde_of_ones_own_may_have_no_hash(planar: Mixture, start: Tensor) -> None:
    times = UniformLogSNR(5)(FlowSDE())
    made = [run(Multistep(2), planar.model(sde), times, start) for sde in (FlowSDE(), _Sheet())]
    assert torch.equal(*made)


class _Hidden(FlowSDE):
    """An SDE with a setting that its text does not show."""

    def __init__(self, power: float) -> None:
        self._power = power
        super().__init__()

    def sigma(self, t: Tensor) -> Tensor:
        return t**self._power


def test_a_plan_is_of_one_sde_whatever_that_is_equal_to() -> None:
    times = UniformLogSNR(5)(FlowSDE())
    first, second = (Multistep(2).plan(_Hidden(p), times)[1] for p in (1.0, 2.0))
    assert first != second
