"""Usual names of arrays: of samples, labels and names of classes, for training and for testing."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from scoresde.data.labels import listed

__all__ = ["Found", "find_arrays"]

_SAMPLES = {"x", "data", "image", "images", "img", "imgs", "sample", "samples", "values"}
_SAMPLES |= {"feature", "features", "input", "inputs"}
_LABELS = {"y", "label", "labels", "target", "targets", "class", "classes"}
_NAMES = ("class_names", "label_names", "classnames")
_PARTS = {
    **dict.fromkeys(("train", "training", "tr"), "train"),
    **dict.fromkeys(("test", "testing", "te"), "test"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
}


@dataclass(frozen=True)
class Found:
    """Names of the arrays that make up a data set.

    Args:
        samples: To train on, and to split if there is no `test`.
        labels: Classes of these, or None.
        test: Samples to test on, or None.
        test_labels: Classes of these; given exactly when `labels` and `test` are.
        class_names: Names of the classes, or None.
        left: Names of samples of a further part, which are not used.
    """

    samples: str
    labels: str | None = None
    test: str | None = None
    test_labels: str | None = None
    class_names: str | None = None
    left: tuple[str, ...] = ()


def find_arrays(names: Sequence[str], path: str) -> Found:
    """The arrays of a file by their names: `x`, `x_train`, `train_images`, `testLabels`, `data/val`, ...

    A file of a single array may call it anything.

    Raises:
        ValueError: No array or several that may be the samples; the message lists what there is.
    """
    samples: dict[str, list[str]] = {}
    labels: dict[str, list[str]] = {}
    for name in names:
        its_part, role = _read(name)
        if role is not None:
            (samples if role == "x" else labels).setdefault(its_part, []).append(name)
    class_names = next((n for n in names if n.lower() in _NAMES), None)
    others = [n for n in names if n != class_names and all(n not in found for found in labels.values())]
    if not samples and len(others) == 1:
        samples = {"": others}
    parts: list[str] = [p for p in ("train", "") if p in samples] or list(samples)
    part = parts[0] if parts and (parts[0] in ("train", "") or len(parts) == 1) else None
    if part is None or len(samples[part]) > 1:
        raise ValueError(
            f"{path} has {'no array' if not others else 'several arrays'} that may be the samples; available: "
            f"{listed(names) or 'none'}: say which by key=NAME, and the labels by label_key=NAME"
        )
    held_out = next((p for p in ("test", "val") if p in samples and p != part), None)
    y = _one(labels, part, path)
    test = None if held_out is None else _one(samples, held_out, path)
    test_y = None if held_out is None or y is None else _one(labels, held_out, path)
    if test is not None and test_y is None:
        y = None
    left = tuple(n for p, found in samples.items() if p not in (part, held_out) for n in found)
    return Found(samples[part][0], y, test, test_y, class_names, left)


def _one(found: dict[str, list[str]], part: str, path: str) -> str | None:
    names = found.get(part, [])
    if len(names) > 1:
        raise ValueError(
            f"{path} has several arrays of one kind: {', '.join(names)}; say which by key=NAME and label_key=NAME"
        )
    return names[0] if names else None


def _read(name: str) -> tuple[str, str | None]:
    """The part that a name is of, "" for none, and its role, "x" or "y"; no role for what is neither."""
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+|[^\W\d_]+", name)
    part = role = ""
    for word in map(str.lower, words):
        if word in _PARTS and not part:
            part = _PARTS[word]
        elif word in _SAMPLES and role in ("", "x"):
            role = "x"
        elif word in _LABELS:
            role = "y"
        else:
            return "", None
    return part, role or ("x" if part else None)
