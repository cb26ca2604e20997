"""The table of posterior samplers: a row for each method, problem, noise, sampler and number of steps."""

import math
from typing import Any, NamedTuple

import pandas as pd

from scoresde.arguments import checked
from scoresde.certificate.posterior import LEVELS

__all__ = [
    "CELL",
    "EXACT",
    "MEANINGS",
    "POSTERIOR_COLUMNS",
    "RANKS",
    "TEXTS",
    "PosteriorCell",
    "posterior_frame",
    "posterior_table",
]

EXACT = "exact"
"""The name of exact posterior samples, which are a method among others."""


class PosteriorCell(NamedTuple):
    """What a row is about: names of a method, of a problem and of a sampler, the noise, and the number of steps.

    An empty sampler is the method's own; no noise is that of the problem.
    """

    method: str
    problem: str
    noise: float | None
    sampler: str
    steps: int | None


CELL = PosteriorCell._fields
_COVERAGES = [f"coverage_{100 * level:.0f}" for level in LEVELS]
_ESTIMATES = (
    "sw2",
    "floor",
    "excess",
    "kl",
    "kl_from",
    "mean_error",
    "covariance_error",
    "spread",
    *_COVERAGES,
    "modes",
    "weights",
    "weights_floor",
)
RANKS = ("ranks_widest", "ranks_narrowest", "ranks_density", "ranks_distance")
"""The columns with counts of ranks, as text."""
POSTERIOR_COLUMNS = [
    *CELL,
    "measurements",
    "samples",
    "nfe",
    "vjp",
    "seconds",
    *(column for name in _ESTIMATES for column in (name, f"{name}_stderr")),
    "sbc_p",
    "tarp",
    "tarp_p",
    "deviates",
    *RANKS,
    "failure",
]
"""The columns: the cell, counts, means over the measurements with standard errors, and tests; see `MEANINGS`."""
MEANINGS = (
    ("measurements, samples", "numbers of measurements, and of posterior samples of each"),
    ("nfe, vjp", "counted evaluations of the model, and products with its Jacobian, for one sample"),
    ("seconds", "time of all samples"),
    ("sw2", "sliced 2-Wasserstein distance to exact samples, in the units of samples"),
    ("floor, excess", "the same of other exact samples of the same number, and the difference"),
    (
        "kl, kl_from",
        "KL(samples‖exact) and KL(exact‖samples) in nats, by the mixture or the nearest neighbours that fit the "
        "samples clearly better than the exact density does; 0 where none does",
    ),
    ("mean_error", "|E x − m| over the root of the posterior's total variance, without the bias of a finite number"),
    ("covariance_error", "‖cov x − Σ‖/‖Σ‖ in the norm of Frobenius, likewise"),
    ("spread", "ratio of total variances, 1 for exact samples"),
    ("coverage_50, …", "share of truths in the central interval of this level, along principal axes"),
    ("modes", "share of the posterior's modes that have samples"),
    (
        "weights, weights_floor",
        "total variation distance of the modes' weights to exact ones, and of exact samples",
    ),
    ("sbc_p", "p-value of uniform ranks of truths, along principal axes and in density (Talts et al. 2018)"),
    ("tarp, tarp_p", "largest deviation of the expected coverage by TARP, and its p-value (Lemos et al. 2023)"),
    (
        "deviates",
        "what exact samples show in one case of 1,000, p < 0.001 each: sw2, kl, mean, covariance, spread, sbc, tarp, "
        "modes",
    ),
    (
        "ranks_widest, …",
        "numbers of truths in eight equal parts of the ranks among their samples, uniform but for chance: along the "
        "widest and the narrowest principal axis, in density, and in the distance to a point (as TARP)",
    ),
    ("failure", "why there are no numbers"),
)
"""Columns of posterior samplers and what they mean."""
TEXTS = ("method", "problem", "sampler", "deviates", *RANKS, "failure")


@checked
def posterior_frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """The rows as a frame with `POSTERIOR_COLUMNS`; what a row lacks is NaN, or empty where it is text."""
    empty: dict[str, Any] = {name: "" if name in TEXTS else math.nan for name in POSTERIOR_COLUMNS}
    return pd.DataFrame([{**empty, **row} for row in rows], columns=POSTERIOR_COLUMNS)


@checked
def posterior_table(frame: pd.DataFrame) -> list[list[str]]:
    """The frame as text for a terminal: a header and rows, with what tells methods apart.

    Columns in which all rows are the same as the first are left out, but for measures.
    """
    named = [name for name in CELL if name == "method" or frame[name].astype(str).nunique() > 1]
    head = [*named, "wrong", "SW2", "floor", "KL", "mean", "covariance", "cover 90 %", "modes", "SBC p", "evaluations"]
    rows = []
    for _, row in frame.iterrows():
        cells = [_plain(row[name]) for name in named]
        if row["failure"]:
            rows.append([*cells, f"failed: {row['failure'].partition(':')[0]}", *["–"] * 9])
            continue
        kl = "–" if math.isnan(row["kl"]) else _with_error(max(row["kl"], 0), row["kl_stderr"])
        cost = f"{row['nfe']:.4g}" + (f" + {row['vjp']:.4g} vjp" if row["vjp"] else "")
        rows.append(
            [
                *cells,
                row["deviates"] or "nothing",
                _with_error(row["sw2"], row["sw2_stderr"]),
                _with_error(row["floor"], row["floor_stderr"]),
                kl,
                _with_error(row["mean_error"], row["mean_error_stderr"]),
                _with_error(row["covariance_error"], row["covariance_error_stderr"]),
                _with_error(row["coverage_90"], row["coverage_90_stderr"]),
                "–" if math.isnan(row["modes"]) else f"{row['modes']:.2f}",
                f"{row['sbc_p']:.2g}",
                cost,
            ]
        )
    return [head, *rows]


def _plain(value: Any) -> str:
    if isinstance(value, float) and math.isnan(value):
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _with_error(value: float, stderr: float) -> str:
    if not (math.isfinite(value) and math.isfinite(stderr)) or stderr == 0:
        return f"{value:.3g}"
    if value > 1e4:
        return f"{value:.1e} ± {stderr:.1e}"
    places = max(0, -math.floor(math.log10(stderr)))
    return f"{value:.{places}f} ± {stderr:.{places}f}"
