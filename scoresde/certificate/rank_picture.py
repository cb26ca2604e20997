"""Pictures of the ranks of truths among posterior samples, with the band of uniform ranks."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scoresde.arguments import checked
from scoresde.certificate.posterior_frame import EXACT, RANKS
from scoresde.certificate.ranks import BINS, expected_counts
from scoresde.plots.style import BLUE, FAINT, MUTED, SMALL, VERMILION, finish_axes, new_figure

__all__ = ["rank_pictures"]

_TITLES = dict(zip(RANKS, ("widest axis", "narrowest axis", "density", "distance"), strict=True))
_PROBLEMS = 4  # as many as the picture of distances has


@checked
def rank_pictures(frame: pd.DataFrame) -> dict[str, Figure]:
    """Histograms of ranks for up to four problems, each by its name and noise: a row for each method.

    The columns are the ranks along the widest and the narrowest principal axis of the posterior, in density, and in the
    distance to a point. Of a method the row with the most steps is shown. The band holds all bars of exact samples in
    99 of 100 histograms; bars outside of it have another colour.

    Args:
        frame: A frame with `POSTERIOR_COLUMNS`.

    Returns:
        Figures by the problem's name, with the noise where it is given.
    """
    good = frame[(frame["failure"] == "") & (frame["ranks_distance"] != "")]
    found = {}
    for (problem, noise), here in list(good.groupby(["problem", "noise"], sort=False, dropna=False))[:_PROBLEMS]:
        name = str(problem) if pd.isna(noise) else f"{problem}, noise {noise:g}"
        best = here.sort_values("steps", kind="stable").groupby(["method", "sampler"], sort=False).tail(1)
        order = [row for _, row in best.loc[[i for i in here.index if i in best.index]].iterrows()]
        found[name] = _picture(name, sorted(order, key=lambda row: row["method"] != EXACT))
    return found


def _picture(name: str, rows: list[pd.Series]) -> Figure:
    columns = [column for column in RANKS if any(row[column] for row in rows)]
    figure = new_figure(1.5 + 1.5 * len(columns), 0.9 + 0.72 * len(rows))
    figure.suptitle(name, fontsize=SMALL, x=0.01, ha="left", parse_math=False)
    axes = figure.subplots(len(rows), len(columns), squeeze=False, sharex=True)
    for line, row in zip(axes, rows, strict=True):
        for ax, column in zip(line, columns, strict=True):
            _histogram(ax, [int(count) for count in row[column].split()])
        label = str(row["method"]) + (f"\n{row['sampler']}" if row["sampler"] else "")
        line[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=SMALL, parse_math=False)
    for ax, column in zip(axes[0], columns, strict=True):
        ax.set_title(_TITLES[column], fontsize=SMALL)
    for ax in axes[-1]:
        ax.set_xlabel("rank of the truth", fontsize=SMALL)
    return figure


def _histogram(ax: Axes, counts: list[int]) -> None:
    ax.set_xticks([])
    ax.set_yticks([])
    finish_axes(ax, "", "")
    if not counts:
        return
    low, high = expected_counts(sum(counts))
    ax.axhspan(low, high, color=FAINT, zorder=0)
    ax.axhline(sum(counts) / BINS, color=MUTED, linewidth=0.8, linestyle=":", zorder=1)
    colours = [BLUE if low <= count <= high else VERMILION for count in counts]
    ax.bar(range(len(counts)), counts, width=0.92, color=colours, zorder=2)
    ax.set_ylim(0, 1.08 * max(high, *counts))
