"""Named solvers against their published updates, written out, and what they are settings of."""

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from scoresde.numerics.phi import phi
from scoresde.sampling import (
    DDIM,
    DDPM,
    DEIS,
    IPNDM,
    Churn,
    ConstantTau,
    DPMSolverPP,
    EDMHeun,
    Eta,
    Euler,
    ExplicitTimes,
    Heun,
    IntervalTau,
    KarrasGrid,
    LogSNR,
    Multistep,
    NoiseLevel,
    Picard,
    Restart,
    RestartInterval,
    RungeKutta,
    Sampler,
    SASolver,
    SignalLevel,
    Solver,
    Time,
    UniformLogSNR,
    UniPC,
)
from scoresde.score import GaussianMixtureScore
from scoresde.sde import EDMSDE, SDE
from tests.problems import Mixture

DATA: dict[str, Any] = {"coordinate": SignalLevel(), "interpolation": LogSNR()}


def run(solver: Solver, model: GaussianMixtureScore, times: Tensor, x: Tensor) -> Tensor:
    return Sampler(solver, ExplicitTimes(times.tolist()), denoise=False)(model, x_init=x).x


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


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_ddim(sde: SDE, planar: Mixture, start: Tensor, eta: float) -> None:
    # Song, Meng & Ermon 2021, eq. 12 and 16, in x_t = √ᾱ x₀ + √(1 − ᾱ) ε generalised to any α and σ
    model, times = planar.model(sde), KarrasGrid(6)(sde)
    a, s, _ = _levels(sde, times)
    noise = _Recorded(start)
    *_, x = DDIM(eta).solve(model, start, times, noise)
    y = start
    for i in range(6):
        extra = eta * (s[i + 1] / s[i]) * (s[i] ** 2 - (a[i] / a[i + 1]) ** 2 * s[i + 1] ** 2).sqrt()
        denoised = model.denoise(y, times[i])
        y = a[i + 1] * denoised + (s[i + 1] ** 2 - extra**2).sqrt() * model.noise(y, times[i])
        y = y + (extra * noise.draws[i] if eta else 0)
    assert len(noise.draws) == (6 if eta else 0)
    torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-9)


def test_dpm_solver_plus_plus_2m(sde: SDE, planar: Mixture, start: Tensor) -> None:
    # Lu et al. 2022b, algorithm 2
    model, times = planar.model(sde), KarrasGrid(9)(sde)
    a, s, lam = _levels(sde, times)
    x = run(DPMSolverPP(2, lower_order_final=False), model, times, start)
    y, before = start, None
    for i in range(9):
        h = lam[i + 1] - lam[i]
        denoised = model.denoise(y, times[i])
        guess = denoised
        if before is not None:
            r = (lam[i] - lam[i - 1]) / h
            guess = (1 + 1 / (2 * r)) * denoised - before / (2 * r)
        y = s[i + 1] / s[i] * y - a[i + 1] * torch.expm1(-h) * guess
        before = denoised
    torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-9)


def test_sde_dpm_solver_plus_plus_2m(sde: SDE, planar: Mixture, start: Tensor) -> None:
    # Lu et al. 2022b, section 5: the same with e^{−2h}, and noise of variance σ² (1 − e^{−2h})
    model, times = planar.model(sde), KarrasGrid(9)(sde)
    a, s, lam = _levels(sde, times)
    noise = _Recorded(start)
    *_, x = DPMSolverPP(2, sde=True).solve(model, start, times, noise)
    y, before = start, None
    for i in range(9):
        h = lam[i + 1] - lam[i]
        denoised = model.denoise(y, times[i])
        guess = denoised
        if before is not None:
            r = (lam[i] - lam[i - 1]) / h
            guess = denoised + (denoised - before) / (2 * r)
        decay = torch.exp(-h)
        y = s[i + 1] / s[i] * decay * y + a[i + 1] * (1 - decay**2) * guess
        y = y + s[i + 1] * (1 - decay**2).sqrt() * noise.draws[i]
        before = denoised
    torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("kind", ["bh1", "bh2"])
