"""Samplers: a solver on a time grid, with noise that belongs to each sample."""

from scoresde.numerics.brownian import BrownianPath
from scoresde.numerics.random import SampleNoise
from scoresde.sampling.adams import Multistep
from scoresde.sampling.adaptive import Adaptive
from scoresde.sampling.adaptive_sde import AdaptiveSDE
from scoresde.sampling.auto_adams import AutoAdams
from scoresde.sampling.churn import Churn
from scoresde.sampling.er_sde import ERSDE, ERSDE1, ERSDE4, ERSDE5, NoiseScale, PowerScale
from scoresde.sampling.exponential import RES, SEEDS, DPMSolverSinglestep, ExponentialRungeKutta, ExponentialTableau
from scoresde.sampling.external import ScipyODE, TorchSDE
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
from scoresde.sampling.solver import Noise, NonFiniteError, Report, Solver, StoppedError
from scoresde.sampling.stochasticity import ConstantTau, Eta, IntervalTau, Stochasticity
from scoresde.sampling.tuned import Tuned, TunedSteps, TunedTimes
from scoresde.sampling.tuning import tune
from scoresde.sde.coordinates import Angle, Coordinate, LogSNR, NoiseLevel, SignalLevel, Straight, Time

__all__ = [
    "DDIM",
    "DDPM",
    "DEIS",
    "ERSDE",
    "ERSDE1",
    "ERSDE4",
    "ERSDE5",
    "IPNDM",
    "RES",
    "SEEDS",
    "TABLEAUS",
    "Adaptive",
    "AdaptiveSDE",
    "Ancestral",
    "Angle",
    "AnnealedLangevin",
    "AutoAdams",
    "BrownianPath",
    "Churn",
    "ConstantTau",
    "Coordinate",
    "Corrector",
    "DPMSolverPP",
    "DPMSolverSinglestep",
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
    "IntervalTau",
    "KarrasGrid",
    "Langevin",
    "LogSNR",
    "Multistep",
    "NoCorrector",
    "NoPredictor",
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
    "tune",
]
