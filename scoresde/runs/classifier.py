"""Runs of a classifier of noised samples: what they take, and how often it is right at each noise level."""

from typing import Any

import torch

from scoresde.data import Data
from scoresde.information import NoisyAccuracy, noisy_accuracy
from scoresde.objectives import CrossEntropy
from scoresde.options.errors import ConfigError
from scoresde.runs.directory import Run
from scoresde.runs.weights import Trained
from scoresde.score import NoisyClassifier

__all__ = ["check_classifier", "held_out_accuracy", "trains_classifier"]

_LEVELS = 11  # noise levels at which the classifier is asked
_MAX_TRAINING = 2000  # training data on which its accuracy is found, for scale


def trains_classifier(run: Run) -> bool:
    """True for a run whose objective is that of a classifier."""
    return run.config.get("objective") is not None and isinstance(run.make("objective"), CrossEntropy)


def check_classifier(model: Trained, wanted: bool) -> None:
    """Reject an objective that does not fit the network.

    Args:
        model: The model to train.
        wanted: Whether the objective is that of a classifier.

    Raises:
        ConfigError: The objective of a classifier and a network that predicts samples, or the other way round.
    """
    name, classifies = type(model.network).__name__, isinstance(model, NoisyClassifier)
    if wanted and not classifies:
        raise ConfigError(
            f"objective=classifier trains a classifier, and the network is {name}, which predicts samples: leave "
            "network out, or take network=unet_classifier or network=mlp_classifier"
        )
    if classifies and not wanted:
        raise ConfigError(f"the network is {name}, which gives classes and no samples: take objective=classifier, too")


def held_out_accuracy(classifier: NoisyClassifier, data: Data, seed: int) -> dict[str, Any]:
    """The accuracy and the cross-entropy of a classifier by noise level, on held-out and on training data.

    Args:
        classifier: The classifier.
        data: Its data.
        seed: Seed of the noise, and of the choice of training data.

    Returns:
        The entry of the summary.
    """
    assert data.train_labels is not None
    assert data.test_labels is not None
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))[:_MAX_TRAINING]
    entry: dict[str, Any] = {}
    for name, raw, labels in (
        ("held_out", data.test[:], data.test_labels),
        ("train", data.train[order], data.train_labels[order]),
    ):
        entry[name] = _plain(noisy_accuracy(classifier, data.transform.encode(raw), labels, levels=_LEVELS, seed=seed))
    return entry


def _plain(found: NoisyAccuracy) -> dict[str, Any]:
    mean, stderr = found.mean_accuracy
    nats, nats_stderr = found.mean_cross_entropy
    return {
        "log_snr": found.log_snr.tolist(),
        "accuracy": found.accuracy.tolist(),
        "accuracy_stderr": found.accuracy_stderr.tolist(),
        "cross_entropy": found.cross_entropy.tolist(),
        "cross_entropy_stderr": found.cross_entropy_stderr.tolist(),
        "mean_accuracy": {"value": mean, "stderr": stderr, "n": found.n},
        "mean_cross_entropy": {"value": nats, "stderr": nats_stderr, "n": found.n},
    }
