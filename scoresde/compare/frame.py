"""The frames of `scoresde.compare.compare`: their columns, their mean over seeds, and what to choose by them."""

import copy
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from scoresde.arguments import checked
from scoresde.metrics import Estimate
from scoresde.metrics.evaluate import HIGHER_IS_BETTER, TITLES

__all__ = [
    "COLUMNS",
    "LABELS",
    "METRICS",
    "check_comparable",
    "concat",
    "listing",
    "summarise",
    "table",
    "to_frame",
]

METRICS = ("frechet_distance", "sliced_wasserstein", *HIGHER_IS_BETTER)
COLUMNS = (
    *("sampler", "steps", "seed", "n", "nfe", "seconds", "error", "error_stderr"),
    *(name for metric in METRICS for name in (metric, f"{metric}_stderr")),
    "problem",
)
LABELS = {
    "nfe": "evaluations of the network",
    "seconds": "seconds",
    "error": "error of the endpoint, RMS",
    **{name: TITLES.get(name, name) for name in METRICS},
}


def to_frame(rows: Sequence[Mapping[str, Any]], attrs: dict[str, Any]) -> pd.DataFrame:
    """Lines of `Comparison.row` as a frame, each column of its own type."""
    frame = pd.DataFrame(list(rows), columns=list(COLUMNS))
    kinds = dict.fromkeys(COLUMNS[1:-1], "float64")  # text is what this version of pandas makes of it
    frame = frame.astype({**kinds, "steps": "Int64", "seed": "int64", "n": "int64"})
    frame.attrs = json.loads(json.dumps(attrs))
    return frame


@checked
def check_comparable(frame: pd.DataFrame) -> None:
    """Refuse a frame that is none of `compare`, or of different n.

    Raises:
        ValueError: columns that are missing, no lines, or different n.
    """
    missing = [name for name in COLUMNS if name not in frame]
    if missing:
        raise ValueError(f"the frame lacks {', '.join(missing[:3])}: give one that compare made")
    if frame.empty:
        raise ValueError("the frame has no lines")
    counts = sorted({int(v) for v in frame["n"]})
    if len(counts) > 1:
        listed = " and ".join(map(str, counts))
        raise ValueError(f"lines of different n, {listed}: metrics are biased in n; compare at one n")


