"""Measurements as images, beside the images that they are of."""

from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.inverse.operator import LinearOperator, Operator
from scoresde.inverse.problem import Measurement

__all__ = ["ShownMeasurement", "as_images"]

_NONE = 1e-6  # of the largest weight: what is below it was not measured
_CHANNELS = 3
_WEIGHTS = 4.0  # of a pixel of an image that is shown itself, at most, or its inverse at least
_GREY, _ROUGHLY = 0.4, 0.2  # an even grey of which what is measured is roughly that grey, so that it has its units


@dataclass(frozen=True)
class ShownMeasurement:
    """Measurements as images.

    Attributes:
        values: `(B, C, H, W)` of the height and width of samples.
        seen: Which pixels were measured, `(C, H, W)`; None if that is no question of pixels.
        in_units: Whether the values are in the units of samples, rather than of another scale.
    """

    values: Tensor
    seen: Tensor | None = None
    in_units: bool = True


@checked
def as_images(measurement: Measurement) -> ShownMeasurement | None:
    """Measurements of images, in the form in which they can be shown beside these.

    An image that was measured is shown itself, enlarged to the size of samples. Other linear measurements are shown as
    Aᵀ y; where A weighs by nothing negative, divided by the weight AᵀA 1 of each pixel, so that pixels which a mask
    keeps have their values. Of what is neither an image nor linear there is nothing to show.

    Args:
        measurement: Measurements of samples `(B, C, H, W)`.
    """
    operator, y = measurement.operator, measurement.y
    shape = operator.shape
    if len(shape) != 3 or y.is_complex():
        return None
    one = torch.ones(1, *shape, dtype=torch.float64, device=y.device)
    linear = isinstance(operator, LinearOperator)
    if _is_image(operator):
        weight, image = operator(one), _enlarged(y, shape)
        keeps = bool(((weight > 1 / _WEIGHTS) & (weight < _WEIGHTS)).all())
        if linear and keeps:
            return ShownMeasurement(image / _enlarged(weight, shape).to(y))
        if not linear:
            keeps = bool((operator(_GREY * one) - _GREY).abs().max() < _ROUGHLY)
            return ShownMeasurement(image, in_units=keeps)
    if not isinstance(operator, LinearOperator):
        return None
    back, weight = operator.adjoint(y), operator.adjoint(operator(one))[0]
    seen = weight > _NONE * weight.max()
    if bool((weight < -_NONE * weight.abs().max()).any()) or not bool(seen.any()):
        return ShownMeasurement(back, in_units=False)
    values = back / torch.where(seen, weight, 1.0).to(back)
    return ShownMeasurement(values, None if bool(seen.all()) else seen)


def _is_image(operator: Operator) -> bool:
    """Whether what is measured is an image of the proportions of samples, of the same size or smaller."""
    if len(operator.measured) != 3 or operator.measured[0] not in (1, _CHANNELS, operator.shape[0]):
        return False
    (height, width), (h, w) = operator.shape[1:], operator.measured[1:]
    return height % h == 0 and width % w == 0 and height // h == width // w


def _enlarged(y: Tensor, shape: tuple[int, ...]) -> Tensor:
    factor = shape[1] // y.shape[2]
    return y.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
