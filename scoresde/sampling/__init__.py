"""Samplers: a solver on a time grid, with noise that belongs to each sample."""

from scoresde.sampling.coordinates import Angle, Coordinate, LogSNR, NoiseLevel, SignalLevel, Straight, Time
from scoresde.sampling.exponential import RES, SEEDS, DPMSolverSinglestep, ExponentialRungeKutta, ExponentialTableau
from scoresde.sampling.external import ScipyODE, TorchSDE
from scoresde.sampling.grids import (
    DiscreteTime,
    ExplicitTimes,
    Grid,
    KarrasGrid,
    QuadraticTime,
    UniformLogSNR,
    UniformTime,
)
from scoresde.sampling.multistep import ConstantTau, Eta, IntervalTau, Multistep, Stochasticity
from scoresde.sampling.noise import SampleNoise
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
from scoresde.sampling.runge_kutta import TABLEAUS, Churn, Euler, Heun, RungeKutta, Tableau
from scoresde.sampling.sampler import NonFiniteError, Sampler, Samples, Solver

__all__ = [
    "RES",
    "SEEDS",
    "TABLEAUS",
    "Ancestral",
    "Angle",
    "AnnealedLangevin",
    "Churn",
    "ConstantTau",
    "Coordinate",
    "Corrector",
    "DPMSolverSinglestep",
    "DiscreteTime",
    "Eta",
    "Euler",
    "EulerMaruyama",
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
    "NoiseLevel",
    "NonFiniteError",
    "Predictor",
    "PredictorCorrector",
    "QuadraticTime",
    "ReverseDiffusion",
    "RungeKutta",
    "SampleNoise",
    "Sampler",
    "Samples",
    "ScipyODE",
    "SignalLevel",
    "Solver",
    "Stochasticity",
    "Straight",
    "Tableau",
    "Time",
    "TorchSDE",
    "UniformLogSNR",
    "UniformTime",
]
