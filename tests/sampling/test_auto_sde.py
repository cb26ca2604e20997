"""The default solver with noise: variances of narrow and wide directions in closed form, density, order, and cost."""

import math
from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import Tensor

from scoresde.sampling import (
    AutoSDE,
    ConstantTau,
    DataLogSNR,
    DPMSolverPP,
    ExplicitTimes,
    Sampler,
    Solver,
    StepTau,
    UniformLogSNR,
)
from scoresde.sampling.adams_plan import Same
from scoresde.sampling.normal_fit import fitted_plan, width_shares
from scoresde.score import GaussianMixtureScore, ScoreModel
from scoresde.sde import EDMSDE, SDE, VPSDE, FlowSDE
from scoresde.statistics import Statistics
from tests.problems import SMOOTH, gaussian

F64 = torch.float64
WIDTHS = torch.logspace(math.log10(0.01), 0, 11, dtype=F64)
END = 0.002


class Unknown(ScoreModel):
    """A score whose moments are not known."""

    def __init__(self, model: ScoreModel) -> None:
        super().__init__(model.sde, None)
        self.model = model

    def denoise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        return self.model.denoise(x, t, **cond)


def independent(sde: SDE, widths: Tensor = WIDTHS) -> GaussianMixtureScore:
    """Normal data with independent directions, each of another width."""
    return GaussianMixtureScore(torch.ones(1), torch.zeros(1, len(widths)), widths[None] ** 2, sde)


def variances(solver: Solver, model: ScoreModel, times: Tensor, widths: Tensor = WIDTHS) -> Tensor:
    """Of samples over those of data at the last time, from what every draw alone does to them: no statistics."""
    draws: list[Tensor] = []

    def run(inputs: Tensor | None) -> Tensor:
        drawn = 0

        def noise(start: float | None = None, stop: float | None = None) -> Tensor:
            nonlocal drawn
            drawn += 1
            if inputs is None:
                draws.append(torch.zeros(1, len(widths), dtype=F64))
                return draws[-1]
            return inputs[drawn].expand(-1, len(widths))

        x = torch.zeros(1, len(widths), dtype=F64) if inputs is None else inputs[0].expand(-1, len(widths))
        with torch.no_grad():
            *_, end = solver.solve(model, x, times, noise)
        return end

    run(None)
    response = run(torch.eye(len(draws) + 1, dtype=F64)[:, :, None])
    alpha, sigma = model.sde.alpha(times[[0, -1]]), model.sde.sigma(times[[0, -1]])
    before, after = alpha[:, None] ** 2 * widths**2 + sigma[:, None] ** 2
    return (response[0] ** 2 * before + (response[1:] ** 2).sum(0)) / after


# -- variances ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("evaluations", "bound"), [(8, 0.08), (10, 0.05), (15, 0.02), (20, 0.01), (30, 0.005)])
@pytest.mark.parametrize("sde", [EDMSDE(END, 80.0), FlowSDE(END)], ids=["edm", "flow"])
def test_directions_of_every_width_keep_their_variance(sde: SDE, evaluations: int, bound: float) -> None:
    """Of what the grid and the weights know, only the largest is of these data."""
    model = independent(sde)
    times = DataLogSNR(evaluations + 1)(sde, model.statistics)
    assert float((variances(AutoSDE(), model, times) - 1).abs().max()) < bound
    # The published solver is not as near at twice the evaluations.
    other = variances(DPMSolverPP(2, sde=True), model, UniformLogSNR(2 * evaluations)(sde))
    assert float((other - 1).abs().max()) > bound


@pytest.mark.parametrize("sde", list(SMOOTH.values()), ids=list(SMOOTH))
def test_without_moments_of_the_data(sde: SDE) -> None:
    model = Unknown(independent(sde))
    times = DataLogSNR(30)(sde)
    wide = 2 * float(sde.noise_level(times[-1])) < WIDTHS
    assert float((variances(AutoSDE(), model, times) - 1)[wide].abs().max()) < 0.04


@pytest.mark.slow
@pytest.mark.parametrize("tau", [0.0, 1.0])
@pytest.mark.parametrize("sde", [EDMSDE(0.05, 5.0), VPSDE(t_min=0.02)], ids=["edm", "vp"])
def test_weak_order(sde: SDE, tau: float) -> None:
    model = Unknown(independent(sde))
    errors = [float((variances(AutoSDE(tau), model, UniformLogSNR(n)(sde)) - 1).abs().max()) for n in (256, 512)]
    assert errors[0] < 1e-4
    # Parts of opposite signs let it be approached from below.
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.2)


def test_noise_at_few_steps_is_that_of_long_steps() -> None:
    h = torch.tensor([0.1, 0.5, 2.0], dtype=F64)
    tau = StepTau(0.8, 0.3)
    taus = torch.tensor([0.8, 0.6, 0.15], dtype=F64)
    torch.testing.assert_close(tau.integral(-h, torch.zeros(3, dtype=F64)), taus**2 * h)
    assert tau.adds_noise
    assert not StepTau(share=0.0).adds_noise
    with pytest.raises(ValueError, match="share is -1"):
        StepTau(share=-1.0)


