"""Discrete probabilities: dequantisation, decoders and bounds, on two pixels of four levels."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from scoresde.data.transforms import Discrete
from scoresde.likelihood import Posterior, TruncatedNormal, Uniform, bits_per_dim
from scoresde.likelihood.dequantisation import Dequantisation, gaussian_decoder
from scoresde.numerics.random import SampleNoise
from scoresde.numerics.trace import Hutchinson
from scoresde.score import GaussianMixtureScore
from scoresde.sde import EDMSDE, SDE, VESDE, VPSDE, CosineSDE, FlowSDE, SubVPSDE

F64 = torch.float64
LEVELS = Discrete(4)
STATES = torch.tensor(list(itertools.product(range(4), repeat=2)))
CENTRES = LEVELS.encode(STATES).double()


def model(sigma_min: float) -> GaussianMixtureScore:
    """Data on the 16 places, of these odds."""
    odds = torch.rand(16, generator=torch.Generator().manual_seed(3), dtype=F64) + 0.1
    return GaussianMixtureScore(odds, CENTRES, torch.full((16,), 0.02, dtype=F64), EDMSDE(sigma_min, 20.0))


def weights(sde_model: GaussianMixtureScore, copies: int, **options: Any) -> Tensor:
    """Estimates `(16, copies)` of every probability, each of one draw."""
    pixels = STATES.repeat_interleave(copies, 0)
    out = bits_per_dim(sde_model, pixels, LEVELS, tol=1e-2, **options)
    return (-out.bits * 2 * math.log(2)).exp().reshape(16, copies)


def mass(sde_model: GaussianMixtureScore) -> Tensor:
    """∫ p over the cell of every state, by the product of one-dimensional integrals."""
    variance = 0.02 + sde_model.sde.t_min**2
    edges = torch.linspace(-1, 1, 5, dtype=F64)
    cdf = torch.special.ndtr((edges[:, None] - CENTRES.flatten().unique()) / math.sqrt(variance))
    each = cdf[1:] - cdf[:-1]  # of level, given the middle of a component
    odds = sde_model.weights
    return torch.stack([(odds * each[a, STATES[:, 0]] * each[b, STATES[:, 1]]).sum() for a, b in STATES.tolist()])


@pytest.mark.parametrize("q", [Uniform(), TruncatedNormal(0.3), TruncatedNormal(2.0)], ids=repr)
def test_rounding_gives_the_mass_of_the_cells(q: Dequantisation) -> None:
    exact = model(0.01)
    copies = 150
    found = weights(exact, copies, dequantisation=q)
    wanted = mass(exact)
    assert float(wanted.sum()) < 1
    error = found.std(1) / math.sqrt(copies)
    assert bool(((found.mean(1) - wanted).abs() < 4 * error + 1e-3 * wanted).all())
    assert abs(float(found.mean(1).sum() - wanted.sum())) < 3 * float(error.norm())
    # The bound is of the mean logarithm.
    assert bool((found.log().mean(1) < wanted.log() + 3 * error / wanted).all())


@pytest.mark.parametrize("sigma_min", [0.2, 0.3])
def test_probabilities_with_a_decoder_sum_to_one(sigma_min: float) -> None:
    exact = model(sigma_min)
    copies = 400
    found = weights(exact, copies, dequantisation=Posterior(), decoder="gaussian")
    error = found.std(1) / math.sqrt(copies)
    assert float(found.mean(1).sum()) == pytest.approx(1, abs=3 * float(error.norm()))
    assert float(error.norm()) < 0.05
    # In the cells alone, a part of it is missed.
    inside = weights(exact, copies, dequantisation=Uniform(), decoder="gaussian").mean(1).sum()
    assert float(inside) < float(found.mean(1).sum())


def test_decoder_is_a_probability() -> None:
    z = torch.randn(5, 1, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    total = torch.stack(
        [gaussian_decoder(z, state.reshape(1, 1, 2).expand(5, 1, 2), LEVELS, 0.9, 0.4) for state in STATES]
    ).exp()
    torch.testing.assert_close(total.sum(0), torch.ones(5, dtype=F64))
    sharp = gaussian_decoder(0.9 * CENTRES, STATES, LEVELS, 0.9, 1e-3)
    torch.testing.assert_close(sharp, torch.zeros(16, dtype=F64))


def test_more_draws_tighten_the_importance_bound() -> None:
    exact = model(0.01)
    wanted = -mass(exact).log2() / 2
    pixels = STATES.repeat(4, 1)
    options: dict[str, Any] = {"tol": 1e-2, "dequantisation": Uniform(), "draws": 8}
    average = bits_per_dim(exact, pixels, LEVELS, **options)
    importance = bits_per_dim(exact, pixels, LEVELS, bound="importance", **options)
    assert bool((importance.bits <= average.bits).all())
    # The gap of the average is half of the variance of the logarithm; that of K draws is about a K-th of it.
    gap, rest = ((o.bits.reshape(4, 16).mean(0) - wanted).mean() for o in (average, importance))
    assert float(gap) > 0.05
    assert abs(float(rest)) < 0.3 * float(gap)
    assert bool((average.stderr_dequantisation > 0).all())
    spread = average.bits.reshape(4, 16).std(0).square().mean().sqrt()
    assert float(average.stderr_dequantisation.square().mean().sqrt()) == pytest.approx(float(spread), rel=0.4)


def test_probes_do_not_flatter_the_importance_bound() -> None:
    """E of the mean of p e^η is larger than that of p by half of the variance of η, unless that is taken off."""
    g = torch.Generator().manual_seed(1)
    factors = torch.randn(8, 8, generator=g, dtype=F64)
    cover = 0.05 * (factors @ factors.mT / 8 + 0.02 * torch.eye(8, dtype=F64))
    exact = GaussianMixtureScore(
        torch.ones(2), torch.stack((torch.zeros(8), 0.3 * torch.ones(8))), cover.expand(2, 8, 8), VESDE(0.01, 20.0)
    )
    pixels = torch.full((200, 8), 2)
    options: dict[str, Any] = {"tol": 1e-2, "bound": "importance", "draws": 4}
    from scoresde.numerics.trace import Exact

    true = bits_per_dim(exact, pixels, LEVELS, divergence=Exact(), **options)
    noisy = bits_per_dim(exact, pixels, LEVELS, divergence=Hutchinson(1), **options)
    assert float(noisy.stderr.mean()) > 0.01
    error = math.hypot(true.mean_stderr, noisy.mean_stderr)
    assert noisy.mean > true.mean - 3 * error


def test_the_elbo_beside_it() -> None:
    """Equal for an exact score, at the same dequantised values."""
    exact = model(0.01)
    out = bits_per_dim(exact, STATES, LEVELS, tol=1e-3, draws=2, elbo_draws=512, t_min=0.02, batch_size=64)
    assert out.elbo is not None
    assert out.elbo_stderr is not None
    assert bool(((out.elbo - out.bits).abs() < 4 * out.elbo_stderr + 1e-3).all())
    assert float(out.elbo_stderr.max()) < 0.5
    assert bits_per_dim(exact, STATES, LEVELS, tol=1e-2).elbo is None


@pytest.mark.parametrize("std", [0.05, 0.3, 1.0, 10.0])
def test_truncated_normal_has_its_density(std: float) -> None:
    noise = SampleNoise(0, torch.arange(20_000), (1,), F64)
    u, log_q = TruncatedNormal(std).place(noise.uniform())
    assert float(u.min()) >= 0
    assert float(u.max()) < 1
    # ∫ q = 1, as the mean of 1/q over draws of q is the length of the cell where q is not tiny.
    middle = (u[:, 0] - 0.5).abs() < 1.5 * std
    length = min(3 * std, 1.0)
    assert float(((-log_q).exp() * middle).mean()) == pytest.approx(length, rel=0.03)
    grid = torch.linspace(0, 1, 2001, dtype=F64)
    density = torch.exp(-0.5 * ((grid - 0.5) / std) ** 2)
    density /= torch.trapezoid(density, grid)
    wanted = torch.trapezoid(density * (grid - 0.5) ** 2, grid)
    assert float(((u - 0.5) ** 2).mean()) == pytest.approx(float(wanted), rel=0.05)


def test_bad_arguments() -> None:
    exact = model(0.01)
    with pytest.raises(ValueError, match="std is 0, expected a positive number of cell widths"):
        TruncatedNormal(0)
    with pytest.raises(ValueError, match=r"Posterior\(\) leaves the cell of a value, which decoder='rounding' needs"):
        bits_per_dim(exact, STATES, LEVELS, dequantisation=Posterior())
    with pytest.raises(ValueError, match="decoder is 'sharp', expected 'rounding' or 'gaussian'"):
        bits_per_dim(exact, STATES, LEVELS, decoder="sharp")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="bound is 'elbo', expected 'average' or 'importance'"):
        bits_per_dim(exact, STATES, LEVELS, bound="elbo")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"raw values must be integers 0\.\.3"):
        bits_per_dim(exact, STATES + 0.5, LEVELS)
    with pytest.raises(ValueError, match=r"raw values must be integers 0\.\.3"):
        bits_per_dim(exact, STATES + 1, LEVELS)


@pytest.mark.slow
@pytest.mark.parametrize("levels", [4096, 65536])
@pytest.mark.parametrize("sde", [VPSDE(), SubVPSDE(), VESDE(), EDMSDE(), CosineSDE(), FlowSDE()], ids=repr)
def test_many_levels_cost_no_more_and_have_the_mass_of_their_cells(sde: SDE, levels: int) -> None:
    means, stds = torch.tensor([-0.5, 0.5], dtype=torch.float64), torch.tensor([0.1, 0.2], dtype=torch.float64)
    model = GaussianMixtureScore(torch.ones(2), means[:, None], stds[:, None] ** 2, sde)
    t = torch.tensor(sde.t_min, dtype=torch.float64)
    pixels = ((torch.linspace(-0.9, 0.9, 16, dtype=torch.float64) + 1) / 2 * levels).long()[:, None]
    edges = -1 + 2 / levels * (pixels.double() + torch.tensor([0.0, 1.0], dtype=torch.float64))
    spread = (sde.alpha(t) ** 2 * stds**2 + sde.sigma(t) ** 2).sqrt()
    # In the tail on the left of each mean, where a difference loses nothing.
    z = -((edges[..., None] - sde.alpha(t) * means) / spread).abs()
    mass = torch.special.ndtr(z).diff(dim=1).abs().mean((1, 2))
    out = bits_per_dim(model, pixels, Discrete(levels), draws=16)
    assert float((out.bits + mass.log2()).abs().max()) < 0.02
    # Draws between the modes may be solved twice.
    assert float(out.nfe.mean()) < 100
    assert float(out.nfe.max()) < 240
