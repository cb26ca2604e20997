"""Measurements are shown as the images that they are of."""

import torch
from torch import Tensor, nn

from scoresde.inverse import LinearOperator, MatrixOperator, Measurement, NoNoise, Operator, Problem, as_images
from tests.problems import generator

SHAPE = (1, 4, 6)


def images() -> Tensor:
    return torch.rand(3, *SHAPE, generator=generator())


def measured(operator: Operator, x: Tensor) -> Measurement:
    return Problem(operator, NoNoise()).measure(x)


class Halves(LinearOperator):
    """The means of two by two pixels, as an image."""

    def __init__(self) -> None:
        super().__init__(SHAPE, (1, 2, 3))

    def measure(self, x: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(x, 2)

    def back(self, y: Tensor) -> Tensor:
        return y.repeat_interleave(2, 2).repeat_interleave(2, 3) / 4


class Squares(Operator):
    def measure(self, x: Tensor) -> Tensor:
        return x.square().reshape(-1, *self.measured)


def test_pixels_that_a_mask_keeps_have_their_values() -> None:
    x, kept = images(), torch.rand(24, generator=generator(1)) < 0.5
    shown = as_images(measured(MatrixOperator(torch.eye(24)[kept], SHAPE), x))
    assert shown is not None
    assert shown.in_units
    assert shown.seen is not None
    assert torch.equal(shown.seen.flatten(), kept)
    torch.testing.assert_close(shown.values[:, shown.seen], x[:, kept.reshape(SHAPE)])


def test_a_smaller_image_is_enlarged() -> None:
    x = images()
    shown = as_images(measured(Halves(), x))
    assert shown is not None
    assert shown.in_units
    assert shown.seen is None
    assert shown.values.shape == x.shape
    torch.testing.assert_close(nn.functional.avg_pool2d(shown.values, 2), nn.functional.avg_pool2d(x, 2))
    assert torch.equal(shown.values[:, :, 0], shown.values[:, :, 1])


def test_random_sums_are_shown_on_a_scale_of_their_own() -> None:
    x, matrix = images(), torch.randn(10, 24, generator=generator(2))
    shown = as_images(measured(MatrixOperator(matrix, SHAPE), x))
    assert shown is not None
    assert not shown.in_units
    torch.testing.assert_close(shown.values.flatten(1), x.flatten(1) @ matrix.T @ matrix)


def test_measurements_that_are_neither_image_nor_linear_are_not_shown() -> None:
    x = images()
    assert as_images(measured(Squares(SHAPE, (24,)), x)) is None
    assert as_images(measured(MatrixOperator(torch.eye(24)), x.flatten(1))) is None


def test_an_image_of_squares_is_shown() -> None:
    shown = as_images(measured(Squares(SHAPE, SHAPE), images()))
    assert shown is not None
    assert not shown.in_units
    torch.testing.assert_close(shown.values, images().square())
