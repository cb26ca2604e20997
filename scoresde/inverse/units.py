"""Measurements in model space, where the noise of a model is."""

import torch
from torch import Tensor

from scoresde.data.transforms import Transform
from scoresde.inverse.correlated import decorrelated
from scoresde.inverse.operator import LinearOperator, Operator
from scoresde.inverse.problem import Measurement, Problem
from scoresde.score import ScoreModel

__all__ = ["in_model_space"]


def in_model_space(measurement: Measurement, model: ScoreModel) -> Measurement:
    """The same measurements as ones of samples in model space.

    With data in the units x = T(z) of model space z, y = A(T(z)). Where T is affine and A linear, T(z) = S z + b, it is
    y − A b = (A S) z, whose operator is linear. The noise of their numbers is independent, see `decorrelated`.
    """
    measurement = decorrelated(measurement)
    transform = model.transform
    if transform is None:
        return measurement
    operator = measurement.operator
    zero = torch.zeros(1, *operator.shape, dtype=torch.float64)
    shift, one = transform.decode(zero), transform.decode(zero + 1)
    if not isinstance(operator, LinearOperator):
        return Measurement(Problem(Decoded(operator, transform), measurement.noise), measurement.y)
    offset = operator(shift.to(measurement.y))
    return Measurement(Problem(Scaled(operator, (one - shift)[0]), measurement.noise), measurement.y - offset)


class Scaled(LinearOperator):
    """A S with a diagonal S.

    Args:
        operator: The operator A.
        scale: The diagonal, of the shape of a sample.
    """

    scale: Tensor

    def __init__(self, operator: LinearOperator, scale: Tensor) -> None:
        super().__init__(operator.shape, operator.measured)
        self.operator = operator
        self.register_buffer("scale", scale)

    def measure(self, x: Tensor) -> Tensor:
        return self.operator.measure(x * self.scale.to(x))

    def back(self, y: Tensor) -> Tensor:
        return self.operator.back(y) * self.scale.to(y)


class Decoded(Operator):
    """A(T(z)) for an operator A and a transform T of the data.

    Args:
        operator: The operator.
        transform: The transform.
    """

    def __init__(self, operator: Operator, transform: Transform) -> None:
        super().__init__(operator.shape, operator.measured)
        self.operator, self.transform = operator, transform

    def measure(self, x: Tensor) -> Tensor:
        return self.operator.measure(self.transform.decode(x))
