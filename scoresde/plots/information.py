"""Curves of information over noise levels."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from scoresde.arguments import checked
from scoresde.plots.arrays import Array, as_numbers
from scoresde.plots.style import CHART, MUTED, add_legend, finish_axes, line_style, new_figure

__all__ = ["information_by_level"]


@checked
def information_by_level(
    edges: Array, series: Mapping[str, tuple[Array, Array]], ylabel: str = "nats per unit of log SNR"
) -> Figure:
    """Information per unit of λ = log(α/σ) in bands of noise levels, each with a band of two standard errors.

    The area below a curve is what it amounts to in all.

    Args:
        edges: Edges of the bands of λ, `(b + 1,)`, increasing.
        series: Means `(b,)` and their standard errors `(b,)`, which may be NaN, by name.
        ylabel: The quantity and its units.

    Raises:
        ValueError: No series, shapes that do not fit, edges that do not increase, or means that are not finite.
    """
    x = as_numbers(edges, "edges", 1)
    if len(x) < 2 or not bool((np.diff(x) > 0).all()):
        raise ValueError("edges must increase, and be at least two")
    if not series:
        raise ValueError("series is empty; give at least one name with its means and standard errors")
    figure = new_figure(*CHART)
    ax = figure.subplots()
    ax.axhline(0, color=MUTED, linewidth=0.8)
    noise = -x[::-1]  # log(σ/α), so that data are on the left
    for i, (name, (mean, stderr)) in enumerate(series.items()):
        y = as_numbers(mean, f"series {name!r}", 1)[::-1]
        error = as_numbers(stderr, f"standard errors of {name!r}", 1, allow_nan=True)[::-1]
        if y.shape != (len(x) - 1,) or error.shape != y.shape:
            raise ValueError(
                f"series {name!r} must have shape ({len(x) - 1},), one value for each band, got {y.shape} with errors "
                f"of {error.shape}"
            )
        style = line_style(i)
        ax.stairs(y, noise, color=style["color"], linewidth=1.4, label=name, baseline=None)
        width = 2 * np.nan_to_num(error)
        ax.fill_between(
            noise,
            np.append(y - width, (y - width)[-1]),
            np.append(y + width, (y + width)[-1]),
            step="post",
            color=style["color"],
            alpha=0.2,
            linewidth=0,
        )
    if len(series) > 1:
        add_legend(ax)
    ax.margins(x=0.01)
    finish_axes(ax, "noise level, log (σ/α)", ylabel, grid=True)
    return figure
