"""How many classes of labelled data samples cover, and in which proportions, by a classifier trained on the data."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.extras import need
from scoresde.metrics.estimate import Estimate
from scoresde.metrics.features import Samples, finite_rows
from scoresde.metrics.shares import Shares, shares_of

__all__ = ["Classifier", "class_metrics", "fit_classifier", "label_metrics"]

_VALUES = 2**22  # of training data: about ten seconds of training at most
_LEAST = 2  # classes


@dataclass(frozen=True)
class Classifier:
    """A classifier of samples in model space, with its accuracy on data that it was not trained on.

    Attributes:
        predict: Maps samples `(N, F)` in float64 to classes `(N,)`.
        classes: Number of classes K.
        accuracy: Share of held-out data that it gives the right class.
        trained: Number of data that it was trained on.
    """

    predict: Callable[[Tensor], Tensor]
    classes: int
    accuracy: Estimate
    trained: int

    def __call__(self, samples: Samples) -> Tensor:
        """Classes `(N,)` of samples `(N, ...)`."""
        return self.predict(finite_rows("samples", samples))


@checked
def fit_classifier(
    train: Samples, labels: Tensor, held_out: Samples, held_out_labels: Tensor, classes: int, seed: int = 0
) -> Classifier:
    """A support vector machine with a Gaussian kernel (scikit-learn's), which takes seconds and is deterministic.

    Args:
        train: Training data, `(N, ...)`; a random part of them if they have more than 4 million values.
        labels: Their classes, `(N,)`, of at least two kinds.
        held_out: Data that it is tested on, `(M, ...)`.
        held_out_labels: Their classes, `(M,)`.
        classes: Number of classes K.
        seed: Seed of the choice of training data.

    Raises:
        ValueError: Data or labels that do not fit, or training data of one class.
    """
    count = min(len(labels), max(_LEAST, _VALUES // math.prod(train.shape[1:])))
    chosen = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))[:count]
    x, y = finite_rows("train", train[chosen]), labels[chosen]
    if len(y.unique()) < _LEAST:
        raise ValueError(f"the training data are all of class {int(y[0])}, expected at least two classes")
    need("fit_classifier", "sklearn")
    from sklearn.svm import SVC  # slow to import

    machine = SVC(C=10.0).fit(x.numpy(), y.numpy())

    def predict(samples: Tensor) -> Tensor:
        return torch.from_numpy(machine.predict(samples.numpy())).long()

    right = predict(finite_rows("held_out", held_out)) == held_out_labels
    return Classifier(predict, classes, _share(right, "classifier_accuracy"), count)


def _share(right: Tensor, name: str) -> Estimate:
    """The share of True, with an error that is not 0 for a share of 0 or 1: that of the rule of succession."""
    n, value = len(right), float(right.double().mean())
    p = (value * n + 1) / (n + 2)
    return Estimate(value, math.sqrt(p * (1 - p) / n), n, name)


@checked
def class_metrics(
    samples: Samples, held_out: Samples, classifier: Classifier
) -> tuple[dict[str, Estimate], dict[str, float], Shares]:
    """Coverage and balance of the classes by samples `(N, ...)`, against held-out data `(M, ...)`.

    Both are given classes by the classifier, so that its errors are on both sides: samples like the data have the same
    shares however good it is, and `Classifier.accuracy` says how much of a difference it may hide.

    Returns:
        The estimates `classes_covered`, `classes_misplaced` and `classes_imbalance`; what each is expected to be for
        exact samples; and the shares.
    """
    weights = torch.bincount(classifier(held_out), minlength=classifier.classes).double()
    shares = shares_of(classifier(samples), weights, m=int(weights.sum()))
    found, expected = shares.metrics("classes")
    return found, expected, shares


@checked
def label_metrics(samples: Samples, labels: Tensor, classifier: Classifier) -> tuple[Estimate, dict[int, Estimate]]:
    """The share of samples `(N, ...)` drawn given labels `(N,)` that the classifier gives the same, and that by class.

    Exact samples have the classifier's accuracy.

    Returns:
        The estimate `labels_right`, and one for each class that there are samples of.

    Raises:
        ValueError: Labels that are not as many as samples.
    """
    if labels.shape != (len(samples),):
        raise ValueError(f"labels have shape {tuple(labels.shape)}, expected ({len(samples)},), one for each sample")
    right = classifier(samples) == labels
    every = {int(k): _share(right[labels == k], "labels_right") for k in labels.unique()}
    return _share(right, "labels_right"), every
