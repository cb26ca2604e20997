"""Data that a user gives to be evaluated by a run, in place of the data that the run has held out."""

from collections.abc import Sequence

from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from scoresde.config.targets import instantiate
from scoresde.data import CascadePart, Data, DataInfo, Transform
from scoresde.options.errors import ConfigError
from scoresde.statistics import Statistics

__all__ = ["check_range", "given_data"]

_MAX_DISTANCE = 10.0  # RMS distance of values from the mean of the training data, in their standard deviations
_MIN_SPREAD = 0.01  # standard deviation of values, in those of the training data


def given_data(
    info: DataInfo,
    config: DictConfig,
    statistics: Statistics | None,
    conditional: bool,
    own: Data | None = None,
    allow: Sequence[str] = (),
    part: CascadePart | None = None,
) -> tuple[Data, str]:
    """The data of `config.data` as test data, encoded as the run's are, and their source.

    They are taken whole and in the order of their source, unless `config.split` is train or test.

    Args:
        info: Facts about the run's data.
        config: Configuration of a command: `data` as for training, with the run's number of levels if none is given.
        statistics: Moments of the run's training data in model space.
        conditional: Whether the model takes labels; else they are left out.
        own: Data of the run, whose training part the result has; without them it has the test data there, too.
        allow: Further packages that the configuration may name.
        part: The part of a cascade that the run is, whose data are made of those at full resolution.

    Raises:
        ConfigError: Data that cannot be read, or whose shape, levels, values or labels are not like the run's.
    """
    levels = info.transform.levels
    if OmegaConf.select(config, "data.levels", default=0) is None and levels is not None:
        config.data.levels = levels if part is None else part.whole_levels(levels, info.shape)
    loaded: Data = instantiate(config, "data", allow)
    if part is not None:
        loaded = part.of(loaded)
    source = str(config.data.get("path") or loaded.name)
    if loaded.shape != info.shape:
        raise ConfigError(f"samples of {source} have shape {loaded.shape}, expected that of the run's, {info.shape}")
    if loaded.transform.levels != levels:
        has, wanted = (
            "continuous values" if n is None else f"integers of {n} levels" for n in (loaded.transform.levels, levels)
        )
        raise ConfigError(f"{source} has {has}, the run's data are {wanted}: give data like those")
    if conditional:
        loaded = _labelled(loaded, info, source)
    values, labels, conditions = {
        "train": (loaded.train, loaded.train_labels, loaded.train_conditions),
        "test": (loaded.test, loaded.test_labels, loaded.test_conditions),
    }.get(config.get("split") or "all", (*loaded.whole(), loaded.whole_conditions()))
    if levels is None and statistics is not None:
        check_range(values[:], info.transform, statistics, source)
    train, train_labels = (values, labels) if own is None else (own.train, own.train_labels)
    train_conditions = conditions if own is None or conditions is None else own.train_conditions
    made = Data(
        loaded.name,
        train,
        values,
        info.transform,
        train_labels if conditional else None,
        labels if conditional else None,
        num_classes=info.num_classes if conditional else None,
        class_names=info.class_names if conditional else None,
        train_conditions=train_conditions,
        test_conditions=None if train_conditions is None else conditions,
        low_resolution=loaded.low_resolution,
    )
    return made, source


def _labelled(data: Data, info: DataInfo, source: str) -> Data:
    """The data with the classes of the run."""
    if data.test_labels is None:
        raise ConfigError(
            f"the model is conditional on labels, and {source} has none: data.label_key names them, "
            "data.labels=true finds them"
        )
    try:
        return data if info.class_names is None else data.with_classes(info.class_names)
    except ValueError as error:
        raise ConfigError(f"labels of {source}: {error}") from error


def check_range(values: Tensor, transform: Transform, statistics: Statistics, source: str) -> None:
    """Reject continuous values that are likely to be in other units than the training data."""
    x = transform.encode(values).double()
    mean, std = statistics.mean.cpu().double(), float(statistics.std)
    spread = float((std**2 + mean.var(correction=0)).sqrt())
    if (
        float((x - mean).square().mean().sqrt()) <= _MAX_DISTANCE * std
        and float(x.std(correction=0)) >= _MIN_SPREAD * spread
    ):
        return
    low, high = (transform.decode((mean + side * std)[None]) for side in (-3, 3))
    raise ConfigError(
        f"values of {source} are {float(values.min()):.4g} to {float(values.max()):.4g}, most of the run's training "
        f"data {float(low.min()):.4g} to {float(high.max()):.4g}: give them in the same units"
    )
