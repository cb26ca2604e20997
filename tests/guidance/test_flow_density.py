"""Likelihoods of guided models: refused, and those of their flow, which is affine for Gaussians."""

import math

import pytest
import torch

from scoresde.guidance import ClassifierFree, FlowDensity, Product
from scoresde.likelihood import decode, differentiable_log_prob, elbo, encode, log_likelihood
from scoresde.sampling import EDMHeun, KarrasGrid, Sampler
from scoresde.sde import EDMSDE, VPSDE
from tests.problems import F64, gaussian, generator

SDE = EDMSDE()


def guided(scale: float = 3.0) -> ClassifierFree:
    return ClassifierFree(gaussian(SDE, (2,), 0.8, (0.5, 0.2)), scale, gaussian(SDE, (2,), -0.1, (1.5, 0.9)))


def test_the_density_of_the_flow_is_that_of_an_affine_map() -> None:
    x = torch.tensor([[0.3, 1.2], [1.5, 0.9]], dtype=F64)
    out = log_likelihood(FlowDensity(guided()), x, tol=1e-4)
    # x at t_max as a function of x at t_min, in small steps of log σ: dx/dσ = σ Σ w_i (x − m_i)/(v_i + σ²).
    variances = torch.tensor([[0.5, 0.2], [1.5, 0.9]], dtype=F64)
    weights, means = torch.tensor([3.0, -2.0], dtype=F64), torch.tensor([0.8, -0.1], dtype=F64)
    level = torch.logspace(math.log10(SDE.t_min), math.log10(SDE.t_max), 4001, dtype=F64)
    z, log_det = x, torch.zeros(2, dtype=F64)
    for s, ds in zip((level[1:] * level[:-1]).sqrt(), level.diff(), strict=True):
        rates = s * weights[:, None] / (variances + s**2)
        rate, rest = rates.sum(0), -(rates * means[:, None]).sum(0)
        z = z * (rate * ds).exp() + rest / rate * torch.expm1(rate * ds)
        log_det += rate * ds
    start = gaussian(SDE, (2,), 0.8, (0.5, 0.2)).log_prob(z, SDE.t_max)
    torch.testing.assert_close(out.log_prob, start + log_det.sum(), rtol=1e-4, atol=1e-4)
    loose = {"rtol": 1e-4, "atol": 1e-4}
    # Codes are those of the flow whatever it is called.
    torch.testing.assert_close(decode(guided(), encode(guided(), x, **loose), **loose), x, rtol=1e-2, atol=1e-2)
    sampler = Sampler(EDMHeun(), KarrasGrid(20))
    assert sampler(FlowDensity(guided()), 3, seed=0, log_prob=True, tol=1.0).log_prob is not None


def test_a_guided_model_has_no_likelihood() -> None:
    x = torch.zeros(2, 2, dtype=F64)
    product = Product([gaussian(SDE), gaussian(SDE, mean=0.0)])
    for model in (guided(), product):
        for ask in (log_likelihood, elbo, differentiable_log_prob):
            with pytest.raises(ValueError, match=r"has no likelihood: a guided field is the score of no density; take"):
                ask(model, x)  # type: ignore[operator]
        with pytest.raises(ValueError, match=rf"{type(model).__name__} has no likelihood"):
            Sampler(EDMHeun(), KarrasGrid(5))(model, 2, log_prob=True)
    one = guided(1.0)
    expected = one.model.log_prob(x, one.sde.t_min)  # type: ignore[operator]
    torch.testing.assert_close(log_likelihood(one, x, tol=1e-4).log_prob, expected, rtol=1e-3, atol=1e-3)
    vp = gaussian(VPSDE())
    assert log_likelihood(vp, vp.sample(2, 0.01, generator())).log_prob.isfinite().all()
