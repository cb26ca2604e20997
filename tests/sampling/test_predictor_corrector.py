"""Predictors and correctors: on Gaussian data mean and variance obey recursions that are known exactly."""

import math
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from scoresde.numerics.brownian import BrownianPath
from scoresde.sampling import (
    Ancestral,
    AnnealedLangevin,
    Corrector,
    EulerMaruyama,
    Grid,
    KarrasGrid,
    Langevin,
    NoCorrector,
    NoPredictor,
    Predictor,
    PredictorCorrector,
    ReverseDiffusion,
    Sampler,
    UniformLogSNR,
    UniformTime,
)
from scoresde.score import GaussianMixtureScore, ScoreModel
from scoresde.sde import SDE, VESDE, VPSDE, SubVPSDE
from tests.problems import Mixture, gaussian, ring

F64 = torch.float64
PREDICTORS = [EulerMaruyama(), ReverseDiffusion(), Ancestral(), Ancestral("forward")]
MEAN, VARIANCE = 0.7, 0.3


def marginal(sde: SDE, t: Tensor, mean: float = MEAN, variance: float = VARIANCE) -> tuple[Tensor, Tensor]:
    alpha = sde.alpha(t)
    return alpha * mean, alpha**2 * variance + sde.sigma(t) ** 2


def recursion(
    predictor: Predictor, sde: SDE, times: Tensor, mean: float = MEAN, variance: float = VARIANCE
) -> tuple[float, float]:
    """Mean and variance after all steps, from the exact marginal at the first time: the score is −(x − M)/V."""
    centres, spreads = (v.tolist() for v in marginal(sde, times, mean, variance))
    m, v = centres[0], spreads[0]
    coefficients = zip(*(c.tolist() for c in predictor.coefficients(sde, times)), strict=True)
    for (c_x, c_s, c_z), centre, spread in zip(coefficients, centres, spreads, strict=False):
        m = c_x * m - c_s * (m - centre) / spread
        v = (c_x - c_s / spread) ** 2 * v + c_z**2
    return m, v


@pytest.mark.parametrize("predictor", PREDICTORS, ids=repr)
def test_first_weak_order(sde: SDE, predictor: Predictor) -> None:
    errors = []
    for steps in (1000, 2000, 4000):
        times = UniformLogSNR(steps)(sde)
        m, v = recursion(predictor, sde, times)
        centre, spread = marginal(sde, times[-1])
        errors.append((m - float(centre), v / float(spread) - 1))
    # A first-order error e₁ h + e₂ h²: the ratio of successive errors is 2 within a few h.
    for kind in (0, 1):
        a, b, c = (abs(e[kind]) for e in errors)
        assert c < 0.03
        if c > 1e-5:  # else it is exact, or (VE, Euler-Maruyama) the first order cancels
            assert b / c == pytest.approx(2, rel=0.06)
            assert a / b == pytest.approx(2, rel=0.12)


@pytest.mark.parametrize("predictor", PREDICTORS, ids=repr)
def test_first_order_in_uniform_time(predictor: Predictor) -> None:
    errors = []
    for steps in (2000, 4000):
        times = UniformTime(steps, t_min=0.1)(VPSDE())
        errors.append(recursion(predictor, VPSDE(), times)[1] - float(marginal(VPSDE(), times[-1])[1]))
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.05)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_ancestral_is_exact_for_a_point(sde: SDE, steps: int) -> None:
    times = UniformTime(steps)(sde)
    m, v = recursion(Ancestral("posterior"), sde, times, variance=0.0)
    centre, spread = marginal(sde, times[-1], variance=0.0)
    assert m == pytest.approx(float(centre), rel=1e-8)
    assert v == pytest.approx(float(spread), rel=1e-8)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_forward_variance_is_exact_for_unit_normal_data(steps: int) -> None:
    times = UniformTime(steps)(VPSDE())
    m, v = recursion(Ancestral("forward"), VPSDE(), times, mean=0.0, variance=1.0)
    assert m == 0
    assert v == pytest.approx(1, rel=1e-12)
    # And the posterior's is not: too small, as its derivation for a point says.
    assert recursion(Ancestral("posterior"), VPSDE(), times, mean=0.0, variance=1.0)[1] < 0.99


