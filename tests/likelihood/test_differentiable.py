"""Gradients of the log-density against finite differences."""

import pytest
import torch
from torch import Tensor

from scoresde.likelihood import differentiable_log_prob, encode, log_likelihood
from scoresde.likelihood.flow import Flow
from scoresde.likelihood.prior import prior_log_prob
from scoresde.networks import MLP
from scoresde.numerics.trace import Divergence, Exact, Hutchinson, Probing
from scoresde.preconditioning import EDMPreconditioning
from scoresde.score import GaussianMixtureScore, NetworkScore
from scoresde.sde import VPSDE
from scoresde.statistics import Statistics

F64 = torch.float64
SDE = VPSDE(t_min=1e-3)


@pytest.fixture
def network() -> NetworkScore:
    torch.manual_seed(0)
    mlp = MLP((6,), width=16, blocks=1)
    for parameter in mlp.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    statistics = Statistics(torch.full((6,), 0.1, dtype=F64), 0.5)
    return NetworkScore(mlp.double(), SDE, EDMPreconditioning(0.5), statistics)


@pytest.fixture
def x() -> Tensor:
    return 0.5 * torch.randn(3, 6, dtype=F64, generator=torch.Generator().manual_seed(2))


def test_it_is_the_log_density() -> None:
    g = torch.Generator().manual_seed(1)
    means = torch.randn(3, 4, generator=g, dtype=F64)
    model = GaussianMixtureScore(torch.ones(3), means, torch.full((3,), 0.2, dtype=F64), SDE)
    x = model.sample(5, 1e-3, g)
    exact = log_likelihood(model, x, tol=1e-8, divergence=Exact()).log_prob
    errors = [
        float((differentiable_log_prob(model, x, steps=n, divergence=Exact()) - exact).abs().mean())
        for n in (20, 40, 80)
    ]
    assert errors[2] < 1e-3
    assert errors[0] > 8 * errors[1] > 64 * errors[2]  # order 4


@pytest.mark.parametrize("variances", [[1.0, 1e-6], [100.0, 1e-6]], ids=repr)
def test_narrow_directions_have_steps_of_their_own(variances: list[float]) -> None:
    """Of a Gaussian density all is known: its logarithm, its gradient −x/v, and the same at t_max, where the code has
    moments that the prior does not."""
    data = GaussianMixtureScore(torch.ones(1), torch.zeros(1, 2), torch.tensor([variances], dtype=F64), VPSDE())
    x = data.sample(8, data.sde.t_min, torch.Generator().manual_seed(1)).requires_grad_()
    z = encode(data, x.detach(), tol=1e-6)
    lacking = data.log_prob(z, data.sde.t_max) - prior_log_prob(Flow(data, x.shape), z, "matched")
    exact = data.log_prob(x, data.sde.t_min)
    (slope,) = torch.autograd.grad(exact.sum(), x)
    errors = []
    for steps in (16, 32):
        found = differentiable_log_prob(data, x, steps=steps, divergence=Exact())
        errors.append(float((found.detach() + lacking - exact.detach()).abs().mean()))
    assert errors[1] < 1e-3
    assert errors[0] > 8 * errors[1]  # order 4
    (gradient,) = torch.autograd.grad(found.sum(), x)
    torch.testing.assert_close(gradient, slope, rtol=1e-3, atol=0.03)


@pytest.mark.parametrize("divergence", [Exact(), Hutchinson(1), Hutchinson(2), Probing(3)], ids=repr)
def test_gradients(network: NetworkScore, x: Tensor, divergence: Divergence) -> None:
    def total(points: Tensor) -> Tensor:
        return differentiable_log_prob(network, points, steps=4, divergence=divergence, seed=3).sum()

    weight = network.network.get_parameter("output.weight")
    by_x, by_weight = torch.autograd.grad(total(x.requires_grad_()), (x, weight))
    assert float(by_x.abs().max()) > 0.1
    h = 1e-5
    with torch.no_grad():
        step = torch.zeros_like(x)
        step[1, 2] = h
        assert float(by_x[1, 2]) == pytest.approx(float((total(x + step) - total(x - step)) / (2 * h)), rel=1e-5)
        values = []
        for sign in (1, -1):
            weight[2, 5] += sign * h
            values.append(float(total(x)))
            weight[2, 5] -= sign * h
    assert float(by_weight[2, 5]) == pytest.approx((values[0] - values[1]) / (2 * h), rel=1e-5)


def test_checkpoints_change_nothing(network: NetworkScore, x: Tensor) -> None:
    found = []
    for checkpointing in (True, False):
        x.requires_grad_()
        value = differentiable_log_prob(network, x, steps=3, checkpointing=checkpointing)
        found.append((value, *torch.autograd.grad(value.sum(), (x, *network.parameters()), allow_unused=True)))
    for a, b in zip(*found, strict=True):
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_it_can_be_trained_for_likelihood(network: NetworkScore, x: Tensor) -> None:
    before = float(differentiable_log_prob(network, x, steps=6).mean())
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for i in range(15):
        optimizer.zero_grad()
        (-differentiable_log_prob(network, x, steps=6, seed=i).mean()).backward()
        optimizer.step()
    assert float(differentiable_log_prob(network, x, steps=6).mean()) > before + 1


def test_bad_arguments(network: NetworkScore, x: Tensor) -> None:
    with pytest.raises(ValueError, match="steps is 0, expected at least 1"):
        differentiable_log_prob(network, x, steps=0)
    with pytest.raises(ValueError, match=r"Exact\(mode='forward'\) gives no gradients"):
        differentiable_log_prob(network, x, divergence=Exact("forward"))
    with pytest.raises(ValueError, match="prior is 'exact', expected 'matched' or 'plain'"):
        differentiable_log_prob(network, x, prior="exact")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not finite in 1 of 3 samples"):
        differentiable_log_prob(network, x * torch.tensor([[1.0], [torch.nan], [1.0]]))
