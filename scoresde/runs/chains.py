"""Runs whose forward process is a Markov chain of discrete states: what they take, and what makes no sense of them."""

from dataclasses import replace
from typing import Any

from omegaconf import DictConfig, OmegaConf

from scoresde.chains import DiscreteChainModel
from scoresde.data import Data, Discrete
from scoresde.objectives import ChainLoss, Criterion
from scoresde.objectives.chains import check_states
from scoresde.options.errors import ConfigError
from scoresde.sampling import ChainSampler, Sampler
from scoresde.score import NetworkScore
from scoresde.sde import SDE
from scoresde.sde.erasure import ErasureChain

__all__ = ["RunModel", "as_states", "check_parts", "check_sampler", "score_model"]

RunModel = NetworkScore | DiscreteChainModel
"""The model of a run: a score model, or that of a discrete chain."""

_EXAMPLE = "experiment=diffusion2015/heartbeat is an example"


def check_parts(process: SDE | ErasureChain, config: DictConfig, criterion: Criterion, sampler: Any) -> None:
    """Reject parts of a configuration that do not fit its forward process.

    Args:
        process: The object of `sde`.
        config: The configuration.
        criterion: The object of `objective`.
        sampler: That of `sampler`.

    Raises:
        ConfigError: Parts of a score model for a chain of discrete states, or those of such a chain for an SDE.
    """
    name = type(process).__name__
    if isinstance(process, SDE):
        if isinstance(criterion, ChainLoss) or isinstance(sampler, ChainSampler):
            what = "objective" if isinstance(criterion, ChainLoss) else "sampler"
            raise ConfigError(
                f"{what} is for a chain of discrete states, and sde is {name}: take sde=binomial or sde=categorical, "
                f"or another {what}; {_EXAMPLE}"
            )
        return
    wrong = [] if isinstance(criterion, ChainLoss) else ["a ChainLoss as objective"]
    wrong += [] if isinstance(sampler, ChainSampler) else ["a ChainSampler as sampler"]
    wrong += [] if config.get("preconditioning") is None else ["no preconditioning"]
    wrong += ["training.dequantise=false"] if config.training.get("dequantise", True) else []
    wrong += ["evaluation.sample_likelihood=0"] if OmegaConf.select(config, "evaluation.sample_likelihood") else []
    if wrong:
        raise ConfigError(f"sde is {name}, whose states are discrete: it needs {', '.join(wrong)}; {_EXAMPLE}")


def as_states(process: SDE | ErasureChain, data: Data) -> Data:
    """The data with the transform under which they are states of the process: 0 ... K − 1 for a discrete chain.

    Raises:
        ConfigError: Data that the chain does not have.
    """
    if isinstance(process, SDE):
        return data
    levels = data.transform.levels
    try:
        check_states(process, levels, data.name)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    assert levels is not None
    return replace(data, transform=Discrete(levels, -0.5, levels - 0.5))


def check_sampler(model: RunModel, sampler: Sampler | ChainSampler) -> None:
    """Reject a sampler of another kind of model.

    Raises:
        ConfigError: A sampler of score models for a discrete chain, or the other way round.
    """
    if isinstance(model, DiscreteChainModel) is isinstance(sampler, ChainSampler):
        return
    if isinstance(model, DiscreteChainModel):
        raise ConfigError(
            f"the run's {type(model.chain).__name__} has discrete states, which no sampler of score models can draw: "
            "leave sampler out, and take fewer steps by sampler.steps=N"
        )
    raise ConfigError("ChainSampler draws discrete states, and this run has a score model: choose one by sampler=NAME")


def score_model(model: RunModel, purpose: str) -> NetworkScore:
    """The model, if it is a score model.

    Args:
        model: The model of a run.
        purpose: What needs it, as the subject of the message.

    Raises:
        ConfigError: The model of a discrete chain.
    """
    if isinstance(model, NetworkScore):
        return model
    raise ConfigError(
        f"{purpose} needs a score, and this run has a {type(model.chain).__name__} of discrete states: only train, "
        "sample, likelihood, evaluate and report are for it"
    )
