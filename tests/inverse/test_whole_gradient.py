"""The whole gradient of the moment-matched likelihood, beside its definition by automatic differentiation."""

import pytest
import torch
from torch import Tensor

from scoresde.inverse import MMPS, GaussianNoise, MatrixOperator, Problem, WholeGradient
from scoresde.sde import EDMSDE
from tests.problems import F64, correlated, generator

MATRIX = torch.randn(2, 6, generator=generator(4), dtype=F64) / 2


@pytest.mark.parametrize("seed", range(1, 5))
def test_on_average_over_the_draw_it_is_the_gradient_of_the_likelihood(seed: int) -> None:
    """For one measured number, of which S⁻¹ is known after one product; the draw is over the noise of the state.

    Differences over a fraction h of the way err by as much.
    """
    prior, matrix = correlated(EDMSDE()), MATRIX[:1]
    problem = Problem(MatrixOperator(matrix), GaussianNoise(0.3))
    y, t = problem.given(torch.tensor([[0.8]], dtype=F64)), torch.tensor(0.5)
    x = prior.sample(1, t, generator(seed))

    def log_likelihood(state: Tensor) -> Tensor:
        jacobian = torch.func.jacrev(lambda s: prior.denoise(s[None], t)[0])(state)
        variance = 0.3**2 + (matrix @ (t**2 * jacobian) @ matrix.T)[0, 0]
        error = y.y[0, 0] - (matrix @ prior.denoise(state[None], t)[0])[0]
        return -0.5 * (error.square() / variance + variance.log())

    expected = torch.func.grad(log_likelihood)(x[0])
    reach = 1e-3
    method = WholeGradient(1e9, 1e-9, reach=reach)
    held = MMPS().posterior(prior, y).score(x, t) - prior.score(x, t)
    # z is a fixed row of the draw times N(0, 1/S): its square is replaced by its mean.
    found = []
    for value in (0.0, 1.0):
        bound = method.informed(prior.statistics, y.operator)
        assert bound._normal is not None
        noise = ((x - prior.denoise(x, t)) / t).flatten(1)
        scaled = noise * (noise.shape[1] ** 0.5 / noise.norm())
        bound._normal._mix = value * scaled / noise.shape[1] ** 0.5
        found.append(bound.pull(lambda s: prior.denoise(s, t), x, torch.tensor(1.0), t, y)[1][0])
    assert (found[1] - expected).norm() < 2 * reach * expected.norm()
    assert (held[0] - expected).norm() > 5 * (found[1] - expected).norm()
    assert (found[0] - expected).norm() > 5 * (found[1] - expected).norm()
