"""Data for training from Python: arrays, data frames, data sets and loaders as a `Data`."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, SequentialSampler, default_collate

from scoresde.arguments import ArgumentError, as_tensor, shown
from scoresde.data import Data, Discrete, Identity, Transform, class_index, continuous
from scoresde.data.affine import Standardisation
from scoresde.data.conditions import checked_conditions
from scoresde.data.labels import index_classes
from scoresde.data.rows import InMemory, Values, reads_lazily
from scoresde.score import NetworkScore, NoisyClassifier
from scoresde.storage.limits import check_memory
from scoresde.training.conditions import check_conditions
from scoresde.training.dataset_rows import DatasetRows

__all__ = ["TAKEN", "as_data"]

TAKEN = (
    "an array, tensor or data frame (N, ...), a pair (samples, labels), a torch data set or loader of x or (x, label), "
    "or a scoresde.data.Data"
)
"""The data that training takes, for messages."""


def as_data(
    model: NetworkScore | NoisyClassifier,
    given: Any,
    standardise: Standardisation,
    labels: Any = None,
    conditions: Mapping[str, Any] | None = None,
    in_memory: InMemory = "auto",
) -> Data:
    """`given` as a data set, whose samples have the shape of the model's.

    Args:
        model: To be trained; its network says which shape samples have and how many classes there are.
        given: As `TAKEN` lists. uint8 are pixels of 256 levels, floating point is continuous. Images may be
            `(N, H, W, C)` or `(N, H, W)` where the network takes `(C, H, W)`.
        standardise: As for `scoresde.training.fit`.
        labels: Labels of the samples, where these come without.
        conditions: Conditions of the samples beside labels, by name; see `Data`.
        in_memory: Whether the items of a data set are read at once and held in memory.

    Raises:
        ValueError: Anything else, samples of another shape or type, or labels or conditions that are not the network's.
    """
    if isinstance(given, Data):
        if labels is not None or conditions:
            raise ValueError(
                f"{given.name} is a data set with its own labels and conditions: leave out those beside it"
            )
        _check_classes(model, given.num_classes, given.name)
        check_conditions(model, given)
        return given
    if labels is not None:
        given = (given, labels)
    samples, labels = _read(model, given, in_memory)
    transform = _transform(model, samples, standardise)
    if model.classes is None:
        labels = None  # as of a data set that has some where the network takes none
    _check_classes(model, None if labels is None else 0, "data")
    parts: tuple[dict[str, Tensor] | None, ...] = (None, None)
    if conditions:
        for name in conditions:
            if not model.takes_condition(name):
                raise ValueError(
                    f"the network takes no {name}: leave it out of conditions, or make the network with it"
                )
        whole = checked_conditions(conditions, len(samples), "data")
        parts = whole, {name: values[:1] for name, values in whole.items()}
    data = Data("data", samples, samples[:1], transform, train_conditions=parts[0], test_conditions=parts[1])
    check_conditions(model, data)
    if labels is None:
        return data
    indices, names = _indexed(model, labels)
    return replace(data, train_labels=indices, test_labels=indices[:1], class_names=names)


def _read(model: NetworkScore | NoisyClassifier, given: Any, in_memory: InMemory) -> tuple[Values, np.ndarray | None]:
    """Samples `(N, *shape)` of the model's shape, in memory or not, and labels, if there are any.

    Raises:
        ValueError: What is no data set and is not to be held in memory, or as for `as_data`.
    """
    dataset = _dataset_of(given)
    if dataset is not None:
        event = model.shape

        def samples(items: list[Any]) -> Tensor:
            return _shaped(_joined(items)[0], event)

        rows = DatasetRows(dataset, samples)
        if reads_lazily(in_memory, rows.nbytes):
            return rows, _labels_of(dataset) if model.classes is not None else None
    elif in_memory is False:
        raise ValueError(
            f"in_memory=False is for a torch data set with a length, or a loader of one in its own order, and data is "
            f"{shown(given)}: leave it out"
        )
    found, labels = _collected(given)
    return _shaped(found, model.shape), labels


def _dataset_of(given: Any) -> Any:
    """The torch data set whose items can be read by their indices; None for anything else."""
    if isinstance(given, DataLoader):
        plain = isinstance(given.sampler, SequentialSampler | RandomSampler) and given.collate_fn is default_collate
        given = given.dataset if plain else None
    return given if isinstance(given, Dataset) and not isinstance(given, IterableDataset) and len(given) else None  # type: ignore[arg-type]


def _labels_of(dataset: Any) -> np.ndarray | None:
    """The labels of the items of a data set, which are read one by one."""
    if not isinstance(dataset[0], tuple | list) or len(dataset[0]) < 2:
        return None
    return np.asarray([np.asarray(dataset[i][1]).item() for i in range(len(dataset))])


def _check_classes(model: NetworkScore | NoisyClassifier, classes: int | None, name: str) -> None:
    expected = model.classes
    if expected is not None and classes is None:
        raise ValueError(
            f"the network has num_classes={expected} and {name} has no labels: give (samples, labels), or make the "
            "network without classes"
        )
    if expected is not None and classes is not None and classes > expected:
        raise ValueError(f"the network has num_classes={expected} and {name} has {classes} classes")


def _collected(given: Any) -> tuple[Tensor, np.ndarray | None]:
    """Samples `(N, ...)` and labels `(N,)`, if there are any."""
    if isinstance(given, str | os.PathLike):
        raise ValueError(
            f"data is {shown(given)}, expected {TAKEN}: a file is read by scoresde.data.npz(path) or image_folder(path)"
        )
    if isinstance(given, tuple) and len(given) == 2 and _axes(given[1]) <= 1 < _axes(given[0]):
        labels = given[1].detach().cpu().numpy() if isinstance(given[1], Tensor) else np.asarray(given[1])
        labels = np.asarray(labels.tolist()) if labels.dtype == object else labels  # text of a data frame
        samples = _tensor(given[0])
        if labels.shape != (len(samples),):
            raise ValueError(f"data has {len(samples)} samples and labels of shape {labels.shape}, expected one each")
        return samples, labels
    if isinstance(given, DataLoader):
        plain = isinstance(given.sampler, SequentialSampler | RandomSampler) and given.collate_fn is default_collate
        if not plain or isinstance(given.dataset, IterableDataset):
            # In the order, and with all else, that its own sampler makes.
            return _joined([item for batch in given for item in _items(batch)])
        given = given.dataset
    if isinstance(given, IterableDataset):
        raise ValueError(f"data is {shown(given)} without a length, expected {TAKEN}: make a list of its items first")
    if _is_dataset(given):
        return _joined([given[i] for i in range(len(given))])
    return _tensor(given), None


def _axes(part: Any) -> int:
    try:
        return np.ndim(part)
    except ValueError as error:
        raise ValueError(f"data has {shown(part)}, whose parts have different shapes, expected {TAKEN}") from error


def _is_dataset(given: Any) -> bool:
    """True for data whose items are samples, or samples with labels, which are read one by one."""
    if isinstance(given, Tensor | np.ndarray | Mapping) or hasattr(given, "to_numpy") or not len(_sized(given)):
        return False
    # A list of images of Pillow, which have a mode and may have several sizes, is one, and a list of arrays is not.
    return not isinstance(given, list | tuple) or isinstance(given[0], tuple | Mapping) or hasattr(given[0], "mode")


def _sized(given: Any) -> Sequence[Any]:
    return given if hasattr(given, "__len__") and hasattr(given, "__getitem__") else ()


def _items(batch: Any) -> Iterable[Any]:
    """The items of a loader's batch."""
    return zip(*batch, strict=True) if isinstance(batch, list | tuple) else batch


