"""Models that undo the steps of Markov chains, and samples of them."""

from scoresde.chains.discrete import DiscreteChainModel
from scoresde.chains.gaussian import GaussianChainModel
from scoresde.chains.model import ChainModel
from scoresde.chains.sample import ChainSamples, sample_chain

__all__ = ["ChainModel", "ChainSamples", "DiscreteChainModel", "GaussianChainModel", "sample_chain"]
