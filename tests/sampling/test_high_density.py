"""Samples of high density, against modes in closed form and the equation that a mode solves."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from scoresde.sampling import (
    DDPM,
    EDMHeun,
    HighDensity,
    ModeTracking,
    Sampler,
    UniformLogSNR,
)
from scoresde.score import GaussianMixtureScore
from scoresde.sde import EDMSDE, SDE, VESDE, VPSDE, SubVPSDE
from tests.problems import F64

SDES = {"vp": VPSDE(t_min=1e-3), "ve": VESDE(0.01, 50.0), "subvp": SubVPSDE(t_min=1e-3), "edm": EDMSDE(0.01, 20.0)}


def mixture(sde: SDE) -> GaussianMixtureScore:
    means = torch.tensor([[-1.0, 0.0, 0.5], [1.0, 0.3, 0.0], [0.2, -1.0, 0.1]])
    return GaussianMixtureScore(torch.ones(3), means, torch.tensor([0.2, 0.4, 0.3]), sde)


def mode_slope(model: GaussianMixtureScore, y: Tensor, x: Tensor, s: Tensor, t: Tensor) -> Tensor:
    """∇_y log p(x_s = y | x_t = x), which is 0 at a mode."""
    a, b = model.sde.transition(t[None], s[None])
    return model.score(y, s) + a * (x - a * y) / b**2


@pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
@pytest.mark.parametrize("kind", [HighDensity, ModeTracking])
def test_normal_data_end_at_the_mode_in_closed_form(kind: type[HighDensity], sde: SDE) -> None:
    """For N(m, Σ) that of x_s given x_t is its mean, at t_min and at every other time."""
    covariance = torch.tensor([[1.0, 0.6], [0.6, 0.8]], dtype=F64)
    centre = torch.tensor([0.5, -1.0], dtype=F64)
    model = GaussianMixtureScore(torch.ones(1), centre[None], covariance[None], sde)
    grid = UniformLogSNR(400)
    x = model.sample(7, float(grid(sde)[0]), torch.Generator().manual_seed(0))
    out = Sampler(kind(level=math.inf), grid, denoise=False)(model, x_init=x, trajectory=True)
    assert out.trajectory is not None
    t = out.times[0]
    for i in (1, 200, 400):
        s = out.times[i]
        a, b = sde.transition(t[None], s[None])
        prior = sde.alpha(s) ** 2 * covariance + sde.sigma(s) ** 2 * torch.eye(2)
        gain = a * prior @ torch.linalg.inv(a**2 * prior + b**2 * torch.eye(2))
        wanted = sde.alpha(s) * centre + (x - a * sde.alpha(s) * centre) @ gain.T
        torch.testing.assert_close(out.trajectory[i], wanted, rtol=0, atol=2e-2 if kind is HighDensity else 2e-4)


@pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
def test_mode_tracking_ends_at_a_mode_and_the_approximation_does_not(sde: SDE) -> None:
    model, found = mixture(sde), {}
    grid = UniformLogSNR(100, t_max=float(sde.time(torch.tensor(0.0, dtype=F64))))  # σ = α
    times = grid(sde)
    x = model.sample(20, float(times[0]), torch.Generator().manual_seed(3))
    for kind in (HighDensity, ModeTracking):
        y = Sampler(kind(level=math.inf), grid, denoise=False)(model, x_init=x).x
        # In units of data: a step of Newton's method with the curvature of the narrowest component.
        found[kind] = mode_slope(model, y, x, times[-1], times[0]).norm(dim=1) * 0.2
    assert float(found[ModeTracking].max()) < 5e-3
    assert float(found[HighDensity].median()) > 0.02


def test_the_error_of_mode_tracking_is_of_order_two() -> None:
    sde = SDES["edm"]
    model, errors = mixture(sde), []
    start = float(sde.time(torch.tensor(0.0, dtype=F64)))
    x = model.sample(20, start, torch.Generator().manual_seed(3))
    for steps in (20, 40, 80):
        grid = UniformLogSNR(steps, t_max=start)
        y = Sampler(ModeTracking(level=math.inf), grid, denoise=False)(model, x_init=x).x
        slope = mode_slope(model, y, x, grid(sde)[-1], grid(sde)[0])
        errors.append(float(slope.square().mean().sqrt()))
    assert 3.3 < errors[0] / errors[1] < 5
    assert 3.3 < errors[1] / errors[2] < 5


@pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
@pytest.mark.parametrize("inner", [DDPM(), EDMHeun()], ids=["ddpm", "heun"])
@pytest.mark.parametrize("kind", [HighDensity, ModeTracking])
def test_level_0_is_the_solver_itself(kind: type[HighDensity], inner: DDPM | EDMHeun, sde: SDE) -> None:
    plain, same = (Sampler(s, UniformLogSNR(9))(mixture(sde), (5, 3), seed=2) for s in (inner, kind(inner, level=0.0)))
    assert torch.equal(plain.x, same.x)
    assert plain.nfe == same.nfe == (10 if isinstance(inner, DDPM) else 19)


@pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
def test_the_log_density_of_samples_rises_with_the_level(sde: SDE) -> None:
    model = mixture(sde)
    means = []
    for level in (0.0, 0.05, 0.2, 0.5, 1.0, 2.0):
        out = Sampler(HighDensity(level=level), UniformLogSNR(150), denoise=False)(model, (400, 3), seed=5)
        means.append(float(model.log_prob(out.x.double(), out.times[-1]).mean()))
    assert all(low < high for low, high in pairwise(means))
    assert means[-1] > means[0] + 0.5


def test_rows_are_those_of_any_batch_and_noise_is_drawn_above_the_level_alone() -> None:
    model = mixture(SDES["vp"])
    for solver in (HighDensity(level=0.5), ModeTracking(level=0.5)):
        sampler = Sampler(solver, UniformLogSNR(12), denoise=False)
        whole = sampler(model, (6, 3), seed=1, dtype=F64, trajectory=True)
        parts = sampler(model, (6, 3), seed=1, dtype=F64, batch_size=4)
        torch.testing.assert_close(whole.x, parts.x, rtol=1e-9, atol=1e-9)
        assert whole.trajectory is not None
        levels = model.sde.noise_level(whole.times)
        first = int((levels > 0.5).sum())
        ahead = Sampler(DDPM(), UniformLogSNR(12), denoise=False)(model, (6, 3), seed=1, dtype=F64, trajectory=True)
        assert ahead.trajectory is not None
        torch.testing.assert_close(whole.trajectory[: first + 1], ahead.trajectory[: first + 1])
        assert not torch.equal(whole.trajectory[first + 1], ahead.trajectory[first + 1])
        assert solver.stochastic


@pytest.mark.parametrize("level", [-0.1, math.nan])
def test_a_wrong_level_is_refused(level: float) -> None:
    with pytest.raises(ValueError, match=r"level is .*, expected 0 or more, in units of σ/α"):
        HighDensity(level=level)
