"""Restorations of a run, from the entries that `scoresde restore` leaves in its summary: a row for each."""

from typing import Any

from scoresde.report.numbers import as_dict, duration, is_number, metric, text
from scoresde.report.tables import Table

__all__ = ["restorations_table"]

_PREFIX = "restored-"
_FIGURES = {
    "psnr_of_mean": "PSNR of the mean, dB",
    "psnr": "PSNR of a sample, dB",
    "coverage": "coverage",
    "residual": "residual",
}
_MAX_ROWS = 100


def restorations_table(summary: dict[str, Any]) -> Table | None:
    """Restorations by what they are of and how they were drawn; None where there are none.

    Args:
        summary: Summary of the run.
    """
    entries = [as_dict(entry) for key, entry in summary.items() if key.startswith(_PREFIX)][:_MAX_ROWS]
    entries = [entry for entry in entries if entry]
    if not entries:
        return None
    shown = [key for key in _FIGURES if any(key in entry for entry in entries)]
    head = ("problem", "method", "steps", "NFE", *(_FIGURES[key] for key in shown), "measurements", "samples", "time")
    rows = [tuple(_row(entry, shown)) for entry in entries]
    note = "Means over measurements, ± standard error."
    if "coverage" in shown:
        found = [as_dict(entry.get("coverage")).get("expected") for entry in entries]
        expected = ", ".join(dict.fromkeys(text(value) for value in found if is_number(value)))
        note += " Coverage: the share of the truth's values that are between those of the samples"
        note += f", expected {expected}." if expected else "."
    note += " Residual: |y − A(x)| over the noise's standard deviation, about 1 for the truth."
    return Table("Restorations", head, rows, note)


def _row(entry: dict[str, Any], shown: list[str]) -> list[str]:
    figures = [metric(entry.get(key)) if key in entry else "–" for key in shown]
    cost = text(entry.get("nfe"))
    if entry.get("products"):
        cost += f" + {text(entry['products'])} of the Jacobian"
    counts = [text(entry.get("count")), text(entry.get("n"))]
    names = [text(entry.get(key)) for key in ("problem", "method", "steps")]
    return [*names, cost, *figures, *counts, duration(entry.get("seconds"))]
