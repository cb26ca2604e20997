"""Any number of steps: evaluations, times, discrete models, and solvers with churn."""

import copy
from itertools import pairwise

import pytest
import torch

from scoresde.sampling import (
    DDIM,
    DDPM,
    Churn,
    DataStraight,
    DiscreteTime,
    DPMSolverPP,
    EDMHeun,
    Grid,
    Heun,
    KarrasGrid,
    Multistep,
    Picard,
    QuadraticTime,
    Sampler,
    SASolver,
    Solver,
    UniformAngle,
    UniformLogSNR,
    UniformStraight,
    UniformTime,
    UniPC,
    VPGrid,
)
from scoresde.score import GaussianMixtureScore
from scoresde.sde import DDPMSDE, EDMSDE, NCSNSDE, SDE, VPSDE
from tests.problems import SDES, gaussian, with_plain_rules
from tests.sampling.test_orders import variances
from tests.sampling.test_samplers import NAMES, OPEN, STAGES, preset

# Their steps are fixed, or each step has stages of its own.
COUNTED = [name for name in NAMES if name not in (*OPEN, "restart", "default", "default_sde", "ncsn", "ncsnv2")]
FEW = (1, 2, 3, 7, 14, 15, 16, 49, 50, 128, 200)


def asked(name: str, steps: int) -> int:
    return steps * STAGES.get(name, 1) + 1  # the last denoising


def evaluations(name: str, steps: int, sde: SDE) -> int:
    sampler = copy.deepcopy(preset(name, None))
    sampler.grid.steps = steps
    out = sampler(with_plain_rules(gaussian(sde, (1,))), (1, 1), dtype=torch.float32)
    assert out.x.dtype == torch.float32
    assert len(out.times) == steps + 1
    assert bool(torch.isfinite(out.x).all())
    return int(out.nfe)


@pytest.mark.filterwarnings("ignore:order .* needs at least")
@pytest.mark.parametrize("name", COUNTED)
def test_evaluations_are_the_steps_asked_for(name: str) -> None:
    for sde, steps in ((VPSDE(), FEW if STAGES.get(name, 1) < 3 else FEW[:9]), (EDMSDE(), range(1, 17))):
        assert [evaluations(name, n, sde) for n in steps] == [asked(name, n) for n in steps]


@pytest.mark.parametrize("name", COUNTED)
def test_the_grid_of_every_sampler_has_the_steps_asked_for_at_every_number_to_200(name: str) -> None:
    """A solver takes the steps of its grid."""
    grid = copy.deepcopy(preset(name, None).grid)
    model = gaussian(EDMSDE(), (1,))
    for n in range(1, 201):
        grid.steps = n
        times = grid(model.sde, model.statistics)
        assert len(times) == n + 1
        assert bool((times.float().diff() < 0).all()), n


@pytest.mark.filterwarnings("ignore:order .* needs at least")
@pytest.mark.parametrize("name", ["default", "default_sde"])
def test_a_default_takes_no_more_than_the_steps_and_a_last_denoising(name: str) -> None:
    for n in FEW:
        assert n <= evaluations(name, n, EDMSDE()) <= n + 1


