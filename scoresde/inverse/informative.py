"""What of a measurement tells of the data: the coefficients whose noise is not far above what the data vary by."""

import torch
from torch import Tensor

from scoresde.inverse.linear_gaussian import Coefficients
from scoresde.inverse.operator import LinearOperator, SingularValues
from scoresde.inverse.problem import Measurement, Problem
from scoresde.score import ScoreModel

__all__ = ["informative", "variances_along"]


def informative(measurement: Measurement, model: ScoreModel, cutoff: float) -> Measurement:
    """A measurement whose operator does not count as measured what its noise hides.

    In the direction of a singular value a, A⁺ y has noise v = σ_y/a. Where that is above `cutoff` standard deviations
    of the data along it, the direction counts as one that is not measured. Without noise every direction is.

    Args:
        measurement: The measurements in model space, of an operator that knows its singular values.
        model: The model of the data.
        cutoff: The largest v, in standard deviations of the data.
    """
    known = Coefficients(measurement)
    kept = known.deviation <= cutoff * variances_along(known.basis, model, measurement).sqrt().to(known.deviation)
    if bool(kept.all()):
        return measurement
    assert isinstance(measurement.operator, LinearOperator)
    operator = _Informative(measurement.operator, _Kept(known.basis, kept))
    return Measurement(Problem(operator, measurement.noise), measurement.y)


def variances_along(basis: SingularValues, model: ScoreModel, measurement: Measurement) -> Tensor:
    """The variances of the data along the right singular vectors, `(R,)` float64, or one for all `()`."""
    known = model.statistics
    if known is None or known.covariance is None:
        return torch.tensor(model.data_std, dtype=torch.float64).square()
    variances, vectors = known.eigh()
    rows = vectors.T.reshape(-1, *measurement.operator.shape).to(measurement.y.device)
    return variances.to(rows.device) @ basis.to_right(rows).square()


class _Kept(SingularValues):
    """A decomposition of which some directions are not moved.

    Args:
        inner: The decomposition.
        kept: Whether a direction is measured, `(1, R)` or `(B, R)`.
    """

    kept: Tensor

    def __init__(self, inner: SingularValues, kept: Tensor) -> None:
        super().__init__()
        self.inner = inner
        self.register_buffer("values", inner.values)
        self.register_buffer("kept", kept)

    def to_right(self, x: Tensor) -> Tensor:
        return self.inner.to_right(x)

    def from_right(self, coefficients: Tensor) -> Tensor:
        return self.inner.from_right(coefficients * self.kept.to(coefficients))

    def to_left(self, y: Tensor) -> Tensor:
        return self.inner.to_left(y)

    def from_left(self, coefficients: Tensor) -> Tensor:
        return self.inner.from_left(coefficients)


class _Informative(LinearOperator):
    """An operator as it is, with singular values of which some do not count."""

    def __init__(self, operator: LinearOperator, values: SingularValues) -> None:
        super().__init__(operator.shape, operator.measured)
        self.operator, self._values = operator, values

    def measure(self, x: Tensor) -> Tensor:
        return self.operator.measure(x)

    def back(self, y: Tensor) -> Tensor:
        return self.operator.back(y)

    @property
    def singular_values(self) -> SingularValues:
        return self._values

    def __repr__(self) -> str:
        return repr(self.operator)
