"""Priors are the mixtures that they say they are, and files are read as they were written or refused."""

from pathlib import Path

import numpy as np
import pytest
import torch

from scoresde.certificate import digits, fitted, read_mixture, ring, write_mixture
from scoresde.certificate.mixtures import density, draws, generator, moments
from scoresde.score import GaussianMixtureScore
from scoresde.sde import EDMSDE, VPSDE
from tests.problems import F64


def test_named_priors() -> None:
    eight = ring()
    torch.testing.assert_close(eight.means.norm(dim=1), torch.ones(8, dtype=F64))
    assert eight.narrowest == pytest.approx(0.05)
    images = digits(VPSDE())
    assert images.shape == (1, 8, 8)
    assert len(images.weights) == 10
    assert isinstance(images.sde, VPSDE)


def test_draws_have_the_moments_and_the_density() -> None:
    covariances = torch.tensor([[[0.5, 0.2], [0.2, 0.3]], [[0.1, 0.0], [0.0, 0.4]]])
    prior = GaussianMixtureScore([0.3, 0.7], [[-1.0, 0.0], [1.0, 0.5]], covariances, EDMSDE())
    x = draws(prior, 40_000, generator(0))
    mean, covariance = moments(prior)
    torch.testing.assert_close(x.mean(0), mean, rtol=0, atol=0.02)
    torch.testing.assert_close(x.T.cov(), covariance, rtol=0, atol=0.02)
    known = density(prior)
    assert known is not None
    torch.testing.assert_close(known.log_prob(x[:9]), prior.log_prob(x[:9], 0.0))


def test_a_fit_finds_the_mixture_of_its_data() -> None:
    x = draws(ring(), 2000, generator(1))
    found = fitted(x.reshape(-1, 2, 1), 8)
    assert found.shape == (2, 1)
    nearest = torch.cdist(ring().means, found.means).min(1).values
    assert float(nearest.max()) < 0.02


def test_files_are_read_as_written(tmp_path: Path) -> None:
    for prior in (ring(), digits()):
        write_mixture(prior, tmp_path / "prior.npz")
        again = read_mixture(tmp_path / "prior.npz")
        assert again.shape == prior.shape
        x = torch.full((2, *(prior.shape or ())), 0.3, dtype=F64)
        torch.testing.assert_close(again.log_prob(x, 0.5), prior.log_prob(x, 0.5))


def test_what_is_no_mixture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_mixture(tmp_path / "none.npz")
    np.savez(tmp_path / "images.npz", x=np.zeros(3))
    with pytest.raises(ValueError, match="it lacks weights and means and covariances, and has x"):
        read_mixture(tmp_path / "images.npz")
    np.savez(tmp_path / "negative.npz", weights=[1.0], means=[[0.0]], covariances=[-1.0])
    with pytest.raises(ValueError, match="not positive semi-definite"):
        read_mixture(tmp_path / "negative.npz")
    (tmp_path / "text.npz").write_text("weights")
    with pytest.raises(ValueError, match="is no mixture"):
        read_mixture(tmp_path / "text.npz")
    with pytest.raises(ValueError, match="there are 3 samples for 4 components"):
        fitted(torch.zeros(3, 2), 4)
