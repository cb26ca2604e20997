"""Sampling from data with noise."""

import pytest
import torch

from scoresde.sampling import DDPM, AutoAdams, DataStraight, EDMHeun, KarrasGrid, Sampler, UniformLogSNR, edit
from scoresde.sde import EDMSDE, SDE, VPSDE
from tests.problems import F64, gaussian, generator


@pytest.mark.parametrize("sde", [EDMSDE(), VPSDE()], ids=["edm", "vp"])
def test_the_law_of_a_gaussian(sde: SDE) -> None:
    """The flow maps N(α m', α² v' + σ²) affinely to t_min, where the data have v' = 0 at one place."""
    model, place = gaussian(sde, (1,), 0.5, 0.3), 1.7
    grid = KarrasGrid(200)
    out = edit(Sampler(EDMHeun(), grid, denoise=False), model, torch.full((20_000, 1), place, dtype=F64), 0.4)
    t = grid(sde)[120]
    assert torch.equal(out.times, grid(sde)[120:])
    ends = sde.alpha(torch.stack((t, out.times[-1]))), sde.sigma(torch.stack((t, out.times[-1])))
    (alpha, a), (sigma, s) = ends
    ratio = ((a**2 * 0.3 + s**2) / (alpha**2 * 0.3 + sigma**2)).sqrt()
    mean, std = a * 0.5 + ratio * alpha * (place - 0.5), ratio * sigma
    assert abs(float(out.x.mean() - mean)) < 5 * float(std) / 20_000**0.5 + 1e-3
    assert abs(float(out.x.std() / std) - 1) < 5 / (2 * 20_000) ** 0.5 + 1e-3


@pytest.mark.parametrize("solver", [AutoAdams(), DDPM()], ids=["default", "ddpm"])
def test_a_sample_is_a_function_of_the_seed_and_its_index(solver: AutoAdams | DDPM) -> None:
    model, x = gaussian(VPSDE()), torch.randn(6, 2, dtype=F64, generator=generator())
    grid = DataStraight(8) if isinstance(solver, AutoAdams) else UniformLogSNR(8)
    model.step_rules = None
    sampler = Sampler(solver, grid)
    whole = edit(sampler, model, x, 0.5, seed=3)
    assert len(whole.times) == 5
    part = edit(sampler, model, x[2:], 0.5, seed=3, first=2, batch_size=3)
    torch.testing.assert_close(part.x, whole.x[2:])
    assert len(edit(sampler, model, x, 0.01).times) == 2
    with pytest.raises(ValueError, match="strength is 0"):
        edit(sampler, model, x, 0.0)
