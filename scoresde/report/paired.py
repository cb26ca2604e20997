"""Held-out likelihoods of two runs on the same samples, from the tables that are stored with the runs.

Equal indices have the same sample. Where the settings agree they have the same dequantisation and the same probes, too,
so that the differences have an error bar of their own, which two means do not.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scoresde.numerics.paired import PairedDifference
from scoresde.report.numbers import as_dict, is_number
from scoresde.report.reading import RunText, read_csv, read_json

__all__ = ["HeldOut", "held_out", "paired", "pairing"]

# What two tables must have in common for their rows to be pairs.
_SHARED = (
    "split", "unit", "conditional", "data_hash", "divergence", "draws", "dequantisation", "decoder", "bound", "seed",
)  # fmt: skip


@dataclass(frozen=True)
class HeldOut:
    """The likelihood of each held-out sample under a run, its settings, and the solver's share of the mean's error."""

    values: list[float]
    settings: dict[str, Any]
    shared: float


def held_out(directory: Path, summary: dict[str, Any], notes: list[str]) -> HeldOut | None:
    """The held-out likelihoods that the summary of a run is about; None if they are not there.

    Args:
        directory: The run directory.
        summary: Its summary.
        notes: Remarks on what could not be read, to which this adds.
    """
    entry = as_dict(summary.get("likelihood"))
    if not is_number(entry.get("n")):
        return None
    note = as_dict(read_json(directory, "likelihood-test.json", notes))
    settings = as_dict(note.get("settings", note))
    if not settings or settings.get("model") != entry.get("model"):
        return None
    values: list[float] = []
    for row in (read_csv(directory, "likelihood-test.csv", notes) or [])[1 : entry["n"] + 1]:
        try:
            index, value = int(row[0]), float(row[1])
        except (ValueError, IndexError):
            break
        if index != len(values) or not is_number(value):
            break
        values.append(value)
    solver: Any = entry.get("stderr_solver")
    return HeldOut(values, settings, float(solver) if is_number(solver) else 0.0)


def paired(first: HeldOut | None, second: HeldOut | None) -> PairedDifference | None:
    """The difference of two runs on the samples that both have; None where rows of the same index are no pairs."""
    if first is None or second is None or any(first.settings.get(k) != second.settings.get(k) for k in _SHARED):
        return None
    n = min(len(first.values), len(second.values))
    shared = math.hypot(first.shared, second.shared)
    return PairedDifference.of(first.values[:n], second.values[:n], shared) if n > 1 else None


def pairing() -> Callable[[RunText, RunText], PairedDifference | None]:
    """A function of two runs that gives their `paired` difference, and reads the tables of each run once."""
    known: dict[Path, HeldOut | None] = {}

    def of(run: RunText) -> HeldOut | None:
        if run.directory not in known:
            known[run.directory] = held_out(run.directory, run.summary, run.notes)
        return known[run.directory]

    return lambda first, second: paired(of(first), of(second))
