"""A model trained on one view runs under the solvers of the other."""

from typing import Any

import pytest
import torch

from scoresde.chains import GaussianChainModel, sample_chain
from scoresde.likelihood import chain_bound, elbo, log_likelihood
from scoresde.sampling import (
    DDIM,
    DEIS,
    DPMSolverPP,
    EDMHeun,
    KarrasGrid,
    Langevin,
    PredictorCorrector,
    ReverseDiffusion,
    Sampler,
    UniformLogSNR,
    UniPC,
)
from scoresde.score import with_sde
from scoresde.sde import VPSDE, GaussianChain, linear_betas
from tests.chains.test_models import network
from tests.problems import gaussian, generator

STEPS = 400
CHAIN = GaussianChain(linear_betas(STEPS, 0.1 / STEPS, 20 / STEPS))
SOLVERS: dict[str, Any] = {
    "ddim": DDIM(),
    "dpm-solver++": DPMSolverPP(2),
    "its sde": DPMSolverPP(2, sde=True),
    "deis": DEIS(2),
    "unipc": UniPC(),
    "heun": EDMHeun(),
    "predictor and corrector": PredictorCorrector(ReverseDiffusion(), Langevin(snr=0.1)),
}


@pytest.mark.parametrize("name", SOLVERS)
def test_a_model_of_a_chain_runs_under_every_solver(name: str) -> None:
    """The moments of normal data come out, by the exact model; and a network's samples are finite."""
    sde = CHAIN.sde()
    grid = KarrasGrid(30) if name == "heun" else UniformLogSNR(60)
    out = Sampler(SOLVERS[name], grid)(gaussian(sde, (2,)), shape=(4000, 2), seed=0)
    assert float(out.x.mean()) == pytest.approx(0.7, abs=0.05)
    assert float(out.x.var()) == pytest.approx(0.3, rel=0.12)
    assert Sampler(SOLVERS[name], grid)(network(sde), shape=(5, 2)).x.isfinite().all()


def test_a_model_of_the_sde_runs_in_the_chain_and_back() -> None:
    """The denoised mean is the same function whichever way it is asked, and the bounds are near."""
    model = network(VPSDE())
    inside = GaussianChainModel(model, CHAIN)
    assert sample_chain(inside, 5).x.isfinite().all()
    under = with_sde(model, CHAIN.sde())
    again = GaussianChainModel(under, CHAIN)
    x, t = torch.randn(4, 2, generator=generator()), torch.tensor([2, 5, 50, 90])
    torch.testing.assert_close(inside.denoise(x, t), again.denoise(x, t), rtol=1e-5, atol=1e-5)

    exact = gaussian(CHAIN.sde(1e-5), (2,), variance=1.0)
    y = exact.sample(10, 1e-5, generator())
    bound = chain_bound(GaussianChainModel(exact, CHAIN), y).value
    for other in (elbo(exact, y).value, log_likelihood(exact, y).log_prob):
        torch.testing.assert_close(bound, other, rtol=0, atol=0.05)
