"""Figures of processes, training and likelihoods."""

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.tri import Triangulation, UniformTriRefiner

from scoresde.arguments import checked
from scoresde.plots.mosaic import Mosaic
from scoresde.plots.style import (
    BLUE,
    CHART,
    CYCLE,
    INK,
    MUTED,
    SMALL,
    TEXT,
    WIDTH,
    Array,
    add_legend,
    as_numbers,
    as_points,
    as_states,
    finish_axes,
    fitted_range,
    line_style,
    log_if_wide,
    marker_style,
    new_figure,
    plane_axes,
    running_mean,
    short_number,
    text_width,
    window_of,
)

__all__ = [
    "forward_process",
    "learning_curves",
    "likelihood_histogram",
    "loss_by_noise_level",
    "trajectory",
    "vector_field",
]


@checked
def forward_process(rows: Array, times: Array, symbol: str = "t") -> Figure:
    """Data turning into noise: a row of images, or a panel of points, for each time.

    Images are shown over the data's range [0, 1]. Where noise exceeds it, that time's range is widened
    symmetrically about 1/2 to hold 98 % of the values, and a line below the picture says so. Panels of points
    share their limits, unless that would shrink one to less than a sixth of its panel.

    Args:
        rows: `(T, N, C, H, W)` images in units where the data lie in [0, 1], or `(T, N, 2)` points.
        times: `(T,)`.
        symbol: What `times` are, such as "t" or "σ".

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

    Arrows keep their direction; their length grows with the square root of the vector's, since scores far
    from the data are orders of magnitude longer than those near it. Two arrows above give the scale.

    Args:
        points: `(M, 2)`, where the arrows start; a grid reads best.
        vectors: `(M, 2)`.
        samples: `(N, 2)` points to scatter below the arrows.
        density: `(M,)`, a density at `points` up to a factor, drawn as filled contours; needs points that are
            not all on one line.
        title: Written above.

    Raises:
        ValueError: A wrong shape, values that are not finite, or a density that is negative, nowhere
            positive, or at points without a triangulation.
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

    Images: a row for each sample, a column for each time, with the range of `forward_process`. Points: a
    line for each sample with both its ends.

    Args:
        states: `(T, N, C, H, W)` images in units where the data lie in [0, 1], or `(T, N, 2)` points; the
            first state is noise and the last is data, as `Samples.trajectory` has them.
        times: `(T,)`.
        columns: The most columns of images; states evenly spaced in their index, with both ends.
        symbol: What `times` are, such as "t" or "σ".

    Raises:
        ValueError: A wrong shape, values that are not finite, not one time for each state, or fewer than 2
            states or columns.
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


@checked
def loss_by_noise_level(
    centres: Array,
    mean: Array,
    stderr: Array | None = None,
    held_out: Array | None = None,
    axis: Literal["log_sigma", "log_snr"] = "log_sigma",
    ylabel: str = "loss",
) -> Figure:
    """The mean loss in bins of the noise level; logarithmic where it spans more than a factor of 30.

    Args:
        centres: `(K,)`, the bins' middles, natural logarithms.
        mean: `(K,)`, the training loss.
        stderr: `(K,)`, standard errors of `mean`, drawn as bars.
        held_out: `(K,)`, the same loss on held-out data.
        axis: What `centres` are: log(σ/α), which is log σ where α = 1, or log(α/σ).
        ylabel: The loss and its units.

    Raises:
        ValueError: Shapes that differ, values that are not finite, negative standard errors, or another axis.
    """
    labels = {"log_sigma": "noise level, log (σ/α)", "log_snr": "log signal-to-noise ratio, log (α/σ)"}
    if axis not in labels:
        raise ValueError(f"axis must be log_sigma or log_snr, got {axis!r}")
    x = as_numbers(centres, "centres", 1)
    given = {"mean": mean, "stderr": stderr, "held_out": held_out}
    values = {name: as_numbers(v, name, 1) for name, v in given.items() if v is not None}
    for name, v in values.items():
        if v.shape != x.shape:
            raise ValueError(f"{name} must have shape {x.shape} like centres, got {v.shape}")
    errors = values.get("stderr")
    if errors is not None and errors.min() < 0:
        raise ValueError(f"stderr must not be negative, got {errors.min():.4g}")
    order = np.argsort(x)
    figure = new_figure(*CHART)
    ax = figure.subplots()
    training = ax.errorbar(
        x[order],
        values["mean"][order],
        yerr=None if errors is None else errors[order],
        **line_style(0),
        marker="o",
        markersize=3.5,
        elinewidth=1.0,
        label="training" if errors is None else "training, ± standard error",
    )
    handles: list[Any] = [training]
    if "held_out" in values:
        dashed: dict[str, Any] = {
            "linestyle": (0, (4, 2)),
            "marker": "s",
            "markersize": 3.2,
            "markerfacecolor": "white",
        }
        handles += ax.plot(x[order], values["held_out"][order], **line_style(1), **dashed, label="held out")
    if errors is not None or "held_out" in values:
        add_legend(ax, handles=handles)
    log_if_wide(ax, np.concatenate([v for name, v in values.items() if name != "stderr"]))
    finish_axes(ax, labels[axis], ylabel, grid=True)
    return figure


@checked
def learning_curves(steps: Array, series: Mapping[str, Array], ylabel: str = "loss") -> Figure:
    """Values against the training step; with more than 200 of them also a running mean, and the values pale.

    The axis is logarithmic where the values span more than a factor of 30.

    Args:
        steps: `(S,)`.
        series: Name to `(S,)`; NaN where it was not measured.
        ylabel: What the values are, with their units.

    Raises:
        ValueError: No series, shapes that differ, infinite values, or a series that is NaN throughout.
    """
    s = as_numbers(steps, "steps", 1)
    if not series:
        raise ValueError("series is empty; give at least one name and its values")
    order = np.argsort(s, kind="stable")
    figure = new_figure(*CHART)
    ax = figure.subplots()
    drawn = []
    for i, (name, given) in enumerate(series.items()):
        y = as_numbers(given, f"series {name!r}", 1, allow_nan=True)
        if y.shape != s.shape:
            raise ValueError(f"series {name!r} must have shape {s.shape} like steps, got {y.shape}")
        known = order[~np.isnan(y[order])]
        if len(known) == 0:
            raise ValueError(f"series {name!r} has no value that is not NaN")
        x, y = s[known], y[known]
        window = len(y) // 50
        if len(y) > 200:
            ax.plot(x, y, color=CYCLE[i % len(CYCLE)], linewidth=0.6, alpha=0.3, rasterized=True)
            smooth = running_mean(y, window)
            ax.plot(x, smooth, **line_style(i), label=f"{name}, mean of {2 * window + 1} values")
        else:
            marker: dict[str, Any] = {"marker": "o", "markersize": 3} if len(y) <= 30 else {}
            ax.plot(x, y, **line_style(i), **marker, label=name)
        drawn.append(y)
    log_if_wide(ax, np.concatenate(drawn))
    add_legend(ax)
    ax.xaxis.set_major_locator(MaxNLocator(7, integer=True))
    ax.xaxis.set_major_formatter(lambda v, _: f"{v:,.0f}".replace(",", "\u202f"))
    ax.margins(x=0.01)
    finish_axes(ax, "training step", ylabel, grid=True)
    return figure


@checked
def likelihood_histogram(train: Array, held_out: Array, unit: str = "bits/dim") -> Figure:
    """Likelihoods of training and held-out samples, with their means.

    Each histogram sums to 1, on common bins: a gap between the two is what the model remembers.

    Args:
        train: `(N,)`, negative log-likelihoods in bits/dim, or log-likelihoods in any other unit.
        held_out: `(M,)`.
        unit: Of both.

    Raises:
        ValueError: A wrong shape, no values, or values that are not finite.
    """
    values = {"training": as_numbers(train, "train", 1), "held out": as_numbers(held_out, "held_out", 1)}
    pooled = np.concatenate(list(values.values()))
    quartiles = np.quantile(pooled, (0.25, 0.75))
    width = 2 * float(quartiles[1] - quartiles[0]) / len(pooled) ** (1 / 3)  # Freedman and Diaconis 1981
    bins = min(max(float(np.ptp(pooled)) / width, 10), 60) if width > 0 else 10
    edges = np.histogram_bin_edges(pooled, int(bins)).tolist()
    figure = new_figure(*CHART)
    ax = figure.subplots()
    for i, (name, v) in enumerate(values.items()):
        mean = float(v.mean())
        style: dict[str, Any] = {"color": CYCLE[i], "weights": np.full(len(v), 1 / len(v))}
        ax.hist(v, edges, histtype="stepfilled", alpha=0.18, **style)
        ax.hist(v, edges, histtype="step", linewidth=1.2, **style)
        dashes = "solid" if i == 0 else (0, (4, 2))
        label = f"{name}: mean {mean:.4g}, n = {len(v)}"
        ax.axvline(mean, color=CYCLE[i], linewidth=1.6, linestyle=dashes, label=label)
    ax.set_ylim(0, ax.get_ylim()[1])
    add_legend(ax, outside=True)
    quantity = "negative log-likelihood" if unit == "bits/dim" else "log-likelihood"
    finish_axes(ax, f"{quantity} ({unit})", "share of samples per bin", grid=True)
    return figure
