"""Conditions of a run's samples: classes, those of held-out data in turn, or those of a file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from scoresde.chains import DiscreteChainModel
from scoresde.data import Data, DataInfo
from scoresde.data.array_data import array_file
from scoresde.data.array_files import read_arrays
from scoresde.data.assembling import as_labels
from scoresde.data.conditions import CONDITIONS, checked_conditions
from scoresde.data.labels import class_index
from scoresde.options.errors import ConfigError
from scoresde.runs.chains import RunModel
from scoresde.runs.labels import class_names, label_index, labels_of, of_classes
from scoresde.score import NoisyClassifier, ScoreModel
from scoresde.training.conditions import check_conditions, check_size, scale_conditions

__all__ = [
    "conditions_of",
    "given_names",
    "other_conditions",
    "refuse_others",
    "settle_sizes",
    "split_conditions",
    "take_conditions",
    "told_conditions",
]

_SIZES = {"vector_size": ("vector", 0), "image_channels": ("image", 0), "token_size": ("tokens", -1)}
AUTO = "auto"
AnyModel = ScoreModel | DiscreteChainModel
"""The model of a run, or one around it, such as a guided one."""


def settle_sizes(
    network: DictConfig, shapes: Mapping[str, tuple[int, ...]], name: str, classes: int | None = None
) -> None:
    """Put sizes of conditions, and a number of classes, that are left to the data into that of a network, in place.

    Args:
        network: The configuration; sizes that are "auto" are settled.
        shapes: Shapes of the data's conditions, of one sample, by name.
        name: Name of the data, for messages.
        classes: Number of classes of the data; None for data without labels.

    Raises:
        ConfigError: Data without such a condition, or without labels.
    """
    if network.get("num_classes") == AUTO:
        if classes is None:
            raise ConfigError(
                f"network.num_classes={AUTO}, and the data set {name} has no labels: choose labelled data; "
                "data.label_key names labels of a file, data.labels=true finds them"
            )
        network.num_classes = classes
    for option, (kind, place) in _SIZES.items():
        if network.get(option) != AUTO:
            continue
        if kind not in shapes:
            smaller = ", take cascade=super" if kind == "image" else ""
            raise ConfigError(
                f"network.{option}={AUTO}, and the data set {name} has no {kind}: name it by data.condition_keys or "
                f"data.condition_columns{smaller}, or set network.{option}=null"
            )
        network[option] = shapes[kind][place]


def left_to_data(network: Any) -> bool:
    """True if the configuration of a network leaves sizes of conditions, or the number of classes, to the data."""
    return OmegaConf.is_dict(network) and any(network.get(option) == AUTO for option in (*_SIZES, "num_classes"))


def take_conditions(model: RunModel | NoisyClassifier, data: Data) -> None:
    """Let a new model take the conditions of its data.

    Raises:
        ConfigError: Data without what the network takes, or of another size.
    """
    try:
        check_conditions(model, data)
        scale_conditions(model, data)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def other_conditions(model: AnyModel) -> tuple[str, ...]:
    """Names of the conditions beside labels that a run's model takes."""
    return tuple(model.condition_shapes)


def refuse_others(model: AnyModel, command: str) -> None:
    """Refuse a model that takes conditions beside labels.

    Raises:
        ConfigError: Such a model; one that drops them would give the numbers of a model without.
    """
    if names := ", ".join(other_conditions(model)):
        raise ConfigError(f"{command} is for models of labels alone or of nothing, and this one takes {names}")


def split_conditions(model: AnyModel, data: Data, split: str, conditions: bool = True) -> dict[str, Tensor]:
    """The conditions of the samples of a split, as the model takes them, `(N, ...)` each.

    Args:
        model: The model.
        data: The data.
        split: train, or else the test data.
        conditions: Whether those beside labels are among them.

    Raises:
        ConfigError: Data without what the model takes.
    """
    found: dict[str, Tensor] = {}
    labels = data.train_labels if split == "train" else data.test_labels
    if model.classes is not None:
        if labels is None:
            raise ConfigError(f"the model is conditional on labels, and {data.name} has none: give data with labels")
        found["labels"] = labels
    if conditions and other_conditions(model):
        try:
            check_conditions(model, data)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        found |= {name: values for name, values in data.conditions(split).items() if model.takes_condition(name)}
    return found


