"""Local intrinsic dimensions of surfaces whose dimension is known."""

import math

import pytest
import torch

from scoresde.information import flipd
from scoresde.likelihood import Exact, Hutchinson, Probing
from scoresde.score import GaussianMixtureScore
from scoresde.sde import EDMSDE, SDE, VESDE, VPSDE
from tests.problems import generator, ring

F64 = torch.float64


def surface(k: int, size: int, sde: SDE) -> GaussianMixtureScore:
    """Normal data in k directions of `size` dimensions, turned at random; nothing in the others."""
    turn = torch.linalg.qr(torch.randn(size, size, generator=generator(k), dtype=F64))[0]
    widths = torch.cat((torch.linspace(0.5, 2.0, k, dtype=F64), torch.zeros(size - k, dtype=F64)))
    return GaussianMixtureScore([1.0], torch.ones(1, size, dtype=F64), (turn @ torch.diag(widths) @ turn.mT)[None], sde)


@pytest.mark.parametrize("k", [1, 3, 7, 12])
@pytest.mark.parametrize("sde", [VPSDE(), VESDE(), EDMSDE()], ids=["vp", "ve", "edm"])
def test_a_normal_surface_has_its_dimension(k: int, sde: SDE) -> None:
    model = surface(k, 12, sde)
    x = surface(k, 12, EDMSDE()).sample(40, 0.0, generator(1))  # VE noises its data at t = 0
    out = flipd(model, x, log_snr=[3.0, 4.0])
    assert torch.allclose(out.dimension.mean(1), torch.full((2,), float(k), dtype=F64), atol=0.02)
    assert float((out.dimension[1] - k).abs().max()) < 0.05
    assert out.maps is not None
    assert torch.allclose(out.maps.sum(-1), out.dimension)


def test_the_definition() -> None:
    """The slope of log p_v(x) in log √v, plus D."""
    model = ring(EDMSDE(), modes=5, std=0.2)
    x, v = model.sample(20, 0.0, generator(2)), 0.09
    step = 1e-5

    def log_prob(log_level: float) -> torch.Tensor:
        return model.log_prob(x, math.exp(log_level))

    at = 0.5 * math.log(v)
    slope = (log_prob(at + step) - log_prob(at - step)) / (2 * step)
    assert torch.allclose(flipd(model, x, log_snr=-at).dimension[0], slope + 2, atol=1e-6)


def test_surfaces_of_different_dimension_in_one_density() -> None:
    means = torch.zeros(2, 6, dtype=F64)
    means[1] += 10
    variances = torch.zeros(2, 6, dtype=F64)
    variances[0, :1], variances[1, :4] = 1.0, 1.0
    model = GaussianMixtureScore([0.5, 0.5], means, variances, VPSDE())
    x = torch.stack((torch.zeros(6), torch.full((6,), 10.0))).double()
    x[0, 0] += 0.3
    assert torch.allclose(flipd(model, x, log_snr=4.0).dimension[0], torch.tensor([1.0, 4.0], dtype=F64), atol=0.01)
    maps = flipd(model, x, log_snr=4.0).maps
    assert maps is not None
    assert torch.allclose(maps[0], (variances > 0).double(), atol=0.01)


@pytest.mark.parametrize("divergence", [Hutchinson(4), Probing(8)], ids=["hutchinson", "probing"])
def test_probes_have_the_exact_dimension_in_the_mean(divergence: Hutchinson | Probing) -> None:
    model = ring(VPSDE())
    lifted = GaussianMixtureScore(
        model.weights, torch.nn.functional.pad(model.means, (0, 18)), torch.full((8,), 0.01), VPSDE()
    )
    x = lifted.sample(300, 0.0, generator(3))
    exact = flipd(lifted, x, log_snr=1.0, divergence=Exact())
    out = flipd(lifted, x, log_snr=1.0, divergence=divergence)
    assert out.maps is None
    error = (out.dimension - exact.dimension)[0]
    assert abs(float(error.mean())) < 2.5 * float(error.std()) / math.sqrt(len(x)) + 1e-9
    assert float(error.std()) > 0
    if isinstance(divergence, Hutchinson):
        assert 0.8 < float(error.square().mean().sqrt() / out.stderr.square().mean().sqrt()) < 1.25
    else:
        assert bool(out.stderr.isnan().all())


def test_default_level_batches_and_bad_levels() -> None:
    model = ring(VPSDE())
    x = model.sample(5, 0.0, generator(4))
    out = flipd(model, x)
    assert math.isclose(math.exp(-float(out.log_snr)), 0.1 * float(model.statistics.std))
    assert torch.equal(flipd(model, x, batch_size=2).dimension, out.dimension)
    assert torch.equal(flipd(model, x[1:3], first=1).dimension, out.dimension[:, 1:3])
    with pytest.raises(ValueError, match="log_snr is \\[50.0\\], expected levels from"):
        flipd(model, x, log_snr=50.0)
