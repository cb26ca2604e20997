"""Classes of a run, by index and by name."""

from collections.abc import Sequence

import torch
from torch import Tensor

from scoresde.data import Data, class_index
from scoresde.data.labels import listed
from scoresde.options.errors import ConfigError
from scoresde.runs.chains import RunModel
from scoresde.score import ScoreModel

__all__ = ["check_labels", "label_index", "labels_of"]


def check_labels(wanted: int | None, data: Data) -> None:
    """Reject data without labels, or with another number of classes than the network's.

    Args:
        wanted: Number of classes of the network; None if it has none.
        data: The data.

    Raises:
        ConfigError: Such data.
    """
    if wanted is None:
        return
    if data.train_labels is None:
        raise ConfigError(
            f"network.num_classes is {wanted} but the data set {data.name} has no labels: "
            "set network.num_classes=null or choose labelled data"
        )
    if wanted != data.num_classes:
        raise ConfigError(
            f"network.num_classes is {wanted} but the data set {data.name} has {data.num_classes} classes: "
            f"set network.num_classes={data.num_classes}"
        )


def of_classes(model: RunModel | ScoreModel, names: Sequence[str] | None, index: int | None) -> str:
    """Words on the classes of samples, for a caption; `index` is that of a single class."""
    if model.classes is None:
        return ""
    names = class_names(model, names)
    return f" of the classes {listed(names)} in turn" if index is None else f" of class {names[index]}"


def labels_of(
    model: RunModel | ScoreModel, n: int, label: int | str | None, names: Sequence[str] | None = None
) -> dict[str, Tensor]:
    """Give n samples their condition: classes in turn, or `label`; none for a model without classes.

    Args:
        model: Model whose classes they are.
        n: Number of samples.
        label: Class by its name or index (see `scoresde.data.class_index`).
        names: Names of the classes; their indices if not given.

    Raises:
        ValueError: No such class, or a label for a model without classes.
    """
    index = label_index(model, label, names)
    if model.classes is None:
        return {}
    labels = torch.arange(n) % model.classes if index is None else torch.full((n,), index)
    return {"labels": labels.to(model.device)}


def label_index(
    model: RunModel | ScoreModel, label: int | str | None, names: Sequence[str] | None = None
) -> int | None:
    """The index of a class of the model, as for `labels_of`; None for none."""
    if label is None:
        return None
    if model.classes is None:
        raise ValueError("this model was trained without labels: leave out label, or train with network.num_classes")
    return class_index(label, class_names(model, names))


def class_names(model: RunModel | ScoreModel, names: Sequence[str] | None) -> Sequence[str]:
    """Names of the model's classes; their indices where there are no others."""
    classes = model.classes or 0
    return names if names is not None and len(names) == classes else [str(i) for i in range(classes)]
