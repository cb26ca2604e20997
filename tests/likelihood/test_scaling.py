"""Scalings by the data's variances in the DCT basis, and of data that are too large for a covariance."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from scoresde.likelihood import log_likelihood
from scoresde.likelihood.flow import Flow
from scoresde.likelihood.prior import prior_log_prob
from scoresde.likelihood.scaling import (
    CovarianceScaling,
    DCTScaling,
    DiagonalScaling,
    ScalarScaling,
    Scaling,
    Spread,
    log_determinant,
)
from scoresde.numerics.dct import DCT
from scoresde.numerics.trace import Exact
from scoresde.score import GaussianMixtureScore
from scoresde.sde import EDMSDE, VPSDE
from scoresde.statistics import Statistics
from tests.problems import correlated

F64 = torch.float64
SHAPES = [(6,), (3, 4), (2, 3, 4)]


def stationary(shape: tuple[int, ...]) -> Tensor:
    """A covariance `(D, D)` that the DCT makes diagonal, its variances not sorted."""
    size = math.prod(shape)
    variances = torch.rand(size, dtype=F64, generator=torch.Generator().manual_seed(3)) + 0.01
    basis = DCT(shape).inverse(torch.eye(size, dtype=F64))
    return basis.mT @ variances.diag() @ basis


def known(shape: tuple[int, ...], covariance: Tensor, large: bool) -> Statistics:
    """With the covariance, or as data too large for it are kept."""
    mean, std = torch.zeros(shape, dtype=F64), covariance.diagonal().mean().sqrt()
    full = Statistics(mean, std, covariance)
    if not large:
        return full
    assert full.variances is not None
    assert full.dct_variances is not None
    return Statistics(mean, std, None, full.variances.reshape(shape), full.dct_variances.reshape(shape))


def squared(level: float, values: Tensor) -> Tensor:
    """A function of the variances for each of two samples."""
    return torch.stack((values + level**2, (values + 2 * level**2).sqrt()))


@pytest.mark.parametrize("large", [False, True], ids=["covariance", "variances"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_dct_scaling_is_that_of_a_covariance_it_makes_diagonal(shape: tuple[int, ...], large: bool) -> None:
    covariance = stationary(shape)
    size = len(covariance)
    dense = CovarianceScaling().spread(known(shape, covariance, large=False), size)
    few = DCTScaling().spread(known(shape, covariance, large), size)
    y = torch.randn(2, size, dtype=F64, generator=torch.Generator().manual_seed(0))
    a, b = (squared(0.3, s.values) for s in (dense, few))
    torch.testing.assert_close(few.apply(b, y), dense.apply(a, y), rtol=0, atol=1e-10)
    torch.testing.assert_close(few.trace(b), dense.trace(a), rtol=0, atol=1e-10)
    assert log_determinant(few, b[0]) == pytest.approx(log_determinant(dense, a[0]), abs=1e-10)
    torch.testing.assert_close(few.apply(few.values[None], torch.eye(size, dtype=F64)), covariance, rtol=0, atol=1e-10)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_large_data_are_scaled_as_small_ones(shape: tuple[int, ...]) -> None:
    """By variances that are kept, or by a covariance that tells them."""
    factors = torch.randn(math.prod(shape), 40, dtype=F64, generator=torch.Generator().manual_seed(1))
    covariance = factors @ factors.mT / 40
    y = torch.randn(2, len(covariance), dtype=F64, generator=torch.Generator().manual_seed(0))
    for scaling in (ScalarScaling(), DiagonalScaling(), DCTScaling()):
        a, b = (scaling.spread(known(shape, covariance, large), len(covariance)) for large in (False, True))
        torch.testing.assert_close(a.apply(a.values.sqrt()[None], y), b.apply(b.values.sqrt()[None], y))


def test_what_is_not_known_falls_back() -> None:
    covariance = stationary((2, 3))
    small, large = (known((2, 3), covariance, v) for v in (False, True))
    least = Statistics(large.mean, large.std)

    def matrix(scaling: Scaling, statistics: Statistics | None) -> Tensor:
        spread: Spread = scaling.spread(statistics, 6)
        return spread.apply(spread.values.expand(6, -1), torch.eye(6, dtype=F64))

    for scaling in (ScalarScaling(), DiagonalScaling(), DCTScaling(), CovarianceScaling()):
        torch.testing.assert_close(matrix(scaling, None), torch.eye(6, dtype=F64))
        torch.testing.assert_close(matrix(scaling, least), least.std**2 * torch.eye(6, dtype=F64))
    # The covariance is diagonal there, so that its variances are all of it.
    torch.testing.assert_close(matrix(CovarianceScaling(), large), matrix(CovarianceScaling(), small))
    assert repr(DCTScaling()) == "DCTScaling()"


@pytest.mark.parametrize("large", [False, True], ids=["covariance", "variances"])
@pytest.mark.parametrize("scaling", [DiagonalScaling(), DCTScaling(), CovarianceScaling()], ids=repr)
@pytest.mark.parametrize("sde", [VPSDE(), EDMSDE()], ids=["vp", "edm"])
def test_densities(sde: Any, scaling: Scaling, large: bool) -> None:
    """Under every scaling the truth, but for what the Gaussian at t_max lacks, which does not depend on it."""
    model = correlated(sde, (1, 2, 3))
    x = model.sample(10, sde.t_min, torch.Generator().manual_seed(7))
    truth = model.log_prob(x, sde.t_min)
    statistics = model.statistics
    assert statistics is not None
    assert statistics.covariance is not None
    if large:
        moments = known(model.shape, statistics.covariance, large=True)
        model.statistics = Statistics(statistics.mean, statistics.std, None, moments.variance, moments.dct_variance)
    out = log_likelihood(model, x, tol=1e-5, scaling=scaling, divergence=Exact())
    end = torch.tensor(sde.t_max, dtype=F64)
    lacking = model.log_prob(out.latent, end) - prior_log_prob(
        Flow(model, x.shape), out.latent.flatten(1).double(), "matched"
    )
    # As that of the other scalings in test_density.py.
    torch.testing.assert_close(out.log_prob + lacking, truth, rtol=0, atol=1e-4)


@pytest.mark.parametrize("large", [False, True], ids=["covariance", "variances"])
def test_the_prior_has_the_variances_that_are_known(large: bool) -> None:
    shape = (1, 2, 3)
    covariance = stationary(shape)
    model = correlated(EDMSDE(sigma_max=2.0), shape)
    model.statistics = known(shape, covariance, large)
    z = torch.randn(4, 6, dtype=F64, generator=torch.Generator().manual_seed(2))
    normal = torch.distributions.MultivariateNormal(torch.zeros(6, dtype=F64), covariance + 4 * torch.eye(6))
    flow = Flow(model, torch.Size((4, *shape)))
    torch.testing.assert_close(prior_log_prob(flow, z, "matched"), normal.log_prob(z))
    plain = torch.distributions.Normal(0.0, 2.0).log_prob(z).sum(1)
    torch.testing.assert_close(prior_log_prob(flow, z, "plain"), plain)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_normal_data_stand_still_in_the_dct(shape: tuple[int, ...]) -> None:
    """With the variances alone there is nothing to integrate, and a step is as long as may be."""
    covariance = stationary(shape)
    model = GaussianMixtureScore(torch.ones(1), torch.ones(1, *shape), covariance[None], VPSDE())
    statistics = model.statistics
    assert statistics is not None
    moments = known(shape, covariance, large=True)
    model.statistics = Statistics(statistics.mean, statistics.std, None, moments.variance, moments.dct_variance)
    x = model.sample(5, model.sde.t_min, torch.Generator().manual_seed(7))
    out = log_likelihood(model, x, scaling=DCTScaling())
    # Round-off of noise levels of 1e-5 at t_min, as for a covariance.
    torch.testing.assert_close(out.log_prob, model.log_prob(x, model.sde.t_min), rtol=0, atol=1e-9)
    assert int(out.accepted.max()) <= 4
    assert float(out.stderr.max()) < 1e-9
    scalar = log_likelihood(model, x, scaling=ScalarScaling())
    assert int(scalar.accepted.min()) > int(out.accepted.max())
