"""What an Adams method does in its first steps, and in a step that is long beside those before it."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from scoresde.sampling import (
    DEIS,
    DPMSolverPP,
    ExplicitTimes,
    Grid,
    KarrasGrid,
    LogSNR,
    Multistep,
    NoiseLevel,
    Picard,
    QuadraticTime,
    Sampler,
    SASolver,
    ScipyODE,
    SignalLevel,
    UniformLogSNR,
    UniformTime,
    UniformVariable,
)
from scoresde.score import GaussianMixtureScore
from scoresde.sde import EDMSDE, SDE, VESDE, VPSDE, CosineSDE
from tests.sampling.test_orders import variances

DATA: dict[str, Any] = {"coordinate": SignalLevel(), "interpolation": LogSNR()}


@pytest.fixture(scope="module")
def wide() -> tuple[GaussianMixtureScore, Tensor, Tensor]:
    """A mixture nearly as wide as the noise at t_max, starts, and their true ends."""
    sde = EDMSDE(0.01, 20.0)
    means = 10 * torch.tensor([[1.0, 0.0], [-0.5, 0.8], [-0.5, -0.9]], dtype=torch.float64)
    model = GaussianMixtureScore(torch.ones(3), means, torch.tensor([9.0, 16.0, 25.0], dtype=torch.float64), sde)
    x = model.sample(16, sde.t_max, torch.Generator().manual_seed(0))
    ends = ExplicitTimes([sde.t_max, sde.t_min])
    return model, x, Sampler(ScipyODE("DOP853", 1e-12, 1e-12), ends, denoise=False)(model, x_init=x).x


STARTS: dict[str, tuple[Multistep, type[Grid], int]] = {
    "dpmpp_3m": (DPMSolverPP(3), UniformLogSNR, 3),
    "deis_tab": (DEIS(3, "tab"), QuadraticTime, 3),
    "lms": (DEIS(4), KarrasGrid, 4),
    "unipc_3": (Multistep(3, 3, **DATA), UniformLogSNR, 4),
    "uniform weights": (Multistep(4, coordinate=NoiseLevel(), weights="uniform"), UniformVariable, 4),
}


@pytest.mark.parametrize("name", STARTS)
def test_the_order_holds_where_the_score_varies_from_the_start(
    wide: tuple[GaussianMixtureScore, Tensor, Tensor], name: str
) -> None:
    # With first steps of lower orders: 2.1, 2.2, 2.2, 3.6 and 2.4.
    solver, grid, order = STARTS[name]
    model, x, true = wide
    more = {"coordinate": NoiseLevel()} if grid is UniformVariable else {}
    errors = [
        float((Sampler(solver, grid(n, **more), denoise=False)(model, x_init=x).x - true).norm()) for n in (100, 200)
    ]
    assert abs(math.log2(errors[0] / errors[1]) - order) < 0.2, errors


def test_sweeps_have_the_first_steps_of_the_method(wide: tuple[GaussianMixtureScore, Tensor, Tensor]) -> None:
    model, x, _ = wide
    serial, parallel = (
        Sampler(s, UniformLogSNR(20), denoise=False)(model, x_init=x).x
        for s in (DPMSolverPP(3), Picard(DPMSolverPP(3), tolerance=0))
    )
    torch.testing.assert_close(parallel, serial, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("order", [2, 3, 4])
@pytest.mark.parametrize("steps", [5, 9, 40])
def test_no_step_magnifies_its_values_more_than_the_bound(order: int, steps: int) -> None:
    sde = VPSDE()
    times = UniformTime(steps)(sde)
    for tau in (None, 1.0):
        _, plan = Multistep(order, order, tau=tau, **DATA).plan(sde, times)
        for step in plan:
            used = [(step.predictor.values, 0)] + ([(step.corrector.values, 1)] if step.corrector else [])
            for values, ahead in used:
                bound = 3 if tau or ahead else 2.0 ** len(values) - 1
                # Polynomials through equal values are constant, so that mixing leaves their sum.
                assert sum(map(abs, values)) <= bound * abs(sum(values)) * (1 + 1e-6) or len(values) == 1 + ahead


def test_the_last_step_of_a_uniform_time_grid_is_mixed_with_lower_orders() -> None:
    # It is five times as long in λ as the one before.
    sde = VPSDE()
    times = UniformTime(8)(sde)
    _, plan = Multistep(3, tau=1.0, **DATA).plan(sde, times)
    total = sum(plan[-1].predictor.values)
    assert sum(map(abs, plan[-1].predictor.values)) == pytest.approx(3 * total, rel=1e-6)
    # Equal steps keep all of their values.
    _, equal = Multistep(3, **DATA).plan(sde, UniformLogSNR(8)(sde))
    assert sum(map(abs, equal[-1].predictor.values)) < 7 * sum(equal[-1].predictor.values)


WIDE_STEPS: list[tuple[str, Multistep, SDE, Grid, float]] = [
    ("3m sde", DPMSolverPP(3, sde=True), VPSDE(), UniformTime(8), 0.3),
    ("3m sde", DPMSolverPP(3, sde=True), VPSDE(), UniformTime(64), 0.15),
    ("sa", SASolver(), VPSDE(), UniformTime(8), 0.3),
    ("sa", SASolver(), VPSDE(), UniformTime(64), 0.15),
    ("sa", SASolver(), CosineSDE(log_snr_min=-9.9), KarrasGrid(20), 0.3),
    ("sa", SASolver(), VESDE(0.01, 1e4), KarrasGrid(20), 0.3),
]


@pytest.mark.parametrize(("name", "solver", "sde", "grid", "bound"), WIDE_STEPS)
def test_noise_is_not_magnified_by_a_long_step(
    name: str, solver: Multistep, sde: SDE, grid: Grid, bound: float
) -> None:
    # With all values in every step the largest of them is 2.1 to 7.2 times that of the data.
    stds = torch.tensor([0.3, 0.7, 1.0], dtype=torch.float64)
    model = GaussianMixtureScore(torch.ones(1), torch.zeros(1, 3), (stds**2)[None], sde)
    found = variances(solver, model, grid(sde), stds).sqrt()
    assert float((found.log()).abs().max()) < bound, found
