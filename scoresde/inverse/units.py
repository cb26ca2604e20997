"""Measurements in model space, where the noise of a model is."""

import torch
from torch import Tensor

from scoresde.data.transforms import Transform
from scoresde.inverse.correlated import decorrelated
from scoresde.inverse.noise import MeasurementNoise
from scoresde.inverse.operator import LinearOperator, Operator, SingularValues
from scoresde.inverse.problem import Measurement, Problem
from scoresde.score import ScoreModel

__all__ = ["in_model_space"]


def in_model_space(measurement: Measurement, model: ScoreModel) -> Measurement:
    """The same measurements as ones of samples in model space.

    With data in the units x = T(z) of model space z, y = A(T(z)). Where T is affine and A linear, T(z) = S z + b, it is
    y − A b = (A S) z, whose operator is linear. The noise of their numbers is independent, see `decorrelated`, and all
    tensors are in the dtype and on the device of the model.
    """
    return _moved(decorrelated(measurement), model.transform).prepared(model.device, model.dtype)


def _moved(measurement: Measurement, transform: Transform | None) -> Measurement:
    if transform is None:
        return measurement
    operator = measurement.operator
    zero = torch.zeros(1, *operator.shape, dtype=torch.float64)
    shift, one = transform.decode(zero), transform.decode(zero + 1)
    if not isinstance(operator, LinearOperator):
        return Measurement(Problem(Decoded(operator, transform), measurement.noise), measurement.y)
    offset = operator(shift.to(measurement.y))
    noise, variance = measurement.noise, measurement.noise.variance(measurement.y)
    if variance is None or variance.ndim:
        noise = Shifted(noise, offset)
    return Measurement(Problem(Scaled(operator, (one - shift)[0]), noise), measurement.y - offset)


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
        self._scaled: SingularValues | None = None

    def measure(self, x: Tensor) -> Tensor:
        return self.operator.measure(x * self.scale.to(x))

    def back(self, y: Tensor) -> Tensor:
        return self.operator.back(y) * self.scale.to(y)

    @property
    def singular_values(self) -> SingularValues | None:
        if self._scaled is None:
            known = self.operator.singular_values
            self._scaled = (None if known is None else scaled(known, self.scale)) or self.decomposed()
        return self._scaled


class ScaledSingularValues(SingularValues):
    """Those of A S, where S scales each right singular vector as a whole.

    Args:
        known: Those of A.
        factors: The factors of the singular vectors, `(R,)`, above 0.
    """

    def __init__(self, known: SingularValues, factors: Tensor) -> None:
        super().__init__()
        self.known = known
        self.register_buffer("values", known.values * factors)

    def to_right(self, x: Tensor) -> Tensor:
        return self.known.to_right(x)

    def from_right(self, coefficients: Tensor) -> Tensor:
        return self.known.from_right(coefficients)

    def to_left(self, y: Tensor) -> Tensor:
        return self.known.to_left(y)

    def from_left(self, coefficients: Tensor) -> Tensor:
        return self.known.from_left(coefficients)


def scaled(known: SingularValues, scale: Tensor) -> SingularValues | None:
    """The singular values of A S from those of A; None where S does not scale each right singular vector as a whole.

    It does where it is one number, or one for each channel under an operator that does not mix them, or under a mask.

    Args:
        known: Those of A.
        scale: The diagonal of S, of the shape of a sample.
    """
    device = known.values.device
    generator = torch.Generator().manual_seed(0)
    probes = 1 + torch.rand(2, len(known.values), dtype=torch.float64, generator=generator).to(device)
    moved = scale.to(device, torch.float64) * known.from_right(probes)
    factors = known.to_right(moved)[0] / probes[0]
    same = torch.allclose(known.from_right(factors * probes), moved, rtol=1e-9, atol=1e-9 * float(scale.abs().max()))
    return ScaledSingularValues(known, factors) if same and bool((factors > 0).all()) else None


class Shifted(MeasurementNoise):
    """The noise of y where y − b is measured, for noise that depends on the value of y.

    Args:
        noise: The noise of y.
        offset: b, `(1, *measured)`.
    """

    def __init__(self, noise: MeasurementNoise, offset: Tensor) -> None:
        self.noise, self.offset = noise, offset

    def draw(self, clean: Tensor, noise: Tensor) -> Tensor:
        offset = self.offset.to(clean)
        return self.noise.draw(clean + offset, noise) - offset

    def prepared(self, device: torch.device, dtype: torch.dtype) -> MeasurementNoise:
        return Shifted(self.noise.prepared(device, dtype), self.offset.to(device, dtype))

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        offset = self.offset.to(clean)
        return self.noise.log_prob(y + offset, clean + offset)

    def variance(self, y: Tensor) -> Tensor | None:
        return self.noise.variance(y + self.offset.to(y))


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
