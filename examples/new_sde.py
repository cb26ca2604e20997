"""A forward SDE of one's own in ten lines: two functions, from which everything else follows.

Any solver runs under it, and so does a model that belongs to another SDE.
"""

import math

import torch
from torch import Tensor

from scoresde.data import eight_gaussians_mixture
from scoresde.metrics import sliced_wasserstein
from scoresde.sampling import AutoAdams, DataStraight, Sampler
from scoresde.score import GaussianMixtureScore, with_sde
from scoresde.sde import SDE, VPSDE


class Trigonometric(SDE):
    """Variance preserving with α = cos(πt/2) and σ = sin(πt/2)."""

    def __init__(self) -> None:
        super().__init__(t_min=1e-4, t_max=0.999)

    def alpha(self, t: Tensor) -> Tensor:
        return (math.pi / 2 * t).cos()

    def sigma(self, t: Tensor) -> Tensor:
        return (math.pi / 2 * t).sin()


sde = Trigonometric()
t = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
drift = -math.pi / 2 * (math.pi / 2 * t).tan()
print(f"f(t) from α, less what it is by hand: {(sde.drift_coefficient(t) - drift).abs().max():.0e}")
print(f"t from its log-SNR, less t:           {(sde.time(sde.log_snr(t)) - t).abs().max():.0e}")

model = with_sde(GaussianMixtureScore(*eight_gaussians_mixture(), sde=VPSDE()), sde)
reference = model.sample(2000, sde.t_min, torch.Generator().manual_seed(0))
out = Sampler(AutoAdams(), DataStraight(10))(model, shape=(2000, 2), seed=0)
print(f"distance to exact samples:            {sliced_wasserstein(out.x, reference)}, NFE {out.nfe}")