@pytest.mark.parametrize("predicts", ["data", "noise"])
def test_unipc(
    sde: SDE, planar: Mixture, start: Tensor, order: int, kind: Literal["bh1", "bh2"], predicts: str
) -> None:
    # Zhao et al. 2023, algorithms 1 and 2 with eq. 5: R(r) and b solved for the weights of the differences
    # Below 15 steps, from which on the first steps have other weights, and so short that bh1 is within its bound.
    model, times = planar.model(sde), UniformLogSNR(14)(sde)
    a, s, lam = _levels(sde, times)
    data = predicts == "data"
    ask = model.denoise if data else model.noise
    solver: Multistep = UniPC(order, kind, lower_order_final=False)
    if not data:  # the paper's other form has no class of its own
        solver = dataclasses.replace(solver.general(), coordinate=NoiseLevel())
    x = run(solver, model, times, start)

    def update(y: Tensor, i: int, r: list[float], now: Tensor, others: list[Tensor]) -> Tensor:
        hh = (lam[i + 1] - lam[i]) * (-1 if data else 1)
        b = hh if kind == "bh1" else torch.expm1(hh)
        base = s[i + 1] / s[i] * y - a[i + 1] * torch.expm1(hh) * now
        scale = a[i + 1] * b
        if not data:
            base, scale = a[i + 1] / a[i] * y - s[i + 1] * torch.expm1(hh) * now, s[i + 1] * b
        if not others:
            return base
        count = len(others)
        if count == 1:
            rho = torch.tensor([0.5], dtype=torch.float64)
        else:
            rows = torch.stack([torch.tensor(r, dtype=torch.float64) ** k for k in range(count)])
            # φ_{k+1}(hh) hh k!/B; every node is measured in steps
            right = torch.stack([hh * phi(k + 1, hh) * math.factorial(k) / b for k in range(1, count + 1)])
            rho = torch.linalg.solve(rows, right)
        return base - scale * sum(c * (v - now) / q for c, v, q in zip(rho, others, r, strict=True))

    y = start
    values = [ask(y, times[0])]
    for i in range(14):
        h = lam[i + 1] - lam[i]
        r = [float((lam[i - j] - lam[i]) / h) for j in range(1, min(order, i + 1))]
        guess = update(y, i, r, values[0], values[1 : len(r) + 1])
        if i == 13:
            y = guess
            break
        new = ask(guess, times[i + 1])
        p = min(order, i + 1)
        r = [float((lam[i - j] - lam[i]) / h) for j in range(1, p)] + [1.0]
        y = update(y, i, r, values[0], [*values[1:p], new])
        values = [new, *values]
    torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-9)


def test_ipndm(planar: Mixture, start: Tensor) -> None:
    # Adams-Bashforth's weights of equal steps, on unequal ones (Zhang & Chen 2023, appendix B)
    sde = EDMSDE()
    model, times = planar.model(sde), KarrasGrid(9)(sde)
    x = run(IPNDM(4), model, times, start)
    rows = [[1.0], [3 / 2, -1 / 2], [23 / 12, -16 / 12, 5 / 12], [55 / 24, -59 / 24, 37 / 24, -9 / 24]]
    y, values = start, list[Tensor]()
    for i in range(9):
        values.insert(0, model.noise(y, times[i]))
        row = rows[min(i, 3)]
        y = y + (times[i + 1] - times[i]) * sum(c * v for c, v in zip(row, values, strict=False))
    torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("variant", ["rhoab", "tab"])
