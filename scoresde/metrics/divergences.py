"""Log-density that samples lose under an exact mixture, and Kullback-Leibler divergences from it and to it.

The loss E_p log p − E_q log p of samples from q needs the exact density p alone. It is not a divergence: noise in
narrow directions costs much, while a mode that is missing may cost nothing or less. Both divergences need log q, which
a sampler does not give: the map of a solver with large steps is not the probability flow, so that the model's own
likelihood is log p and not log q. So q is estimated from the samples, by the last of these that is clearly better than
those before it:

1. p itself, so that exact samples have divergences of 0;
2. p with weights, means and variances along each component's principal axes that fit the samples, by expectation
   maximisation from p;
3. the same with full covariances, if there are enough samples for them;
4. in up to 4 dimensions, the k-nearest-neighbour density (Perez-Cruz 2008; Wang, Kulkarni & Verdú 2009), for modes that
   are not Gaussian; its bias is measured on exact samples and taken off, and it is left out where this is large.

Clearly better means a larger mean log-density, by more than three standard errors, of samples that were not used for
the fit. With an estimate q̂ that did not see the samples, E_q log(q̂/p) is at most KL(q‖p) on average, less by KL(q‖q̂):
by half the number of fitted numbers over the number of samples, and by what the family cannot show. E_p log(p/q̂) is
KL(p‖q̂), which a bad fit makes larger. Neighbours are no use in many dimensions: distances between 10,000 points in 64
dimensions hardly know the narrow directions, in which samplers err. A fitted mixture does, but it takes what lies
between modes for wider modes.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.metrics.estimate import Estimate
from scoresde.metrics.features import Samples, finite_rows
from scoresde.metrics.mixtures import Mixture

__all__ = ["FEWEST_FITTED", "Divergences", "kl_divergences", "nats_lost"]

FEWEST_FITTED = 20
"""Smallest number of samples on either side of a divergence, of which half are fitted."""
_NEIGHBOURS = 5
_NEIGHBOUR_DIMENSIONS = 4
_LARGEST_BIAS = (
    0.1  # nats, of neighbours for exact samples: above it modes are narrower than the balls in some direction
)
_ITERATIONS = 5  # of expectation maximisation, from p, where a sampler that is any good is close
_WORK = 10**10  # multiplications of an iteration above which there is one only: some seconds on one core
_CLEAR = 3.0  # standard errors by which a less simple estimate has to be better
_PRIOR = 2.0  # samples of p that every component is given, so that one without samples keeps its shape


@dataclass(frozen=True)
class Divergences:
    """Kullback-Leibler divergences in nats between the distribution q of samples and an exact mixture p.

    Attributes:
        to_model: KL(q‖p), large where samples are implausible.
        to_samples: KL(p‖q), large where the model has what the samples lack.
        density: The estimate of q that was used: "exact", "axes", "covariances" or "neighbours".
    """

    to_model: Estimate
    to_samples: Estimate
    density: str


@checked
def nats_lost(samples_log_prob: Tensor, exact_log_prob: Tensor) -> Estimate:
    """Mean log-density of exact samples less that of samples, in nats: 0 for exact samples.

    Negative values are possible, for samples that are closer to the modes than exact ones. The standard error covers
    fresh draws of both sets.

    Args:
        samples_log_prob: Exact log-densities of the samples, `(N,)`.
        exact_log_prob: Exact log-densities of exact samples, `(M,)`.

    Raises:
        ValueError: Other shapes, or fewer than 2 samples in either set.
    """
    parts = [v.detach().to("cpu", torch.float64) for v in (samples_log_prob, exact_log_prob)]
    if any(v.ndim != 1 or len(v) < 2 for v in parts):
        shapes = " and ".join(str(tuple(v.shape)) for v in parts)
        raise ValueError(f"log-densities have shapes {shapes}, expected (N,) and (M,) with at least 2 samples each")
    samples, exact = parts
    stderr = math.sqrt(float(samples.var()) / len(samples) + float(exact.var()) / len(exact))
    return Estimate(float(exact.mean() - samples.mean()), stderr, len(samples), "nats_lost")


@checked
def kl_divergences(samples: Samples, exact: Samples, mixture: Mixture) -> Divergences:
    """Both divergences between samples and an exact mixture, by Monte Carlo; the module says how and how well.

    Standard errors are those of the mean over the samples, or over the exact samples, for the estimate of q as it is.

    Args:
        samples: Samples, `(N, ...)`.
        exact: Other samples, from the mixture itself, `(M, ...)`.
        mixture: The exact mixture p.

    Raises:
        ValueError: Fewer than 20 samples, shapes that do not fit, or values that are not finite.
    """
    x, y = finite_rows("samples", samples), finite_rows("exact", exact)
    for values in (x, y):
        if len(values) < FEWEST_FITTED or values.shape[1] != mixture.means.shape[1]:
            raise ValueError(
                f"samples have shape {tuple(values.shape)}, expected at least {FEWEST_FITTED} of the mixture's "
                f"{mixture.means.shape[1]} dimensions on both sides"
            )
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    halves = order[: len(x) // 2], order[len(x) // 2 :]
    log_p_x, log_p_y = mixture.log_prob(x), mixture.log_prob(y)
    best, log_q_y, name, error = log_p_x, log_p_y, "exact", 0.0
    for family in _families(mixture, x, y, log_p_y):
        held_out, at_exact = torch.empty_like(log_p_x), torch.zeros_like(log_p_y)
        for fitted, other in (halves, halves[::-1]):
            density = family.fit(x[fitted])
            held_out[other] = density.log_prob(x[other])
            at_exact += density.log_prob(y) / 2
        gain = held_out - best
        if float(gain.mean()) > _CLEAR * (_error(gain) + family.bias_error) + abs(family.bias):
            best, log_q_y, name, error = held_out, at_exact, family.name, family.bias_error
    to_model, to_samples = best - log_p_x, log_p_y - log_q_y
    return Divergences(
        Estimate(float(to_model.mean()), math.hypot(_error(to_model), error), len(x), "kl_to_model"),
        Estimate(float(to_samples.mean()), math.hypot(_error(to_samples), error), len(x), "kl_to_samples"),
        name,
    )


def _error(values: Tensor) -> float:
    """The standard error of a mean."""
    return float(values.std()) / math.sqrt(len(values))


class _Density(Protocol):
    def log_prob(self, x: Tensor) -> Tensor: ...


class _Family(ABC):
    """A kind of density that can be fitted to samples."""

    name: str
    bias, bias_error = 0.0, 0.0
    """The bias of its mean log-density for exact samples, which is taken off, and the standard error of this bias."""

    @abstractmethod
    def fit(self, x: Tensor) -> _Density:
        """The density that fits samples `(N, F)`."""


def _families(mixture: Mixture, x: Tensor, y: Tensor, log_p_y: Tensor) -> Iterator[_Family]:
    """The kinds of density that suit samples x `(N, F)`, the simplest first; y `(M, F)` are exact samples."""
    count, dimension = mixture.means.shape
    yield _Refitted(mixture, False)
    if dimension > 1 and len(x) / 2 > 4 * count * dimension:
        yield _Refitted(mixture, True)
    if dimension <= _NEIGHBOUR_DIMENSIONS:
        neighbours = _Neighbours(y[: len(x)], log_p_y[: len(x)])
        if abs(neighbours.bias) < _LARGEST_BIAS:
            yield neighbours


class _Refitted(_Family):
    """The mixture fitted to samples, with its own principal axes or with full covariances."""

    def __init__(self, mixture: Mixture, full: bool) -> None:
        self.mixture, self.full = mixture, full
        self.name = "covariances" if full else "axes"

    def fit(self, x: Tensor) -> Mixture:
        """The mixture after some steps of expectation maximisation from the exact one, in samples `(N, F)`."""
        found = self.mixture
        turned = 1 if found.rotations is None else x.shape[1]
        iterations = _ITERATIONS if len(x) * found.means.numel() * turned <= _WORK else 1
        for _ in range(iterations):
            found = self._step(found, x)
        return found

    def _step(self, before: Mixture, x: Tensor) -> Mixture:
        exact = self.mixture
        shares = before.log_joint(x).softmax(1)
        counts = shares.sum(0)
        weights = (counts + 0.5) / (len(x) + 0.5 * len(counts))
        means, variances, rotations = [], [], []
        for k, total in enumerate(counts):
            weight = total / (total + _PRIOR)
            z = exact.coordinates(x, k)
            share = shares[:, k] / total.clamp(min=1e-300)
            mean = share @ z
            z = z - mean
            if self.full:
                # The more numbers a covariance has, the more samples of p it takes to keep it from what is chance.
                weight_full = total / (total + _PRIOR + len(mean))
                spread = weight_full * (share[:, None] * z).T @ z + (1 - weight_full) * torch.diag(exact.variances[k])
                values, vectors = torch.linalg.eigh(spread)
            else:
                values, vectors = weight * (share @ z.square()) + (1 - weight) * exact.variances[k], None
            mean = weight * mean
            rotation = None if exact.rotations is None else exact.rotations[k]
            means.append(exact.means[k] + (mean if rotation is None else rotation @ mean))
            variances.append(values.clamp(min=1e-300))
            if vectors is not None:
                rotation = vectors if rotation is None else rotation @ vectors
            rotations.append(rotation)
        turned = None if rotations[0] is None else torch.stack([r for r in rotations if r is not None])
        return Mixture(weights, torch.stack(means), torch.stack(variances), turned)


class _Neighbours(_Family):
    """The density k/(n V) of the ball that holds the k nearest of n samples, with log k replaced by ψ(k).

    The density varies within the balls, by which its logarithm is biased. The bias for exact samples is subtracted.
    """

    name = "neighbours"

    def __init__(self, exact: Tensor, log_prob: Tensor) -> None:
        half = len(exact) // 2
        parts = (slice(half, None), slice(half)), (slice(half), slice(half, None))
        gains = [_Balls(exact[a]).log_prob(exact[b]) - log_prob[b] for a, b in parts]
        self.bias, self.bias_error = float(torch.cat(gains).mean()), _error(torch.cat(gains))

    def fit(self, x: Tensor) -> "_Balls":
        return _Balls(x, self.bias)


class _Balls:
    def __init__(self, x: Tensor, bias: float = 0.0) -> None:
        from scipy.spatial import cKDTree  # slow to import, and needed only here

        self._tree, self._shape, self._bias = cKDTree(x.numpy()), x.shape, bias

    def log_prob(self, x: Tensor) -> Tensor:
        n, dimension = self._shape
        k = min(_NEIGHBOURS, n)
        distances, _ = self._tree.query(x.numpy(), [k])
        radius = torch.as_tensor(distances[:, 0]).clamp(min=1e-300)
        half = dimension / 2
        log_volume = half * math.log(math.pi) - math.lgamma(half + 1) + dimension * radius.log()
        digamma = float(torch.digamma(torch.tensor(float(k), dtype=torch.float64)))
        return digamma - math.log(n) - log_volume - self._bias
