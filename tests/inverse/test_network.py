"""The whole gradient on a network, of which nothing is known but its output."""

import pytest
import torch
from torch import Tensor, nn

from scoresde.inverse import GaussianNoise, Mask, MatrixOperator, Problem, WholeGradient, residual_ratio, restore
from scoresde.score import NetworkScore
from scoresde.score.preconditioning import EDMPreconditioning
from scoresde.sde import EDMSDE
from tests.problems import generator


class Small(nn.Module):
    """A network of random weights with dropout, which is a function of the state and the noise level."""

    shape = (6,)

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(7, 32), nn.SiLU(), nn.Dropout(0.5), nn.Linear(32, 6))

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        out: Tensor = self.layers(torch.cat([x, c_noise.reshape(-1, 1).expand(len(x), 1)], 1))
        return 0.3 * out


@pytest.mark.parametrize("top", [1.0, 1e9])
def test_the_whole_gradient_is_for_networks(top: float) -> None:
    model = NetworkScore(Small(), EDMSDE(0.01, 10.0), EDMPreconditioning(0.5))
    operators = Mask(torch.arange(6) < 3), MatrixOperator(torch.randn(2, 6, generator=generator(1)))
    for operator in operators:
        problem = Problem(operator, GaussianNoise(0.1))
        y = problem.given(torch.full((1, *operator.measured), 0.4))
        method = WholeGradient(top)
        with torch.enable_grad():
            x = restore(model, y, method, samples=64, steps=60, seed=1).x[0]
        assert not x.requires_grad
        assert bool(x.isfinite().all())
        assert all(p.grad is None for p in model.parameters())
        repeated = y.rows(torch.zeros(64, dtype=torch.long))
        free = residual_ratio(repeated, torch.randn(64, 6, generator=generator(2)))
        assert float(residual_ratio(repeated, x).square().mean().sqrt()) < 3
        assert float(free.square().mean().sqrt()) > 6
        # A sample does not depend on its batch, nor on the mode in which the network is.
        model.train()
        torch.testing.assert_close(restore(model, y, method, samples=64, steps=60, seed=1, batch_size=7).x[0], x)
        assert model.network.training
        model.eval()