GRIDS: list[type[Grid]] = [
    DataStraight, KarrasGrid, QuadraticTime, UniformAngle, UniformLogSNR, UniformStraight, UniformTime, VPGrid
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", SDES)
def test_no_two_times_are_the_same_in_float32(name: str, grid: type[Grid]) -> None:
    for n in range(1, 201):
        times = grid(n)(SDES[name])
        assert len(times) == n + 1
        assert bool((times.float().diff() < 0).all()), n


# -- discrete models -------------------------------------------------------------------------------------

DISCRETE: list[tuple[SDE, int]] = [(DDPMSDE(100, 1e-3, 0.2), 100), (NCSNSDE(50, 0.01, 10.0), 50)]
SOLVERS: list[tuple[Solver, float]] = [
    (DDIM(), 0.15),
    (DDPM(), 0.25),
    (DPMSolverPP(2), 0.05),
    (DPMSolverPP(3), 0.05),
    (UniPC(), 0.05),
    (DPMSolverPP(3, sde=True), 0.2),
    (SASolver(), 0.2),
    (Multistep(3, 3), 0.05),
    (Heun(), 0.3),
]


@pytest.mark.parametrize(("sde", "levels"), DISCRETE, ids=["ddpm", "ncsn"])
@pytest.mark.parametrize(("solver", "bound"), SOLVERS, ids=[repr(s) for s, _ in SOLVERS])
def test_as_many_steps_as_levels_and_numbers_that_do_not_divide_them(
    sde: SDE, levels: int, solver: Solver, bound: float
) -> None:
    stds = torch.tensor([0.5, 1.0], dtype=torch.float64)
    model = GaussianMixtureScore(torch.ones(1), torch.zeros(1, 2), (stds**2)[None], sde)
    for steps in (levels, levels - 1, levels + 1, levels // 2 - 1, 2 * levels + 3):
        for grid in (UniformLogSNR(steps), UniformTime(steps)):
            found = variances(solver, model, grid(sde), stds)
            assert bool(torch.isfinite(found).all())
            # From a third of the levels on; uniform times of a geometric chain are uniform in λ.
            assert float((found.sqrt() - 1).abs().max()) < bound, (grid, found)


@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace"])
def test_levels_of_a_discrete_model_at_any_number_of_steps(spacing: str) -> None:
    sde = DDPMSDE(100, 1e-3, 0.2)
    stds = torch.tensor([0.5, 1.0], dtype=torch.float64)
    model = GaussianMixtureScore(torch.ones(1), torch.zeros(1, 2), (stds**2)[None], sde)
    for steps in range(1, 100):
        times = DiscreteTime(steps, 100, spacing)(sde)
        level = times * 100 / sde.t_max
        torch.testing.assert_close(level, level.round(), rtol=0, atol=1e-6)
        assert all(a > b for a, b in pairwise(level.round().tolist()))
        if steps in (33, 64, 99):
            for solver in (DDIM(), DPMSolverPP(2), DPMSolverPP(3, sde=True)):
                assert float((variances(solver, model, times, stds).sqrt() - 1).abs().max()) < 0.25


def test_a_discrete_model_has_no_more_steps_than_levels() -> None:
    with pytest.raises(ValueError, match="steps is 100, expected fewer than train_steps = 100"):
        DiscreteTime(100, 100)


# -- churn -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sde", [EDMSDE(), VPSDE()], ids=["edm", "vp"])
@pytest.mark.parametrize("amount", [1.0, 40.0])
def test_churn_keeps_the_mean_as_steps_are_added(sde: SDE, amount: float) -> None:
    # Noise has mean 0 and the solver is affine, so that the mean is the end of the path without noise.
    mean = 7.0
    model = gaussian(sde, (1,), mean=mean, variance=0.04)
    for steps in (8, 64, 512):
        times = KarrasGrid(steps)(sde)
        start = (sde.alpha(times[:1]) * mean).float()[:, None]
        solver = EDMHeun(Churn(amount, s_min=0.05, s_max=50.0, s_noise=1.0))
        with torch.no_grad():
            *_, x = solver.solve(model, start, times, lambda *clock: torch.zeros(1, 1))
        assert x.dtype == torch.float32
        # Round-off of σ = 80 at most, divided by what the flow contracts it by.
        assert float(x) == pytest.approx(float(sde.alpha(times[-1])) * mean, abs=2e-5)


def test_sweeps_take_no_more_calls_than_steps() -> None:
    model = gaussian(VPSDE(), (1,))
    for steps in (1, 2, 3, 17, 64, 65):
        out = Sampler(Picard(DDPM(), tolerance=0), UniformTime(steps))(model, (2, 1), dtype=torch.float32)
        assert out.sweeps is not None
        assert int(out.sweeps.max()) <= steps + 1
