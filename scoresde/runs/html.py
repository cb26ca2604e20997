"""A run in a notebook: its choices, its headline numbers and a figure of its samples."""

import base64
import math
from html import escape
from pathlib import Path
from typing import Any, Protocol

from omegaconf import DictConfig

from scoresde.numerics.html import table, with_error
from scoresde.runs.summary import Summary
from scoresde.storage.bounded import read_json

__all__ = ["run_html"]

_MAX_BYTES = 2_000_000  # bytes of a figure that is put into a notebook
_PNG = b"\x89PNG\r\n\x1a\n"


class Shown(Protocol):
    """The parts of a run that are shown."""

    directory: Path
    config: DictConfig

    def summary(self) -> Summary:
        """Results of training and of the stages after it."""
        ...


def run_html(run: Shown) -> str:
    """A run's name, choices and headline numbers, and a figure of its samples, as far as they are there."""
    try:
        summary = run.summary()
    except (OSError, ValueError):
        summary = Summary()
    rows = [(key, text) for key in ("data", "sde", "network", "objective", "sampler") if (text := _choice(run, key))]
    rows += _headline(summary)
    note = "" if summary else "No results yet: training was interrupted or is still running."
    return table(f"Run {run.directory.name}", rows, note) + _picture(run.directory)


def _choice(run: Shown, key: str) -> str:
    """The class or function that the configuration names, with the solver of a sampler."""
    entry: Any = run.config.get(key)
    target = entry.get("_target_") if hasattr(entry, "get") else None
    if not isinstance(target, str):
        return ""
    name = target.rpartition(".")[2]
    solver = entry.get("solver")
    inner = solver.get("_target_") if hasattr(solver, "get") else None
    return f"{name}, {inner.rpartition('.')[2]}" if isinstance(inner, str) else name


def _headline(summary: Summary) -> list[tuple[str, str]]:
    """Likelihood, sample quality and cost, as far as the summary has them."""
    rows = []
    for key, split in (("likelihood", "held out"), ("likelihood_train", "training data")):
        entry = summary.entry(key)
        unit, name = ("bits_per_dim", "bits/dim") if _is_number(entry.get("bits_per_dim")) else ("nats", "nats")
        if _is_number(entry.get(unit)):
            given = f" given the {entry.get('given') or 'label'}" if entry.get("conditional") is True else ""
            rows.append((f"{name}{given}, {split}", _value(entry, unit, "stderr")))
    samples = summary.entry("samples")
    for name, entry in list(_dict(samples.get("metrics")).items())[:1]:
        if _is_number(_dict(entry).get("value")):
            rows.append((name.replace("_", " "), _value(entry, "value", "stderr")))
    if _is_number(samples.get("nfe")):
        rows.append(("evaluations a sample", str(samples["nfe"])))
    training = summary.entry("training")
    if _is_number(training.get("steps")) and _is_number(training.get("seconds")):
        rows.append(("training", f"{training['steps']} steps, {training['seconds']:.3g} s"))
    if _is_number(summary.get("parameters")):
        rows.append(("parameters", str(summary["parameters"])))
    return rows


def _value(entry: dict[str, Any], key: str, error: str) -> str:
    stderr: Any = entry.get(error)
    text = with_error(entry[key], stderr if _is_number(stderr) else math.nan)
    return f"{text} (n = {entry['n']})" if _is_number(entry.get("n")) else text


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _picture(directory: Path) -> str:
    """The first figure that the run lists, if it is a PNG file inside its directory."""
    try:
        listed = read_json(directory / "pictures.json")
        file, title = str(listed[0]["file"]), str(listed[0].get("title", ""))
        path = (directory / file).resolve()
        inside = path.is_relative_to(directory.resolve()) and path.is_file()
        if not inside or path.stat().st_size > _MAX_BYTES:
            return ""
        content = path.read_bytes()
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return ""
    if not content.startswith(_PNG):
        return ""
    data = base64.b64encode(content).decode()
    return f'<img alt="{escape(title)}" style="max-width:420px" src="data:image/png;base64,{data}">'
