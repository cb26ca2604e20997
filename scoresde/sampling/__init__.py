"""Samplers: a solver on a time grid, with noise that belongs to each sample.

A sampler follows the reverse SDE, or the probability-flow ODE, from noise at t_max to data at t_min. It is made of five
choices, and any combination runs under any SDE:

| noun | question | for example |
| --- | --- | --- |
| `Coordinate` | In which variables is the ODE written? | `Time`, `NoiseLevel`, `LogSNR`, `SignalLevel`, `Angle` |
| `Grid` | At which times is the model asked? | `UniformTime`, `UniformLogSNR`, `KarrasGrid`, `DataStraight` |
| method: a `Solver` | How does a step use the answers? | `Multistep`, `RungeKutta`, `Adaptive`, `PredictorCorrector` |
| `Stochasticity` | How much noise is drawn on the way? | `ConstantTau`, `IntervalTau`, `Eta`; `Churn`, `Restart` |
| noise source | Where does the noise come from? | `"white"`; `"brownian"`: one path, refined by finer grids |

Published samplers are points in this table, and classes of their own: `DDIM`, `DDPM`, `DPMSolverPP`, `DEIS`, `IPNDM`,
`UniPC`, `SASolver`, `EDMHeun`, `DPMSolverSinglestep`, `RES`, `SEEDS`. Three of them, on an exact score:

>>> import torch
>>> from scoresde.score import GaussianMixtureScore
>>> from scoresde.sde import VPSDE
>>> means = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
>>> model = GaussianMixtureScore(torch.ones(2), means, torch.full((2,), 0.01), VPSDE())

EDM's deterministic sampler is the ODE in σ/α, on Karras' levels, by Heun's two stages, without noise:

>>> edm = Sampler(EDMHeun(), KarrasGrid(17))
>>> EDMHeun() == RungeKutta("heun", coordinate=NoiseLevel())
True
>>> out = edm(model, shape=(1000, 2), seed=0)
>>> out.nfe, bool((out.x.std(dim=0)[0] - 1.01**0.5).abs() < 0.05)
(35, True)

SDE-DPM-Solver++ 2M interpolates the data prediction in log(α/σ) through two values and draws all the noise of the
reverse SDE; from one Brownian path, 50 steps refine the samples of 25:

>>> method = Multistep(2, weights="bh2", coordinate=SignalLevel(), interpolation=LogSNR(), tau=ConstantTau(1.0))
>>> method == DPMSolverPP(2, sde=True)
True
>>> coarse, fine = (
...     Sampler(method, UniformLogSNR(n), noise="brownian")(model, shape=(1000, 2), seed=0).x for n in (25, 50)
... )
>>> bool((fine - coarse).square().mean() < (fine - out.x).square().mean() / 4)
True

Predictor-corrector sampling takes steps of the reverse SDE in t, each followed by Langevin dynamics at its new time:

>>> pc = Sampler(PredictorCorrector(ReverseDiffusion(), Langevin(snr=0.16)), UniformTime(200))
>>> pc(model, shape=(1000, 2), seed=0).nfe  # 200 predictor steps, 200 corrector steps, and the last denoising
401
"""

import importlib
from typing import TYPE_CHECKING

from scoresde.numerics.brownian import BrownianPath
from scoresde.numerics.random import SampleNoise
from scoresde.sampling.adams import Multistep
from scoresde.sampling.adaptive import Adaptive
from scoresde.sampling.adaptive_sde import AdaptiveSDE
from scoresde.sampling.ancestral_chain import ChainSampler
from scoresde.sampling.annealed_langevin import NCSN, NCSNv2
from scoresde.sampling.auto_adams import AutoAdams
from scoresde.sampling.auto_sde import AutoSDE
from scoresde.sampling.cascade import Cascade, CascadeSamples
from scoresde.sampling.churn import Churn
from scoresde.sampling.edit import edit
from scoresde.sampling.exponential import RES, SEEDS, DPMSolverSinglestep, ExponentialRungeKutta, ExponentialTableau
from scoresde.sampling.grids import (
    DataStraight,
    DiscreteTime,
    ExplicitTimes,
    Grid,
    KarrasGrid,
    QuadraticTime,
    UniformAngle,
    UniformLogSNR,
    UniformStraight,
    UniformTime,
    UniformVariable,
    VEGrid,
    VPGrid,
)
from scoresde.sampling.high_density import HighDensity, ModeTracking
from scoresde.sampling.measured_steps import measure_steps
from scoresde.sampling.named import DDIM, DDPM, DEIS, IPNDM, DPMSolverPP, SASolver, UniPC
from scoresde.sampling.picard import Picard
from scoresde.sampling.predictor_corrector import (
    Ancestral,
    AnnealedLangevin,
    Corrector,
    EulerMaruyama,
    Langevin,
    NoCorrector,
    NoPredictor,
    Predictor,
    PredictorCorrector,
    ReverseDiffusion,
)
from scoresde.sampling.restart import Restart, RestartInterval
from scoresde.sampling.runge_kutta import TABLEAUS, EDMHeun, Euler, ExplicitTableau, Heun, RungeKutta, Tableau
from scoresde.sampling.sampler import Sampler
from scoresde.sampling.samples import Samples
from scoresde.sampling.signal_grids import DataLogSNR
from scoresde.sampling.solver import Noise, NonFiniteError, Report, Solver, StoppedError
from scoresde.sampling.stochasticity import ConstantTau, Eta, IntervalTau, StepTau, Stochasticity
from scoresde.sampling.tuned import Tuned, TunedSteps, TunedTimes
from scoresde.score.step_rules import StepRule
from scoresde.sde.coordinates import (
    Angle,
    Coordinate,
    LevelRatio,
    LogSNR,
    NoiseLevel,
    SignalLevel,
    Straight,
    Time,
)

