"""Exact likelihoods, codes and bits per dimension by the probability-flow ODE."""

from scoresde.likelihood.bits import BitsPerDim, bits_per_dim
from scoresde.likelihood.bounds import Bound, discrete_elbo, elbo
from scoresde.likelihood.cell_flow import CellFlow
from scoresde.likelihood.chain_bits import ChainBits, chain_bits_per_dim, discretised_log_prob
from scoresde.likelihood.chain_bound import ChainBound, chain_bound
from scoresde.likelihood.chain_pilot import pilot_weights
from scoresde.likelihood.chain_steps import step_weights
from scoresde.likelihood.classify import auroc, bayes_classify, class_log_prob, typicality
from scoresde.likelihood.codes import decode, encode, interpolate, round_trip_error
from scoresde.likelihood.density import LogLikelihood, log_likelihood
from scoresde.likelihood.dequantisation import Posterior, TruncatedNormal, Uniform, Variational
from scoresde.likelihood.differentiable import differentiable_log_prob
from scoresde.likelihood.errors import LikelihoodError
from scoresde.likelihood.options import FlowOptions
from scoresde.likelihood.own_chain import own_chain
from scoresde.likelihood.paired import LikelihoodComparison, compare_likelihoods
from scoresde.likelihood.reweighting import Reweighted, reweight
from scoresde.likelihood.scaling import CovarianceScaling, DCTScaling, DiagonalScaling, ScalarScaling
from scoresde.likelihood.solver_error import solver_error
from scoresde.numerics.trace import Auto, Exact, Hutchinson, Probing

__all__ = [
    "Auto",
    "BitsPerDim",
    "Bound",
    "CellFlow",
    "ChainBits",
    "ChainBound",
    "CovarianceScaling",
    "DCTScaling",
    "DiagonalScaling",
    "Exact",
    "FlowOptions",
    "Hutchinson",
    "LikelihoodComparison",
    "LikelihoodError",
    "LogLikelihood",
    "Posterior",
    "Probing",
    "Reweighted",
    "ScalarScaling",
    "TruncatedNormal",
    "Uniform",
    "Variational",
    "auroc",
    "bayes_classify",
    "bits_per_dim",
    "chain_bits_per_dim",
    "chain_bound",
    "class_log_prob",
    "compare_likelihoods",
    "decode",
    "differentiable_log_prob",
    "discrete_elbo",
    "discretised_log_prob",
    "elbo",
    "encode",
    "interpolate",
    "log_likelihood",
    "own_chain",
    "pilot_weights",
    "reweight",
    "round_trip_error",
    "solver_error",
    "step_weights",
    "typicality",
]
