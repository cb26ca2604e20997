"""Weights and widths of the modes of samples, against those of the Gaussian mixture that they should be of."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.metrics.chance import beyond_chance, extreme_ratios
from scoresde.metrics.estimate import Estimate
from scoresde.metrics.features import Samples, finite_rows

__all__ = ["Mixture", "Modes", "mixture_modes"]

_FEWEST = 20  # samples that a mode needs for a width


@dataclass(frozen=True)
class Mixture:
    """A Gaussian mixture Σ w_k N(m_k, U_k diag(v_k) U_kᵀ) of K components in F dimensions, in float64 on the CPU.

    Attributes:
        weights: Weights w, `(K,)`, whose sum is 1.
        means: Means m, `(K, F)`.
        variances: Positive variances v along the columns of the rotations, `(K, F)`.
        rotations: Rotations U, `(K, F, F)`; None where all are the identity.
    """

    weights: Tensor
    means: Tensor
    variances: Tensor
    rotations: Tensor | None = None

    def __post_init__(self) -> None:
        if not bool((self.variances > 0).all()):
            raise ValueError("a mixture without a variance in some direction has no density there")

    def coordinates(self, x: Tensor, k: int) -> Tensor:
        """Samples `(N, F)` relative to the mean of component k, in its principal axes, `(N, F)`."""
        centred = x - self.means[k]
        return centred if self.rotations is None else centred @ self.rotations[k]

    def log_joint(self, x: Tensor) -> Tensor:
        """log w_k + log N(x; m_k, Σ_k) in nats, `(N, K)`, of samples `(N, F)`."""
        # One component at a time: coordinates of all of them would not fit into memory for images.
        parts = [
            -0.5 * (self.coordinates(x, k).square() / v).sum(1) - 0.5 * (v.log() + math.log(2 * math.pi)).sum()
            for k, v in enumerate(self.variances)
        ]
        return torch.stack(parts, 1) + self.weights.log()

    def log_prob(self, x: Tensor) -> Tensor:
        """The log-density in nats, `(N,)`, of samples `(N, F)`."""
        return self.log_joint(x).logsumexp(1)

    def covariance(self) -> Tensor:
        """The covariance of the mixture, `(F, F)`."""
        spread = self.means - self.weights @ self.means
        out = torch.einsum("k,ki,kj->ij", self.weights, spread, spread)
        if self.rotations is None:
            return out + torch.diag(self.weights @ self.variances)
        for w, v, u in zip(self.weights, self.variances, self.rotations, strict=True):
            out += w * (u * v) @ u.T
        return out


@dataclass(frozen=True)
class Modes:
    """Weights and widths of the K modes of samples, against those of a mixture.

    Attributes:
        expected_weights: Weights of the mixture, `(K,)` float64.
        weights: Mean responsibilities of the samples, `(K,)`.
        weight_stderr: Standard errors of these, `(K,)`.
        ratio: Standard deviations of the samples of each mode along its principal axes, each by that of the mixture,
            `(K, F)`; NaN for a mode of too few samples.
        ratio_stderr: Standard errors of log(ratio), `(K, F)`.
        n: Number of samples.
    """

    expected_weights: Tensor
    weights: Tensor
    weight_stderr: Tensor
    ratio: Tensor
    ratio_stderr: Tensor
    n: int

    @property
    def width(self) -> Tensor:
        """The geometric mean over directions of `ratio`, `(K,)`: the size of each mode."""
        return self.ratio.log().mean(1).exp()

    @property
    def weight_error(self) -> Estimate:
        """The largest |weight/expected − 1| over the modes, with chance taken out: 0 for exact samples."""
        deviation = self.weights / self.expected_weights - 1
        # A mode without samples has no scatter of its own; that of its expected weight says how well 0 is known.
        expected = (self.expected_weights * (1 - self.expected_weights) / self.n).sqrt()
        stderr = torch.where(deviation < 0, expected, self.weight_stderr) / self.expected_weights
        left = beyond_chance(deviation, stderr).abs()
        k = int(left.argmax() if left.any() else deviation.abs().argmax())
        return Estimate(float(left[k]), float(stderr[k]), self.n, "weight_error")

    @property
    def widest(self) -> Estimate:
        """The largest ratio of standard deviations over all modes and their directions, at least 1, chance taken out.

        It sees noise that is left in a mode's narrow directions, or inside modes that are narrow as a whole, which
        the principal directions of all data together do not. NaN if no mode has enough samples.
        """
        return self._extremes[0]

    @property
    def narrowest(self) -> Estimate:
        """The smallest ratio of standard deviations over all modes and their directions, at most 1, likewise."""
        return self._extremes[1]

    @cached_property
    def _extremes(self) -> tuple[Estimate, Estimate]:
        known = self.ratio.isfinite()
        log_ratio = torch.where(known, self.ratio, torch.ones_like(self.ratio)).log()
        stderr = self.ratio_stderr.masked_fill(~known, math.inf)
        return extreme_ratios(log_ratio, stderr, self.n, ("widest", "narrowest"))


@checked
def mixture_modes(samples: Samples, mixture: Mixture) -> Modes:
    """Weights and widths of the modes of samples `(N, ...)`, by the responsibilities r_k(x) of a mixture's components.

    For exact samples E[r_k] = w_k and E[r_k (x − m_k)(x − m_k)ᵀ] = w_k Σ_k, however much the modes overlap. Where they
    do, samples that are not exact are sorted into modes by the exact mixture, so that some of a deviation is hidden.

    Raises:
        ValueError: Samples of another dimension, fewer than 2 of them, or values that are not finite.
    """
    x = finite_rows("samples", samples)
    n, dimension = x.shape
    if dimension != mixture.means.shape[1]:
        raise ValueError(f"samples have {dimension} values, the mixture {mixture.means.shape[1]}")
    shares = mixture.log_joint(x).softmax(1)
    weights = shares.mean(0)
    ratio = torch.full_like(mixture.means, math.nan)
    stderr = torch.full_like(mixture.means, math.inf)
    for k, variance in enumerate(mixture.variances):
        share = shares[:, k] / shares[:, k].sum().clamp(min=1e-300)
        # Weights of the samples concentrate on so many of them (Kish's effective number).
        effective = 1 / float(share.square().sum().clamp(min=1 / n))
        if float(shares[:, k].sum()) < _FEWEST or effective < _FEWEST:
            continue
        z = mixture.coordinates(x, k)
        squares = (z - share @ z).square()
        mean = share @ squares
        scatter = share.square() @ (squares - mean).square()
        ratio[k] = (mean / variance * effective / (effective - 1)).sqrt()
        # Few samples whose variance is small by chance have too small a scatter too; that of a normal variable, whose
        # log of a variance has the variance ψ'(ν/2) at ν degrees of freedom, is a bound.
        normal = torch.polygamma(1, torch.tensor((effective - 1) / 2, dtype=torch.float64)).sqrt()
        stderr[k] = torch.maximum(scatter.sqrt() / mean.clamp(min=1e-300), normal) / 2
    return Modes(mixture.weights, weights, (shares.var(0) / n).sqrt(), ratio, stderr, n)