def test_coefficients_are_score_sdes_for_vp() -> None:
    # score_sde's discretisation: β_i = (β_min + t (β_max − β_min))/N, α_i = 1 − β_i; steps of 1/N.
    n, sde = 100_000, VPSDE()
    times = UniformTime(n, t_min=sde.t_min)(sde)
    keep = torch.arange(1000, n - 1000, 7919)
    beta = sde.beta(times[:-1])[keep] / n
    root = (1 - beta).sqrt()
    a, b, c = (v[keep] for v in ReverseDiffusion().coefficients(sde, times))
    # Their β is the integral's value at one end of the step: relative differences of 1/N over t.
    close = {"rtol": 1e-3, "atol": 0.0}
    torch.testing.assert_close(a - 1, 1 - root, **close)
    torch.testing.assert_close(b, beta, **close)
    torch.testing.assert_close(c, beta.sqrt(), **close)
    a, b, c = (v[keep] for v in Ancestral("forward").coefficients(sde, times))
    torch.testing.assert_close(a - 1, 1 / root - 1, **close)
    torch.testing.assert_close(b, beta / root, **close)
    torch.testing.assert_close(c, beta.sqrt(), **close)
    a, b, c = (v[keep] for v in EulerMaruyama().coefficients(sde, times))
    torch.testing.assert_close(a - 1, 0.5 * beta, **close)  # x ← x − f Δt, f = −β/2
    torch.testing.assert_close(b, beta, **close)
    torch.testing.assert_close(c, beta.sqrt(), **close)


def test_coefficients_are_score_sdes_for_ve() -> None:
    sde = VESDE()
    times = UniformTime(50)(sde)
    sigma, previous = sde.sigma(times[:-1]), sde.sigma(times[1:])
    step = sigma**2 - previous**2
    one = torch.ones_like(sigma)
    for predictor, spread in (
        (ReverseDiffusion(), step.sqrt()),
        (Ancestral(), (previous**2 * step / sigma**2).sqrt()),
        (Ancestral("forward"), step.sqrt()),
    ):
        torch.testing.assert_close(torch.stack(predictor.coefficients(sde, times)), torch.stack([one, step, spread]))
    g = sigma * math.sqrt(2 * math.log(5000))
    c_x, c_s, c_z = EulerMaruyama().coefficients(sde, times)
    torch.testing.assert_close(torch.stack([c_x, c_s, c_z]), torch.stack([one, g**2 / 50, g / math.sqrt(50)]))


def test_no_predictor_stays() -> None:
    c_x, c_s, c_z = NoPredictor().coefficients(VPSDE(), UniformTime(4)(VPSDE()))
    assert c_x.tolist() == [1] * 4
    assert c_s.tolist() == c_z.tolist() == [0] * 4


def run(solver: PredictorCorrector, model: GaussianMixtureScore, x: Tensor, times: Tensor, draws: list[Tensor]) -> Any:
    source: Iterator[Tensor] = iter(draws)
    return list(solver.solve(model, x, times, lambda *_: next(source)))


@pytest.mark.parametrize("predictor", PREDICTORS, ids=repr)
def test_a_step_applies_its_coefficients(sde: SDE, predictor: Predictor) -> None:
    model = gaussian(sde, (2,))
    times = UniformLogSNR(3)(sde)
    generator = torch.Generator().manual_seed(0)
    x, *draws = torch.randn(4, 5, 2, generator=generator, dtype=F64)
    states = run(PredictorCorrector(predictor), model, x, times, draws)
    assert len(states) == 3
    for i, (c_x, c_s, c_z) in enumerate(zip(*predictor.coefficients(sde, times), strict=True)):
        x = c_x * x + c_s * model.score(x, times[i]) + c_z * draws[i]
        torch.testing.assert_close(states[i], x)


