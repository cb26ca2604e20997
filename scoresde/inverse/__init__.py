"""Inverse problems: what is measured of a sample, samplers of the posterior, and the posterior where it is known."""

from scoresde.inverse.counted import Cost, CountedModel
from scoresde.inverse.dps import DPS
from scoresde.inverse.exact import ExactPosterior
from scoresde.inverse.matrix import MatrixOperator
from scoresde.inverse.method import FieldMethod, Method, PosteriorModel, SolverMethod
from scoresde.inverse.noise import GaussianNoise, MeasurementNoise, NoNoise
from scoresde.inverse.operator import LinearOperator, Operator, SingularValues
from scoresde.inverse.problem import Measurement, Problem
from scoresde.inverse.restored import Restored, restore

__all__ = [
    "DPS",
    "Cost",
    "CountedModel",
    "ExactPosterior",
    "FieldMethod",
    "GaussianNoise",
    "LinearOperator",
    "MatrixOperator",
    "Measurement",
    "MeasurementNoise",
    "Method",
    "NoNoise",
    "Operator",
    "PosteriorModel",
    "Problem",
    "Restored",
    "SingularValues",
    "SolverMethod",
    "restore",
]
