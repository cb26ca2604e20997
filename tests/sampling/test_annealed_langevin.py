"""Annealed Langevin dynamics level by level: variances by their recursion, and the steps of both papers."""

import math
from itertools import count

import pytest
import torch
from torch import Tensor

from scoresde.sampling import NCSN, ExplicitTimes, Grid, NCSNv2, Sampler, Solver, UniformLogSNR
from scoresde.score import GaussianMixtureScore, ScoreModel
from scoresde.sde import NCSNSDE, SDE, VESDE
from scoresde.sde.noise_levels import annealed_variance
from tests.problems import F64, gaussian

SOLVERS = [NCSN(2e-5, 3), NCSNv2(6.2e-6, 2), NCSNv2(steps=3)]


def all_levels(sde: NCSNSDE) -> Tensor:
    levels = len(sde.sigmas)
    return torch.arange(levels, 0, -1, dtype=F64) / levels


def variance(solver: Solver, model: ScoreModel, times: Tensor, start: float, draws: int) -> float:
    """Variance after the last step, exactly: the state is linear in the start and in each draw, by one row for each."""
    row = count(1)

    def noise(*_: float | None) -> Tensor:
        z = torch.zeros(draws + 1, 1, dtype=F64)
        z[next(row)] = 1.0
        return z

    x = torch.zeros(draws + 1, 1, dtype=F64)
    x[0] = math.sqrt(start)
    *_, last = solver.solve(model, x, times, noise)
    assert next(row) == draws + 1
    return float(last.square().sum())


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_variance_of_normal_data_obeys_its_recursion(solver: NCSN | NCSNv2) -> None:
    sde, width = NCSNSDE(6, 0.01, 0.5), 0.3
    times = all_levels(sde)
    step = (
        {"NCSN": 0.1, "NCSNv2": 0.062}[type(solver).__name__]
        if solver.epsilon
        else solver.relative_step(sde.sigma(times))
    )
    wanted = 0.25
    for sigma in sde.sigma(times).tolist():
        pull = step * sigma**2 / (width**2 + sigma**2)
        for _ in range(solver.steps):
            wanted = (1 - pull) ** 2 * wanted + 2 * step * sigma**2
    found = variance(solver, gaussian(sde, (1,), 0.0, width**2), times, 0.25, solver.steps * 6)
    assert found == pytest.approx(wanted, rel=1e-12)


def test_a_single_sample_has_the_variance_of_proposition_3() -> None:
    sde = NCSNSDE(2, 0.01, 0.012)
    times = all_levels(sde)
    model = gaussian(sde, (1,), 0.0, 1e-18)  # one training sample, but for round-off
    solver = NCSNv2(6.2e-6, 5)
    # As if level 1 were exact: its own five steps start from their stationary variance 2/(2 − h).
    stationary = 2 / (2 - 0.062)
    found = variance(solver, model, times, stationary * 0.012**2, 10)
    ratio = 1.2 * math.sqrt(stationary)
    assert found / 0.01**2 == pytest.approx(annealed_variance(0.062, ratio, 5), rel=1e-9)


def test_the_excess_of_the_variance_adds_up_over_levels_until_it_is_settled() -> None:
    """Technique 4 looks at one level; each starts from the excess of the last, to the fixed point of the recursion."""
    sde = NCSNSDE(232, 0.01, 50.0)
    solver, times = NCSNv2(steps=5), all_levels(sde)
    step, ratio = solver.relative_step(sde.sigma(times)), sde.sigmas[1] / sde.sigmas[0]
    found = variance(solver, gaussian(sde, (1,), 0.0, 1e-18), times, 2500.0, 232 * 5) / 1e-4
    kept, stationary = (1 - step) ** 10, 2 / (2 - step)
    assert found == pytest.approx(stationary * (1 - kept) / (1 - kept * ratio**2), rel=1e-6)
    assert found == pytest.approx(1.129, abs=1e-3)
    assert annealed_variance(step, ratio, 5) == pytest.approx(1.055, abs=1e-3)


def test_under_any_sde_it_is_the_same_in_x_over_alpha(sde: SDE) -> None:
    """The scaled states under an SDE are those under VE at the same noise levels."""
    levels = torch.tensor([1.5, 0.8, 0.4, 0.2], dtype=F64)
    ve = VESDE(0.01, 50.0)
    z = torch.randn(7, 1, dtype=F64)
    ends = []
    for each in (sde, ve):
        times = each.time(-levels.log())
        x = 1.5 * z * each.alpha(times[0])
        *_, last = NCSNv2(steps=2).solve(gaussian(each, (1,)), x, times, lambda *_: z)
        ends.append(last / each.alpha(times[-1]))
    torch.testing.assert_close(*ends, rtol=1e-6, atol=1e-6)


def test_the_first_level_has_its_steps_and_every_time_a_state() -> None:
    sde = NCSNSDE(5, 0.1, 2.0)
    out = Sampler(NCSNv2(steps=4), UniformLogSNR(4))(gaussian(sde, (2,)), (3, 2), trajectory=True)
    assert out.nfe == 4 * 5 + 1
    assert out.trajectory is not None
    assert len(out.trajectory) == 5
    torch.testing.assert_close(out.times, all_levels(sde))


def test_both_papers_steps_differ_by_a_factor_of_two() -> None:
    sde = NCSNSDE(10, 0.01, 1.0)
    model, grid = gaussian(sde, (2,)), UniformLogSNR(9)
    first, second = (Sampler(s, grid)(model, (5, 2)).x for s in (NCSN(2e-5, 7), NCSNv2(1e-5, 7)))
    torch.testing.assert_close(first, second, rtol=1e-12, atol=1e-12)


def test_modes_of_unequal_weight_have_their_shares() -> None:
    """The mixture of Song & Ermon 2019, section 3.2.2: Langevin dynamics at one level keep the shares of the start."""
    means = torch.tensor([[-5.0, -5.0], [5.0, 5.0]], dtype=F64)
    start = 16 * torch.rand(4000, 2, generator=torch.Generator().manual_seed(0), dtype=F64) - 8

    def share(levels: int, solver: Solver, times: Grid) -> float:
        sde = NCSNSDE(levels, 0.1, 10.0)
        model = GaussianMixtureScore(torch.tensor([0.2, 0.8], dtype=F64), means, torch.ones(2, dtype=F64), sde)
        return float((Sampler(solver, times)(model, x_init=start).x.sum(1) > 0).double().mean())

    # The standard error is 0.006. Modes part before their shares are reached, with ten levels more so.
    assert share(10, NCSN(steps=100), UniformLogSNR(9)) == pytest.approx(0.77, abs=0.025)
    assert share(24, NCSN(0.006, 60), UniformLogSNR(23)) == pytest.approx(0.78, abs=0.02)
    # At the smallest level alone half of a uniform start stays in the small mode.
    assert share(10, NCSN(0.02, 200), ExplicitTimes([0.11, 0.1])) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("solver", [NCSN, NCSNv2])
def test_refusals(solver: type[NCSN] | type[NCSNv2]) -> None:
    with pytest.raises(ValueError, match="epsilon is -1.0, expected a positive number"):
        solver(-1.0)
    with pytest.raises(ValueError, match="steps is 0, expected an integer of at least 1"):
        solver(steps=0)
    model = gaussian(NCSNSDE(10, 0.01, 1.0), (2,))
    with pytest.raises(ValueError, match=r"epsilon is 0.1, and a step at the last level, σ/α = 0.01, diverges from"):
        Sampler(solver(0.1), UniformLogSNR(9))(model, (2, 2))
