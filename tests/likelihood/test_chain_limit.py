"""Chains of many steps: the bound tends to the log-density, and the chain of DDPM to the VP SDE."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from scoresde.chains import GaussianChainModel, sample_chain
from scoresde.likelihood import chain_bound
from scoresde.score import GaussianMixtureScore
from scoresde.sde import SDE, VPSDE, GaussianChain, linear_betas
from tests.problems import correlated, generator, ring


def best_variances(model: GaussianMixtureScore, chain: GaussianChain, n: int = 1000) -> Tensor:
    """The variance of each step that makes the bound largest, β̃_t + f_t² E‖x₀ − D‖²/D for a factor f_t of x₀."""
    x0, g = model.sample(n, 0.0, generator(5)), generator(6)
    inside, found = GaussianChainModel(model, chain), []
    for t in range(1, chain.steps + 1):
        denoised = inside.denoise(chain.perturb(x0, t, g), torch.full((n,), t))
        on_data, _, variance = chain.posterior_terms(t)
        found.append(variance + on_data**2 * (x0 - denoised).square().mean())
    return torch.stack(found)


def test_the_bound_tends_to_the_log_density_at_first_order() -> None:
    """The true reverse steps of a mixture are not normal; the gap is 0.65 nats at 25 steps, and 0.16 at 100.

    With the large variances it is 0.97 and 0.32, and with the small ones it stays at 1: at the noise of the first step
    data of a density are flat, whatever the number of steps.
    """
    sde = VPSDE()
    model = ring(sde)
    x = model.sample(150, 0.0, generator())
    truth, gaps = model.log_prob(x, 0.0), {}
    for steps, draws in ((25, 30), (100, 10)):
        chain = sde.chain(steps)
        variances = {"best": best_variances(model, chain), "large": chain.betas, "small": None}
        for name, variance in variances.items():
            inside = GaussianChainModel(model, chain, "small" if variance is None else variance)
            out = chain_bound(inside, x, draws=draws)
            gaps[name, steps] = float((truth - out.value).mean())
            assert out.draw_stderr < 0.08
        assert 0 < gaps["best", steps] < gaps["large", steps] < gaps["small", steps]
    assert gaps["best", 25] == pytest.approx(0.65, abs=0.1)
    assert 3 < gaps["best", 25] / gaps["best", 100] < 5.5
    assert 2 < gaps["large", 25] / gaps["large", 100] < 4.5
    assert gaps["small", 100] > 0.7


@pytest.mark.parametrize("make", [ring, correlated])
def test_the_chain_of_ddpm_gives_the_samples_of_vp_up_to_the_reciprocal_of_its_steps(
    make: Callable[[SDE], GaussianMixtureScore],
) -> None:
    """From the same noise: 0.003 to 0.01 apart at T = 1000, RMS, and twice that at half of the steps, and so on."""
    sde = VPSDE()
    model = make(sde)
    apart = []
    for steps in (250, 500):
        chains = GaussianChain(linear_betas(steps, 0.1 / steps, 20 / steps)), sde.chain(steps)
        shape = (300, *(model.shape or ()))
        a, b = (sample_chain(GaussianChainModel(model, chain), shape).x for chain in chains)
        apart.append(float((a - b).abs().median()))
    assert apart[1] < 4e-3
    assert apart[0] / apart[1] == pytest.approx(2, abs=0.3)


def test_the_bound_of_the_chain_of_ddpm_is_that_of_vp() -> None:
    sde = VPSDE()
    model = ring(sde)
    x = model.sample(100, 0.0, generator())
    chains = GaussianChain(linear_betas()), sde.chain(1000)
    a, b = (chain_bound(GaussianChainModel(model, chain), x, evaluations=200).value.mean() for chain in chains)
    assert abs(float(a - b)) < 1e-2
