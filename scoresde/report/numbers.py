"""Numbers as text: values with their errors, durations, and means over repeats."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scoresde.metrics import Estimate
from scoresde.metrics.evaluate import HIGHER_IS_BETTER, LOWER_IS_BETTER, TITLES

__all__ = [
    "Value",
    "as_dict",
    "combine",
    "directed_title",
    "duration",
    "estimate",
    "facts",
    "is_number",
    "metric",
    "metric_title",
    "nats",
    "of_labels",
    "split_name",
    "text",
]


@dataclass(frozen=True)
class Value:
    """A number, its standard error if it has one, and the repeats it is a mean over."""

    value: float
    stderr: float | None = None
    repeats: int = 1


def as_dict(value: Any) -> dict[str, Any]:
    """The value where it is a mapping, else an empty one."""
    return value if isinstance(value, dict) else {}


def is_number(value: Any) -> bool:
    """True for a number that is finite, also as a float: JSON has integers of any size."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def combine(values: Sequence[Value]) -> Value:
    """The mean over R repeats, with the scatter of the repeats s / √R as its standard error.

    One repeat keeps its own error. The scatter holds all that is drawn anew in each repeat, and nothing of what
    the repeats share, such as the held-out data.

    Raises:
        ValueError: No values.
    """
    if not values:
        raise ValueError("values is empty; give at least one repeat")
    if len(values) == 1:
        return values[0]
    if len({v.value for v in values}) == 1:  # whose scatter is 0, and not what rounding leaves
        return Value(values[0].value, 0.0, len(values))
    mean = math.fsum(v.value for v in values) / len(values)
    variance = math.fsum((v.value - mean) ** 2 for v in values) / (len(values) - 1)
    return Value(mean, math.sqrt(variance / len(values)), len(values))


def text(value: Any) -> str:
    """A value as a table shows it: four digits, counts in full, a dash for none."""
    if value is None:
        return "–"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}".replace(",", "\u202f")
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def estimate(value: Any, stderr: Any) -> str:
    """`value ± stderr` as the metrics print it, or the value alone."""
    if is_number(value) and is_number(stderr) and stderr >= 0:
        return str(Estimate(float(value), float(stderr), 0, "")).partition(" (n")[0]
    return text(value)


def metric(entry: Any) -> str:
    """A metric's entry of a summary."""
    return estimate(as_dict(entry).get("value"), as_dict(entry).get("stderr"))


def metric_title(name: str) -> str:
    """Name of a metric in print."""
    return TITLES.get(name, name.replace("_", " "))


def directed_title(name: str) -> str:
    """Name of a metric in print, with an arrow in the direction that is better."""
    arrow = " ↓" if name in LOWER_IS_BETTER else " ↑" if name in HIGHER_IS_BETTER else ""
    return metric_title(name) + arrow


def nats(entry: dict[str, Any]) -> tuple[Any, Any]:
    """The log-likelihood and its error; an error in bits/dim is scaled to nats."""
    value, bits, stderr = entry.get("nats"), entry.get("bits_per_dim"), entry.get("stderr")
    if bits is not None:
        known = is_number(value) and is_number(bits) and is_number(stderr) and bits != 0
        stderr = stderr * abs(value / bits) if known else None
    return value, stderr


def of_labels(title: str, entry: dict[str, Any]) -> str:
    """The title of a likelihood, which says if it is conditional: log p(x | label) is no estimate of log p(x)."""
    return f"{title} given the {entry.get('given') or 'label'}" if entry.get("conditional") is True else title


def facts(entry: dict[str, Any]) -> str:
    """Sample size, cost and kind of an evaluation, as far as known."""
    known = [
        f"n = {text(entry['n'])}" if "n" in entry else "",
        f"{entry['dequantisation']} dequantisation" if entry.get("dequantisation") else "",
        str(entry.get("sampler", "")),
        f"{text(entry['nfe'])} NFE" if "nfe" in entry else "",
        duration(entry["seconds"]) if "seconds" in entry else "",
    ]
    return ", ".join(filter(None, known))


def duration(seconds: Any) -> str:
    """Seconds, minutes or hours, whichever reads best."""
    if not is_number(seconds) or seconds < 0:
        return text(seconds)
    if seconds < 120:
        return f"{seconds:.3g} s"
    minutes, hours = round(seconds / 60), round(seconds / 3600, 1)
    return f"{minutes} min" if minutes < 120 else f"{hours:g} h"


def split_name(entry: dict[str, Any]) -> str:
    """Name in print of the split of a likelihood's entry."""
    split = entry.get("split", "test")
    return {"test": "held out", "train": "training data"}.get(str(split), str(split))
