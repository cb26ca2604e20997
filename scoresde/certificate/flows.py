"""Exact problems of samplers: starts, true ends of the probability flow, and the mixtures on which each check is made.

States and levels are those of `scoresde.certificate.contenders`, without scale.
"""

import torch
from torch import Tensor

from scoresde.certificate.contenders import Ends
from scoresde.certificate.mixtures import draws, generator
from scoresde.sampling import Adaptive, ExplicitTimes, Sampler
from scoresde.sampling.measured_steps import LENGTHS
from scoresde.sampling.plain_rule import plain_rule
from scoresde.score import GaussianMixtureScore, StepRules
from scoresde.sde import SDE

__all__ = ["REFERENCE", "normal", "point", "starts", "true_ends", "wide"]

REFERENCE = 1e-12
"""The tolerance of true ends, relative and absolute."""


def wide(sde: SDE) -> GaussianMixtureScore:
    """A mixture of three broad components in the plane, whose score is so smooth that orders show in few steps."""
    means = 4 * torch.tensor([[1.0, 0.0], [-0.5, 0.8], [-0.5, -0.9]], dtype=torch.float64)
    widths = 4 * torch.tensor([0.3, 0.4, 0.5], dtype=torch.float64)
    return _plain(GaussianMixtureScore(torch.ones(3), means, widths**2, sde))


def normal(sde: SDE) -> GaussianMixtureScore:
    """A normal distribution of standard deviations 0.4 and 1.2."""
    variances = torch.tensor([[0.4, 1.2]], dtype=torch.float64) ** 2
    return _plain(GaussianMixtureScore(torch.ones(1), torch.zeros(1, 2), variances, sde))


def point(sde: SDE, level: float) -> GaussianMixtureScore:
    """A normal distribution so narrow that nothing but noise is seen at a level."""
    mean = torch.tensor([[0.3, -0.7]], dtype=torch.float64)
    return _plain(GaussianMixtureScore(torch.ones(1), mean, torch.full((1,), (level / 100) ** 2), sde))


def _plain(model: GaussianMixtureScore) -> GaussianMixtureScore:
    # The default solver may have a lower order where less error was measured of it.
    model.step_rules = StepRules({LENGTHS[-1]: plain_rule(LENGTHS[-1])})
    return model


def starts(model: GaussianMixtureScore, level: float, n: int, seed: int) -> Tensor:
    """n states x₀ + σ ε at a level, `(n, ...)`."""
    random = generator(seed, 21)
    x = draws(model, n, random)
    x = x + level * torch.randn(x.shape, dtype=x.dtype, generator=random)
    return x.reshape(n, *(model.shape or x.shape[1:]))


def true_ends(model: GaussianMixtureScore, x: Tensor, ends: Ends) -> Tensor:
    """Where the probability flow leads states `(B, ...)` at the first level, with the denoising that `ends` has."""
    sde = model.sde
    first, last = (sde.time(-torch.tensor(v, dtype=torch.float64).log()) for v in (ends.first, ends.last))
    solver = Adaptive("dop853", rtol=REFERENCE, atol=REFERENCE, strict=True)
    sampler = Sampler(solver, ExplicitTimes([float(first), float(last)]), denoise=ends.denoised)
    out = sampler(model, x_init=x * float(sde.alpha(first))).x
    return out if ends.denoised else out / float(sde.alpha(last))
