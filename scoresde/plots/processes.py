"""Figures of the process: data turning into noise, noise into samples, and the field that turns it."""

import math
from typing import Any

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.tri import Triangulation, UniformTriRefiner

from scoresde.arguments import checked
from scoresde.plots.arrays import (
    Array,
    as_numbers,
    as_points,
    as_states,
    fitted_range,
    short_number,
    window_of,
)
from scoresde.plots.mosaic import Mosaic
from scoresde.plots.style import (
    BLUE,
    INK,
    MUTED,
    SMALL,
    TEXT,
    WIDTH,
    add_legend,
    finish_axes,
    marker_style,
    new_figure,
    plane_axes,
    text_width,
)

__all__ = ["forward_process", "trajectory", "vector_field"]


@checked
def forward_process(rows: Array, times: Array, symbol: str = "t") -> Figure:
    """Data turning into noise: a row of images, or a panel of points, for each time.

    Images are shown over the data's range [0, 1]. If noise exceeds it, the range of that time is widened symmetrically
    about 1/2 to hold 98 % of the values, and a line below the figure says so. Panels of points share their limits,
    unless one would then fill less than a sixth of its panel.

    Args:
        rows: Images `(T, N, C, H, W)` in units in which the data lie in [0, 1], or points `(T, N, 2)`.
        times: The times, `(T,)`.
        symbol: The symbol of `times`, such as "t" or "σ".

    Raises:
        ValueError: A wrong shape, values that are not finite, or not one time for each row.
    """
    x, t = as_states(rows, times, "rows")
    labels = [f"{symbol} = {short_number(v)}" for v in t]
    if x.ndim == 5:
        shown, widened = fitted_range(x)
        mosaic = Mosaic(shown, left=max(map(text_width, labels)) + 4, foot=widened)
        for i, label in enumerate(labels):
            mosaic.before(i, label)
        return mosaic.figure
    count = math.ceil(len(x) / 5)
    columns = math.ceil(len(x) / count)
    side = WIDTH / max(columns, 3)
    figure = new_figure(side * columns + 0.3, (side + 0.35) * count + 0.2)
    windows = [window_of(frame) for frame in x]
    common = window_of(x.reshape(-1, 2))
    separate = min(half[0] for _, half in windows) < common[1][0] / 6
    axes = figure.subplots(count, columns, squeeze=False)
    size, alpha = marker_style(x.shape[1])
    for i, ax in enumerate(axes.flat):
        if i >= len(x):
            ax.remove()
            continue
        ax.scatter(x[i][:, 0], x[i][:, 1], s=size, alpha=alpha, color=BLUE, linewidths=0, rasterized=True)
        plane_axes(ax, windows[i] if separate else common, labels[i], ticks=3)
        finish_axes(ax, "x₁", "" if i % columns else "x₂")
        if i % columns and not separate:
            ax.tick_params(labelleft=False)
    return figure


