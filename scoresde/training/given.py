"""Data that a user gives to be evaluated by a run, in place of the data that the run has held out."""

from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from scoresde.data import Data
from scoresde.training.config import ConfigError, instantiate

__all__ = ["given_data"]

_FARTHEST = 10.0  # root mean square distance of values from the training data's mean, in their standard deviations
_NARROWEST = 0.01  # standard deviation of values, in those of the training data
_LOOKED_AT = 4096  # training samples, for their mean and standard deviation


def given_data(own: Data, config: DictConfig, conditional: bool, allow: Sequence[str] = ()) -> tuple[Data, str]:
    """The run's data with those of `config.data` in place of the test data, and where the latter are from.

    They are encoded by the run's transform, and are taken whole and in the order of their source unless
    `config.split` is train or test.

    Args:
        own: the data of the run.
        config: of a command: `data` as for training, whose number of levels is the run's if it is not given.
        conditional: whether the model takes labels; else they are left out.
        allow: further packages that the configuration may name.

    Raises:
        ConfigError: data that cannot be read, or whose shape, levels, values or labels are not like the run's.
    """
    levels = own.transform.levels
    if OmegaConf.select(config, "data.levels", default=0) is None and levels is not None:
        config.data.levels = levels
    loaded: Data = instantiate(config, "data", allow)
    source = str(config.data.get("path") or loaded.name)
    if conditional and loaded.class_names is not None and own.class_names is not None:
        try:
            loaded = loaded.with_classes(own.class_names)
        except ValueError as error:
            raise ConfigError(f"labels of {source}: {error}") from error
    if loaded.shape != own.shape:
        raise ConfigError(f"samples of {source} have shape {loaded.shape}, expected that of the run's, {own.shape}")
    if loaded.transform.levels != levels:
        has, wanted = (
            "continuous values" if n is None else f"integers of {n} levels" for n in (loaded.transform.levels, levels)
        )
        raise ConfigError(f"{source} has {has}, the run's data are {wanted}: give data like those")
    values, labels = {
        "train": (loaded.train, loaded.train_labels),
        "test": (loaded.test, loaded.test_labels),
    }.get(config.get("split") or "all", loaded.whole())
    if levels is None:
        _check_range(own, values, source)
    if not conditional:
        return Data(loaded.name, own.train, values, own.transform), source
    if labels is None:
        raise ConfigError(
            f"the model is conditional on labels, and {source} has none: name them, for an .npz file by data.label_key"
        )
    return Data(
        loaded.name,
        own.train,
        values,
        own.transform,
        own.train_labels,
        labels,
        own.num_classes,
        class_names=own.class_names,
    ), source


def _check_range(own: Data, values: Tensor, source: str) -> None:
    """Refuse continuous values that are likely to be in other units than the training data."""
    known = own.transform.encode(own.train[:_LOOKED_AT]).double()
    x = own.transform.encode(values).double()
    spread = known.std()
    far = (x - known.mean()).square().mean().sqrt() > _FARTHEST * spread
    narrow = x.std(correction=0) < _NARROWEST * spread
    if bool(far | narrow):
        raise ConfigError(
            f"values of {source} are {_range(values)}, the run's training data {_range(own.train)}: give them in the "
            "same units"
        )


def _range(values: Any) -> str:
    return f"{float(values.min()):.4g} to {float(values.max()):.4g}"