if TYPE_CHECKING:
    from scoresde.sampling.er_sde import ERSDE, ERSDE1, ERSDE4, ERSDE5, NoiseScale, PowerScale
    from scoresde.sampling.external import ScipyODE, TorchSDE
    from scoresde.sampling.steered import SteeredSampler
    from scoresde.sampling.steered_choices import NoSteering, SteerGuided, Steering, SteerTempered
    from scoresde.sampling.steered_samples import SteeredSamples
    from scoresde.sampling.tuning import tune

__all__ = [
    "DDIM",
    "DDPM",
    "DEIS",
    "ERSDE",
    "ERSDE1",
    "ERSDE4",
    "ERSDE5",
    "IPNDM",
    "NCSN",
    "RES",
    "SEEDS",
    "TABLEAUS",
    "Adaptive",
    "AdaptiveSDE",
    "Ancestral",
    "Angle",
    "AnnealedLangevin",
    "AutoAdams",
    "AutoSDE",
    "BrownianPath",
    "Cascade",
    "CascadeSamples",
    "ChainSampler",
    "Churn",
    "ConstantTau",
    "Coordinate",
    "Corrector",
    "DPMSolverPP",
    "DPMSolverSinglestep",
    "DataLogSNR",
    "DataStraight",
    "DiscreteTime",
    "EDMHeun",
    "Eta",
    "Euler",
    "EulerMaruyama",
    "ExplicitTableau",
    "ExplicitTimes",
    "ExponentialRungeKutta",
    "ExponentialTableau",
    "Grid",
    "Heun",
    "HighDensity",
    "IntervalTau",
    "KarrasGrid",
    "Langevin",
    "LevelRatio",
    "LogSNR",
    "ModeTracking",
    "Multistep",
    "NCSNv2",
    "NoCorrector",
    "NoPredictor",
    "NoSteering",
    "Noise",
    "NoiseLevel",
    "NoiseScale",
    "NonFiniteError",
    "Picard",
    "PowerScale",
    "Predictor",
    "PredictorCorrector",
    "QuadraticTime",
    "Report",
    "Restart",
    "RestartInterval",
    "ReverseDiffusion",
    "RungeKutta",
    "SASolver",
    "SampleNoise",
    "Sampler",
    "Samples",
    "ScipyODE",
    "SignalLevel",
    "Solver",
    "SteerGuided",
    "SteerTempered",
    "SteeredSampler",
    "SteeredSamples",
    "Steering",
    "StepRule",
    "StepTau",
    "Stochasticity",
    "StoppedError",
    "Straight",
    "Tableau",
    "Time",
    "TorchSDE",
    "Tuned",
    "TunedSteps",
    "TunedTimes",
    "UniPC",
    "UniformAngle",
    "UniformLogSNR",
    "UniformStraight",
    "UniformTime",
    "UniformVariable",
    "VEGrid",
    "VPGrid",
    "edit",
    "measure_steps",
    "tune",
]

# Names of files that are imported at their first use, since few programs need them.
_LATE = {
    "ERSDE": "er_sde",
    "ERSDE1": "er_sde",
    "ERSDE4": "er_sde",
    "ERSDE5": "er_sde",
    "NoSteering": "steered_choices",
    "NoiseScale": "er_sde",
    "PowerScale": "er_sde",
    "ScipyODE": "external",
    "SteerGuided": "steered_choices",
    "SteerTempered": "steered_choices",
    "SteeredSampler": "steered",
    "SteeredSamples": "steered_samples",
    "Steering": "steered_choices",
    "TorchSDE": "external",
    "tune": "tuning",
}


def __getattr__(name: str) -> object:
    if name not in _LATE:
        raise AttributeError(f"module 'scoresde.sampling' has no attribute {name!r}")
    return getattr(importlib.import_module(f"scoresde.sampling.{_LATE[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
