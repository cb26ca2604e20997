"""Density guidance against the rates of log-density that it is derived from."""

import math
import warnings
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from scoresde.guidance import DensityGuided
from scoresde.preconditioning import EDMPreconditioning
from scoresde.sampling import DDPM, DPMSolverPP, EDMHeun, KarrasGrid, Sampler, UniformLogSNR
from scoresde.score import GaussianMixtureScore, NetworkScore
from scoresde.sde import EDMSDE, SDE, VESDE, VPSDE, SubVPSDE
from tests.problems import F64

SDES = {"vp": VPSDE(), "ve": VESDE(0.01, 50.0), "subvp": SubVPSDE(), "edm": EDMSDE()}


def mixture(sde: SDE, size: int = 24) -> GaussianMixtureScore:
    means = torch.randn(3, size, dtype=F64, generator=torch.Generator().manual_seed(0))
    return GaussianMixtureScore(torch.ones(3), means, torch.tensor([0.3, 0.6, 0.9]), sde)


@pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
@pytest.mark.parametrize("quantile", [0.2, 0.5, 0.8])
def test_the_log_density_changes_along_the_velocity_at_the_rate_that_is_stated(quantile: float, sde: SDE) -> None:
    """d log p/dt = −div u − ½ (g²/σ²) √(2 D) Φ⁻¹(q), the left side by automatic differentiation of log p."""
    model, t = mixture(sde), sde.time(torch.tensor(-math.log(2), dtype=F64))  # σ = 2 α
    x = model.sample(5, t, torch.Generator().manual_seed(1))
    velocity = DensityGuided(model, quantile).velocity(x, t)

    def along(h: float) -> Tensor:
        return model.log_prob(x + h * velocity, t + h)

    h = 1e-5 * float(t)
    rate = (along(h) - along(-h)) / (2 * h)
    jacobian = torch.stack([torch.func.jacrev(lambda y: model.velocity(y[None], t)[0])(row) for row in x])
    divergence = jacobian.diagonal(dim1=1, dim2=2).sum(1)
    normal = torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor(quantile, dtype=F64))
    extra = 0.5 * (sde.diffusion(t) / sde.sigma(t)) ** 2 * math.sqrt(2 * 24) * normal
    torch.testing.assert_close(rate, -divergence - extra, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
def test_one_half_is_the_model_itself(sde: SDE) -> None:
    model = mixture(sde)
    guided = DensityGuided(model, 0.5)
    x, t = torch.randn(4, 24, dtype=F64, generator=torch.Generator().manual_seed(2)), torch.tensor(0.3)
    for name in ("denoise", "noise", "score", "velocity"):
        torch.testing.assert_close(getattr(guided, name)(x, t), getattr(model, name)(x, t), rtol=1e-10, atol=1e-10)
    sampler = Sampler(EDMHeun(), UniformLogSNR(12))
    plain, same = (sampler(m, 6, seed=0, dtype=F64) for m in (model, guided))
    torch.testing.assert_close(plain.x, same.x, rtol=1e-9, atol=1e-9)
    assert plain.nfe == same.nfe


@pytest.mark.parametrize("quantile", [0.3, 0.8])
def test_all_predictions_are_of_one_field(quantile: float) -> None:
    """x = α D + σ ε at every noise level, also where |ε| is small."""
    for sde in SDES.values():
        guided = DensityGuided(mixture(sde, 3), quantile)
        x = torch.randn(6, 3, dtype=F64, generator=torch.Generator().manual_seed(3))
        for t in torch.linspace(sde.t_min_sampling, sde.t_max, 5, dtype=F64):
            mean, noise = guided.denoise(x, t), guided.noise(x, t)
            torch.testing.assert_close(sde.alpha(t) * mean + sde.sigma(t) * noise, x, rtol=1e-9, atol=1e-9)
            assert bool(noise.isfinite().all())


@pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
def test_the_log_density_of_samples_rises_with_the_quantile(sde: SDE) -> None:
    model = mixture(sde)
    means = []
    for quantile in (0.35, 0.45, 0.5, 0.55, 0.65):
        guided = DensityGuided(model, quantile)
        out = Sampler(EDMHeun(), UniformLogSNR(30), denoise=False)(guided, 200, seed=1, dtype=F64)
        means.append(float(model.log_prob(out.x, out.times[-1]).mean()))
    assert all(low + 1 < high for low, high in pairwise(means))


def test_conditions_reach_the_network_and_unknown_ones_are_refused() -> None:
    class Labelled(nn.Module):
        shape, num_classes = (2,), 3

        def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor) -> Tensor:
            return x * labels[:, None]

    model = NetworkScore(Labelled(), EDMSDE(), EDMPreconditioning(0.5))
    guided = DensityGuided(model, 0.7)
    assert (guided.shape, guided.classes, guided.exact) == ((2,), 3, False)
    sampler = Sampler(EDMHeun(), KarrasGrid(6))
    labels = torch.tensor([0, 1, 2])
    whole = sampler(guided, 3, labels=labels, seed=0).x
    torch.testing.assert_close(whole, sampler(guided, 3, labels=labels, seed=0, batch_size=2).x)
    with pytest.raises(ValueError, match="label is no argument of this call"):
        sampler(guided, 3, label=labels)
    with pytest.raises(ValueError, match="sed is no argument of this call"):
        sampler(DensityGuided(mixture(VPSDE()), 0.7), 3, sed=1)


@pytest.mark.parametrize("quantile", [0.0, 1.0, -1, 2.0, math.nan])
def test_a_wrong_quantile_is_refused(quantile: float) -> None:
    with pytest.raises(ValueError, match="quantile is .*, expected a number between 0 and 1, 0.5 for the model itself"):
        DensityGuided(mixture(VPSDE()), quantile)


def test_a_solver_that_adds_noise_is_told_of() -> None:
    guided = DensityGuided(mixture(VPSDE()), 0.7)
    told = r"for the probability-flow ODE, and DDPM\(.*\) adds noise, .* take a solver without, such as EDMHeun\(\)$"
    with pytest.warns(UserWarning, match=told) as caught:
        Sampler(DDPM(), UniformLogSNR(4))(guided, 2, seed=0)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Sampler(DPMSolverPP(2), UniformLogSNR(4))(guided, 2, seed=0)