def test_deis(sde: SDE, planar: Mixture, start: Tensor, order: int, variant: Literal["rhoab", "tab"]) -> None:
    # Zhang & Chen 2023, eq. 15: the integrals of Lagrange's polynomials, by the trapezoidal rule on fine grids
    model, times = planar.model(sde), KarrasGrid(5)(sde)
    x = run(DEIS(order, variant), model, times, start)
    a, _, lam = _levels(sde, times)
    y, values = start / a[0], list[Tensor]()
    for i in range(5):
        values.insert(0, model.noise(a[i] * y, times[i]))
        used = min(order, i + 1)
        fine = torch.linspace(float(lam[i]), float(lam[i + 1]), 4001, dtype=torch.float64)
        t = sde.time(fine)
        v, knots = (t, times) if variant == "tab" else ((-fine).exp(), (-lam).exp())
        points = knots[[i - j for j in range(used)]]
        for j in range(used):
            basis = torch.ones_like(v)
            for k in range(used):
                if k != j:
                    basis = basis * (v - points[k]) / (points[j] - points[k])
            y = y + torch.trapezoid(basis, (-fine).exp()) * values[j]
    torch.testing.assert_close(x, a[-1] * y, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0])
def test_sa_solver_of_second_order(sde: SDE, planar: Mixture, start: Tensor, tau: float) -> None:
    # Xue et al. 2023, eq. 14 and 17: predictor and corrector through two values, with one draw for both
    model, times = planar.model(sde), UniformLogSNR(6)(sde)
    a, s, lam = _levels(sde, times)
    noise = _Recorded(start)
    *_, x = SASolver(2, 1, tau).solve(model, start, times, noise)

    def moments(i: int) -> tuple[Tensor, Tensor]:
        """∫ c e^{−c (λ_{i+1} − λ)} (λ − λ_i)^k dλ for k = 0 and 1."""
        c, h = 1 + tau**2, lam[i + 1] - lam[i]
        first = -torch.expm1(-c * h)
        return first, h - first / c

    y, values = start, [model.denoise(start, times[0])]
    for i in range(6):
        h, (zeroth, first) = lam[i + 1] - lam[i], moments(i)
        gone = (-(tau**2) * h).exp()
        base = s[i + 1] / s[i] * gone * y
        if tau:
            base = base + s[i + 1] * (1 - gone**2).sqrt() * noise.draws[i]
        slope = (values[0] - values[1]) / (lam[i] - lam[i - 1]) if i else torch.zeros_like(y)
        y = base + a[i + 1] * (zeroth * values[0] + first * slope)
        if i == 5:
            break
        new = model.denoise(y, times[i + 1])
        y = base + a[i + 1] * (zeroth * values[0] + first * (new - values[0]) / h)
        values = [new, *values]
    torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-9)


