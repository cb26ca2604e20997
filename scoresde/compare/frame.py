"""The frames of `scoresde.compare.compare`: their columns, their concatenation and their mean over seeds."""

import copy
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from scoresde.arguments import checked
from scoresde.metrics.evaluate import EXACT, NEIGHBOURHOODS, TITLES, WIDTHS

__all__ = [
    "COLUMNS",
    "COMPARED",
    "LABELS",
    "LATER",
    "MEASURES",
    "METRICS",
    "check_comparable",
    "concat",
    "summarise",
    "to_frame",
]

# The metrics of `scoresde.metrics.evaluate_samples` that are quick enough for every cell of a comparison.
COMPARED = ("frechet_distance", "sliced_wasserstein", *WIDTHS, *NEIGHBOURHOODS)
METRICS = COMPARED  # the name in version 0.1.0
MEASURES = (*COMPARED, *EXACT)
LATER = tuple(column for name in (*WIDTHS, *EXACT) for column in (name, f"{name}_stderr"))
"""Columns that frames of version 0.1.0 lack."""
COLUMNS = (
    *("sampler", "steps", "seed", "n", "nfe", "seconds", "error", "error_stderr"),
    *(name for metric in MEASURES for name in (metric, f"{metric}_stderr")),
    "problem",
)
LABELS = {
    "nfe": "evaluations of the network",
    "seconds": "seconds",
    "error": "error of the endpoint, RMS",
    **{name: TITLES.get(name, name) for name in MEASURES},
}


def to_frame(rows: Sequence[Mapping[str, Any]], attrs: dict[str, Any]) -> pd.DataFrame:
    """Rows of `Comparison.row` as a frame, each column of its own type."""
    frame = pd.DataFrame(list(rows), columns=list(COLUMNS))
    kinds = dict.fromkeys(COLUMNS[1:-1], "float64")  # text is what this version of pandas makes of it
    frame = frame.astype({**kinds, "steps": "Int64", "seed": "int64", "n": "int64"})
    frame.attrs = json.loads(json.dumps(attrs))
    return frame


@checked
def check_comparable(frame: pd.DataFrame) -> None:
    """Reject a frame that `compare` did not make, or that has rows of different n.

    One of version 0.1.0, without the measures that are newer, is not rejected.

    Raises:
        ValueError: Missing columns, no rows, or different n.
    """
    missing = [name for name in COLUMNS if name not in frame and name not in LATER]
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
    """The rows of several frames of `compare`, which are of the same n and the same data, in one frame.

    Raises:
        ValueError: No frames, or frames of different n or data.
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
    return to_frame([row for frame in frames for row in _complete(frame).to_dict("records")], attrs)


@checked
def summarise(frame: pd.DataFrame) -> pd.DataFrame:
    """The mean over S seeds for each sampler and number of steps, with standard errors, without the rows that failed.

    `error` is the root mean square over the starts of all seeds, √(mean e_s²). Seeds are independent, so the variance
    of mean e_s² is Σ (2 e_s stderr_s)²/S², or var(e_s²)/S by the scatter. Both estimate the same quantity, and the
    larger is taken, since only the second sees a start that ends in another mode.

    A metric's standard error at one seed has a part σ² from the samples, which seeds draw anew, and a part from the
    held-out data, which they share. The scatter s² over seeds estimates the first, mean stderr² their sum, so that

        stderr² = s²/S + max(mean stderr² − s², 0).

    With one seed this is the seed's own standard error. More seeds do not reduce the uncertainty that the held-out
    data leave. All samplers share those data, so a difference between two samplers is known better, to s/√S for each;
    `NAME_scatter` is s, which needs two seeds and is NaN with one.

    Returns:
        A frame with the columns `sampler`, `steps`, `seeds` (the number that did not fail), `n`, `nfe`, `seconds`,
        `error`, `error_stderr`; for each metric NAME, NAME_stderr and NAME_scatter; and `problem`, the first if there
        is one. The `attrs` are those of `frame`.

    Raises:
        ValueError: A frame that is not comparable; see `check_comparable`.
    """
    check_comparable(frame)
    rows = []
    for (name, steps), group in _complete(frame).groupby(["sampler", "steps"], sort=False, dropna=False):
        good = group[group["problem"] == ""]
        row: dict[str, Any] = {"sampler": name, "steps": steps, "seeds": len(good), "n": int(group["n"].iloc[0])}
        # A sampler that was left out or stopped on the way still has its evaluations.
        row |= {"nfe": (good if len(good) else group)["nfe"].mean(), "seconds": good["seconds"].mean()}
        row["error"], row["error_stderr"] = _pooled(good["error"], good["error_stderr"])
        for metric in MEASURES:
            row |= _averaged(metric, good[metric], good[f"{metric}_stderr"])
        problems = [text for text in group["problem"] if text]
        rows.append(row | {"problem": problems[0] if problems else ""})
    out = pd.DataFrame(rows).astype({"steps": "Int64"})
    out.attrs = copy.deepcopy(frame.attrs)
    return out


def _complete(frame: pd.DataFrame) -> pd.DataFrame:
    """A frame with all columns, those that it lacks without values."""
    return frame.reindex(columns=list(COLUMNS))


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
    """The mean of a metric over seeds, its standard error and its scatter, by column."""
    count = len(values)
    names = (metric, f"{metric}_stderr", f"{metric}_scatter")
    if count < 2:
        one = [float(v.iloc[0]) if count else math.nan for v in (values, stderrs)]
        return dict(zip(names, (*one, math.nan), strict=True))
    scatter, whole = float(values.var()), float((stderrs**2).mean())
    stderr = math.sqrt(scatter / count + max(whole - scatter, 0))
    return dict(zip(names, (float(values.mean()), stderr, math.sqrt(scatter)), strict=True))
