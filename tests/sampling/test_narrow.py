"""The warning of data that are narrower than the noise where a sampler ends."""

import warnings

import pytest
import torch
from torch import Tensor

from scoresde.data import Data, DataInfo, digits, two_moons
from scoresde.sampling import EDMHeun, KarrasGrid, Sampler, UniformLogSNR
from scoresde.score import GaussianMixtureScore
from scoresde.sde import EDMSDE, SDE, VESDE, VPSDE
from scoresde.statistics import Statistics
from tests.problems import gaussian, ring

F64 = torch.float64


def needle(sde: SDE, narrow: float = 1e-6) -> GaussianMixtureScore:
    return GaussianMixtureScore(torch.ones(1), torch.zeros(1, 2), torch.tensor([[1.0, narrow]]), sde)


@pytest.mark.parametrize(
    ("sde", "denoise", "ratio", "effect"),
    [
        (VPSDE(), True, "10.5 times", "0.095 of that spread is left"),
        (VPSDE(), False, "10.5 times", "11 times as wide"),
        (EDMSDE(), True, "2 times", "0.45 of that spread is left"),
    ],
    ids=["denoised", "not denoised", "edm"],
)
def test_it_says_how_much_of_the_spread_is_left(sde: SDE, denoise: bool, ratio: str, effect: str) -> None:
    """And it is right, as samples show: see the last two lines."""
    sampler = Sampler(EDMHeun(), KarrasGrid(100), denoise=denoise)
    with pytest.warns(UserWarning, match=rf"{ratio} the data's smallest.*, 0\.001: .*{effect}.*t_min") as record:
        x = sampler(needle(sde), (2000, 2), dtype=F64).x
    assert len(record) == 1
    assert record[0].filename == __file__
    level = float(sde.noise_level(torch.tensor(sde.t_min_sampling, dtype=F64)))
    share = (1 + (level / 1e-3) ** 2) ** (-0.5 if denoise else 0.5)
    assert float(x[:, 1].std()) == pytest.approx(1e-3 * share, rel=0.07)


def silent(model: GaussianMixtureScore, sampler: Sampler | None = None) -> None:
    sampler = Sampler(EDMHeun(), KarrasGrid(2)) if sampler is None else sampler
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sampler(model, 2)


def test_no_warning_where_the_sampler_ends_below() -> None:
    silent(needle(VESDE(1e-4)))
    silent(needle(VPSDE(), narrow=0.011**2))
    silent(needle(VPSDE(), narrow=0.0))  # constant
    silent(ring(VPSDE(), std=0.02))


def test_a_grid_that_ends_early_is_told() -> None:
    with pytest.warns(UserWarning, match="smallest standard deviation"):
        Sampler(EDMHeun(), UniformLogSNR(3, t_min=1.0))(needle(EDMSDE(), narrow=0.25), 2)


def with_data(x: Tensor, data: Data | None = None) -> GaussianMixtureScore:
    model = gaussian(VPSDE(), tuple(x.shape[1:]))
    model.statistics = Statistics.estimate(x)
    if data is not None:
        model.info = DataInfo.of(data)
    return model


def test_no_warning_for_images_and_discrete_data() -> None:
    data = digits()
    x = data.transform.encode(data.train)
    assert Statistics.estimate(x.flatten(1)).narrowest_std < 0.01  # a pixel that hardly varies, besides constant ones
    silent(with_data(x, data))
    silent(with_data(x))
    silent(with_data(x.flatten(1), data))
    moons = two_moons()
    silent(with_data(moons.transform.encode(moons.train), moons))


def test_narrow_std() -> None:
    """A tenth of 21 directions that vary, besides two that do not, are the two narrowest: the third is the limit."""
    stds = torch.cat((torch.zeros(2), torch.linspace(0.1, 2.1, 21))).double()
    turn = torch.linalg.qr(torch.randn(23, 23, generator=torch.Generator().manual_seed(0), dtype=F64))[0]
    known = Statistics(torch.zeros(23), 1.0, (turn * stds**2) @ turn.T)
    assert known.narrow_std == pytest.approx(0.3)
    assert Statistics(torch.zeros(2), 1.0, torch.diag(torch.tensor([4.0, 0.25]))).narrow_std == pytest.approx(0.5)
    assert Statistics(torch.zeros(2), 1.0, None, torch.tensor([1.75, 0.25])).narrow_std == pytest.approx(1.0)


def test_narrowest_std() -> None:
    turned = torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=F64)
    assert Statistics(torch.zeros(2), 2**0.5, turned).narrowest_std == pytest.approx(1.0)
    flat = Statistics(torch.zeros(3), 1.0, torch.diag(torch.tensor([3.0, 0.04, 0.0])))
    assert flat.narrowest_std == pytest.approx(0.2)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=F64))[0]
    rounded = Statistics(torch.zeros(3), 1.0, turn @ torch.diag(torch.tensor([3.0, 0.04, 0.0]).double()) @ turn.T)
    assert rounded.float().narrowest_std == pytest.approx(0.2, rel=1e-4)
    assert Statistics(torch.zeros(2), 1.0, None, torch.tensor([1.75, 0.25])).narrowest_std == pytest.approx(0.5)
    assert Statistics(torch.zeros(2), 0.7).narrowest_std == pytest.approx(0.7)
