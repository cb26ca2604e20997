"""The choice of a sampler by a comparison: the best for each number of evaluations, and the list of all, as text."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from scoresde.arguments import checked
from scoresde.compare.frame import LABELS, MEASURES, summarise
from scoresde.metrics import Estimate

__all__ = ["listing", "table"]


@checked
def table(frame: pd.DataFrame) -> list[list[str]]:
    """The best samplers at each number of evaluations: a header and rows of text.

    The budgets are one more than each number of steps, which is the cost of a sampler of one evaluation a step with its
    denoising step. Each budget has up to two rows: without noise, the sampler of the smallest error; with noise, if
    there are data, that of the smallest Fréchet distance. `as good` counts the other samplers of the row's kind within
    the budget that cannot be told apart from it: the difference is below two standard errors, as if the two were
    independent.

    Args:
        frame: A frame of `compare`.

    Raises:
        ValueError: A frame that is not comparable; see `check_comparable`.
    """
    summary = summarise(frame)
    metrics = [name for name in MEASURES if summary[name].notna().any()]
    head = ["evaluations", "noise", "sampler", "steps", "NFE", "seconds", "error"]
    rows = [[*head, *(LABELS[name] for name in metrics), "as good"]]
    good = summary[(summary["seeds"] > 0) & summary["nfe"].notna() & summary["seconds"].notna()]
    largest = float(good["nfe"].max()) if len(good) else 0.0
    budgets = sorted({float(v) + 1 for v in good["steps"].dropna()} | {largest} - {0.0})
    before: dict[str, Any] = {}
    for budget in budgets:
        here = good[good["nfe"] <= budget]
        for kind, by in (("no", "error"), ("yes", "frechet_distance")):
            some = here[here[by].notna() & (here["error"].notna() == (kind == "no"))]
            if some.empty:
                continue
            winner = some.sort_values([by, "nfe"]).iloc[0]
            # A row that repeats the one for a smaller budget is left out.
            if before.get(kind) == winner.name:
                continue
            before[kind] = winner.name
            rows.append([f"≤ {budget:.0f}", kind, *_cells(winner, metrics), _as_good(some, winner, by)])
    return rows


@checked
def listing(frame: pd.DataFrame) -> list[list[str]]:
    """Every sampler at every number of steps, as means over seeds: a header and rows of text.

    Args:
        frame: A frame of `compare`.

    Raises:
        ValueError: A frame that is not comparable; see `check_comparable`.
    """
    summary = summarise(frame)
    metrics = [name for name in MEASURES if summary[name].notna().any()]
    head = ["sampler", "steps", "NFE", "seconds", "error", *(LABELS[name] for name in metrics)]
    return [head, *(_cells(row, metrics) for _, row in summary[summary["seeds"] > 0].iterrows())]


def _cells(row: pd.Series, metrics: Sequence[str]) -> list[str]:
    steps = "own" if pd.isna(row["steps"]) else str(int(row["steps"]))
    values = [_with_error(row[name], row[f"{name}_stderr"]) for name in ("error", *metrics)]
    return [str(row["sampler"]), steps, f"{row['nfe']:.4g}", f"{row['seconds']:.3g}", *values]


def _with_error(value: float, stderr: float) -> str:
    if not math.isfinite(value):
        return "–"
    if not math.isfinite(stderr) or stderr == 0:
        return f"{value:.3g}"
    return str(Estimate(value, stderr, 1, "")).rpartition(" (n")[0]


def _as_good(some: pd.DataFrame, winner: pd.Series, by: str) -> str:
    """The number and names of other samplers that cannot be told apart from the best, each at its best steps."""
    noise = np.hypot(some[f"{by}_stderr"].fillna(0), np.nan_to_num(winner[f"{by}_stderr"]))
    close = some[(some[by] - winner[by] <= 2 * noise) & (some["sampler"] != winner["sampler"])]
    names = list(dict.fromkeys(close.sort_values(by)["sampler"]))
    if not names:
        return "none"
    return f"{len(names)}: {', '.join(names[:3])}{', …' if len(names) > 3 else ''}"
