"""A Gaussian N(z, r² I) given linear measurements: the step that many methods share."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from scoresde.inverse.operator import LinearOperator, Operator, SingularValues
from scoresde.inverse.problem import Measurement

__all__ = ["Coefficients", "LinearGaussian", "conjugate_gradients", "spectrum"]

_ITERATIONS = 100  # of conjugate gradients, at most
_ROUNDING = 64  # times the precision: a residual below it is round-off, which a singular H would blow up


class Coefficients:
    """Measurements in the coordinates of the singular values, y = A x + noise as c̄ = Vᵀ x + noise of deviation v.

    Args:
        measurement: The measurements of B samples, of a linear operator that knows its singular values, with noise
            that has one variance for all numbers of a measurement.

    Attributes:
        basis: The singular value decomposition, of rank R.
        values: The singular values s `(R,)`, in the dtype of the measurements.
        measured: c̄ = Uᵀ y/s, `(B, R)`.
        deviation: v = σ_y/s, `(1, R)` or `(B, R)`.
    """

    def __init__(self, measurement: Measurement) -> None:
        basis = spectrum(measurement.operator)
        assert basis is not None
        self.basis = basis
        y = measurement.y
        self.values = self.basis.values.to(y)
        self.measured = self.basis.to_left(y) / self.values
        self.deviation = _one_variance(measurement).sqrt() / self.values

    def replaced(self, x: Tensor, coefficients: Tensor) -> Tensor:
        """Samples `(B, ...)` with Vᵀ x replaced by coefficients `(B, R)`."""
        return x + self.basis.from_right(coefficients - self.basis.to_right(x))

    def kept(self, x: Tensor) -> Tensor:
        """Samples `(B, ...)` with the coefficients that were measured without noise."""
        there = self.basis.to_right(x)
        exact = torch.where(self.deviation.to(x) == 0, self.measured.to(x), there)
        return x + self.basis.from_right(exact - there)


class LinearGaussian:
    """The law of x ~ N(z, r² I) given y = A x + noise of variance Σ_y, for any z and r.

    It is a Gaussian of mean

        z + r² Aᵀ (Σ_y + r² A Aᵀ)⁻¹ (y − A z).

    By singular values where the operator knows them and the noise has one variance for all numbers of a measurement;
    otherwise by conjugate gradients, of which a sample stops at round-off. Without noise it keeps to A x = y.

    Args:
        measurement: The measurements of B samples, of a linear operator with noise that is Gaussian or near it.
        one_variance: Take the mean variance where it differs from number to number, for the sake of singular values.
    """

    def __init__(self, measurement: Measurement, one_variance: bool = False) -> None:
        operator = measurement.operator
        assert isinstance(operator, LinearOperator)
        self.operator, self.y = operator, measurement.y
        self.spectral: Coefficients | None = None
        variance, single = _variance(measurement)
        if (one_variance or single) and spectrum(operator) is not None:
            self.spectral = Coefficients(measurement)
            return
        one = torch.ones((), dtype=variance.dtype, device=variance.device)
        self._floor, self._std = (variance, one) if variance.ndim == 0 else (one, variance.sqrt())

    def mean(self, z: Tensor, spread: float) -> Tensor:
        """The mean, of the shape of z.

        Args:
            z: `(B, ...)`.
            spread: r.
        """
        known = self.spectral
        if known is None:
            return self._solved(z, spread, self.y.to(z))
        there = known.basis.to_right(z)
        return z + known.basis.from_right(_gain(known.deviation.to(z), spread) * (known.measured.to(z) - there))

    def draw(self, z: Tensor, spread: float, noise: Callable[[], Tensor], less: float = 0.0) -> Tensor:
        """A draw, of the shape of z.

        Args:
            z: `(B, ...)`.
            spread: r.
            noise: Draws of standard normal noise of the shape of z.
            less: ρ, for noise of variance Σ_y − ρ² A Aᵀ where that is positive, and none elsewhere; for operators with
                singular values.
        """
        known, fresh = self.spectral, noise()
        if known is None:
            return self._solved(torch.add(z, fresh, alpha=spread), spread, self.y.to(z) + self._noise(noise))
        deviation = known.deviation.to(z)
        if less:
            deviation = (deviation.square() - less**2).clamp_min(0).sqrt()
        gain = _gain(deviation, spread)
        there, moved = known.basis.to_right(z), known.basis.to_right(fresh)
        kept = (1 - gain).clamp_min(0).sqrt()
        coefficients = gain * (known.measured.to(z) - there) + spread * (kept - 1) * moved
        return torch.add(z, fresh, alpha=spread) + known.basis.from_right(coefficients)

    def smallest_deviation(self) -> float:
        """The smallest noise of a measured coefficient, σ_y over the largest singular value; 0 if not known."""
        return 0.0 if self.spectral is None else float(self.spectral.deviation.min())

    def log_evidence(self, z: Tensor, spread: Tensor | float) -> Tensor:
        """log N(y; A z, Σ_y + A C Aᵀ) in nats, `(B,)`, if C is diagonal in the singular vectors, which are known.

        Args:
            z: `(B, ...)`.
            spread: The variances of C, one or `(R,)`.
        """
        known = self.spectral
        assert known is not None
        variance = known.deviation.to(z).square() + spread  # of the coefficients, times s² that of Uᵀ y
        off = known.measured.to(z) - known.basis.to_right(z)
        size, rank = self.y[0].numel(), len(known.values)
        total = (off.square() / variance + variance.log()).sum(1) + 2 * known.values.to(z).log().sum()
        if size > rank:
            y = self.y.to(z)
            outside = (y - known.basis.from_left(known.basis.to_left(y))).flatten(1).square().sum(1)
            own = (known.deviation * known.values).to(z)[:, 0].square()
            total = total + outside / own + (size - rank) * own.log()
        return -0.5 * (total + size * math.log(2 * math.pi))

    def _noise(self, noise: Callable[[], Tensor]) -> Tensor:
        """Noise of variance Σ_y, of draws that have another shape."""
        size = self.y[0].numel()
        parts = [noise().flatten(1)]
        while sum(p.shape[1] for p in parts) < size:
            parts.append(noise().flatten(1))
        fresh = torch.cat(parts, 1)[:, :size].reshape(self.y.shape)
        return (self._std * self._floor.sqrt()).to(fresh) * fresh

    def _solved(self, z: Tensor, spread: float, y: Tensor) -> Tensor:
        """z + Wᵀ u with (f/r² + W Wᵀ) u = S⁻¹ (y − A z), W = S⁻¹ A, noise of variance f S²."""
        # In float64, since the condition number is that of r² over the variance of the noise.
        fine, operator = z.double(), self.operator
        std, floor = self._std.to(fine), self._floor.to(fine) / spread**2

        def applied(u: Tensor) -> Tensor:
            return floor * u + operator.measure(operator.back(u / std)) / std

        found = conjugate_gradients(applied, (y.to(fine) - operator.measure(fine)) / std)
        return z + operator.back(found / std).to(z)


def conjugate_gradients(applied: Callable[[Tensor], Tensor], right: Tensor, iterations: int = _ITERATIONS) -> Tensor:
    """Solve H u = b for each row of a batch by conjugate gradients.

    A row whose residual is at round-off stays as it is, so that it does not depend on its batch mates.

    Args:
        applied: H u of `(B, ...)`, positive semi-definite, row by row.
        right: b `(B, ...)`, in the range of H.
        iterations: The number of iterations.
    """
    shape = (-1, *[1] * (right.ndim - 1))
    found, residual = torch.zeros_like(right), right
    direction, square = right, right.square().flatten(1).sum(1)
    goal = (_ROUNDING * torch.finfo(right.dtype).eps) ** 2 * square
    for _ in range(min(iterations, 2 * right[0].numel() + 5)):
        image = applied(direction)
        curvature = (direction * image).flatten(1).sum(1)
        going = (square > goal) & (curvature > 0)
        size = torch.where(going, square / curvature, 0.0).reshape(shape)
        found, residual = found + size * direction, residual - size * image
        after = residual.square().flatten(1).sum(1)
        direction = residual + torch.where(going, after / square, 0.0).reshape(shape) * direction
        square = torch.where(going, after, square)
    return found


def _variance(measurement: Measurement) -> tuple[Tensor, bool]:
    """The variance of noise, `()` or `(B, ...)`, and whether it is one for all numbers of a measurement."""
    y = measurement.y
    found = measurement.noise.variance(y)
    assert found is not None
    if found.numel() == 1:
        return found.reshape(()), True
    return found.expand(y.shape), found.ndim == y.ndim and found.shape[1:].numel() == 1


def _one_variance(measurement: Measurement) -> Tensor:
    """The variance of noise, `(1, 1)` or `(B, 1)`; the mean where it differs from number to number."""
    variance, _ = _variance(measurement)
    return variance.reshape(1, 1) if variance.ndim == 0 else variance.flatten(1).mean(1, keepdim=True)


def spectrum(operator: Operator) -> SingularValues | None:
    """The singular values of an operator: those that it knows, or those of its matrix if it is small; else None."""
    if not isinstance(operator, LinearOperator):
        return None
    known = operator.singular_values
    return operator.decomposed() if known is None else known


def _gain(deviation: Tensor, spread: float) -> Tensor:
    """r²/(v² + r²), which is 1 without noise."""
    return spread**2 / (deviation.square() + spread**2)
