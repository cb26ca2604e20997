"""What `scoresde restore` is given: samples to be measured, or measurements as they are."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scoresde.data import Data, DataInfo
from scoresde.data.array_data import array_file
from scoresde.data.array_files import ArrayFile, read_arrays
from scoresde.data.assembling import as_labels
from scoresde.data.labels import class_index, listed
from scoresde.inverse import Measurement, Problem
from scoresde.options.errors import ConfigError
from scoresde.runs.conditions import conditions_of, other_conditions, split_conditions
from scoresde.runs.given import check_range
from scoresde.runs.labels import class_names, label_index
from scoresde.score import NetworkScore
from scoresde.storage.bounded import read_file

__all__ = ["TEST", "RestoreInput", "held_out_input", "in_raw_units", "input_of_file", "measured"]

TEST = "test"
"""The input that is the run's own held-out data."""
_TRUTH, _MEASURED, _LABELS = "x", "y", "labels"


@dataclass(frozen=True)
class RestoreInput:
    """Samples to be measured, or measurements.

    Attributes:
        source: What they are from, in words.
        digest: A text that two inputs share exactly when they and their conditions are the same, whatever their number.
        truth: The samples `(B, *shape)` in raw units; None where only measurements are known.
        y: The measurements `(B, ...)`; None where they are made of the samples.
        cond: Conditions of the model, `(B, ...)` each.
    """

    source: str
    digest: str
    truth: Tensor | None
    y: Tensor | None = None
    cond: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        given = self.truth if self.y is None else self.y
        assert given is not None
        return len(given)


def held_out_input(
    model: NetworkScore, data: Data, count: int, label: int | str | None, condition: str | None
) -> RestoreInput:
    """The first held-out data of a run, of one class if there is a label, with their own conditions.

    Args:
        model: The run's model.
        data: Its data.
        count: The largest number of samples.
        label: Class by its name or index.
        condition: File of other conditions, as `conditions_of` reads it.

    Raises:
        ConfigError: No held-out data of the class, or conditions that are not there.
        ValueError: No such class, or a label for a model without classes.
    """
    index = label_index(model, label, data.class_names)
    rows = torch.arange(len(data.test))
    if index is not None:
        if data.test_labels is None:
            raise ConfigError(f"{data.name} has no labels, of which label={label} would be one: leave it out")
        rows = (data.test_labels == index).nonzero().flatten()
        if not len(rows):
            raise ConfigError(f"{data.name} has no held-out samples of class {label}")
    rows = rows[:count]
    if condition is not None:
        cond = conditions_of(model, data, len(rows), label, condition)
    else:
        cond = {name: values[rows] for name, values in split_conditions(model, data, "test").items()}
    digest = f"held-out {data.fingerprint()[:8]}{_told(index, condition)}"
    return RestoreInput("held-out data", digest, data.test[rows], cond=cond)


def input_of_file(
    path: str,
    model: NetworkScore,
    data: Data | DataInfo,
    count: int | None,
    label: int | str | None,
    condition: str | None,
) -> RestoreInput:
    """The samples `x`, or the measurements `y`, in a file of arrays; with both, `x` is the truth of the measurements.

    Args:
        path: The file.
        model: The run's model.
        data: Its data, or what is known of them.
        count: The largest number of samples; all if None.
        label: Class of all by its name or index; without it the classes of an array `labels` of the file.
        condition: File of further conditions, as `conditions_of` reads it.

    Raises:
        ConfigError: Neither array, one that is no array of numbers, of another shape or with other values than the
            run's data, or arrays of different lengths.
        ValueError: No such class, or a label for a model without classes.
    """
    try:
        file = array_file(path, "input")
        names = list(file.names())
        if _MEASURED not in names and _TRUTH not in names and not file.single:
            raise ConfigError(
                f"input={path} has no array {_TRUTH} of samples and no {_MEASURED} of measurements; available: "
                f"{listed(names) or 'none'}"
            )
        read = _read(file, names, count)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"input={path} cannot be read: {error}") from error
    lengths = {name: len(values) for name, values in read.items()}
    if len(set(lengths.values())) > 1:
        listing = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise ConfigError(f"input={path} has arrays of different lengths, expected a row for each: {listing}")
    if not next(iter(lengths.values())):
        raise ConfigError(f"input={path} is empty: it has no samples")
    truth, y = read.get(_TRUTH), read.get(_MEASURED)
    index = label_index(model, label, data.class_names)
    return RestoreInput(
        Path(path).name,
        f"{_digest(path)}{_told(index, condition)}",
        None if truth is None else _truth(truth, path, model, data),
        None if y is None else _numbers(y, f"{_MEASURED} of input={path}"),
        _conditions(path, model, data, read, label, condition),
    )


