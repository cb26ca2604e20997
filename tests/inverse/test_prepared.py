"""Methods see measurements in the dtype of the model, with independent noise."""

import torch

from scoresde.inverse import CorrelatedNoise, GaussianBlur, GaussianNoise, LinearOperator, Problem
from scoresde.inverse.units import in_model_space
from scoresde.score import GaussianMixtureScore
from scoresde.sde import EDMSDE
from tests.problems import F64


def test_all_tensors_are_in_the_dtype_of_the_model() -> None:
    model = GaussianMixtureScore([1.0], torch.zeros(1, 1, 2, 3), [1.0], EDMSDE()).float()
    x = torch.randn(2, 1, 2, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    problem = Problem(GaussianBlur((1, 2, 3)), GaussianNoise(torch.linspace(0.1, 0.6, 6).reshape(1, 2, 3)))
    measured = problem.measure(x)
    seen = in_model_space(measured, model)
    assert seen.y.dtype == torch.float32
    assert {b.dtype for b in seen.operator.buffers() if b.is_floating_point()} == {torch.float32}
    assert isinstance(seen.noise, GaussianNoise)
    assert isinstance(seen.noise.std, torch.Tensor)
    assert seen.noise.std.dtype == torch.float32
    torch.testing.assert_close(seen.log_likelihood(x.float()).double(), measured.log_likelihood(x), rtol=1e-4, atol=0)
    # The problem itself stays as it was.
    assert {b.dtype for b in problem.operator.buffers() if b.is_floating_point()} == {F64}


def test_correlated_noise_is_seen_as_independent() -> None:
    model = GaussianMixtureScore([1.0], torch.zeros(1, 3), [1.0], EDMSDE())
    covariance = torch.tensor([[0.5, 0.2, 0.0], [0.2, 0.3, -0.1], [0.0, -0.1, 0.2]], dtype=F64)
    given = Problem(GaussianBlur((3,)), CorrelatedNoise(covariance)).given(torch.ones(1, 3, dtype=F64))
    seen = in_model_space(given, model)
    assert seen.noise == GaussianNoise(1.0)
    assert isinstance(seen.operator, LinearOperator)
    matrix = GaussianBlur((3,)).matrix()
    gram = seen.operator.matrix().T @ seen.operator.matrix()
    torch.testing.assert_close(gram, matrix.T @ torch.linalg.inv(covariance) @ matrix)
