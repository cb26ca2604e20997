"""Samples of a density by groups of weighted particles, of equal weight and with conditions as for any sampler."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from scoresde.sampling import SteeredSampler, SteeredSamples
from scoresde.score import ScoreModel
from scoresde.storage.limits import check_memory

__all__ = ["Steered", "SteeredDraws"]


class SteeredDraws(NamedTuple):
    """Samples of equal weight, and the groups of particles that they were taken from.

    Attributes:
        x: The samples `(n, ...)`.
        nfe: The evaluations of the network for one particle.
        groups: `(n,)` int64, the group of each sample.
        particles: The groups.
        alike: Whether all groups have one condition, and so one target.
    """

    x: Tensor
    nfe: int
    groups: Tensor
    particles: SteeredSamples
    alike: bool

    def arrays(self) -> dict[str, np.ndarray]:
        """Arrays that are stored beside the samples.

        `group` `(n,)` is that of each sample; `ess` `(steps + 1, G)` the effective sample sizes of the groups at
        `times` as shares of their particles, and `log_normalisers` `(G,)` their estimates of log Z.
        """
        found = self.particles
        arrays = {"group": self.groups, "ess": found.ess, "log_normalisers": found.log_normalisers}
        return {name: values.cpu().numpy() for name, values in {**arrays, "times": found.times}.items()}

    def figures(self) -> dict[str, Any]:
        """What is told of the groups: the least effective sample size on the way, and log Z where it is one number."""
        found = self.particles
        least = found.particles * found.ess.amin(0)
        figures: dict[str, Any] = {"particles": found.particles, "groups": found.groups}
        figures |= {"ess": float(least.min()), "ess_median": float(least.median())}
        if self.alike and found.groups > 1:
            figures |= {"log_z": found.log_normaliser, "log_z_stderr": found.log_normaliser_stderr}
        return figures


@dataclass(frozen=True)
class Steered:
    """A sampler of equal weights by a `SteeredSampler`: each group of particles gives some samples of one condition.

    Groups are counted as samples open them, so that a sample is a function of the seed, its index and the conditions up
    to it, and neither of the number of samples nor of how many are worked on at once.

    Attributes:
        sampler: The sampler of weighted particles.
        draws: Number of samples of a group; 1 for samples that are independent.
        identity: A text that is the same for two of them exactly when they are.
    """

    sampler: SteeredSampler
    draws: int
    identity: str

    def __call__(
        self, model: ScoreModel, shape: Sequence[int], *, seed: int, batch_size: int, progress: bool, **cond: Tensor
    ) -> SteeredDraws:
        """Draw samples.

        Args:
            model: The model that the target is made of.
            shape: `(n, ...)`.
            seed: Seed of their noise.
            batch_size: The number of particles to work on at once, in whole groups.
            progress: Show a progress bar.
            **cond: Conditions of the samples, `(n, ...)` each.

        Raises:
            ValueError: Particles that do not fit into memory, or as for `SteeredSampler`.
        """
        n = shape[0]
        groups, places, first = _grouped(cond, n, self.draws)
        each, steps = self.sampler.particles, self.sampler.grid.steps
        needed = len(first) * each * 4 * (math.prod(shape[1:]) + steps)  # states, and the particles that they are from
        check_memory(needed, f"n={n} of {len(first)} groups of {each} particles")
        chosen = {name: values[first] for name, values in cond.items()}
        options: dict[str, Any] = {"seed": seed, "batch_size": batch_size, "progress": progress, **chosen}
        found = self.sampler(model, len(first), shape=shape[1:], **options)
        equal = found.resample(seed, self.draws)
        one = _grouped(chosen, len(first), len(first))[2]
        x = equal[(self.draws * groups + places).to(equal.device)]
        return SteeredDraws(x, found.nfe, groups, found, alike=len(one) == 1)


def _grouped(cond: Mapping[str, Tensor], n: int, draws: int) -> tuple[Tensor, Tensor, list[int]]:
    """The group of each of n samples and its place there, `(n,)` each, and the first sample of each group.

    Samples of a group, at most `draws`, have the same conditions.
    """
    columns = [values.cpu().reshape(n, -1).numpy() for values in cond.values()]
    last: dict[bytes, tuple[int, int]] = {}  # of each condition, its last group and the samples in it
    placed: list[tuple[int, int]] = []
    first: list[int] = []
    for i in range(n):
        key = b"".join(column[i].tobytes() for column in columns)
        group, count = last.get(key, (0, draws))
        if count == draws:
            group, count = len(first), 0
            first.append(i)
        placed.append((group, count))
        last[key] = group, count + 1
    groups, places = torch.tensor(placed).T
    return groups, places, first