# -- weights --------------------------------------------------------------------------------------------


def test_weights_of_short_steps_are_those_of_polynomials() -> None:
    """Two steps of Adams' method for u' = −ℓ (u − D), D a polynomial in λ, by its exact integrals."""
    sde = EDMSDE(0.01, 20.0)
    h = torch.full((40,), 0.02, dtype=F64) * (1 + 0.5 * torch.arange(40) / 40)
    lam = torch.cat((torch.tensor([-1.0], dtype=F64), -1 + h.cumsum(0)))
    times = sde.time(lam)
    for step in (
        fitted_plan(ConstantTau(0.7), Same(sde), tuple(times.tolist()), *width_shares(0.02, 2.0, None), False)[i]
        for i in (20, 30)
    ):
        i = int((lam - 0.5 * math.log(step.clock[0])).abs().argmin())
        rate = 1.49 * float(h[i])
        gone = -math.expm1(-rate)
        assert step.on_x == pytest.approx(math.exp(-rate), rel=1e-9)
        ratio, share = float(h[i] / h[i - 1]), 1 / gone - 1 / rate
        expected = [1 + ratio * share, -ratio * share, 0.0]
        assert [w / gone for w in step.predictor.values] == pytest.approx(expected, abs=0.01)
        assert step.corrector is not None
        assert [w / gone for w in step.corrector.values] == pytest.approx([share, 1 - share], abs=0.005)


def test_data_without_spread_are_exact() -> None:
    """D is constant: weights sum to 1 − a, and noise to what a leaves room for."""
    sde, steps = VPSDE(), 7
    times = DataLogSNR(steps)(sde)
    alpha, level = sde.alpha(times), sde.noise_level(times)
    for i, step in enumerate(
        fitted_plan(StepTau(), Same(sde), tuple(times.tolist()), *width_shares(0.02, 2.0, None), False)
    ):
        a = step.on_x * float(alpha[i] / alpha[i + 1])
        for weights in (step.predictor, step.corrector):
            if weights is not None:
                assert sum(weights.values) == pytest.approx(float(alpha[i + 1]) * (1 - a), rel=1e-9)
        noise = step.on_noise / float(alpha[i + 1])
        assert (a * float(level[i])) ** 2 + noise**2 == pytest.approx(float(level[i + 1]) ** 2, rel=1e-9)


def test_half_of_the_widths_are_those_of_the_data() -> None:
    known = Statistics(torch.zeros(4), 0.5, torch.diag(torch.tensor([0.09, 0.09, 0.09, 1e-8])))
    even, (widths, shares) = width_shares(0.01, 2.0, None), width_shares(0.01, 2.0, known)
    assert widths == even[0]
    assert (widths[0], widths[-1]) == pytest.approx((0.01, 2.0))
    assert set(even[1]) == {1 / len(widths)}
    own = 2 * torch.tensor(shares, dtype=F64) - torch.tensor(even[1], dtype=F64)
    assert float(own.sum()) == pytest.approx(1)
    assert float(own[0]) == pytest.approx(0.25)  # what is narrower than all that are fitted
    near = (torch.tensor(widths) / 0.3).log().abs() < 0.25
    assert float(own[near].sum()) == pytest.approx(0.75)
    assert float((own * torch.tensor(widths, dtype=F64).log()).sum()) == pytest.approx(
        0.75 * math.log(0.3) + 0.25 * math.log(0.01)
    )


def test_a_width_of_most_directions_is_nearly_exact() -> None:
    """What is wrong in hundreds of directions adds up in the density."""
    sde, few = EDMSDE(END, 80.0), WIDTHS
    many = torch.cat((WIDTHS, WIDTHS[2].expand(200)))
    errors = []
    for widths in (few, many):
        model = independent(sde, widths)
        times = DataLogSNR(11)(sde, model.statistics)
        errors.append(abs(float(variances(AutoSDE(), model, times, widths)[2] - 1)))
    assert errors[1] < 0.5 * errors[0]


# -- densities ------------------------------------------------------------------------------------------


@lru_cache
def many_modes() -> GaussianMixtureScore:
    """Narrow modes in the plane: what a distance of distributions does not see is their width."""
    places = torch.rand(24, 2, dtype=F64, generator=torch.Generator().manual_seed(0)) * 4 - 2
    return GaussianMixtureScore(torch.ones(24), places, torch.full((24,), 0.03**2, dtype=F64), EDMSDE(END, 80.0))


def lost(sampler: Sampler, count: int = 4000) -> float:
    """Mean log-density of exact samples above that of the sampler's, in nats; exact starts, so that steps alone err."""
    model = many_modes()
    x = model.sample(count, model.sde.t_max, torch.Generator().manual_seed(1))
    exact = model.sample(count, END, torch.Generator().manual_seed(2))
    out = sampler(model, x_init=x, seed=3).x
    return float(model.log_prob(exact, END).mean() - model.log_prob(out, END).mean())


