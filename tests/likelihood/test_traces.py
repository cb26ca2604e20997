"""Traces in closed form, where a model has them."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from scoresde.likelihood import Exact, log_likelihood
from scoresde.numerics.jacobian import jacobian_diagonal
from scoresde.score import GaussianMixtureScore
from scoresde.sde import EDMSDE, VPSDE
from tests.problems import F64, generator


def mixtures(sde: Any) -> dict[str, GaussianMixtureScore]:
    """Mixtures with covariances of every form, of samples of shape `(2, 3)`."""
    draws = generator(4)
    means = torch.randn(3, 2, 3, generator=draws, dtype=F64)
    roots = torch.randn(3, 6, 6, generator=draws, dtype=F64)
    covariances = {
        "isotropic": torch.tensor([0.02, 0.5, 1.0]),
        "diagonal": torch.rand(3, 2, 3, generator=draws, dtype=F64) + 0.01,
        "full": roots @ roots.mT / 6,
    }
    return {name: GaussianMixtureScore(torch.tensor([1.0, 2.0, 3.0]), means, c, sde) for name, c in covariances.items()}


@pytest.mark.parametrize("sde", [VPSDE(), EDMSDE()], ids=["vp", "edm"])
@pytest.mark.parametrize("kind", ["isotropic", "diagonal", "full"])
def test_a_mixture_has_its_trace_in_closed_form(kind: str, sde: Any) -> None:
    model = mixtures(sde)[kind]
    for level in (sde.t_min, 0.3 * sde.t_max, sde.t_max):
        t = torch.full((5,), level, dtype=F64)
        x = model.sample(5, level, generator(7))
        found = model.noise_and_trace(x, t)
        assert found is not None
        field, diagonal = jacobian_diagonal(partial(model.noise, t=t), x)
        torch.testing.assert_close(found[0], field, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(found[1], diagonal.sum(0), rtol=1e-8, atol=1e-10)
        single = model.noise_and_trace(x.float(), t)
        assert single is not None
        assert single[0].dtype == torch.float32
        torch.testing.assert_close(single[1], model.noise_and_trace(x.float().double(), t)[1])  # type: ignore[index]


def test_likelihoods_with_exact_traces_take_it() -> None:
    model = mixtures(VPSDE())["full"]
    x = model.sample(6, model.sde.t_min, generator(7))
    closed, products = (
        log_likelihood(model, x, divergence=Exact()),
        log_likelihood(model, x, divergence=Exact("reverse")),
    )
    torch.testing.assert_close(closed.log_prob, products.log_prob, rtol=0, atol=1e-8)
    torch.testing.assert_close(closed.solver_stderr, products.solver_stderr)
    assert torch.equal(closed.nfe, products.nfe)
    assert torch.equal(closed.divergences, products.divergences)
    assert int(closed.products.max()) == 0
    assert torch.equal(products.products, 6 * products.divergences)
    assert float(closed.stderr.max()) == 0.0


def test_a_subclass_with_a_prediction_of_its_own_has_none() -> None:
    class Scaled(GaussianMixtureScore):
        is_score = True

        def noise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
            return 0.9 * super().noise(x, t, **cond)

    whole = mixtures(VPSDE())["isotropic"]
    scaled = Scaled(whole.weights, whole.means.reshape(3, 2, 3), whole.variances[:, 0], VPSDE())
    x = whole.sample(2, 0.3, generator(7))
    assert scaled.noise_and_trace(x, torch.full((2,), 0.3)) is None
    assert int(log_likelihood(scaled, x, divergence=Exact(), tol=0.1).products.min()) > 0