def test_edm_with_churn(planar: Mixture) -> None:
    # Karras et al. 2022, algorithm 2
    model, levels = planar.model(EDMSDE()), KarrasGrid(12)(EDMSDE())
    x = 80 * torch.randn(7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    churn, noise = Churn(6.0, s_min=0.05, s_max=50.0, s_noise=1.003), _Recorded(x)
    *_, solved = EDMHeun(churn).solve(model, x, levels, noise)
    draws = iter(noise.draws)
    gamma = min(6.0 / 13, math.sqrt(2) - 1)
    for t, t_next in itertools.pairwise(levels):
        raised = t
        if 0.05 <= t <= 50:
            raised = t * (1 + gamma)
            x = x + (raised**2 - t**2).sqrt() * 1.003 * next(draws)
        d = (x - model.denoise(x, raised)) / raised
        y = x + (t_next - raised) * d
        x = x + (t_next - raised) * (d + (y - model.denoise(y, t_next)) / t_next) / 2
    torch.testing.assert_close(solved, x, rtol=1e-9, atol=1e-9)
    assert not list(draws)


# -- settings --------------------------------------------------------------------------------------------

NAMED: list[tuple[Solver, Solver]] = [
    (DDIM(), Multistep(1, tau=Eta(0.0), **DATA)),
    (DDIM(0.3), Multistep(1, tau=Eta(0.3), **DATA)),
    (DDPM(), Multistep(1, tau=Eta(1.0), **DATA)),
    (DPMSolverPP(1), Multistep(1, **DATA)),
    (DPMSolverPP(), Multistep(2, weights="bh2", lower_order_final=True, **DATA)),
    (DPMSolverPP(3), Multistep(3, lower_order_final=True, **DATA)),
    (DPMSolverPP(1, sde=True), Multistep(1, tau=1.0, **DATA)),
    (DPMSolverPP(2, sde=True), Multistep(2, weights="bh2", tau=1.0, **DATA)),
    (DPMSolverPP(3, sde=True, tau=0.5), Multistep(3, tau=0.5, **DATA)),
    (
        DPMSolverPP(3, weights="bh2", lower_order_final=False),
        Multistep(3, weights="bh2", **DATA),
    ),
    (UniPC(), Multistep(2, 2, weights="bh2", lower_order_final=True, **DATA)),
    (UniPC(3, "bh1", False), Multistep(3, 3, weights="bh1", **DATA)),
    (SASolver(), Multistep(3, 3, tau=IntervalTau(1.0, 0.05, 1.0), **DATA)),
    (SASolver(2, 0, 0.3), Multistep(2, tau=ConstantTau(0.3), **DATA)),
    (DEIS(), Multistep(3, coordinate=NoiseLevel())),
    (DEIS(4, "tab"), Multistep(4, coordinate=NoiseLevel(), interpolation=Time())),
    (IPNDM(), Multistep(4, coordinate=NoiseLevel(), weights="uniform")),
    (EDMHeun(), Heun(NoiseLevel())),
    (EDMHeun(Churn(3.0, 0.05, 50.0)), Heun(NoiseLevel(), Churn(3.0, 0.05, 50.0))),
    (Picard(DDPM()), Picard(Multistep(1, tau=Eta(1.0), **DATA))),
    (Restart([RestartInterval(0.1, 0.5, 3)], EDMHeun()), Restart([RestartInterval(0.1, 0.5, 3)], Heun(NoiseLevel()))),
]


@pytest.mark.parametrize(("named", "family"), NAMED, ids=[str(named) for named, _ in NAMED])
def test_a_named_solver_is_a_setting_of_its_family(named: Solver, family: Solver) -> None:
    assert type(named.general()) is type(family)
    assert repr(named.general()) == repr(family)
    if not isinstance(named, Picard | Restart):
        assert named == family
        assert hash(named) == hash(family)
        # The text makes the same solver again.
        assert eval(repr(named)) == named
    assert named.stochastic == family.stochastic


def test_different_solvers_are_not_equal() -> None:
    made = [solver for solver, _ in NAMED if not isinstance(solver, Picard | Restart)]
    made += [Heun(), Euler(NoiseLevel()), RungeKutta("midpoint")]
    assert len(set(made)) == len(made)
    assert RungeKutta("heun", NoiseLevel()) == EDMHeun()
    assert len({DDIM(1.0), DDPM()}) == 1
    assert Multistep() != RungeKutta("heun")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DDIM(1.5), "eta is 1.5, expected a number from 0"),
        (lambda: DPMSolverPP(5), "order is 5, expected 1, 2, 3 or 4"),
        (lambda: DPMSolverPP(sde=True, tau=-1), "tau is -1"),
        (
            lambda: UniPC(variant="exact"),  # type: ignore[arg-type]
            "variant is 'exact', expected 'bh1' or 'bh2'",
        ),
        (lambda: UniPC(0), "order is 0"),
        (
            lambda: DEIS(variant="rho"),  # type: ignore[arg-type]
            "variant is 'rho', expected 'rhoab' or 'tab'",
        ),
        (lambda: IPNDM(0), "order is 0"),
        (lambda: SASolver(corrector=5), "corrector is 5"),
    ],
)
def test_wrong_arguments_of_named_solvers(make: Callable[[], Solver], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
