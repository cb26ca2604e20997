"""The log of a training, as `metrics.jsonl` holds it."""

from typing import Any

from scoresde.runs.directory import Run
from scoresde.storage.bounded import read_json_lines

__all__ = ["read_log"]


def read_log(run: Run) -> list[dict[str, Any]]:
    """The entries of `metrics.jsonl` that have a step, from complete and undamaged lines."""
    try:
        entries, _ = read_json_lines(run.directory / "metrics.jsonl")
    except FileNotFoundError:
        return []
    return [entry for entry in entries if isinstance(entry.get("step"), int)]