def _joined(items: list[Any]) -> tuple[Tensor, np.ndarray | None]:
    if not items:
        raise ValueError("data is empty")
    first = items[0]
    if isinstance(first, Mapping):
        keys = ", ".join(map(str, first))
        raise ValueError(
            f"items of data are mappings with {keys}, expected x or (x, label): give [(d[...], d[...]) for d in data]"
        )
    if isinstance(first, tuple | list) and len(first) == 1:
        items = [item[0] for item in items]
        first = items[0]
    pairs = isinstance(first, tuple | list)
    if pairs and (len(first) == 0 or np.ndim(first[1]) != 0):
        raise ValueError(f"items of data are {shown(first)}, expected x or (x, label)")
    if pairs and not all(isinstance(item, tuple | list) and len(item) == len(first) for item in items):
        raise ValueError(f"items of data are {shown(first)} and others of another length, expected x or (x, label)")
    head = _tensor([first[0] if pairs else first])
    check_memory(head.numel() * head.element_size() * len(items), "data")
    samples = [np.asarray(item[0] if pairs else item) for item in items]
    shapes = {s.shape for s in samples}
    if len(shapes) > 1:
        few = ", ".join(map(str, sorted(shapes)[:3]))
        raise ValueError(f"samples of data have the shapes {few}{', ...' if len(shapes) > 3 else ''}, expected one")
    labels = np.asarray([np.asarray(item[1]).item() for item in items]) if pairs else None
    return _tensor(np.stack(samples)), labels


