"""Compare samplers on one model: the same starts for all, and the error against an accurate solve of the ODE.

`frame` is a pandas table with a line for each sampler, number of steps and seed.
"""

from scoresde.compare import compare
from scoresde.data import grid_gaussians_mixture
from scoresde.sampling import (
    DDIM,
    AutoAdams,
    DataStraight,
    DPMSolverPP,
    EDMHeun,
    KarrasGrid,
    NoiseLevel,
    RungeKutta,
    Sampler,
    UniformLogSNR,
)
from scoresde.score import GaussianMixtureScore
from scoresde.sde import EDMSDE

model = GaussianMixtureScore(*grid_gaussians_mixture(), sde=EDMSDE())
samplers = {
    "DDIM": lambda n: Sampler(DDIM(), UniformLogSNR(n)),
    "DPM-Solver++ 2M": lambda n: Sampler(DPMSolverPP(2), UniformLogSNR(n)),
    "EDM's Heun": lambda n: Sampler(EDMHeun(), KarrasGrid(n)),
    "RK4": lambda n: Sampler(RungeKutta("rk4", coordinate=NoiseLevel()), KarrasGrid(n)),
    "default": lambda n: Sampler(AutoAdams(), DataStraight(n)),
}
frame = compare(model, samplers, steps=[5, 10, 20, 40], n=500, shape=(2,), seeds=[0, 1], progress=False)
print(frame.groupby(["steps", "sampler"])[["nfe", "error"]].mean().to_string(float_format="{:.2g}".format))
