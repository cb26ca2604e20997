"""Which modes or classes a run's samples cover, and whether they copy its training data, as far as its data tell."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from scoresde.data import Data
from scoresde.data.rows import is_lazy
from scoresde.metrics import (
    Estimate,
    Neighbours,
    Shares,
    class_metrics,
    fit_classifier,
    label_metrics,
    memorisation_metrics,
    mixture_of,
    mode_metrics,
)
from scoresde.runs.summary import MetricEntry

__all__ = ["Coverage", "coverage", "metric_entries"]

_ACCURACY = 0.8  # of a classifier that is worse, shares of classes say little
_CLASSES = 100  # more take the classifier minutes
_VALUES = 2**28  # of training data among which neighbours are found: 2 GiB in float64


@dataclass
class Coverage:
    """Coverage of modes or classes, and memorisation; empty where the data do not tell.

    Attributes:
        metrics: Metrics of the samples, with what is expected of exact samples where it is known.
        reference: Those of training data that can be had of these.
        shares: Shares of the modes or classes among the samples; None where there are neither.
        groups: Names of these.
        kind: What they are: mode or class.
        by_class: Share of the samples of each class, by its name, that the classifier gives it.
        copied: Nearest training and held-out data of the samples; None where they were not looked for.
    """

    metrics: dict[str, MetricEntry] = field(default_factory=dict)
    reference: dict[str, MetricEntry] = field(default_factory=dict)
    shares: Shares | None = None
    groups: Sequence[str] = ()
    kind: str = ""
    by_class: dict[str, MetricEntry] = field(default_factory=dict)
    copied: Neighbours | None = None

    def add(
        self,
        found: tuple[Mapping[str, Estimate], Mapping[str, float], Shares],
        reference: tuple[Mapping[str, Estimate], Mapping[str, float], Shares],
    ) -> None:
        """Enter the metrics of the shares of samples, and of training data."""
        self.metrics |= metric_entries(found[0], found[1])
        self.reference |= metric_entries(reference[0])
        self.shares = found[2]


def coverage(
    data: Data,
    samples: Tensor,
    train: Tensor,
    *,
    of_all: bool = True,
    features: Any = None,
    labels: Tensor | None = None,
    every: Data | None = None,
) -> Coverage:
    """Modes where the data know them, classes where they have labels, and copies where there are not too many data.

    Args:
        data: The data.
        samples: Samples in raw units, `(n, ...)`.
        train: Some of the training data in raw units, `(n, ...)`, for scale.
        of_all: Whether the samples are of the whole distribution, not of a single class, which others would be missed
            in.
        features: Features to find neighbours by, as for `scoresde.metrics.memorisation_metrics`.
        labels: Classes `(n,)` that the samples were drawn given; None where they were not.
        every: Data of all classes, by which a class is known, where `data` are those of one.
    """
    out = Coverage()
    if of_all and data.mixture is not None:
        weights, means, covariances = data.mixture
        mixture = mixture_of(weights, means.flatten(1), covariances)
        out.kind, out.groups = "mode", [str(k + 1) for k in range(len(weights))]
        out.add(*(mode_metrics(x.double(), mixture) for x in (samples, train)))
    if labels is not None or (of_all and data.mixture is None):
        _classes(
            out, data if every is None else every, samples, train if of_all and data.mixture is None else None, labels
        )
    if data.train.numel() <= _VALUES and min(len(samples), len(data.train), len(data.test)) >= 3:
        _copies(out, data, samples, features)
    return out


def metric_entries(
    estimates: Mapping[str, Estimate], expected: Mapping[str, float] | None = None
) -> dict[str, MetricEntry]:
    """Estimates as entries of a summary, with what is expected of exact samples."""
    made: dict[str, MetricEntry] = {}
    for name, e in estimates.items():
        made[name] = {"value": e.value, "stderr": e.stderr, "n": e.n}
        if expected is not None and name in expected:
            made[name]["expected"] = expected[name]
    return made


def _classes(out: Coverage, data: Data, samples: Tensor, train: Tensor | None, labels: Tensor | None) -> None:
    """Shares of the classes, and of samples of theirs, by a classifier; its accuracy alone if that is poor."""
    if data.train_labels is None or data.test_labels is None or data.class_names is None:
        return
    classes = len(data.class_names)
    if classes > _CLASSES or len(data.train_labels.unique()) < 2:
        return
    if is_lazy(data.train) and data.train.numel() > _VALUES:  # more than the classifier is to hold in memory
        return
    encode = data.transform.encode
    held_out = encode(data.test[:])
    classifier = fit_classifier(encode(data.train[:]), data.train_labels, held_out, data.test_labels, classes)
    if classifier.accuracy.value >= _ACCURACY:
        if train is not None:
            out.kind, out.groups = "class", data.class_names
            out.add(*(class_metrics(encode(x), held_out, classifier) for x in (samples, train)))
        if labels is not None:
            right, every = label_metrics(encode(samples), labels.cpu(), classifier)
            out.metrics |= metric_entries({right.name: right}, {right.name: classifier.accuracy.value})
            out.by_class = metric_entries({data.class_names[k]: found for k, found in every.items()})
    out.metrics |= metric_entries({classifier.accuracy.name: classifier.accuracy})


def _copies(out: Coverage, data: Data, samples: Tensor, features: Any) -> None:
    """Whether samples copy training data; what is expected is that of held-out data."""
    sets = [data.transform.encode(x) for x in (samples, data.train[:], data.test[:])]
    found, held_out, out.copied = memorisation_metrics(sets[0], sets[1], sets[2], features)
    expected = {"copies": 0.0, "nearer_than_held_out": 0.5, "authenticity": held_out["authenticity"].value}
    out.metrics |= metric_entries(found, expected)
