"""The result of a `SteeredSampler`: weighted particles in groups, and what their weights say."""

import math
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.numerics.random import SampleNoise, Stream
from scoresde.numerics.resampling import systematic
from scoresde.numerics.values import whole_number
from scoresde.sampling.samples import Samples

__all__ = ["SteeredSamples"]


@dataclass(frozen=True, repr=False)
class SteeredSamples(Samples):
    """Weighted samples of a target density, in G groups of P particles, one group after the other.

    `mean` estimates expectations under the target, and `resample` gives samples of equal weight.

    Attributes:
        log_weights: `(G P,)` float64, the logarithms of the weights: the mean of the weights is an estimate of Z.
        ess: `(n + 1, G)` float64, the effective sample size of each group at each of `times`, before particles were
            resampled, as a share of P.
        ancestors: `(n, G, P)` int32, the index in its group, at times[i], of the particle that particle j at
            times[i + 1] came from.
    """

    log_weights: Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.float64))
    ess: Tensor = field(default_factory=lambda: torch.ones(1, 1, dtype=torch.float64))
    ancestors: Tensor = field(default_factory=lambda: torch.zeros(0, 1, 1, dtype=torch.int32))

    @property
    def groups(self) -> int:
        """The number G of groups."""
        return self.ess.shape[1]

    @property
    def particles(self) -> int:
        """The number P of particles in a group."""
        return len(self.log_weights) // self.groups

    @cached_property
    def log_normalisers(self) -> Tensor:
        """The estimate of log Z of each group, `(G,)` float64, Z = ∫ Π p_i^(a_i) e^r; that of Z has no bias."""
        return self.log_weights.reshape(self.groups, -1).logsumexp(1) - math.log(self.particles)

    @property
    def log_normaliser(self) -> float:
        """The estimate of log Z from all groups, by the mean of their estimates of Z."""
        return float(self.log_normalisers.logsumexp(0)) - math.log(self.groups)

    @property
    def log_normaliser_stderr(self) -> float:
        """Its standard error by the delta method, from the scatter of the groups; NaN for one group."""
        if self.groups == 1:
            return math.nan
        shares = (self.log_normalisers - self.log_normaliser).exp()
        return float(shares.std()) / math.sqrt(self.groups)

    def mean(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """The mean of a function under the target, and its standard error from the scatter of the groups.

        Args:
            values: The function at each sample, `(G P, ...)`.

        Returns:
            The mean and its standard error, `(...)` float64 each; the error is NaN for one group.

        Raises:
            ValueError: Values for another number of samples.
        """
        if values.ndim < 1 or len(values) != len(self.log_weights):
            raise ValueError(
                f"values has shape {tuple(values.shape)}, expected ({len(self.log_weights)}, ...): one for each sample"
            )
        wide = values.to(self.log_weights).unflatten(0, (self.groups, self.particles))
        weights = (self.log_weights - self.log_normaliser).exp().reshape(self.groups, -1)
        weights = weights.reshape(*weights.shape, *[1] * (wide.ndim - 2)) / self.particles
        mean = (weights * wide).sum(1).mean(0)
        residuals = (weights * (wide - mean)).sum(1)
        return mean, residuals.std(0) / math.sqrt(self.groups) if self.groups > 1 else torch.full_like(mean, math.nan)

    @checked
    def resample(self, seed: int = 0, count: int | None = None, first: int = 0) -> Tensor:
        """Samples of equal weight, `(G n, ...)`: in each group, copies of its particles by their weights.

        Every group counts the same, so that groups with conditions of their own stay apart.

        Args:
            seed: Seed of the systematic resampling; those of group i are a function of it and of `first` + i.
            count: The number n of samples of each group; P if not given.
            first: The index of the first group.
        """
        count = self.particles if count is None else whole_number("count", count)
        groups, indices = torch.arange(self.groups), torch.arange(first, first + self.groups)
        start = SampleNoise(seed, indices, (), torch.float64, self.x.device, Stream.RESAMPLING_END).uniform()
        weights = self.log_weights.reshape(self.groups, -1).softmax(1)
        chosen = systematic(weights, start, count) + self.particles * groups[:, None].to(self.x.device)
        return self.x[chosen.flatten()]

    def lineage(self) -> Tensor:
        """The path of each last particle, `(n + 1, G, P)` int64: its index in its group at each of `times`."""
        path = [torch.arange(self.particles, device=self.ancestors.device).expand(self.groups, -1)]
        for step in reversed(self.ancestors):
            path.append(step.long().gather(1, path[-1]))
        return torch.stack(path[::-1])

    def __repr__(self) -> str:
        return (
            f"SteeredSamples(x={tuple(self.x.shape)}, groups={self.groups}, particles={self.particles}, "
            f"nfe={self.nfe}, steps={len(self.times) - 1})"
        )
