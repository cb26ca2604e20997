"""Models that undo the steps of Markov chains, their samples, and products with a second distribution."""

from scoresde.chains.discrete import DiscreteChainModel
from scoresde.chains.factors import CategoricalFactor, Factor, GaussianFactor, GradientFactor
from scoresde.chains.gaussian import GaussianChainModel
from scoresde.chains.measure import measure_variances
from scoresde.chains.model import ChainModel
from scoresde.chains.sample import ChainSamples, sample_chain

__all__ = [
    "CategoricalFactor",
    "ChainModel",
    "ChainSamples",
    "DiscreteChainModel",
    "Factor",
    "GaussianChainModel",
    "GaussianFactor",
    "GradientFactor",
    "measure_variances",
    "sample_chain",
]
