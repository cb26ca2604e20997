"""A mixture without noise: its density, its moments and draws from it, in float64 on the CPU, samples as vectors."""

import torch
from torch import Tensor

from scoresde.metrics import Mixture
from scoresde.score import GaussianMixtureScore

__all__ = ["density", "draws", "generator", "moments"]

_FLAT = 1e-10  # variances below this part of the largest are 0, as those of what was measured without noise


def generator(*numbers: int) -> torch.Generator:
    """A generator whose seed is a function of numbers: of a seed, of a use and of an index."""
    seed = 0
    for number in numbers:
        seed = (seed * 1_000_003 + number + 12_345) % 2**62
    return torch.Generator().manual_seed(seed)


def density(model: GaussianMixtureScore) -> Mixture | None:
    """The mixture at time 0 with its density; None where it has none, since it does not vary in some direction."""
    variances = model.variances.cpu().double()
    if bool((variances <= _FLAT * variances.max()).any()):
        return None
    weights, means = model.weights.cpu().double(), model.means.cpu().double()
    rotations = None if model.rotations is None else model.rotations.cpu().double()
    return Mixture(weights, means, variances, rotations)


def moments(model: GaussianMixtureScore) -> tuple[Tensor, Tensor]:
    """The mean `(D,)` and the covariance `(D, D)` at time 0."""
    known = model.statistics
    assert known is not None
    assert known.covariance is not None
    return known.mean.cpu().double().flatten(), known.covariance.cpu().double()


def draws(model: GaussianMixtureScore, n: int, random: torch.Generator) -> Tensor:
    """n draws at time 0, `(n, D)`."""
    weights, means, variances = (v.cpu().double() for v in (model.weights, model.means, model.variances))
    k = torch.multinomial(weights, n, replacement=True, generator=random)
    z = torch.randn(n, means.shape[1], dtype=torch.float64, generator=random) * variances[k].clamp(min=0).sqrt()
    if model.rotations is not None:
        rotations = model.rotations.cpu().double()
        turned = torch.empty_like(z)
        for each in k.unique().tolist():  # the rotations of all draws would take n D² numbers
            turned[k == each] = z[k == each] @ rotations[each].T
        z = turned
    return means[k] + z