def conditions_of(
    model: AnyModel, data: Data | DataInfo, n: int, label: int | str | None = None, file: str | None = None
) -> dict[str, Tensor]:
    """The conditions of n samples on the model's device.

    They are those of a file; for a model of labels alone the classes in turn, or `label`; else those of the first
    held-out data, of the class `label` if there is one, which come again after the last.

    Args:
        model: The model.
        data: Its data, or what is known of them.
        n: Number of samples.
        label: Class by its name or index.
        file: Path of a file of arrays with the names of conditions, with one row for all samples or n rows.

    Raises:
        ConfigError: Held-out conditions of data that are not there, or a file that does not fit.
        ValueError: No such class, or a label for a model without classes.
    """
    if file is not None:
        found = _of_file(file, model, data, n)
        if label is not None and "labels" in found:
            raise ConfigError(f"label={label}, and {file} has labels: give one of them")
        if label is not None or (model.classes is not None and "labels" not in found):
            found |= labels_of(model, n, label, data.class_names)
        return {name: values.to(model.device) for name, values in found.items()}
    names = other_conditions(model)
    if not names:
        return labels_of(model, n, label, data.class_names)
    index = label_index(model, label, data.class_names)
    if not isinstance(data, Data):
        raise ConfigError(
            f"the model takes {', '.join(names)}, and the run's data are not there to take held-out ones from: give "
            "condition=FILE.npz with arrays of these names"
        )
    held_out = split_conditions(model, data, "test")
    rows = torch.arange(len(data.test)) if index is None else (held_out["labels"] == index).nonzero().flatten()
    if not len(rows):
        raise ConfigError(f"{data.name} has no held-out samples of class {label}: give condition=FILE.npz")
    chosen = rows[torch.arange(n) % len(rows)]
    return {name: values[chosen].to(model.device) for name, values in held_out.items()}


def _of_file(path: str, model: AnyModel, data: Data | DataInfo, n: int) -> dict[str, Tensor]:
    """The conditions in a file, `(n, ...)` each."""
    file = array_file(path, "condition")
    wanted = (*other_conditions(model), *(["labels"] if model.classes is not None else []))
    known = ("mask", *wanted) if "tokens" in wanted else wanted
    names = list(file.names())
    for name in names:
        if name not in known:
            raise ConfigError(
                f"{path} has an array {name!r}, and the model takes {', '.join(known) or 'no conditions'}"
            )
    for name in wanted:
        if name not in names and name != "labels":
            raise ConfigError(f"{path} has no array {name!r}; available: {', '.join(names) or 'none'}")
    read = dict(zip(names, read_arrays(file, names), strict=True))
    counts = {len(array) if array.ndim else 0 for array in read.values()}
    if not counts <= {1, n}:
        raise ConfigError(f"{path} has arrays of {max(counts)} rows, expected n={n}, one for each sample, or 1 for all")
    found: dict[str, Tensor] = {}
    for name, array in read.items():
        if name == "labels":
            found[name] = _classes(array, model, data, path)
        elif array.dtype.kind not in "biuf":
            raise ConfigError(f"{name} of {path} has dtype {array.dtype}, expected numbers")
        else:
            found |= {name: torch.from_numpy(np.ascontiguousarray(array))}
    try:
        for count in sorted(counts):
            part = {k: v for k, v in found.items() if k in CONDITIONS and len(v) == count}
            found |= checked_conditions(part, count, path)
        for name, shape in model.condition_shapes.items():
            check_size(name, shape, tuple(found[name].shape[1:]), path)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return {name: v if len(v) == n else v.expand(n, *v.shape[1:]) for name, v in found.items()}


def _classes(array: np.ndarray, model: AnyModel, data: Data | DataInfo, path: str) -> Tensor:
    labels = as_labels(array, len(array), f"labels of {path}")
    names = class_names(model, data.class_names)
    try:
        return torch.tensor([class_index(v, names) for v in labels.tolist()])
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error


def told_conditions(model: AnyModel, names: Any, index: int | None, file: str | None = None) -> str:
    """Words on the conditions of samples, for a caption; `index` is that of a single class."""
    others = other_conditions(model)
    if file is not None:
        return f" given the conditions in {Path(file).name}"
    if not others:
        return of_classes(model, names, index)
    of_class = of_classes(model, names, index) if index is not None else ""
    return f"{of_class} given the {given_names(model)} of held-out data in turn"


def given_names(model: AnyModel) -> str:
    """What a likelihood of the model is given, in words: "label", "label and vector"; empty for nothing."""
    names = [*(["label"] if model.classes is not None else []), *other_conditions(model)]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