@checked
def concat(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Frames of `compare` below each other, of the same n and the same data.

    Raises:
        ValueError: no frames, or frames of different n or data.
    """
    if not frames:
        raise ValueError("there are no frames")
    for frame in frames:
        check_comparable(frame)
    first = frames[0].attrs
    for frame in frames[1:]:
        for key in ("n", "shape", "data"):
            if frame.attrs.get(key) != first.get(key):
                raise ValueError(
                    f"frames of different {key}, {first.get(key)} and {frame.attrs.get(key)}: "
                    "compare on the same data and at one n"
                )
    attrs = copy.deepcopy(first)
    errors = attrs.setdefault("reference", {}).setdefault("error", {})
    for frame in frames[1:]:
        for seed, error in frame.attrs.get("reference", {}).get("error", {}).items():
            errors[seed] = max(error, errors.get(seed, 0.0))
    return to_frame([row for frame in frames for row in frame[list(COLUMNS)].to_dict("records")], attrs)


@checked
def summarise(frame: pd.DataFrame) -> pd.DataFrame:
    """The mean over the seeds S of each sampler and number of steps, with standard errors; failed lines left out.

    `error` is the root mean square over the starts of all seeds, √(mean e_s²). Seeds are independent, so the variance
    of mean e_s² is Σ (2 e_s stderr_s)²/S², or var(e_s²)/S by the scatter; both estimate the same, and the larger is
    taken, since one start in another mode is seen by the second alone.

    A metric's standard error at one seed has a part σ² from the samples, which seeds draw anew, and a part from the
    held-out data, which they share. The scatter s² over seeds estimates the first, mean stderr² their sum, so that

        stderr² = s²/S + max(mean stderr² − s², 0).

    With one seed that is its own standard error. More seeds do not remove what the held-out data leave uncertain.
    Since all samplers share these, differences between two of them are better known: by s/√S each, and
    `NAME_scatter` is s, which needs two seeds and is NaN with one.

    Returns:
        `sampler`, `steps`, `seeds` (those that did not fail), `n`, `nfe`, `seconds`, `error`, `error_stderr`; for each
        metric NAME, NAME_stderr and NAME_scatter; `problem`, the first if there is one. `attrs` as before.

    Raises:
        ValueError: as `check_comparable`.
    """
    check_comparable(frame)
    rows = []
    for (name, steps), group in frame.groupby(["sampler", "steps"], sort=False, dropna=False):
        good = group[group["problem"] == ""]
        row: dict[str, Any] = {"sampler": name, "steps": steps, "seeds": len(good), "n": int(group["n"].iloc[0])}
        # One that was left out or stopped on the way has its evaluations still.
        row |= {"nfe": (good if len(good) else group)["nfe"].mean(), "seconds": good["seconds"].mean()}
        row["error"], row["error_stderr"] = _pooled(good["error"], good["error_stderr"])
        for metric in METRICS:
            row |= _averaged(metric, good[metric], good[f"{metric}_stderr"])
        problems = [text for text in group["problem"] if text]
        rows.append(row | {"problem": problems[0] if problems else ""})
    out = pd.DataFrame(rows).astype({"steps": "Int64"})
    out.attrs = copy.deepcopy(frame.attrs)
    return out


def _pooled(errors: pd.Series, stderrs: pd.Series) -> tuple[float, float]:
    """√(mean e²) and its standard error."""
    count = len(errors)
    if count == 0 or errors.isna().any():
        return math.nan, math.nan
    squares = errors**2
    root = math.sqrt(squares.mean())
    variance = float(((2 * errors * stderrs) ** 2).sum()) / count**2
    if count > 1:
        variance = max(variance, float(squares.var()) / count)
    return root, math.sqrt(variance) / (2 * root) if root else 0.0


def _averaged(metric: str, values: pd.Series, stderrs: pd.Series) -> dict[str, float]:
    count = len(values)
    names = (metric, f"{metric}_stderr", f"{metric}_scatter")
    if count < 2:
        one = [float(v.iloc[0]) if count else math.nan for v in (values, stderrs)]
        return dict(zip(names, (*one, math.nan), strict=True))
    scatter, whole = float(values.var()), float((stderrs**2).mean())
    stderr = math.sqrt(scatter / count + max(whole - scatter, 0))
    return dict(zip(names, (float(values.mean()), stderr, math.sqrt(scatter)), strict=True))


@checked
def table(frame: pd.DataFrame) -> list[list[str]]:
    """Which sampler to take at each number of evaluations: a header and rows of text.

    The budgets are one more than each number of steps, which is what a sampler of one evaluation a step costs with
    its denoising. For each there are up to two rows: without noise, the sampler of the least error; with noise, of the
    least Fréchet distance, where there are data. `as good` counts the others of the row's kind, within the budget, that
    are not told apart from it: by less than two standard errors of the difference, as if the two had nothing in common.

    Raises:
        ValueError: as `check_comparable`.
    """
    summary = summarise(frame)
    metrics = [name for name in METRICS if summary[name].notna().any()]
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
            # A row that says the same as one above it is left out.
            if before.get(kind) == winner.name:
                continue
            before[kind] = winner.name
            rows.append([f"≤ {budget:.0f}", kind, *_cells(winner, metrics), _as_good(some, winner, by)])
    return rows


@checked
def listing(frame: pd.DataFrame) -> list[list[str]]:
    """Every sampler at every number of steps, means over seeds: a header and rows of text.

    Raises:
        ValueError: as `check_comparable`.
    """
    summary = summarise(frame)
    metrics = [name for name in METRICS if summary[name].notna().any()]
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
    """Number and names of other samplers that are not told apart from the best; each at its best steps."""
    noise = np.hypot(some[f"{by}_stderr"].fillna(0), np.nan_to_num(winner[f"{by}_stderr"]))
    close = some[(some[by] - winner[by] <= 2 * noise) & (some["sampler"] != winner["sampler"])]
    names = list(dict.fromkeys(close.sort_values(by)["sampler"]))
    if not names:
        return "none"
    return f"{len(names)}: {', '.join(names[:3])}{', …' if len(names) > 3 else ''}"
