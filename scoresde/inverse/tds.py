"""The twisted diffusion sampler (Wu et al. 2023)."""

import math
from typing import Any, Literal

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.guidance.steering import Factor, Reward, Target
from scoresde.inverse.linear_gaussian import LinearGaussian, spectrum
from scoresde.inverse.measured_covariance import NormalCovariance, noise_variance, posterior_variance
from scoresde.inverse.method import Method
from scoresde.inverse.problem import Measurement
from scoresde.inverse.units import in_model_space
from scoresde.numerics.values import one_of, share, whole_number
from scoresde.sampling import Samples, SteeredSampler, SteeredSamples, UniformLogSNR
from scoresde.score import Conditions, ScoreModel

__all__ = ["TDS"]

_DRAWS = 16


@checked
class TDS(Method):
    """Weighted particles that are drawn towards the measurement: sequential Monte Carlo with a twisted proposal.

    For each sample K particles take the steps of the reverse SDE, moved by the gradient of the twist, an estimate
    log p̂(y | x_t). Weights make up for what the steps with the twist do that the model's own steps times the likelihood
    would not, and particles of small weight are replaced by copies of others (`SteeredSampler` has the equations). At
    the end one particle of each set is drawn by its weight. Whatever the twist, that is a sample of

        (law of the model's own sampler of as many steps) × p(y | A(x))

    as K becomes large, and the mean weight is an estimate of p(y) without bias at any K: right in the limit.

    The twist is that of the denoised mean D, with s = σ/α,

        "gaussian"    N(y; A D, Σ_y + A C Aᵀ),    C = Cov[x₀ | x_t] of a Gaussian with the moments of the data,
        "moments"     N(y; m, Σ_y + diag v),      m and v the mean and the variances of A(x₀) with x₀ from N(D, C),
        "mean"        p(y | A(D)), as published,

    of which the first, for linear operators with singular values, is exact for normal data. The second is for any
    operator, and takes m and v from 16 draws of x₀, the same at every step, so that it costs 16 applications of A. The
    third knows nothing of what x_t leaves open of x₀: at large noise its values for the particles differ by far more
    than those of p(y | x_t), so that few particles count, and K has to be very large. Where no covariance of the data
    is known, or more than 512 numbers are measured, and for "moments", C is s² d²/(s² + d²) I, with d their standard
    deviation. Noise that is not Gaussian counts by its variance, and exactly in the last weight.

    It costs K (n + 1) evaluations and K n gradients through the model for a sample by n steps.

    Args:
        particles: The number K of particles for each sample.
        twist: The twist; if not given, "gaussian" where it is possible, else "moments" for noise with a variance.
        resample_at: The effective sample size, as a share of the particles, below which they are resampled.

    Raises:
        ValueError: Less than one particle, a share outside [0, 1], or another twist; in use, a measurement without
            noise, whose likelihood has no density.

    References:
        Wu et al. 2023, Practical and asymptotically exact conditional sampling in diffusion models,
            https://arxiv.org/abs/2306.17775
    """

    needs_linear = False
    needs_variance = False
    needs_density = True

    def __init__(
        self,
        particles: int = 64,
        twist: Literal["gaussian", "moments", "mean"] | None = None,
        resample_at: float = 0.5,
    ) -> None:
        self.particles = whole_number("particles", particles)
        if twist is not None:
            one_of("twist", twist, ("gaussian", "moments", "mean"))
        self.twist = twist
        self.resample_at = share("resample_at", resample_at)

    def check(self, model: ScoreModel, measurement: Measurement) -> None:
        super().check(model, measurement)
        if self.twist == "gaussian" and not _has_gaussian(in_model_space(measurement, model)):
            raise ValueError(
                f'twist="gaussian" needs an operator with singular values and noise of a variance, not '
                f'{measurement.operator!r} with {measurement.noise!r}: take twist="moments" or "mean"'
            )
        if self.twist == "moments" and not _has_variance(measurement):
            raise ValueError(f'twist="moments" needs noise of a variance, not {measurement.noise!r}: take twist="mean"')

    def swarms(
        self, model: ScoreModel, measurement: Measurement, steps: int, *, seed: int = 0, first: int = 0, **cond: Any
    ) -> SteeredSamples:
        """The weighted particles, a group for each measurement; `log_normalisers` are estimates of log p(y).

        Args:
            model: The model of the prior.
            measurement: B measurements, in the units of samples.
            steps: The number of steps.
            seed: Group i is a function of measurement i, of the seed and of `first` + i.
            first: The index of the first group.
            **cond: Conditions of the model, one for all groups or one for each.
        """
        self.check(model, measurement)
        target = _Posterior(self, model, measurement)
        sampler = SteeredSampler(UniformLogSNR(steps), target, self.particles, self.resample_at, ramp=None)
        shape = measurement.operator.shape
        return sampler(model, len(measurement), shape=shape, seed=seed, first=first, **cond)

    def draw(
        self, model: ScoreModel, measurement: Measurement, steps: int, *, seed: int = 0, first: int = 0, **cond: Any
    ) -> Samples:
        found = self.swarms(model, measurement, steps, seed=seed, first=first, **cond)
        x, labels = found.resample(seed, 1, first), found.labels
        labels = None if labels is None else labels[:: self.particles]
        return Samples(x, self.particles * found.nfe, found.times, labels=labels, info=found.info)


