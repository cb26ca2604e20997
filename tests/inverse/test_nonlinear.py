"""Operators that are not linear."""

import io
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from scoresde.inverse import (
    DPS,
    BlockQuantisation,
    Clipping,
    ExactPosterior,
    GaussianNoise,
    LinearOperator,
    Mask,
    NonlinearOperator,
    Operator,
    PhaseRetrieval,
    Problem,
)
from scoresde.score import GaussianMixtureScore
from scoresde.sde import EDMSDE
from tests.problems import F64


class Linear(DPS):
    needs_linear = True


OPERATORS: list[Operator] = [
    PhaseRetrieval((1, 8, 8)),
    PhaseRetrieval((8,), 1.5),
    Clipping((2, 4, 4)),
    BlockQuantisation((2, 8, 11)),
    NonlinearOperator(lambda x: x.square(), (3,)),
    NonlinearOperator(torch.tanh, (8,)) @ Mask.random((2, 4, 4), 0.25),
]


@pytest.mark.parametrize("operator", OPERATORS, ids=repr)
def test_operators_keep_dtype_and_have_gradients(operator: Operator) -> None:
    x = torch.rand(3, *operator.shape, generator=torch.Generator().manual_seed(0), dtype=F64)
    y = operator(x)
    assert not isinstance(operator, LinearOperator)
    assert y.shape == (3, *operator.measured)
    assert operator(x.float()).dtype == torch.float32
    torch.testing.assert_close(operator(x[1:2]), y[1:2])
    gradient = torch.func.grad(lambda z: operator(z).square().sum())(x)
    assert bool(gradient.isfinite().all())
    assert bool(gradient.any())


def test_moduli_know_neither_sign_nor_mirror_image_nor_place() -> None:
    operator = PhaseRetrieval((1, 6, 6))
    x = torch.zeros(1, 1, 6, 6, dtype=F64)
    x[..., :5, :5] = torch.rand(5, 5, generator=torch.Generator().manual_seed(0), dtype=F64)
    y = operator(x)
    assert y.shape == (1, 1, 12, 12)
    for other in (-x, x.flip(-1, -2), x.roll((1, 1), (-1, -2))):
        torch.testing.assert_close(operator(other), y)
    assert not torch.allclose(operator(x.flip(-1)), y, atol=1e-3)
    torch.testing.assert_close(y.square().sum(), x.square().sum())


@pytest.mark.parametrize("quality", [5, 10])
def test_images_are_quantised_as_by_a_jpeg_library(quality: int) -> None:
    random = np.random.default_rng(0)
    image = np.add.outer(np.arange(24) * 4, np.arange(20) * 5) + random.integers(0, 30, (24, 20))
    image = image.clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    theirs = np.asarray(Image.open(file)).astype(float)
    operator = BlockQuantisation((1, 24, 20), quality, 0.0, 255.0)
    ours = operator(torch.tensor(image, dtype=F64)[None, None])[0, 0].clamp(0, 255).numpy()
    assert np.abs(ours - theirs).max() < 0.55  # they are rounded to integers
    assert np.abs(image - theirs).max() > 20


def test_the_gradient_passes_rounding_straight_through_if_it_is_asked_to() -> None:
    x = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=F64)
    through = torch.func.grad(lambda z: BlockQuantisation((1, 8, 8))(z).sum())(x)
    torch.testing.assert_close(through, torch.ones_like(x))
    stopped = torch.func.grad(lambda z: BlockQuantisation((1, 8, 8), straight_through=False)(z).sum())(x)
    assert not bool(stopped.any())


def test_clipped_values_tell_that_they_are_beyond_the_range() -> None:
    problem = Problem(Clipping((2,), scale=1.0), GaussianNoise(0.05))
    given = problem.given(torch.tensor([[1.0, 0.3]], dtype=F64))
    likelihoods = [float(given.log_likelihood(torch.tensor([[x, 0.3]], dtype=F64))) for x in (0.8, 1.0, 2.0)]
    assert likelihoods[0] == pytest.approx(likelihoods[1] - 8)
    assert likelihoods[2] == likelihoods[1]
    prior = GaussianMixtureScore([1.0], [[0.0, 0.0]], [1.0], EDMSDE())
    with pytest.raises(ValueError, match=r"Clipping\(2 to 2\) is not linear"):
        ExactPosterior(prior, problem)
    with pytest.raises(ValueError, match=r"is for linear operators, which Clipping\(2 to 2\) is not"):
        Linear().check(prior, given)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PhaseRetrieval((4,), 0.5), "oversampling is 0.5, expected at least 1"),
        (lambda: Clipping((4,), 1.0, 0.0), "low is 1.0 and high is 0.0, expected low < high"),
        (lambda: Clipping((4,), scale=0.0), "scale is 0.0, expected a positive number"),
        (lambda: BlockQuantisation((4,)), "samples have shape (4,), expected images, (C, H, W)"),
        (lambda: BlockQuantisation((1, 8, 8), 0), "quality is 0, expected 1 to 100"),
        (lambda: BlockQuantisation((1, 8, 8), low=1.0), "low is 1.0 and high is 1.0, expected low < high"),
    ],
)
def test_bad_operators_are_refused_in_one_line(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        make()
    assert "\n" not in str(error.value)
