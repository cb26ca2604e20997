"""The whole gradient of the moment-matched likelihood, at the cost of a few evaluations."""

import math

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.inverse.measured_covariance import (
    NormalCovariance,
    isotropic_root,
    isotropic_solution,
    noise_variance,
    posterior_variance,
)
from scoresde.inverse.method import FieldMethod, Mean, pulled_back
from scoresde.inverse.operator import LinearOperator, Operator
from scoresde.inverse.problem import Measurement
from scoresde.numerics.values import positive
from scoresde.sampling import DataStraight, DPMSolverPP, Sampler
from scoresde.statistics import Statistics

__all__ = ["WholeGradient"]


@checked
class WholeGradient(FieldMethod):
    """MMPS with the change of the covariance: ∇ₓ log N(y; A D, S) with S = Σ_y + A V Aᵀ and V = (σ²/α) ∂D/∂x.

    `MMPS` holds S fixed, and so has no account of how probable y is by the width of a mode: of two modes that y suits
    alike, it prefers the one that the prior alone does. With w = Aᵀ u, u = S⁻¹ (y − A D), and g = σ²/α, the whole
    gradient has two terms more, which are second directional derivatives of D, since all derivatives of V are
    symmetric:

        g ∇ log p(y | x_t) ≈ V w + ½ g² ∂²_w D − ½ E_z[g² ∂²_{Aᵀ z} D],    z ~ N(0, S⁻¹)

    They are found by differences over h g w and h g z with a fraction h, for three evaluations:

        ½ g² ∂²_w D ≈ (D(x + h g w) − D − h V w)/h²,    g² ∂²_v D ≈ (D(x + h g v) + D(x − h g v) − 2 D)/h²

    There is one draw of z, made of the noise (x − α D)/σ of the state itself, so that the field is a function of the
    state. S⁻¹ is that of normal data with the model's moments, corrected along y − A D by one product with the
    Jacobian. For normal data the method is exact.

    Where noise is above `top` and the covariance of the data is known, they are as good as normal, and a step costs one
    evaluation. Below, it costs four evaluations and a product; below `bottom`, where a mode of the data is as good as
    flat, S is held fixed, and it costs one evaluation and a product.

    Args:
        top: The noise level σ/α above which data are taken as normal, in units of their largest standard deviation.
        bottom: The noise level below which S is held fixed, in the same units.
        reach: The fraction h.

    Raises:
        ValueError: A setting that is not positive.
    """

    needs_singular_values = True

    def __init__(self, top: float = 1.0, bottom: float = 0.2, reach: float = 0.5) -> None:
        for name, value in (("top", top), ("bottom", bottom), ("reach", reach)):
            positive(name, value, finite=False)
        self.top, self.bottom, self.reach = top, bottom, reach
        self._scale, self._std = 1.0, 1.0
        self._normal: NormalCovariance | None = None

    def informed(self, statistics: Statistics | None, operator: Operator) -> "WholeGradient":
        if statistics is None:
            return self
        known = WholeGradient(self.top, self.bottom, self.reach)
        known._scale, known._std = statistics.largest_std, float(statistics.std)
        known._normal = NormalCovariance.of(statistics, operator)
        return known

    def pull(
        self, mean: Mean, x: Tensor, alpha: Tensor, sigma: Tensor, measurement: Measurement
    ) -> tuple[Tensor, Tensor]:
        operator, level = measurement.operator, sigma / alpha
        assert isinstance(operator, LinearOperator)
        gain = sigma.square() / alpha
        normal = self._normal
        high = level > self.top * self._scale if normal is not None else torch.zeros_like(level, dtype=torch.bool)
        low = level < self.bottom * self._scale
        # Of times of each sample, which are on the device, no part of the work is left out.
        one_time = level.ndim == 0 and level.device.type == "cpu"
        if normal is not None and one_time and bool(high):
            denoised = mean(x)
            return denoised, self._of_normal(normal, level, measurement, denoised) / gain
        denoised, transposed = pulled_back(mean, x)
        error = measurement.residual(denoised)
        variance = noise_variance(measurement, error)
        isotropic = posterior_variance(level, self._std)
        if normal is None:
            u = isotropic_solution(measurement, isotropic, error)
        else:
            u = normal.solve(error, level, variance)
        back = operator.back(u)
        first = gain * transposed(back)
        explained = _dot(error, u)
        size = explained / _dot(u, variance * u + operator.measure(first))
        size = torch.where((size > 0) & size.isfinite(), size, 0.0)
        first = _wide(size, x) * first
        if one_time and bool(low):
            return denoised, first / gain
        noise = ((x - alpha * denoised) / sigma).flatten(1)
        noise = noise * (math.sqrt(noise.shape[1]) / torch.linalg.vector_norm(noise, dim=1, keepdim=True))
        if normal is None:
            z = isotropic_root(measurement, isotropic, noise, error)
        else:
            z = normal.root(noise, level, variance).reshape(error.shape)
        z = z + _wide((size.sqrt() - 1) * _dot(error, z) / explained.clamp_min(1e-30), z) * u
        h = self.reach
        ahead, across = h * gain * _wide(size, x) * back, h * gain * operator.back(z)
        tilted = mean(x + ahead) - denoised - h * first
        widened = mean(x + across) + mean(x - across) - 2 * denoised
        found = torch.where(low, first, first + (tilted - 0.5 * widened) / h**2)
        if normal is not None and not one_time:
            found = torch.where(high, self._of_normal(normal, level, measurement, denoised), found)
        return denoised, found / gain

    def _of_normal(self, normal: NormalCovariance, level: Tensor, measurement: Measurement, denoised: Tensor) -> Tensor:
        """V Aᵀ S⁻¹ (y − A D) with the V of normal data."""
        operator, error = measurement.operator, measurement.residual(denoised)
        assert isinstance(operator, LinearOperator)
        u = normal.solve(error, level, noise_variance(measurement, error))
        return normal.spread(operator.back(u), level)

    def sampler(self, steps: int) -> Sampler:
        return Sampler(DPMSolverPP(2, sde=True), DataStraight(steps))


def _dot(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).flatten(1).sum(1)


def _wide(size: Tensor, x: Tensor) -> Tensor:
    return size.reshape(-1, *[1] * (x.ndim - 1))
