"""The bound of the chain of a model's own SDE."""

import pytest
import torch

from scoresde.chains import measure_variances
from scoresde.data.transforms import Discrete
from scoresde.likelihood import bits_per_dim, own_chain
from scoresde.numerics.trace import Exact
from scoresde.score import GaussianMixtureScore
from scoresde.sde import DDPMSDE, VESDE, VPSDE, GaussianChain

LEVELS = Discrete(4, low=-1.0, high=1.0)


def mixture() -> GaussianMixtureScore:
    means = torch.tensor([[-0.5, 0.3], [0.5, -0.3]]).double()
    return GaussianMixtureScore(torch.ones(2).double(), means, torch.tensor([0.2, 0.3]).double(), DDPMSDE())


def test_the_chain_is_that_of_the_sde_with_the_best_variances_that_are_known() -> None:
    model = mixture()
    assert own_chain(model).chain == GaussianChain(DDPMSDE().betas)
    assert own_chain(model).variance == "large"
    model.optimal_variances = measure_variances(model, torch.randn(20, 2).double(), levels=4, samples=20)
    assert own_chain(model).variance == "optimal"
    continuous = GaussianMixtureScore([1.0], [[0.0]], [1.0], VPSDE())
    assert own_chain(continuous).chain.steps == 1000
    with pytest.raises(ValueError, match="does not preserve variance"):
        own_chain(GaussianMixtureScore([1.0], [[0.0]], [1.0], VESDE()))


def test_its_bits_are_those_of_the_exact_density_at_a_thousand_steps() -> None:
    model = mixture()
    pixels = torch.tensor([[0, 1], [2, 2], [3, 1], [1, 3]])
    out = bits_per_dim(model, pixels, LEVELS, draws=2, chain_draws=600, tol=1e-3, divergence=Exact())
    assert out.chain is not None
    assert out.chain_stderr is not None
    assert float(out.chain_stderr.max()) < 0.1
    # A bound, and tight but for the steps; at t_min = 1/1000 the two densities are nearly the same.
    apart = out.chain - out.bits
    assert bool((apart > -4 * out.chain_stderr - 0.01).all())
    assert float(apart.mean()) < 0.05 + 4 * float(out.chain_stderr.square().sum().sqrt()) / 4
    assert bits_per_dim(model, pixels, LEVELS, tol=1e-2).chain is None