def test_correctors_follow_the_formulas() -> None:
    sde = SubVPSDE()
    model = gaussian(sde, (8,))
    times = UniformTime(2, t_min=0.3)(sde)
    generator = torch.Generator().manual_seed(1)
    x, *draws = torch.randn(5, 4, 8, generator=generator, dtype=F64)
    snr = 0.1
    for corrector in (Langevin(snr, steps=2), AnnealedLangevin(snr, steps=2)):
        states = run(PredictorCorrector(NoPredictor(), corrector), model, x, times, draws)
        y = x
        for i in range(4):
            t, z = times[1 + i // 2], draws[i]
            a = sde.alpha(times[i // 2]) / sde.alpha(t)
            if isinstance(corrector, Langevin):
                # Algorithm 5: ε = 2 α_i (r ‖z‖/‖g‖)², α_i = 1 − β_i = a², and E‖z‖²/E‖g‖² = V for this density.
                size = 2 * (a * snr) ** 2 * float(marginal(sde, t)[1])
                y = y + size * model.score(y + (2 * size).sqrt() / 4 * z, t) + (2 * size).sqrt() * z
            else:
                size = 2 * (a * snr * sde.sigma(t)) ** 2
                y = y + size * model.score(y, t) + (2 * size).sqrt() * z
            if i % 2:
                torch.testing.assert_close(states[i // 2], y)


class Unknown(ScoreModel):
    """A density of which a solver knows the score alone, as it does of a network without statistics."""

    def __init__(self, model: ScoreModel) -> None:
        super().__init__(model.sde)
        self.model = model

    def denoise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        return self.model.denoise(x, t)


def spreads(solver: PredictorCorrector, model: ScoreModel, variances: Tensor, times: Tensor) -> Tensor:
    """The variance at the last time over that of the data there, `(D,)`, for N(0, diag(variances)).

    For these data a step takes a variance V to decay² V + growth, in each direction.
    """
    sde, corrector = model.sde, solver.corrector
    ends = sde.alpha(times)[:, None] ** 2 * variances + sde.sigma(times)[:, None] ** 2
    v = ends[0]
    steps = zip(
        *solver.predictor.coefficients(sde, times), corrector.step_sizes(model, times), ends[:-1], ends[1:], strict=True
    )
    for c_x, c_s, c_z, size, before, after in steps:
        v = (c_x - c_s / before) ** 2 * v + c_z**2
        for _ in range(corrector.steps):
            h = size / after
            v = (1 - h) ** 2 * v + 2 * size * (1 - corrector.ahead * h) ** 2
    return v / ends[-1]


def _next(draws: Iterator[Tensor], *_: float) -> Tensor:
    return next(draws)


def test_the_solver_has_these_spreads() -> None:
    """It is linear for these data, in the start and in its draws, of which each row has one alone."""
    sde, variances = VPSDE(), torch.tensor([1.0, 0.01], dtype=F64)
    times = UniformLogSNR(40)(sde)
    exact = GaussianMixtureScore(torch.ones(1), torch.zeros(1, 2), variances[None], sde)
    for model in (exact, Unknown(exact)):
        for solver in (
            PredictorCorrector(EulerMaruyama(), Langevin(0.3)),
            PredictorCorrector(NoPredictor(), Langevin()),
        ):
            draws = iter(torch.eye(82, dtype=F64)[:, :, None].expand(-1, -1, 2))
            ends = sde.alpha(times[[0, -1]])[:, None] ** 2 * variances + sde.sigma(times[[0, -1]])[:, None] ** 2
            *_, x = solver.solve(model, ends[0].sqrt() * next(draws), times, partial(_next, draws))
            torch.testing.assert_close(x.square().sum(0) / ends[1], spreads(solver, model, variances, times))


@pytest.mark.parametrize("dim", [1, 2, 3, 8, 64])
def test_pc_has_the_variance_of_the_data_in_every_direction(sde: SDE, dim: int) -> None:
    """To 1 % from one dimension up, on the grid of the configuration: round, narrow, and known only by its score."""
    times = UniformLogSNR(500)(sde)
    solver = PredictorCorrector(ReverseDiffusion(), Langevin(snr=0.16))
    for variances in (torch.full((dim,), 0.49), torch.logspace(0, -4, dim)):
        variances = variances.double()
        exact = GaussianMixtureScore(torch.ones(1), torch.zeros(1, dim), variances[None], sde)
        for model in (exact, Unknown(exact)):
            assert (spreads(solver, model, variances, times) - 1).abs().max() < 0.01


def test_step_sizes_lie_between_their_bounds() -> None:
    """Never above σ², the inverse of the steepest slope of a score, and never below the step without statistics."""
    sde = VPSDE()
    times = UniformLogSNR(50)(sde)
    alpha, sigma = sde.alpha(times), sde.sigma(times)
    a, alpha, sigma = alpha[:-1] / alpha[1:], alpha[1:], sigma[1:]
    wide = GaussianMixtureScore(torch.ones(1), torch.zeros(1, 2), torch.tensor([[4.0, 0.09]]), sde)
    for snr in (0.05, 0.16, 3.0):
        least = 2 * (a * snr * sigma) ** 2
        torch.testing.assert_close(Langevin(snr).step_sizes(Unknown(wide), times), torch.minimum(least, sigma**2))
        typical = 2 / (1 / (4 * alpha**2 + sigma**2) + 1 / (0.09 * alpha**2 + sigma**2))
        wanted = torch.minimum((2 * (a * snr) ** 2 * typical).minimum(4 * least), sigma**2)
        torch.testing.assert_close(Langevin(snr).step_sizes(wide, times), wanted)
        torch.testing.assert_close(AnnealedLangevin(snr).step_sizes(wide, times), least)


@pytest.mark.slow
@pytest.mark.parametrize("known", [True, False], ids=["statistics", "score alone"])
def test_pc_keeps_the_modes_of_a_mixture(known: bool) -> None:
    """Modes are much narrower than the mixture: a step by its variance alone would fling states out of them."""
    n, sde = 8000, VESDE(0.01, 10.0)
    exact = ring(sde, std=0.05)
    model: ScoreModel = exact if known else Unknown(exact)
    sampler = Sampler(PredictorCorrector(ReverseDiffusion(), Langevin()), UniformLogSNR(500), denoise=False)
    x = sampler(model, (n, 2), dtype=torch.float32).x.double()
    width = torch.cdist(x, exact.means).min(1).values.square().mean() / 2
    assert abs(float(width) / (0.05**2 + 0.01**2) - 1) < 0.01 + 2 / math.sqrt(n)
    total = exact.statistics.covariance.diagonal() + 0.01**2  # type: ignore[union-attr, union-attr]
    assert (x.var(0) / total - 1).abs().max() < 0.01 + 2 / math.sqrt(n)


def test_predictor_first_then_corrector_at_the_new_time() -> None:
    sde, predictor, corrector = VPSDE(), ReverseDiffusion(), AnnealedLangevin(0.2)
    model = gaussian(sde, (2,))
    times = UniformTime(2)(sde)
    x, *draws = torch.randn(5, 3, 2, generator=torch.Generator().manual_seed(2), dtype=F64)
    states = run(PredictorCorrector(predictor, corrector), model, x, times, draws)
    half = run(PredictorCorrector(predictor), model, x, times[:2], draws[:1])[0]
    torch.testing.assert_close(
        run(PredictorCorrector(NoPredictor(), corrector), model, half, times[:2], draws[1:2])[0], states[0]
    )


@pytest.mark.parametrize("predictor", [*PREDICTORS, NoPredictor()], ids=repr)
@pytest.mark.parametrize("corrector", [Langevin(), AnnealedLangevin(), NoCorrector()], ids=repr)
def test_every_pair_on_every_sde_is_finite(sde: SDE, predictor: Predictor, corrector: Corrector) -> None:
    if isinstance(predictor, NoPredictor) and isinstance(corrector, NoCorrector):
        with pytest.raises(ValueError, match="never move"):
            PredictorCorrector(predictor, corrector)
        return
    means = torch.tensor([[1.0, 0.0], [-1.0, 0.5]])
    model = GaussianMixtureScore(torch.ones(2), means, torch.tensor([0.01, 0.1]), sde)
    dtypes = (torch.float32, F64, torch.float32, F64)
    for grid, dtype in zip((UniformTime(1), UniformLogSNR(2), UniformTime(5), KarrasGrid(20)), dtypes, strict=True):
        out = Sampler(PredictorCorrector(predictor, corrector), grid)(model, (4, 2), dtype=dtype)
        assert out.x.abs().max() < 1e6
    if not isinstance(predictor, NoPredictor):
        # On the last grid: between the means, give or take a few standard deviations of each.
        assert out.x.abs().max() < 3


@pytest.mark.slow
def test_strong_order_one(planar: Mixture) -> None:
    """Under a Brownian path every predictor tends, with order 1, to one and the same solution."""
    sde, n = VPSDE(), 100
    model = planar.model(sde)
    x = model.sample(n, sde.t_max, torch.Generator().manual_seed(0))
    limits = []
    for predictor in PREDICTORS:
        ends = []
        for steps in (64, 128, 256, 512):
            path = BrownianPath(0, torch.arange(n), (2,), F64)
            *_, end = PredictorCorrector(predictor).solve(model, x, UniformLogSNR(steps)(sde), path)
            ends.append(end)
        changes = [float((a - b).square().mean().sqrt()) for a, b in pairwise(ends)]
        assert math.log2(changes[0] / changes[2]) / 2 == pytest.approx(1, abs=0.15), (predictor, changes)
        # Errors halve from step to step, so the limit is as far again.
        limits.append(2 * ends[-1] - ends[-2])
    assert max(float((a - limits[0]).square().mean().sqrt()) for a in limits) < 0.03


def test_correctors_work_under_a_brownian_path() -> None:
    model = gaussian(VPSDE(), (2,))
    x = model.sample(2000, 1.0, torch.Generator().manual_seed(0))
    times = UniformLogSNR(60)(model.sde)
    path = BrownianPath(0, torch.arange(2000), (2,), F64)
    *_, end = PredictorCorrector(Ancestral(), AnnealedLangevin()).solve(model, x, times, path)
    total = float(marginal(model.sde, times[-1])[1])
    assert float(end.var() / total) == pytest.approx(1, abs=0.05 + 4 * math.sqrt(2 / 4000))


@pytest.mark.parametrize("snr", [0.16, 0.4])
@pytest.mark.parametrize("corrector", [Langevin, AnnealedLangevin])
@pytest.mark.parametrize("dim", [1, 64])
def test_stationary_variance(corrector: type[Langevin] | type[AnnealedLangevin], snr: float, dim: int) -> None:
    """V/(1 − h/2) with the score at the state, and V (1 − h/4)²/(1 − h/2) a quarter of the noise ahead, h = ε/V."""
    sde, sigma, variance = VESDE(), 0.6, 0.2
    time = float(sde.time(torch.tensor(-math.log(sigma), dtype=F64)))
    times = torch.tensor([time + 1e-9, time], dtype=F64)
    total = variance + sigma**2
    variances = torch.full((dim,), variance, dtype=F64)
    model = GaussianMixtureScore(torch.ones(1), torch.zeros(1, dim), variances[None], sde)
    h = 2 * snr**2 * (1 if corrector is Langevin else sigma**2 / total)
    wanted = (1 - corrector.ahead * h) ** 2 / (1 - h / 2)
    # A step is linear: the state alone and the noise alone, which take the variance V to decay V + growth.
    x, z = torch.eye(2, dtype=F64)[:, :, None].expand(-1, -1, dim)
    *_, end = PredictorCorrector(NoPredictor(), corrector(snr)).solve(model, x, times, lambda *_: z)
    decay, growth = end.square().mean(1).tolist()
    assert growth / (1 - decay) / total == pytest.approx(wanted, rel=1e-6)
    assert corrector is AnnealedLangevin or snr > 0.16 or abs(wanted - 1) < 0.001


def test_annealed_langevin_alone_is_too_wide_as_its_recursion_says() -> None:
    variance, r, steps, sde = 0.49, 0.16, 5, VESDE()

    def recursion(sigmas: list[float]) -> float:
        v = sigmas[0] ** 2
        for sigma in sigmas[1:]:
            size = 2 * (r * sigma) ** 2
            for _ in range(steps):
                v = v * (1 - size / (variance + sigma**2)) ** 2 + 2 * size
        return v

    times = UniformLogSNR(200)(sde)
    sigmas = sde.sigma(times).tolist()
    # Every draw has a coordinate of its own, so that the squares of the end's are the parts of its variance.
    units = iter(torch.eye(1 + 200 * steps, dtype=F64))
    mean = torch.zeros(1, 1 + 200 * steps, dtype=F64)
    model = GaussianMixtureScore(torch.ones(1), mean, torch.tensor([variance], dtype=F64), sde)
    solver = PredictorCorrector(NoPredictor(), AnnealedLangevin(r, steps))
    *_, end = solver.solve(model, sigmas[0] * next(units)[None], times, lambda *_: next(units)[None])
    assert float(end.square().sum()) == pytest.approx(recursion(sigmas), rel=1e-9)
    # As its docstring says
    assert recursion(sigmas) / variance == pytest.approx(1.20, abs=0.01)
    assert recursion(sde.sigma(UniformLogSNR(500)(sde)).tolist()) / variance == pytest.approx(1.07, abs=0.01)


def test_langevin_step_belongs_to_the_sample() -> None:
    model = gaussian(VPSDE(), (2,))
    times = UniformTime(3)(VPSDE())
    x, *draws = torch.randn(7, 3, 2, generator=torch.Generator().manual_seed(2), dtype=F64)
    solver = PredictorCorrector(ReverseDiffusion(), Langevin())
    together = run(solver, model, x, times, draws)[-1]
    loud = run(solver, model, x * torch.tensor([[1.0], [1.0], [1e3]]), times, draws)[-1]
    alone = run(solver, model, x[:1], times, [d[:1] for d in draws])[-1]
    torch.testing.assert_close(together[:1], alone, rtol=0, atol=1e-13)
    torch.testing.assert_close(loud[:2], together[:2], rtol=0, atol=1e-13)


def test_a_score_of_zero_does_not_fling_the_sample() -> None:
    model = gaussian(VPSDE(), (2,), mean=0.0)
    out = Sampler(PredictorCorrector(NoPredictor(), Langevin()), UniformTime(3))(
        model, x_init=torch.zeros(4, 2, dtype=F64)
    )
    assert out.x.abs().max() < 10


def test_the_sampler_has_the_recursions_moments() -> None:
    n, times = 20_000, UniformTime(12)(VPSDE())
    for predictor in PREDICTORS:
        grid: Grid = UniformTime(12)
        x = Sampler(PredictorCorrector(predictor), grid, denoise=False)(gaussian(VPSDE(), (1,)), (n, 1)).x
        m, v = recursion(predictor, VPSDE(), times)
        assert abs(float(x.mean()) - m) < 4 * math.sqrt(v / n)
        assert abs(float(x.var()) / v - 1) < 4 * math.sqrt(2 / n)


def sliced(a: Tensor, b: Tensor) -> float:
    angle = torch.arange(64, dtype=F64) * math.pi / 64
    directions = torch.stack([angle.cos(), angle.sin()])
    return float(((a @ directions).sort(0).values - (b @ directions).sort(0).values).square().mean().sqrt())


@pytest.mark.slow
@pytest.mark.parametrize(
    "solver",
    [
        PredictorCorrector(ReverseDiffusion(), Langevin()),
        PredictorCorrector(ReverseDiffusion(), AnnealedLangevin()),
        PredictorCorrector(Ancestral()),
        PredictorCorrector(EulerMaruyama()),
    ],
    ids=["pc", "annealed", "ancestral", "em"],
)
def test_ring_is_sampled(solver: PredictorCorrector) -> None:
    model, n = ring(VESDE(0.01, 10.0), std=0.05), 2000
    exact = [model.sample(n, 0.0, torch.Generator().manual_seed(s)) for s in range(6)]
    floor = [sliced(a, b) for i, a in enumerate(exact) for b in exact[:i]]
    x = Sampler(solver, UniformTime(200))(model, (n, 2)).x
    assert sliced(x, exact[0]) < 1.25 * max(floor)
    # The floor is set by how many samples fall on each mode; a mode's own width is seen from its centre.
    # First order: 200 steps are worth a tenth of the variance.
    spread = torch.cdist(x, model.means).min(1).values.square().mean() / (2 * 0.05**2)
    assert abs(float(spread) - 1) < 0.1 + 4 / math.sqrt(n)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="expected a positive number"):
        Langevin(snr=0.0)
    with pytest.raises(ValueError, match="use NoCorrector for none"):
        AnnealedLangevin(steps=0)
    with pytest.raises(ValueError, match="expected 'posterior', 'forward', 'learned' or 'optimal'"):
        Ancestral("small")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="never move"):
        PredictorCorrector(NoPredictor())