@pytest.mark.parametrize("evaluations", [8, 15, 20])
def test_density_of_samples(evaluations: int) -> None:
    mine = lost(Sampler(AutoSDE(), DataLogSNR(evaluations + 1), denoise=False))
    other = lost(Sampler(DPMSolverPP(2, sde=True), UniformLogSNR(evaluations), denoise=False))
    assert mine < other + 1
    assert -0.5 < mine < 0.6


# -- cost and the first step ----------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 3, 9, 200])
def test_evaluations(steps: int) -> None:
    model, grid = gaussian(EDMSDE()), DataLogSNR(steps)
    assert Sampler(AutoSDE(), grid)(model, 3).nfe == steps
    assert Sampler(AutoSDE(), grid, denoise=False)(model, 3).nfe == steps - 1
    assert Sampler(AutoSDE(), grid, denoise=False)(Unknown(model), (3, 2)).nfe == steps


class Conditional(ScoreModel):
    """Normal data whose mean is a condition, and whose moments are those of all conditions together."""

    def __init__(self, sde: SDE) -> None:
        super().__init__(sde, Statistics(torch.zeros(2), 1.5, torch.diag(torch.tensor([3.0, 1.5]))))

    def denoise(self, x: Tensor, t: Tensor, *, mean: Tensor, **cond: Any) -> Tensor:
        alpha, sigma = self.sde.alpha(t).to(x), self.sde.sigma(t).to(x)
        return mean + alpha * 0.5 / (alpha**2 * 0.5 + sigma**2) * (x - alpha * mean)


@pytest.mark.parametrize("sde", [EDMSDE(), VPSDE(t_min_sampling=1e-4)], ids=["edm", "vp"])
def test_a_condition_is_asked_for_in_the_first_step_too(sde: SDE) -> None:
    count = 4000
    mean = torch.tensor([[1.0, -2.0]], dtype=F64).expand(count, 2)
    out = Sampler(AutoSDE(), DataLogSNR(16), denoise=False)(Conditional(sde), (count, 2), dtype=F64, mean=mean)
    assert out.nfe == 16
    deviation = math.sqrt(0.5 / count)
    assert float((out.x.mean(0) - mean[0]).abs().max()) < 4 * deviation + 0.02
    torch.testing.assert_close(out.x.T.cov(), 0.5 * torch.eye(2, dtype=F64), rtol=0, atol=0.06)


@pytest.mark.filterwarnings("ignore:the sampler ends")
def test_one_step_of_normal_data_is_their_flow() -> None:
    """No evaluation, and the exact endpoint in every direction: (v + s₁²)/(v + s₀²) under the root."""
    model = independent(EDMSDE(END, 80.0))
    x = model.sample(5, 80.0, torch.Generator().manual_seed(0))
    out = Sampler(AutoSDE(), ExplicitTimes([80.0, 0.3]), denoise=False)(model, x_init=x)
    assert out.nfe == 0
    torch.testing.assert_close(out.x, x * ((WIDTHS**2 + 0.09) / (WIDTHS**2 + 6400)).sqrt(), rtol=1e-10, atol=1e-12)


def test_without_noise_seeds_do_not_matter() -> None:
    model = many_modes()
    x = model.sample(3, 80.0, torch.Generator().manual_seed(0))
    for tau, stochastic in ((0, False), (None, True), (0.3, True), (StepTau(0.0), False)):
        solver = AutoSDE(tau)
        first, second = (Sampler(solver, DataLogSNR(9))(model, x_init=x, seed=seed).x for seed in (0, 1))
        assert solver.stochastic == stochastic
        assert bool((first == second).all()) != stochastic
    with pytest.raises(ValueError, match="tau is -1"):
        AutoSDE(-1.0)


# -- the grid -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sde", list(SMOOTH.values()), ids=list(SMOOTH))
def test_the_grid_is_even_below_the_spread(sde: SDE) -> None:
    known = Statistics(torch.zeros(2), 0.5, 0.25 * torch.eye(2))
    grid = DataLogSNR(40, reach=6.0, power=14.0)
    times = grid(sde, known)
    assert times[-1] == sde.t_min_sampling
    levels = sde.noise_level(times)
    y = (1 / levels + 1 / 3) ** (-1 / 14)
    torch.testing.assert_close(y.diff(), (y[-1] - y[0]).expand(40) / 40, rtol=1e-6, atol=0)
    # Noise above the spread takes few of the steps.
    assert int((levels > 10).sum()) <= 3


def test_a_grid_refuses_what_is_not_positive() -> None:
    with pytest.raises(ValueError, match="reach is 0"):
        DataLogSNR(5, reach=0.0)
    with pytest.raises(ValueError, match="power is -1"):
        DataLogSNR(5, power=-1.0)
