"""The quality of samples class by class: each against the held-out data of its class."""

from typing import Any, TypedDict

import torch
from torch import Tensor

from scoresde.data import Data
from scoresde.metrics import PCA, evaluate_samples
from scoresde.metrics.evaluate import FEWEST
from scoresde.runs.coverage import metric_entries
from scoresde.runs.summary import MetricEntry
from scoresde.runs.widths import run_directions

__all__ = ["ClassEntry", "quality_by_class"]

_MOST = 100  # classes, each of which takes as long as a small evaluation


class ClassEntry(TypedDict):
    """The quality of the samples of one class.

    Attributes:
        n: Number of samples on each side.
        metrics: Metrics of the samples.
        reference: Those of training data of the class.
    """

    n: int
    metrics: dict[str, MetricEntry]
    reference: dict[str, MetricEntry]


def quality_by_class(
    data: Data, samples: Tensor, labels: Tensor, *, seed: int = 0, features: Any = None
) -> dict[str, ClassEntry]:
    """Metrics of the samples of each class, and of training data for scale, both against held-out data of the class.

    Distances depend on the number of samples, which is the same on both sides but differs between classes.

    Args:
        data: The data.
        samples: Samples in raw units, `(n, ...)`.
        labels: Classes that they were drawn given, `(n,)`.
        seed: Seed of the choice of data.
        features: Features to compare on, as for `scoresde.metrics.evaluate_samples`.

    Returns:
        Entries by the names of the classes; those with fewer data or samples than metrics need are left out.
    """
    names = data.class_names
    if names is None or data.train_labels is None or data.test_labels is None or len(names) > _MOST:
        return {}
    least = FEWEST if not isinstance(features, PCA) else max(FEWEST, features.components + 1)
    labels = labels.cpu()
    found: dict[str, ClassEntry] = {}
    for index, name in enumerate(names):
        parts = [
            (samples, labels),
            (data.test, data.test_labels),
            (data.train, data.train_labels),
        ]
        rows = [(of == index).nonzero().flatten() for _, of in parts]
        n = min(map(len, rows))
        if n < least:
            continue
        order = torch.Generator().manual_seed(seed)
        chosen = [rows[0][:n], *(part[torch.randperm(len(part), generator=order)[:n]] for part in rows[1:])]
        drawn, test, train = (
            data.transform.encode(values[at]).double() for (values, _), at in zip(parts, chosen, strict=True)
        )
        directions = run_directions(data.of_class(index), test, None)
        options: dict[str, Any] = {"same_units": True, "directions": directions}
        found[name] = {
            "n": n,
            "metrics": metric_entries(evaluate_samples(drawn, test, features, seed, **options)),
            "reference": metric_entries(evaluate_samples(train, test, features, seed, **options)),
        }
    return found
