"""Warnings where noise and data are of other sizes."""

import warnings

import pytest
import torch
from torch import Tensor

from scoresde.data import Discrete, Identity, Transform, checkerboard, digits, eight_gaussians, swiss_roll, two_moons
from scoresde.networks import MLP
from scoresde.preconditioning import EDMPreconditioning
from scoresde.score import NetworkScore
from scoresde.sde import EDMSDE, SDE, VESDE, VPSDE, CosineSDE, FlowSDE, SubVPSDE
from scoresde.statistics import Statistics
from scoresde.training import fit
from scoresde.training.moments import data_statistics
from scoresde.training.noise_range import warn_of_scale

SDES: list[SDE] = [VPSDE(), SubVPSDE(), VESDE(), CosineSDE(), EDMSDE(), FlowSDE()]


def normal(*shape: int) -> Tensor:
    return torch.randn(500, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("sde", SDES, ids=lambda sde: type(sde).__name__)
def test_nothing_is_said_of_what_comes_with_the_package_or_is_standardised(sde: SDE) -> None:
    toys = (eight_gaussians(), two_moons(), swiss_roll(), checkerboard(), digits())
    known = [(data_statistics(data, True), data.transform) for data in toys]
    known.append((Statistics.estimate(normal(3, 4)), Identity()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for statistics, transform in known:
            warn_of_scale(sde, statistics, transform)


@pytest.mark.parametrize(
    ("x", "transform", "message"),
    [
        (1000 * normal(2), Identity(), r"is .*e-06 to 0.15 standard deviations .* .9.*: standardise the data"),
        (1e-3 * normal(2), Identity(), r"runs from 0.001 to 152, which is 1 to .*e.05 standard deviations"),
        (normal(2) * torch.tensor([1.0, 1e-3]), Identity(), r"standard deviations of the data .0.00.* to "),
        (normal(2, 3) * torch.tensor([[1.0], [200.0]]), Identity(), r"standard deviations of the data .* to "),
        (normal(2) + 20, Identity(), r"the mean of the data is \d+.* standard deviations from 0, which"),
        (1e-3 * normal(1, 2), Discrete(65536), "give the data another low and high"),
    ],
)
def test_data_of_another_size_than_the_noise_are_told_of(x: Tensor, transform: Transform, message: str) -> None:
    with pytest.warns(UserWarning, match=message) as caught:
        warn_of_scale(VPSDE(), Statistics.estimate(x), transform)
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)


def test_borders_of_pictures_that_hardly_vary_are_not_told_of() -> None:
    x = normal(1, 2) * torch.tensor([1.0, 1e-5])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_scale(VPSDE(), Statistics.estimate(x), Discrete(256))
        warn_of_scale(VPSDE(), Statistics.estimate(torch.stack((normal(2), torch.zeros(500, 2)), 1)), Identity())


def test_whoever_insists_on_raw_data_is_warned_in_training() -> None:
    model = NetworkScore(MLP((2,), width=4, blocks=1), VPSDE(), EDMPreconditioning())
    with pytest.warns(UserWarning, match=r"σ/α of VPSDE.* about 0.01 to 10 are needed"):
        fit(model, 1e4 * normal(2), 1, standardise="none", progress=False)
