"""Divergences of models against exact densities and closed forms."""

import math
import warnings

import pytest
import torch
from torch.distributions import MultivariateNormal
from torch.distributions import kl_divergence as kl_of_normals

from scoresde.information import kl_divergence
from scoresde.score import GaussianMixtureScore
from scoresde.sde import EDMSDE, SDE, VESDE, VPSDE, FlowSDE
from tests.problems import blobs, correlated, gaussian, generator, ring

F64 = torch.float64


@pytest.mark.parametrize(
    ("sde", "other"),
    [(VPSDE(), VPSDE()), (EDMSDE(), VPSDE()), (FlowSDE(), VESDE())],
    ids=["vp-vp", "edm-vp", "flow-ve"],
)
def test_divergence_of_mixtures_against_monte_carlo(sde: SDE, other: SDE) -> None:
    p, q = correlated(sde), blobs(other, (6,), modes=3, variance=0.8)
    large = p.sample(200_000, 0.0, generator(8))
    ratio = p.log_prob(large, 0.0) - q.log_prob(large, 0.0)
    known, known_error = float(ratio.mean()), float(ratio.std()) / math.sqrt(len(ratio))
    out = kl_divergence(p, q, p.sample(1500, 0.0, generator(9)))
    for mean, error in (out.by_scores, out.by_errors):
        assert abs(mean - known) < 2.5 * math.hypot(error, known_error)
    assert out.by_scores[1] < out.by_errors[1] < 0.1 * known
    assert out.agree
    assert "nats by scores" in repr(out)


def test_pointwise_ratios_are_those_of_the_densities() -> None:
    p, q = ring(EDMSDE(), modes=8, std=0.2), ring(EDMSDE(), modes=5, std=0.3)
    x = p.sample(800, 0.0, generator(3))
    error = kl_divergence(p, q, x).log_ratio - (p.log_prob(x, 0.0) - q.log_prob(x, 0.0))
    assert abs(error.mean()) < 2.5 * error.std() / math.sqrt(len(x))


def test_normal_densities_by_their_closed_form() -> None:
    p, q = gaussian(VPSDE(), (2,), [0.0, 1.0], [1.0, 0.5]), gaussian(VPSDE(), (2,), [0.5, 0.0], [0.8, 1.5])
    normals = [MultivariateNormal(m.means[0], torch.diag(m.variances[0])) for m in (p, q)]
    known = float(kl_of_normals(*normals))
    mean, error = kl_divergence(p, q, p.sample(3000, 0.0, generator(1))).by_scores
    assert abs(mean - known) < 2.5 * error
    assert error < 0.05 * known


def test_a_model_is_at_no_distance_from_itself() -> None:
    model = ring(VPSDE())
    out = kl_divergence(model, model, model.sample(50, 0.0, generator(1)), draws=4)
    assert float(out.squares.abs().max()) == float(out.log_ratio.abs().max()) == 0.0


def test_samples_of_another_density_are_told_apart() -> None:
    p, q = correlated(VPSDE()), blobs(VPSDE(), (6,), modes=3, variance=0.8)
    out = kl_divergence(p, q, q.sample(800, 0.0, generator(4)))
    assert not out.agree
    assert out.by_errors[0] < 0 < out.by_scores[0]
    assert "not of the first model" in out._repr_html_()


def test_one_sample_does_not_tell() -> None:
    p, q = ring(VPSDE()), ring(VPSDE(), modes=5)
    out = kl_divergence(p, q, p.sample(1, 0.0, generator(4)), draws=4)
    assert math.isnan(out.gap.stderr)
    assert "not of the first model" not in out._repr_html_()


def test_models_that_do_not_fit_are_rejected() -> None:
    model = ring(VPSDE())
    x = model.sample(3, 0.0, generator(4))
    with pytest.raises(ValueError, match="data of different shapes"):
        kl_divergence(model, gaussian(VPSDE(), (3,)), x)
    early, late = ring(VESDE(0.01, 0.05)), ring(VESDE(0.1, 50.0))
    with pytest.raises(ValueError, match=r"ranges of log SNR of the models do not overlap: 3 to 4.61 and -3.91 to 2.3"):
        kl_divergence(early, late, x)
    from scoresde.data import Standardise

    other = GaussianMixtureScore([1.0], [[0.0, 0.0]], [1.0], VPSDE())
    other.transform = Standardise(mean=[0.0, 0.0], std=[2.0, 2.0])
    with pytest.raises(ValueError, match="different transforms of the data"):
        kl_divergence(model, other, x)


def test_levels_that_one_model_alone_knows_are_told_of_where_they_are_many() -> None:
    p, q, few = ring(VPSDE()), ring(VESDE()), ring(EDMSDE(60.0, 80.0))
    x = p.sample(3, 0.0, generator(4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kl_divergence(p, q, x, draws=4)
        kl_divergence(p, few, x, draws=4, log_snr=(-4.3, -4.1))
    told = "know the log SNRs -5.02 to 6.91 and -4.38 to -4.09, and what they differ by outside of -4.38 to -4.09 is"
    with pytest.warns(UserWarning, match=told) as caught:
        kl_divergence(p, few, x, draws=4)
    assert caught[0].filename == __file__
