"""Indices of the random numbers of a likelihood: one integer for each sample and evaluation.

`SampleNoise` gives every integer noise of its own. A sample's evaluations have neighbouring integers, and samples lie
so far apart that none reaches the next one's. The sizes are part of the results.
"""

from torch import Tensor

__all__ = ["NOISES", "draw_seed", "evaluation_number", "node_number", "noise_number", "sample_of"]

# Bits for the evaluations of a sample: of these, nodes of its path, and repeated estimates at a node.
_EVALUATIONS, _NODES = 28, 16
_REPEATS = _EVALUATIONS - _NODES

NOISES = 2**24
"""Noises of a sample that `noise_number` can tell apart."""

# Between the seeds of two draws of the dequantisation, so that neighbouring seeds of a user share no probes.
_DRAWS = 2**40


def evaluation_number(sample: Tensor, evaluation: Tensor | int) -> Tensor:
    """The numbers of evaluations of samples, for their probes."""
    return (sample << _EVALUATIONS) + evaluation


def node_number(sample: Tensor, node: Tensor, repeat: int = 0) -> Tensor:
    """The numbers of estimates at nodes of the paths of samples, for their probes."""
    return (((sample << _NODES) + node) << _REPEATS) + repeat


def sample_of(number: Tensor) -> Tensor:
    """The samples that the numbers of `evaluation_number` or `node_number` belong to."""
    return number >> _EVALUATIONS


def noise_number(sample: Tensor, noise: Tensor) -> Tensor:
    """The numbers of noises of samples, for the draws of a lower bound."""
    return sample * NOISES + noise


def draw_seed(seed: int, draw: int) -> int:
    """The seed of the probes of a draw of the dequantisation."""
    return seed + draw * _DRAWS