def measured(
    given: RestoreInput, problem: Problem, data: Data | DataInfo, seed: int
) -> tuple[Measurement, Tensor | None]:
    """The measurements, and the samples `(B, *shape)` in the units of a sampler's where they are known.

    Args:
        given: What the command was given.
        problem: The problem.
        data: The run's data, or what is known of them.
        seed: Seed of the noise of measurements.

    Raises:
        ConfigError: Measurements that are none of the problem.
    """
    x = None
    if given.truth is not None:
        x = given.truth.float() if data.transform.levels is None else data.transform.encode(given.truth)
    if given.y is None:
        assert x is not None
        return problem.measure(x, seed), x
    try:
        return problem.given(given.y if given.y.is_complex() else given.y.float()), x
    except ValueError as error:
        raise ConfigError(f"the measurements of {given.source}: {error}") from error


def in_raw_units(data: Data | DataInfo, x: Tensor) -> Tensor:
    """A sampler's samples on the scale of raw values: of discrete data levels, but not rounded; others as they are."""
    transform = data.transform
    if transform.levels is None:
        return x
    low, high = transform.low, transform.high  # type: ignore[attr-defined]
    levels: Tensor = (x - low) / (high - low) * transform.levels - 0.5
    return levels


def _told(index: int | None, condition: str | None) -> str:
    """The conditions that were chosen, as part of a digest."""
    of_class = "" if index is None else f", class {index}"
    return of_class if condition is None else f"{of_class}, conditions {_digest(condition)}"


def _digest(path: str) -> str:
    return hashlib.sha256(read_file(Path(path))).hexdigest()[:8]


def _read(file: ArrayFile, names: list[str], count: int | None) -> dict[str, np.ndarray]:
    """The arrays that are samples, measurements or labels, of the first rows; the only array of a file is samples."""
    wanted = names[:1] if file.single else [name for name in (_TRUTH, _MEASURED, _LABELS) if name in names]
    arrays = dict(zip([_TRUTH] if file.single else wanted, read_arrays(file, wanted), strict=True))
    return {name: array[:count] if array.ndim else array[None] for name, array in arrays.items()}


def _numbers(array: np.ndarray, what: str) -> Tensor:
    """An array as a tensor.

    Raises:
        ConfigError: An array of no numbers, or with some that are not finite.
    """
    if array.dtype.kind not in "fiuc" or not np.isfinite(array).all():
        raise ConfigError(f"{what} has dtype {array.dtype}, expected numbers, all of them finite")
    return torch.from_numpy(np.ascontiguousarray(array))


def _truth(array: np.ndarray, path: str, model: NetworkScore, data: Data | DataInfo) -> Tensor:
    """The samples of a file, of the shape and in the units of the run's data."""
    x = _numbers(array, f"{_TRUTH} of input={path}")
    if tuple(x.shape[1:]) != tuple(data.shape):
        raise ConfigError(
            f"input={path} has {_TRUTH} of shape {tuple(x.shape)}, expected that of samples of the run, "
            f"({', '.join(map(str, ('N', *data.shape)))})"
        )
    try:
        data.transform.check(x if data.transform.levels is not None else x.float())
    except ValueError as error:
        raise ConfigError(f"{_TRUTH} of input={path}: {error}") from error
    if data.transform.levels is None and model.statistics is not None:
        check_range(x.float(), data.transform, model.statistics, f"{_TRUTH} of input={path}")
    return x


def _conditions(
    path: str,
    model: NetworkScore,
    data: Data | DataInfo,
    read: Mapping[str, np.ndarray],
    label: int | str | None,
    condition: str | None,
) -> dict[str, Tensor]:
    """The conditions of the samples of a file."""
    n, labels = len(next(iter(read.values()))), read.get(_LABELS)
    if label is not None or condition is not None:
        return conditions_of(model, data, n, label, condition)
    if others := other_conditions(model):
        raise ConfigError(f"the model takes {listed(others)}: give condition=FILE.npz with arrays of these names")
    if model.classes is None:
        return {}
    if labels is None:
        raise ConfigError(
            f"the model takes classes: give label=CLASS, or an array {_LABELS} in input={path} with one for each"
        )
    names = class_names(model, data.class_names)
    try:
        places = [class_index(v, names) for v in as_labels(labels, n, f"{_LABELS} of input={path}").tolist()]
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return {_LABELS: torch.tensor(places)}
