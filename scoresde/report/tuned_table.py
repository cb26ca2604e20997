"""The table of tuned steps beside the sampler `default`, from the files of `scoresde tune`."""

from collections.abc import Mapping, Sequence
from typing import Any

from scoresde.report.numbers import directed_title, estimate, is_number, text
from scoresde.report.tables import Table

__all__ = ["tuned_table"]

_NONE = ("–", "–")
_METRICS = ("frechet_distance", "sliced_wasserstein")


def tuned_table(tuned: Mapping[int, dict[str, Any]], comparison: Sequence[dict[str, Any]]) -> Table | None:
    """A row for each number of evaluations; None if nothing was tuned.

    Args:
        tuned: The content of the files by their numbers of evaluations.
        comparison: Rows of `comparison.csv`, for the distances of samples to held-out data.
    """
    if not tuned:
        return None
    measured = {metric: {n: _pair(comparison, metric, n) for n in tuned} for metric in _METRICS}
    shown = [metric for metric, cells in measured.items() if set(cells.values()) != {_NONE}]
    rows = []
    for n, entry in sorted(tuned.items()):
        error, default, starts = (_number(entry.get(key)) for key in ("error", "default", "starts"))
        ratio = f"{error / default:.2f}" if error is not None and default else "–"
        further = [cell for metric in shown for cell in measured[metric][n]]
        rows.append(
            (str(n), text(error), text(default), ratio, *further, text(None if starts is None else int(starts)))
        )
    titles = [f"{directed_title(metric)}, {side}" for metric in shown for side in ("tuned", "default")]
    head = ("evaluations", "error ↓, tuned", "error ↓, default", "ratio", *titles, "starts")
    note = (
        "Error: root mean square distance of the end points to those of the model's own probability flow, on starts "
        "that the search has not seen, without the denoising step."
    )
    if shown:
        note += " Distances to held-out data are those of the comparison, at as many evaluations."
    return Table("Tuned steps", head, rows, note)


def _number(value: Any) -> float | None:
    return float(value) if is_number(value) else None


def _pair(comparison: Sequence[dict[str, Any]], metric: str, evaluations: int) -> tuple[str, str]:
    """A metric of the samples of `tuned` and of `default`, a dash each where there is none."""
    cells = []
    for name in ("tuned", "default"):
        row = next((r for r in comparison if r["sampler"] == name and r.get("nfe") == evaluations), {})
        cells.append(estimate(row.get(metric), row.get(f"{metric}_stderr")))
    return cells[0], cells[1]
