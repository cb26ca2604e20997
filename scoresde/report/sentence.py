"""The sentence at the top of a run's page: model, data, time, date and device of training."""

import math
from datetime import datetime
from typing import Any

from scoresde.report.numbers import as_dict, duration, is_number, text
from scoresde.report.reading import RunText

__all__ = ["sentence"]

Part = tuple[str, bool]  # text, and whether it is a word of the shell


def sentence(run: RunText) -> list[Part]:
    """The parts of the sentence that are known: an interrupted run, or an old one, has fewer."""
    training = as_dict(run.summary.get("training"))
    data = str(run.data.get("name") or run.words.get("data") or "")
    # Bits and classes have no score, and their process is no SDE.
    discrete = run.words.get("objective") == "chain"
    kind = "Classifier of noised samples" if run.words.get("objective") == "classifier" else "Score-based model"
    parts: list[Part] = [("Diffusion model" if discrete else kind, False)]
    if data:
        parts += [(" of ", False), (data, True)]
    what = _samples(run.data.get("shape"), training.get("samples"))
    parts += [(f", {what}", False)] if data and what else []
    separator = ": "
    for group, word in (("sde", "chain" if discrete else "SDE"), ("network", "network")):
        name = run.words.get(group)
        if name:
            parts += [(f"{separator}{word} ", False), (str(name), True)]
            separator = ", "
    if is_number(run.summary.get("parameters")):
        parts.append((f" of {text(run.summary['parameters'])} parameters", False))
    objective = run.words.get("objective")
    if objective:
        parts += [(f"{separator}objective ", False), (str(objective), True)]
    parts.append((_trained(run, training), False))
    return parts if len(parts) > 2 else []


def _samples(shape: Any, count: Any) -> str:
    """The number and kind of samples of a shape."""
    number = f"{text(count)} " if isinstance(count, int) and not isinstance(count, bool) else ""
    if not isinstance(shape, list) or not all(isinstance(n, int) and n > 0 for n in shape):
        return f"{number}training samples" if number else ""
    if len(shape) == 3:
        colour = {1: "grey ", 3: "colour "}.get(shape[0], "")
        channels = "" if colour else f" and {shape[0]} channels"
        return f"{number}{colour}images of {shape[1]}×{shape[2]} pixels{channels}"
    if shape == [1]:
        return f"{number}numbers"
    if shape == [2]:
        return f"{number}points in the plane"
    return f"{number}samples of {' × '.join(map(str, shape))} values"


def _trained(run: RunText, training: dict[str, Any]) -> str:
    if not training:
        return ", in training."
    words = ", trained"
    if is_number(run.config.get("training.seed")):
        words += f" with seed {text(run.config['training.seed'])}"
    if "seconds" in training:
        words += f" in {duration(training['seconds'])}"
    if date := _date(training.get("date")):
        words += f" on {date}"
    if isinstance(training.get("version"), str):
        words += f" by scoresde {training['version']}"
    if isinstance(training.get("device"), str):
        words += f" on {training['device']}"
    return words + "."


def _date(value: Any) -> str:
    """A date as "28 November 2026", from ISO 8601."""
    try:
        date = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return ""
    return f"{date.day} {_MONTHS[date.month - 1]} {date.year}"


_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip


def dimensions(run: RunText) -> int | None:
    """Number of dimensions of a sample; None where the run does not say it."""
    shape = run.data.get("shape")
    if not isinstance(shape, list) or not all(isinstance(n, int) for n in shape):
        return None
    return math.prod(shape)