@checked
def vector_field(
    points: Array,
    vectors: Array,
    samples: Array | None = None,
    density: Array | None = None,
    title: str = "",
) -> Figure:
    """A score field in the plane as arrows, over the data and the density.

    The length of an arrow grows with the square root of the vector's length, since scores far from the data are orders
    of magnitude longer than those near it. Two arrows above the axes give the scale.

    Args:
        points: The points where the arrows start, `(M, 2)`, preferably on a grid.
        vectors: The vectors at the points, `(M, 2)`.
        samples: Points `(N, 2)` to scatter below the arrows.
        density: A density at `points` up to a factor, `(M,)`, drawn as filled contours; the points must not all lie on
            one line.
        title: The title.

    Raises:
        ValueError: A wrong shape, values that are not finite, or a density that is negative, nowhere positive, or at
            points without a triangulation.
    """
    p = as_points(points, "points")
    v = as_points(vectors, "vectors")
    if p.shape != v.shape:
        raise ValueError(f"points and vectors must have one shape, got {p.shape} and {v.shape}")
    figure = new_figure(5.0, 5.2)
    ax = figure.subplots()
    if density is not None:
        height = as_numbers(density, "density", 1)
        if len(height) != len(p):
            raise ValueError(f"density must have one value for each of the {len(p)} points, got {len(height)}")
        if height.min() < 0 or height.max() <= 0:
            raise ValueError("density must not be negative and not be 0 everywhere; give the density, not its log")
        try:
            mesh, height = UniformTriRefiner(Triangulation(*p.T)).refine_field(height, subdiv=3)
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"no contours of a density at these {len(p)} points: {error}") from error
        levels = np.linspace(0.05, 1, 8) * height.max()
        shades = [1 - a * (1 - np.array(to_rgb(BLUE))) for a in np.linspace(0.06, 0.4, len(levels) - 1)]
        ax.tricontourf(mesh, height, levels=levels, colors=shades)
    if samples is not None:
        s = as_points(samples, "samples")
        size, alpha = marker_style(len(s))
        ax.scatter(s[:, 0], s[:, 1], s=size, alpha=0.7 * alpha, color=BLUE, linewidths=0, rasterized=True)
    length = np.linalg.norm(v, axis=1)
    low, high = p.min(axis=0), p.max(axis=0)
    spacing = float(max(high - low)) / max(math.sqrt(len(p)) - 1, 1) or 1.0
    reference = float(np.quantile(length, 0.95)) or 1.0
    compress = 1.1 * spacing / math.sqrt(reference)
    shown = v * (compress / np.sqrt(np.maximum(length, 1e-300)))[:, None]
    style: dict[str, Any] = {
        "angles": "xy",
        "scale_units": "xy",
        "scale": 1,
        "width": 0.0032,
        "headwidth": 3.6,
    }
    arrows = ax.quiver(*p.T, *shown.T, color=INK, headlength=4.2, headaxislength=3.8, pivot="tail", **style)
    margin = 1.2 * spacing
    ax.set_xlim(low[0] - margin, high[0] + margin)
    ax.set_ylim(low[1] - margin, high[1] + margin)
    ax.set_aspect("equal")
    long = 10.0 ** math.floor(math.log10(reference))
    for x_key, value in ((0.60, long / 10), (0.84, long)):
        u = compress * math.sqrt(value)
        text = {"labelcolor": MUTED, "fontproperties": {"size": SMALL}}
        ax.quiverkey(arrows, x_key, 1.025, u, f"|v| = {value:g}", labelpos="E", labelsep=0.06, **text)
    ax.text(0, 1.025, "arrow length ∝ √|v|", transform=ax.transAxes, va="center", fontsize=SMALL, color=MUTED)
    finish_axes(ax, "x₁", "x₂", title, pad=18)
    return figure


@checked
def trajectory(states: Array, times: Array, columns: int = 10, symbol: str = "t") -> Figure:
    """Samples on their way from noise to data.

    Images have a row for each sample and a column for each time, with the range of `forward_process`. Points have a
    line for each sample and a marker at both of its ends.

    Args:
        states: Images `(T, N, C, H, W)` in units in which the data lie in [0, 1], or points `(T, N, 2)`; the first
            state is noise and the last is data, as in `Samples.trajectory`.
        times: The times, `(T,)`.
        columns: The largest number of columns of images; the states are evenly spaced in their index, both ends
            included.
        symbol: The symbol of `times`, such as "t" or "σ".

    Raises:
        ValueError: A wrong shape, values that are not finite, not one time for each state, or fewer than 2 states or
            columns.
    """
    x, t = as_states(states, times, "states")
    if len(x) < 2 or columns < 2:
        raise ValueError(f"a trajectory needs at least 2 states and 2 columns, got {len(x)} and {columns}")
    if x.ndim == 5:
        keep = np.linspace(0, len(x) - 1, min(columns, len(x))).round().astype(int)
        shown, widened = fitted_range(x[keep])
        mosaic = Mosaic(shown.swapaxes(0, 1), head=TEXT * 1.6, foot=widened)
        labels = [
            f"{symbol} = {short_number(value, 2)}" if i == 0 else short_number(value, 2)
            for i, value in enumerate(t[keep])
        ]
        size = mosaic.size_of(labels)
        for i, label in enumerate(labels):
            mosaic.over(0, i, label, size)
        return mosaic.figure
    figure = new_figure(5.0, 5.2)
    ax = figure.subplots()
    n = x.shape[1]
    alpha = float(np.clip(6 / math.sqrt(n), 0.1, 0.8))
    ax.add_collection(LineCollection(list(x.swapaxes(0, 1)), colors=MUTED, linewidths=0.6, alpha=alpha))
    size = 1.4 * marker_style(n)[0]
    ends = ((x[0], "white", MUTED, t[0], "start"), (x[-1], BLUE, BLUE, t[-1], "end"))
    for place, fill, edge, value, name in ends:
        label = f"{name}, {symbol} = {short_number(value)}"
        ax.scatter(
            place[:, 0],
            place[:, 1],
            s=size,
            facecolor=fill,
            edgecolor=edge,
            linewidths=0.6,
            zorder=3,
            label=label,
        )
    plane_axes(ax, window_of(x.reshape(-1, 2), coverage=1.0))
    finish_axes(ax, "x₁", "x₂")
    add_legend(ax, outside=True)
    return figure
