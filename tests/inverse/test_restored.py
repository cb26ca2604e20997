"""Several samples for each measurement, their cost, and what does not depend on how they are drawn."""

import torch

from scoresde.inverse import DPS, GaussianNoise, MatrixOperator, Problem, restore
from scoresde.score import GaussianMixtureScore
from scoresde.sde import EDMSDE
from tests.problems import F64

PRIOR = GaussianMixtureScore([0.5, 0.5], [[-1.0, 0.0], [1.0, 0.5]], [0.3, 0.2], EDMSDE(0.02, 20.0))
PROBLEM = Problem(MatrixOperator(torch.tensor([[1.0, 0.7]])), GaussianNoise(0.5))


def test_samples_of_a_measurement_do_not_depend_on_chunks() -> None:
    measured = PROBLEM.measure(PRIOR.sample(3, 0.0, torch.Generator().manual_seed(0)), seed=1)
    whole, parts = (restore(PRIOR, measured, DPS(), samples=4, steps=10, batch_size=size, seed=2) for size in (None, 5))
    assert whole.x.shape == (3, 4, 2)
    assert whole.x.dtype == F64
    torch.testing.assert_close(whole.x, parts.x, rtol=1e-9, atol=1e-9)
    assert torch.equal(whole.mean, whole.x.mean(1))


def test_evaluations_and_backward_passes_are_counted() -> None:
    measured = PROBLEM.given(torch.zeros(3, 1, dtype=F64))
    out = restore(PRIOR, measured, DPS(), samples=2, steps=10)
    assert (out.nfe, out.products) == (11, 10)  # ten steps, and the denoising step