def _tensor(given: Any) -> Tensor:
    try:
        return as_tensor("data", given)
    except ArgumentError as error:
        if "parts have different shapes" in str(error) or "dtype" in str(error):
            raise ValueError(str(error)) from error
        raise ValueError(f"data is {shown(given)}, expected {TAKEN}") from error


def _shaped(x: Tensor, event: tuple[int, ...] | None) -> Tensor:
    """Samples as `(N, *event)`: images with their channels before the rows, and single numbers as vectors."""
    if x.ndim == 0:
        raise ValueError(f"data is a single number, expected {TAKEN}")
    if not len(x):
        raise ValueError("data is empty")
    if x.is_complex():
        raise ValueError("data is complex: give the real and the imaginary part as values of their own")
    own = tuple(x.shape[1:])
    if event is None or own == event:
        return x
    if own == () and event == (1,):
        return x[:, None]
    if len(event) == 3:
        channels, height, width = event
        if own == (height, width, channels):
            return x.permute(0, 3, 1, 2).contiguous()
        if channels == 1 and own in ((height, width), (height * width,)):
            return x.reshape(len(x), *event)
    raise ValueError(f"samples of data have shape {own}, and the network is made for {event}")


def _transform(model: NetworkScore | NoisyClassifier, samples: Values, standardise: Standardisation) -> Transform:
    """Transform of samples that come without one: the model's, if its space is settled."""
    info = model.info
    if not samples.is_floating_point():
        if standardise != "auto":
            raise ValueError(f"standardise={standardise!r} is for continuous values, and data has {samples.dtype}")
        if info is not None and info.transform.levels is not None:
            return info.transform
        if samples.dtype != torch.uint8:
            raise ValueError(
                f"data has dtype {str(samples.dtype).removeprefix('torch.')}, and only uint8 is taken for pixels, of "
                "256 levels: give Data(name, train, test, Discrete(levels)) for other integers, or floating point for "
                "measurements"
            )
        return Discrete(256)
    if info is not None and info.transform.levels is not None:
        raise ValueError(f"the model is of integers under {info.transform!r}, and data has {samples.dtype}")
    if model.transform is None and model.statistics is None:
        return continuous(samples, standardise)
    if standardise != "auto" and not (standardise == "none" and model.transform is None):
        raise ValueError(
            f"standardise={standardise!r} is for a new model, and the space of this one is settled by its "
            f"{'statistics' if model.transform is None else 'transform'}: leave it out, or make the model anew"
        )
    return Identity() if model.transform is None else model.transform


def _indexed(model: NetworkScore | NoisyClassifier, labels: np.ndarray) -> tuple[Tensor, tuple[str, ...]]:
    """Labels of any kind as indices of the network's classes, and the names of these."""
    count = model.classes
    assert count is not None
    if labels.dtype.kind == "f" and bool((labels == labels.round()).all()):  # as of a data frame
        labels = labels.astype(np.int64)
    if model.info is not None and model.info.class_names is not None:
        names = model.info.class_names
        if labels.dtype.kind in "iu" and labels.min() >= 0 and labels.max() < count:
            return torch.from_numpy(labels.astype(np.int64)), names
        return torch.tensor([class_index(v, names) for v in labels.tolist()]), names
    if labels.dtype.kind in "iu" and labels.min() >= 0 and labels.max() < count:
        return torch.from_numpy(labels.astype(np.int64)), tuple(map(str, range(count)))
    (indices,), names = index_classes(labels)
    if len(names) > count:
        raise ValueError(f"the network has num_classes={count} and data has {len(names)} classes")
    spare = (f"class {i}" for i in range(len(names), count))
    return indices, (*names, *spare)
