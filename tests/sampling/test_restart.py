"""Restarts: against the paper's loop written out for VE, and by what they do to a Gaussian's variance."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from scoresde.numerics.random import SampleNoise
from scoresde.sampling.grids import ExplicitTimes, KarrasGrid, UniformLogSNR
from scoresde.sampling.restart import Restart, RestartInterval
from scoresde.sampling.runge_kutta import Heun
from scoresde.sampling.sampler import Sampler
from scoresde.score import GaussianMixtureScore
from scoresde.sde import EDMSDE, SDE, VPSDE
from scoresde.sde.coordinates import NoiseLevel
from tests.problems import Mixture, gaussian
from tests.sampling.test_orders import variances

F64 = torch.float64


def test_it_is_the_papers_loop(planar: Mixture) -> None:
    """Two intervals under σ(t) = t, with EDM's Heun steps and Karras levels written out."""
    model = planar.model(EDMSDE())
    x = 80 * torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    draws = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(1), dtype=F64)

    def levels(high: float, low: float, count: int) -> list[float]:
        i = torch.arange(count + 1, dtype=F64) / count
        return ((high ** (1 / 7) + i * (low ** (1 / 7) - high ** (1 / 7))) ** 7).tolist()

    def down(y: Tensor, sigmas: list[float]) -> Tensor:
        for a, b in pairwise(sigmas):
            slope = (y - model.denoise(y, torch.tensor(a, dtype=F64))) / a
            guess = y + (b - a) * slope
            y = y + (b - a) / 2 * (slope + (guess - model.denoise(guess, torch.tensor(b, dtype=F64))) / b)
        return y

    main = levels(80.0, 0.002, 12)
    wanted, queue, y = [], list(draws), x
    for sigmas in pairwise(main):
        y = down(y, list(sigmas))
        for low, high, count, repeats in ((0.06, 0.3, 3, 2), (4.0, 15.0, 2, 1)):
            if sigmas[1] == min(main[1:], key=lambda s, low=low: abs(math.log(s / low))):  # type: ignore[misc]
                for _ in range(repeats):
                    y = y + math.sqrt(high**2 - sigmas[1] ** 2) * queue.pop(0)
                    y = down(y, levels(high, sigmas[1], count))
        wanted.append(y)
    assert not queue
    solver = Restart([RestartInterval(0.06, 0.3, 3, 2), RestartInterval(4.0, 15.0, 2)])
    given = iter(draws)
    states = list(solver.solve(model, x, KarrasGrid(12)(model.sde), lambda *_: next(given)))
    torch.testing.assert_close(torch.stack(states), torch.stack(wanted), rtol=1e-9, atol=1e-9)


def test_evaluations_and_trajectory() -> None:
    solver = Restart([RestartInterval(0.1, 1.0, 4, 3), RestartInterval(0.0, 0.5, 2)], Heun(NoiseLevel()))
    out = Sampler(solver, KarrasGrid(9))(gaussian(VPSDE()), (3, 2), trajectory=True)
    assert out.nfe == 2 * 9 + 2 * 4 * 3 + 2 * 2 + 1
    assert out.trajectory is not None
    assert out.trajectory.shape == (10, 3, 2)


def test_the_marginal_is_kept(sde: SDE) -> None:
    """With a fine ODE, restarts from the last level and from one on the way leave mean and variance right.

    For normal data the solver is affine in the start and the draws: the mean is where the start's goes without noise.
    """
    solver = Restart([RestartInterval(0.0, 0.7, 60, 8), RestartInterval(0.5, 5.0, 40)])
    times = UniformLogSNR(60)(sde)
    alpha, stds = sde.alpha(times), torch.tensor([0.3, 0.3**0.5, 1.5], dtype=F64)
    start = (0.7 * alpha[:1])[None]
    with torch.no_grad():
        *_, x = solver.solve(gaussian(sde, (1,)), start, times, lambda *_: torch.zeros(1, 1, dtype=F64))
    assert float(x) == pytest.approx(float(0.7 * alpha[-1]), abs=2e-3)
    centred = GaussianMixtureScore(torch.ones(1), torch.zeros(1, 3), (stds**2)[None], sde)
    assert float((variances(solver, centred, times, stds) - 1).abs().max()) < 0.01


def test_restarts_contract_errors() -> None:
    """Each restart from s₀ to s₁ > s₀ shrinks the part of an error that the ODE keeps (Xu et al. 2023, theorem 1).

    On normal data of variance V an error in the mean is multiplied by √((V + s₀²)/(V + s₁²)) on the way down.
    """
    model = gaussian(EDMSDE())
    low, high = 0.1, 2.0
    x = torch.full((1, 2), 5.7, dtype=F64)
    for repeats in (1, 2):
        solver = Restart([RestartInterval(low, high, 400, repeats)])
        times = ExplicitTimes([low * (1 + 1e-9), low])(model.sde)
        (y,) = solver.solve(model, x, times, lambda *_: torch.zeros(1, 2, dtype=F64))
        wanted = 0.7 + 5.0 * ((0.3 + low**2) / (0.3 + high**2)) ** (repeats / 2)
        torch.testing.assert_close(y, torch.full((1, 2), wanted, dtype=F64), rtol=0, atol=1e-4)


def test_where_it_restarts(sde: SDE) -> None:
    times = KarrasGrid(12)(sde)
    level = sde.sigma(times) / sde.alpha(times)
    high = float(level[4]) * 1.01
    for low, index in ((float(level[7]) * 1.001, 7), (float(level[12]), 12), (0.0, 12), (high * 0.999, 4)):
        found, way = RestartInterval(low, high, 5).place(sde, times)
        assert found == index
        assert way[-1] == times[index]
        assert float(sde.sigma(way[0]) / sde.alpha(way[0])) == pytest.approx(high, rel=1e-9)
    # The grid's nearest level lies above `high`: the one below is taken.
    found, way = RestartInterval(float(level[3]) * 0.9, float(level[3]) * 0.95, 5).place(sde, times)
    assert found == 4
    # From the very top.
    top = float((-sde.log_snr(torch.tensor(sde.t_max, dtype=F64))).exp())
    assert RestartInterval(0.0, top, 5).place(sde, times)[1][0] == pytest.approx(sde.t_max, rel=1e-9)
    noise = SampleNoise(0, torch.arange(2), (2,), F64)
    for bad in (2 * top, 0.5 * float(level[-1])):
        with pytest.raises(ValueError, match=f"a restart goes up to σ/α = {bad:g}, expected more than"):
            list(Restart([RestartInterval(0.0, bad, 3)]).solve(gaussian(sde), noise(), times, noise))


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="low=1.0, high=0.5, expected 0 <= low < high"):
        RestartInterval(1.0, 0.5, 3)
    for steps in (0, 2.5, True):
        with pytest.raises(ValueError, match="expected an? (integer|whole number of at least 1)"):
            RestartInterval(0.1, 0.5, steps)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="repeats of a restart interval is 0"):
        RestartInterval(0.1, 0.5, 3, 0)
    with pytest.raises(ValueError, match="expected a positive number"):
        RestartInterval(0.1, 0.5, 3, rho=0)
    with pytest.raises(ValueError, match="give at least one"):
        Restart([])
