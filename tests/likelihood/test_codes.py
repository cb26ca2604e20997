"""Codes against the affine map of normal data; round trips, and ways between codes."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from scoresde.likelihood import decode, encode, interpolate, round_trip_error
from scoresde.networks import MLP
from scoresde.preconditioning import EDMPreconditioning
from scoresde.score import GaussianMixtureScore, NetworkScore, ScoreModel
from scoresde.sde import EDMSDE, SDE, VESDE, VPSDE
from scoresde.statistics import Statistics
from tests.problems import blobs

F64 = torch.float64
SDES = {"vp": VPSDE(), "ve": VESDE(), "edm": EDMSDE()}
MEAN = torch.tensor([1.0, -2.0, 0.5], dtype=F64)
COVER = torch.tensor([[0.5, 0.2, 0.0], [0.2, 0.3, -0.1], [0.0, -0.1, 0.2]], dtype=F64)


def normal(sde: SDE) -> GaussianMixtureScore:
    return GaussianMixtureScore(torch.ones(1), MEAN[None], COVER[None], sde)


def ends(sde: SDE) -> tuple[Tensor, Tensor]:
    t = torch.tensor([sde.t_min, sde.t_max], dtype=F64)
    return sde.alpha(t), sde.sigma(t)


def affine(sde: SDE, x: Tensor) -> Tensor:
    """Codes of N(m, Σ): α₁ m + (α₁² Σ + σ₁²)^(1/2) (α₀² Σ + σ₀²)^(−1/2) (x − α₀ m)."""
    alpha, sigma = ends(sde)
    values, vectors = torch.linalg.eigh(COVER)
    stretch = ((alpha[1] ** 2 * values + sigma[1] ** 2) / (alpha[0] ** 2 * values + sigma[0] ** 2)).sqrt()
    return alpha[1] * MEAN + (x - alpha[0] * MEAN) @ vectors * stretch @ vectors.mT


class Picked(ScoreModel):
    """A class-conditional model: `labels` pick a mixture."""

    def __init__(self, parts: list[GaussianMixtureScore]) -> None:
        super().__init__(parts[0].sde)
        self.parts = torch.nn.ModuleList(parts)

    def denoise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        every = torch.stack([part.denoise(x, t) for part in self.parts])
        return every[cond["labels"], torch.arange(len(x))]


@pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
def test_codes_of_normal_data_are_affine(sde: SDE) -> None:
    model = normal(sde)
    x = model.sample(5, sde.t_min, torch.Generator().manual_seed(0))
    z = affine(sde, x)
    scale = float(ends(sde)[1][1])
    assert float((encode(model, x, rtol=1e-8, atol=1e-8) - z).abs().max()) < 1e-6 * scale
    torch.testing.assert_close(decode(model, z, rtol=1e-8, atol=1e-8), x, rtol=0, atol=1e-6)


def test_round_trips_follow_the_tolerance() -> None:
    model = blobs(VPSDE(), (6,), 3, 0.05)
    x = model.sample(20, model.sde.t_min, torch.Generator().manual_seed(0))
    loose, tight = (round_trip_error(model, x, rtol=tol, atol=tol) for tol in (1e-4, 1e-7))
    assert loose.shape == (20,)
    assert loose.dtype == F64
    assert float(tight.max()) < 1e-5
    assert float(loose.median()) > 30 * float(tight.median())
    back = decode(model, encode(model, x, rtol=1e-4, atol=1e-4), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(loose[3], (back[3] - x[3]).square().mean().sqrt())


def test_round_trips_of_a_network() -> None:
    torch.manual_seed(0)
    mlp = MLP((1, 2, 2), width=16, blocks=1)
    torch.nn.init.normal_(list(mlp.parameters())[-2], std=0.25)
    known = Statistics(torch.zeros(1, 2, 2, dtype=F64), 0.5)
    model = NetworkScore(mlp, EDMSDE(0.01, 20.0), EDMPreconditioning(0.5), known)
    x = 0.5 * torch.randn(4, 1, 2, 2, generator=torch.Generator().manual_seed(2))
    error = round_trip_error(model, x, rtol=1e-4, atol=1e-4)
    assert error.shape == (4,)
    assert float(error.max()) < 5e-3
    way = interpolate(model, x[:2], x[2:], 3, rtol=1e-4, atol=1e-4)
    assert way.shape == (2, 3, 1, 2, 2)
    assert way.dtype == torch.float32


@pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
def test_the_way_between_normal_data(sde: SDE) -> None:
    """On a plane with both codes, at even angles, of norms that change evenly."""
    model = normal(sde)
    a, b = model.sample(8, sde.t_min, torch.Generator().manual_seed(0)).split(4)
    way = interpolate(model, a, b, 5, rtol=1e-8, atol=1e-8)
    assert way.shape == (4, 5, 3)
    torch.testing.assert_close(way[:, 0], a, rtol=0, atol=1e-6)
    torch.testing.assert_close(way[:, -1], b, rtol=0, atol=1e-6)
    codes = affine(sde, way) - ends(sde)[0][1] * MEAN
    norms = codes.norm(dim=2)
    scale = float(ends(sde)[1][1])
    torch.testing.assert_close(norms.diff(dim=1).std(1), torch.zeros(4, dtype=F64), rtol=0, atol=1e-5 * scale)
    unit = codes / norms[..., None]
    angles = (unit[:, 1:] * unit[:, :-1]).sum(2).acos()
    whole = (unit[:, 0] * unit[:, -1]).sum(1).acos()
    torch.testing.assert_close(angles, (whole / 4)[:, None].expand(4, 4), rtol=0, atol=1e-5)


def test_norms_stay_typical() -> None:
    """Half way, a straight line is at a norm of √(D/2) where draws have √D."""
    dim = 64
    model = GaussianMixtureScore(torch.ones(1), torch.full((1, dim), 3.0), torch.full((1,), 0.5), VPSDE())
    a, b = model.sample(20, model.sde.t_min, torch.Generator().manual_seed(0)).split(10)
    norms = (interpolate(model, a, b, 3)[:, 1] - 3).norm(dim=1) / math.sqrt(0.5 * dim)
    assert float((norms - 1).abs().max()) < 0.25
    assert float((((a + b) / 2 - 3).norm(dim=1) / math.sqrt(0.5 * dim)).max()) < 0.85


def test_same_and_opposite_ends() -> None:
    """Without a plane there is a straight line; a code at the mean has no direction."""
    model = normal(VPSDE())
    a = model.sample(2, model.sde.t_min, torch.Generator().manual_seed(0))
    torch.testing.assert_close(interpolate(model, a, a, 3), a[:, None].expand(2, 3, 3), rtol=0, atol=1e-4)
    centre = model.sde.alpha(torch.tensor(model.sde.t_min, dtype=F64)) * MEAN
    for b in (2 * centre - a, centre.expand(2, 3)):
        middle = interpolate(model, a, b, 3)[:, 1]
        torch.testing.assert_close(middle, (a + b) / 2, rtol=0, atol=1e-4)


def test_one_dimension() -> None:
    model = GaussianMixtureScore(torch.ones(1), torch.ones(1, 1), torch.ones(1), VPSDE())
    a, b = torch.tensor([[0.2], [1.5]], dtype=F64), torch.tensor([[2.0], [3.0]], dtype=F64)
    share = torch.linspace(0, 1, 4, dtype=F64)[None, :, None]
    wanted = (1 - share) * a[:, None] + share * b[:, None]
    torch.testing.assert_close(interpolate(model, a, b, 4), wanted, rtol=0, atol=1e-4)


def test_conditions_go_with_their_samples() -> None:
    sde = VPSDE()
    parts = [
        GaussianMixtureScore(torch.ones(1), torch.full((1, 2), mean), torch.tensor([variance]), sde)
        for mean, variance in ((-2.0, 0.1), (3.0, 0.5), (0.0, 1.0))
    ]
    labels = torch.tensor([1, 0, 2])
    a, b = (torch.stack([parts[k].sample(2, sde.t_min)[i] for k in labels.tolist()]) for i in (0, 1))
    way = interpolate(Picked(parts), a, b, 4, labels=labels)
    for i, k in enumerate(labels.tolist()):
        # The picked one has no statistics, and so another centre.
        alone = Picked([parts[k]])
        single = interpolate(alone, a[i : i + 1], b[i : i + 1], 4, labels=torch.zeros(1, dtype=torch.int64))
        torch.testing.assert_close(way[i], single[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(way[:, 0], a, rtol=0, atol=1e-4)
    errors = round_trip_error(Picked(parts), a, labels=labels)
    assert float(errors.max()) < 1e-4


def test_bad_arguments() -> None:
    model = normal(VPSDE())
    x = torch.zeros(4, 3)
    with pytest.raises(ValueError, match=r"a and b have shapes \(4, 3\) and \(2, 3\), expected the same"):
        interpolate(model, x, x[:2])
    with pytest.raises(ValueError, match="steps is 1, expected at least 2, the ends"):
        interpolate(model, x, x, 1)
    with pytest.raises(ValueError, match="labels is no argument of this call, and no condition of GaussianMixtureSc"):
        interpolate(model, x, x, labels=torch.zeros(8))
    with pytest.raises(ValueError, match="x has dtype torch.int64"):
        interpolate(model, x.long(), x.long())
    with pytest.raises(ValueError, match="x has values that are not finite in 1 of 4 samples"):
        round_trip_error(model, torch.where(torch.arange(4)[:, None] == 2, torch.nan, x))


def test_options_of_a_way_are_no_conditions_of_the_network() -> None:
    torch.manual_seed(0)
    statistics = Statistics.standard((2,))
    model = NetworkScore(MLP((2,), width=8, blocks=1, num_classes=2), VPSDE(), EDMPreconditioning(), statistics)
    x = torch.randn(2, 2)
    way = interpolate(model, x, x.flip(0), 3, rtol=1e-4, atol=1e-4, batch_size=4, labels=1)
    assert way.shape == (2, 3, 2)
    assert torch.allclose(way[:, 0], x, atol=1e-2)
    assert torch.equal(way, interpolate(model, x, x.flip(0), 3, rtol=1e-4, atol=1e-4, labels=[1, 1]))
    with pytest.raises(ValueError, match="interpolate has no argument 'rtl', did you mean rtol?"):
        interpolate(model, x, x, 3, labels=1, rtl=1e-4)
    with pytest.raises(ValueError, match="caption is no argument of this call"):
        interpolate(model, x, x, 3, labels=1, caption="a")
    back = round_trip_error(model, x, labels=1)
    assert float(back.max()) < 1e-3
