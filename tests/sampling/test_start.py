"""States that a sampler starts from: they have the data's mean and covariance at the first time."""

import pytest
import torch

from scoresde.numerics.dct import DCT
from scoresde.sampling import EDMHeun, ExplicitTimes, KarrasGrid, Sampler
from scoresde.sampling.start import prior_distance, prior_start
from scoresde.score import GaussianMixtureScore
from scoresde.score.model import ScoreModel
from scoresde.sde import EDMSDE, NCSNSDE, SDE, VESDE, VPSDE, CosineSDE, FlowSDE
from scoresde.statistics import Statistics
from tests.problems import gaussian

F64 = torch.float64
# The first time of a solve, at which α² differs from 0 by so much that a direction of the data is seen.
SEEN = [
    (VESDE(0.01, 2.0), 1.0),
    (NCSNSDE(), 1.0),
    (CosineSDE(log_snr_min=-0.5), None),
    (FlowSDE(), 0.6),
    (VPSDE(), 0.3),
]


def off_centre(sde: SDE) -> tuple[GaussianMixtureScore, torch.Tensor]:
    """Data about (3, 3) with standard deviations 1 and 0.01, turned by 30 degrees, and their covariance."""
    turn = torch.tensor([[0.75**0.5, -0.5], [0.5, 0.75**0.5]], dtype=F64)
    covariance = turn @ torch.diag(torch.tensor([1.0, 1e-4], dtype=F64)) @ turn.T
    return GaussianMixtureScore(torch.ones(1), torch.full((1, 2), 3.0), covariance[None], sde), covariance


@pytest.mark.parametrize(("sde", "first"), SEEN)
def test_the_start_is_the_marginal_of_normal_data(sde: SDE, first: float | None) -> None:
    model, covariance = off_centre(sde)
    t = torch.tensor(sde.t_max if first is None else first, dtype=F64)
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    mean = prior_start(model, torch.zeros(1, 2, dtype=F64), t)
    torch.testing.assert_close(mean, torch.full((1, 2), 3.0, dtype=F64) * alpha)
    root = prior_start(model, torch.eye(2, dtype=F64), t) - mean
    wanted = alpha**2 * covariance + sigma**2 * torch.eye(2)
    torch.testing.assert_close(root.T @ root, wanted)
    # One variance for all would be wrong by several per cent.
    assert float((torch.linalg.eigvalsh(wanted) / wanted.diagonal().mean() - 1).abs().min()) > 0.05


def test_samples_of_an_exact_flow_have_the_narrow_direction_from_the_start() -> None:
    """The flow of normal data is affine, so that a start that is too wide ends too wide."""
    model, _ = off_centre(VESDE(0.001, 1.0))
    out = Sampler(EDMHeun(), KarrasGrid(200), denoise=False)(model, (4000, 2), dtype=F64)
    values, vectors = torch.linalg.eigh(torch.cov(out.x.T))
    assert values[0].item() == pytest.approx(1e-4 + 1e-6, rel=0.1)  # four standard errors; 0.5 more without
    assert abs(float(vectors[0, 0])) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("sde", [EDMSDE(), VPSDE(), VESDE(), CosineSDE(), FlowSDE()], ids=repr)
def test_the_start_is_round_where_the_data_are_hardly_seen(sde: SDE) -> None:
    """The starts of published samplers, on the scale of the data for which the SDEs are made."""
    model, _ = off_centre(sde)
    t = torch.tensor(sde.t_max, dtype=F64)
    noise = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    alpha, sigma = float(sde.alpha(t)), float(sde.sigma(t))
    spread = (alpha**2 * model.data_std**2 + sigma**2) ** 0.5
    torch.testing.assert_close(prior_start(model, noise, t), spread * noise + 3 * alpha, rtol=1e-12, atol=1e-12)


def test_variances_of_the_dct_are_used_where_there_is_no_covariance() -> None:
    statistics = Statistics(torch.ones(4), 1.0, None, torch.ones(4), torch.tensor([3.9, 0.04, 0.04, 0.02]))
    model = gaussian(VESDE(0.01, 1.0), (4,))
    model.statistics = statistics
    noise = torch.eye(4, dtype=F64)
    start = prior_start(model, noise, torch.tensor(1.0, dtype=F64))
    dct = DCT((4,))
    wanted = dct.inverse(dct(noise) * (torch.tensor([3.9, 0.04, 0.04, 0.02], dtype=F64) + 1).sqrt()) + 1
    torch.testing.assert_close(start, wanted)


class _Bare(ScoreModel):
    def denoise(self, x: torch.Tensor, t: torch.Tensor, **cond: object) -> torch.Tensor:
        return x


def test_distance_is_in_standard_deviations_of_all_elements() -> None:
    model, t = off_centre(VESDE(0.01, 2.0))[0], torch.tensor(1.0, dtype=F64)
    x = torch.tensor([3.0, 13.0])
    assert prior_distance(model, x, t) == pytest.approx(10 / (model.data_std**2 + 4) ** 0.5)
    assert prior_distance(_Bare(VESDE(0.01, 2.0)), x, t) == pytest.approx(6.5)


def test_a_grid_may_begin_late() -> None:
    """Where σ/α is 0.01, states begin at the data's spread, not at one for all directions."""
    model, _ = off_centre(EDMSDE())
    out = Sampler(EDMHeun(), ExplicitTimes([0.01, 0.005]), denoise=False)(model, (4000, 2), dtype=F64)
    smallest = float(torch.linalg.eigvalsh(torch.cov(out.x.T))[0])
    assert smallest == pytest.approx(1e-4 + 0.005**2, rel=0.1)