class _Posterior(Target):
    """The model times the likelihood of one measurement for each group of particles."""

    def __init__(self, method: TDS, model: ScoreModel, measurement: Measurement) -> None:
        self._measurement, self._particles = measurement, method.particles
        within = in_model_space(measurement, model)
        self._twist: _Twist | _MatchedMoments | None = None
        if method.twist == "gaussian" or (method.twist is None and _has_gaussian(within)):
            self._twist = _Twist(self._repeated(within), model)
        elif method.twist == "moments" or (method.twist is None and _has_variance(within)):
            self._twist = _MatchedMoments(self._repeated(within), model)

    def factors(self, model: ScoreModel, conditions: Conditions) -> list[Factor]:
        return [Factor(model, 1.0, conditions)]

    @property
    def reward(self) -> Reward:
        return Reward(self._repeated(self._measurement).log_likelihood, True, self._twist)

    def _repeated(self, measurement: Measurement) -> Measurement:
        rows = torch.arange(len(measurement), device=measurement.y.device)
        return measurement.rows(rows.repeat_interleave(self._particles))


class _Twist:
    """log N(y; A D, Σ_y + A C Aᵀ) of denoised means."""

    def __init__(self, measurement: Measurement, model: ScoreModel) -> None:
        self._measurement, self._std = measurement, model.data_std
        self._normal = NormalCovariance.of(model.statistics, measurement.operator)
        self._given = LinearGaussian(measurement, one_variance=True) if self._normal is None else None

    def __call__(self, mean: Tensor, level: float) -> Tensor:
        if self._normal is not None:
            error = self._measurement.residual(mean)
            at = torch.tensor(level, dtype=torch.float64)
            return self._normal.log_density(error, at, noise_variance(self._measurement, error))
        assert self._given is not None
        return self._given.log_evidence(mean, float(posterior_variance(torch.tensor(level), self._std)))


class _MatchedMoments:
    """log N(y; m, Σ_y + diag v), with the mean and the variances of A(x₀) by draws of x₀ given denoised means.

    Draws come in pairs of opposite sign, and each of their numbers has a mean square of 1, so that m is A D where A is
    linear, and v is exact where it takes single numbers.
    """

    def __init__(self, measurement: Measurement, model: ScoreModel) -> None:
        self._measurement, self._std = measurement, model.data_std
        source = torch.Generator().manual_seed(0)
        half = torch.randn(_DRAWS // 2, 1, *measurement.operator.shape, generator=source, dtype=torch.float64)
        half /= half.square().mean(0).sqrt()
        self._noise = torch.cat((half, -half))

    def __call__(self, mean: Tensor, level: float) -> Tensor:
        self._noise = self._noise.to(mean)
        spread = float(posterior_variance(torch.tensor(level, dtype=torch.float64), self._std)) ** 0.5
        drawn = (mean + spread * self._noise).flatten(0, 1)
        clean: Tensor = self._measurement.operator(drawn)
        v, m = torch.var_mean(clean.unflatten(0, (_DRAWS, len(mean))), 0, correction=0)
        variance = noise_variance(self._measurement, m) + v
        error = (self._measurement.y.to(m) - m).square() / variance
        return -0.5 * (error + (2 * math.pi * variance).log()).flatten(1).sum(1)


def _has_variance(measurement: Measurement) -> bool:
    return measurement.noise.variance(measurement.y) is not None


def _has_gaussian(measurement: Measurement) -> bool:
    return _has_variance(measurement) and spectrum(measurement.operator) is not None
