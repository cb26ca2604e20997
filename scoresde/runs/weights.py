"""Models of a run, by its configuration: a new one to be trained, and one with the weights of its file."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from scoresde.chains import DiscreteChainModel
from scoresde.options.errors import ConfigError
from scoresde.runs.chains import RunModel
from scoresde.runs.outline import differences, filled, outline
from scoresde.score import NetworkScore, NoisyClassifier
from scoresde.sde import SDE
from scoresde.sde.erasure import ErasureChain
from scoresde.sde.erasure_sde import learned_rates
from scoresde.statistics import Statistics
from scoresde.storage.bounded import CheckpointError, parse_json
from scoresde.storage.tensors import load_header, load_tensors
from scoresde.training.environment import default_types
from scoresde.training.provenance import TRAINED_WITH, check_provenance

__all__ = ["Trained", "load_model", "new_model"]

Trained = RunModel | NoisyClassifier
"""What a run trains: its model, or a classifier by which models are guided."""

Make = Callable[..., Any]
Entry = TypeVar("Entry")


def new_model(make: Make, shape: tuple[int, ...], statistics: Statistics) -> Trained:
    """A new model.

    Args:
        make: `Run.make`.
        shape: Shape of a sample.
        statistics: Moments of the training data in model space.

    Raises:
        ConfigError: As for `Run.make`, or a network that is too large to be trained.
    """
    process = make("sde")
    make_network = _maker(make, process, shape)
    try:
        outline(make_network)  # refused before memory is taken for it
    except ValueError as error:
        raise ConfigError(f"network: {error}") from error
    return _model(make, make_network(), process, statistics)


def _maker(make: Make, process: SDE | ErasureChain, shape: tuple[int, ...]) -> Callable[[], nn.Module]:
    """A function that makes the network for samples of `shape`, with which rates that are learned are kept."""

    def made() -> nn.Module:
        network: nn.Module = make("network", shape=_network_shape(process, shape))
        if (rates := learned_rates(process)) is not None:
            rates.join(network)  # before there is a model, since the network is counted and filled without one
        return network

    return made


def _network_shape(process: SDE | ErasureChain, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the network's input for samples of `shape`."""
    if isinstance(process, SDE):
        return shape
    return (shape[0] * DiscreteChainModel.channels_of(process), *shape[1:])


def _model(make: Make, network: nn.Module, process: SDE | ErasureChain, statistics: Statistics | None) -> Trained:
    if getattr(network, "classifies", False):
        if not isinstance(process, SDE):
            raise ConfigError(
                f"network is a classifier of noised samples, and sde is {type(process).__name__}, whose states are "
                "discrete: take an SDE, such as sde=vp"
            )
        return NoisyClassifier(network, process, make("preconditioning"), statistics)
    if isinstance(process, SDE):
        return NetworkScore(network, process, make("preconditioning"), statistics)
    return DiscreteChainModel(network, process, statistics)


def load_model(
    path: Path, make: Make, trained_with: Mapping[str, Any], accept: Sequence[str], config_path: Path
) -> Trained:
    """The model with the weights of a file, in evaluation mode.

    Args:
        path: File of the weights.
        make: `Run.make`.
        trained_with: What the weights should have been trained with.
        accept: Keys of it whose difference is accepted.
        config_path: File of the configuration, for messages.

    Raises:
        CheckpointError: No model yet, a truncated or foreign file, or one of another configuration.
        ConfigError: A configuration that is not the one that the weights were trained with.
    """
    shapes, metadata = load_header(path)
    # Older files do not say what they were trained with.
    then = parse_json(metadata.get(TRAINED_WITH, "{}").encode(), path)
    if not isinstance(then, dict):
        raise CheckpointError(f"{path} is damaged: what it was trained with is no mapping")
    check_provenance(str(path), then, trained_with, accept)
    try:
        return _loaded(path, make, shapes, trained_with)
    except (KeyError, RuntimeError, ValueError) as error:
        if isinstance(error, ConfigError | CheckpointError):
            raise
        raise CheckpointError(
            f"{path} does not hold the model that {config_path} describes: {' '.join(str(error).split())[:200]}"
        ) from error


def _loaded(path: Path, make: Make, shapes: Mapping[str, tuple[int, ...]], trained_with: Mapping[str, Any]) -> Trained:
    process = make("sde")
    # A model that was imported without data has no moments of them.
    shape = shapes.get("statistics.mean") or tuple(trained_with["data"]["shape"])
    make_network = _maker(make, process, shape)
    own = _part(shapes, "network.")
    with default_types():
        network = outline(make_network, sum(map(math.prod, own.values())), path)
    if network is not None:
        for difference in differences(network, own):
            raise ValueError(f"network.{difference}")
    tensors = load_tensors(path)
    statistics = _statistics(_part(tensors, "statistics."))
    with default_types():
        network = filled(network, make_network, _part(tensors, "network."))
        model = _model(make, network, process, statistics)
    model.load_state_dict(tensors)
    return model.eval()


def _statistics(known: Mapping[str, Tensor]) -> Statistics | None:
    if "mean" not in known:
        return None
    # Which of these are there depends on the data's size and on the version that wrote the file.
    optional = (known.get(name) for name in ("covariance", "variance", "dct_variance"))
    return Statistics(known["mean"], known["std"], *optional)


def _part(named: Mapping[str, Entry], prefix: str) -> dict[str, Entry]:
    """Entries whose names have the prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in named.items() if name.startswith(prefix)}
