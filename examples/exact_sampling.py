"""Sample a mixture of Gaussians, whose score is known exactly, by three kinds of solver.

The distance to exact samples is printed beside that of a second set of exact samples, which no sampler can beat.
"""

import torch

from scoresde.data import eight_gaussians_mixture
from scoresde.metrics import sliced_wasserstein
from scoresde.sampling import (
    AutoAdams,
    DataStraight,
    EDMHeun,
    EulerMaruyama,
    KarrasGrid,
    PredictorCorrector,
    Sampler,
    UniformTime,
)
from scoresde.score import GaussianMixtureScore
from scoresde.sde import VPSDE

model = GaussianMixtureScore(*eight_gaussians_mixture(), sde=VPSDE())
reference = model.sample(2000, model.sde.t_min, torch.Generator().manual_seed(0))
again = model.sample(2000, model.sde.t_min, torch.Generator().manual_seed(1))
print(f"{'exact samples':32s}          distance {sliced_wasserstein(again, reference)}")

samplers = {
    "Adams methods on the ODE": Sampler(AutoAdams(), DataStraight(10)),
    "EDM's Heun on the ODE": Sampler(EDMHeun(), KarrasGrid(17)),
    "Euler-Maruyama on the SDE": Sampler(PredictorCorrector(EulerMaruyama()), UniformTime(300)),
}
for name, sampler in samplers.items():
    out = sampler(model, shape=(2000, 2), seed=0)
    print(f"{name:32s} NFE {out.nfe:4d} distance {sliced_wasserstein(out.x, reference)}")
