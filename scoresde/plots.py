"""Every picture that the package draws: arrays in, a matplotlib `Figure` out.

Figures are made without pyplot, so no backend is chosen and none has to be closed; a notebook shows them by
themselves. Colours are from the palette of Okabe and Ito (2008), which colour-blind readers can tell apart;
colours and sizes are set on the artists and do not depend on the reader's matplotlib settings.
"""

import io
import math
import os
from collections.abc import Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.tri import Triangulation, UniformTriRefiner
from torch import Tensor

from scoresde.arguments import checked

__all__ = [
    "forward_process",
    "image_grid",
    "learning_curves",
    "likelihood_histogram",
    "loss_by_noise_level",
    "samples",
    "samples_2d",
    "save",
    "to_png",
    "trajectory",
    "vector_field",
]

Array: TypeAlias = Tensor | np.ndarray | Sequence[Any]

DPI = 200
WIDTH = 6.0  # inches, the widest a picture becomes unless its images have more pixels
CHART = (5.6, 3.1)
INK, MUTED, FAINT = "#222222", "#6b6b6b", "#d9d9d9"
BLUE, VERMILION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#AA4499"
CYCLE = (BLUE, VERMILION, GREEN, PURPLE, MUTED)
TEXT, SMALL = 9.0, 8.0


@checked
def image_grid(
    images: Array, columns: int | None = None, titles: Sequence[str] | None = None, levels: int | None = None
) -> Figure:
    """Images side by side, each pixel a sharp square.

    The samples of a model of pixels are in model space: `Samples.plot()` draws them, and
    `image_grid(model.decode(out.x), levels=256)` does the same by hand.

    Args:
        images: `(N, C, H, W)` in [0, 1], or integers 0 .. levels-1; C is 1 (grey) or 3 (RGB).
        columns: Images in a row; about √N if None.
        titles: One for each image, written above it.
        levels: How many values a pixel may have, 256 for bytes; for integers.

    Raises:
        ValueError: A wrong shape, values not finite or not in [0, 1], integers without their number of levels, or not
            one title for each image.
    """
    x = _images(images, "images", 4)
    if levels is not None:
        if isinstance(levels, bool) or not isinstance(levels, Integral) or levels < 2:
            raise ValueError(f"levels is {levels!r}, expected an integer of at least 2, such as 256 for bytes")
        x = x / (levels - 1)
    if x.min() < -1e-4 or x.max() > 1 + 1e-4:  # round-off of a decoder passes
        raise ValueError(
            f"images must lie in [0, 1], got {x.min():.4g} to {x.max():.4g}: draw samples by their own plot(), as in "
            "out.plot(), and integers by image_grid(model.decode(out.x), levels=256)"
            if levels is None
            else f"images of {levels} levels must be integers 0 to {levels - 1}, got {x.min() * (levels - 1):.4g} to "
            f"{x.max() * (levels - 1):.4g}"
        )
    columns = min(math.ceil(math.sqrt(len(x))), 16) if columns is None else min(columns, len(x))
    if columns < 1:
        raise ValueError(f"columns must be at least 1, got {columns}")
    if titles is not None and len(titles) != len(x):
        raise ValueError(f"titles must have one entry for each of the {len(x)} images, got {len(titles)}")
    rows = math.ceil(len(x) / columns)
    padded = np.full((rows * columns, *x.shape[1:]), np.nan)
    padded[: len(x)] = x
    texts = [str(title) for title in titles or ()]
    mosaic = _Mosaic(
        padded.reshape(rows, columns, *x.shape[1:]),
        head=TEXT * 1.6 if texts else 0.0,
        every=True,
        widest=max(map(_text_width, texts), default=0.0),
    )
    for i, text in enumerate(texts):
        mosaic.over(i // columns, i % columns, text)
    return mosaic.figure


@checked
def samples(
    samples: Array,
    data: Array | None = None,
    *,
    levels: int | None = None,
    titles: Sequence[str] | None = None,
    n: int = 100,
) -> Figure:
    """Samples of any shape, drawn as it allows; what `Samples.plot` calls.

    - `(N, C, H, W)`: images side by side, as many of the data to the right of them. With 1 or 3 channels they are grey
      or RGB, else every sample is a row with an image for each channel. Values that are neither integers of `levels`
      nor in [0, 1] are shown over their own range, the same for all images of a channel, but for 1 % at both ends.
    - `(N, 1)`, `(N, 3)`, `(N, 4)`: a histogram of each value, with scatter plots of every two.
    - `(N, 2)`: points in the plane, as `samples_2d`.
    - `(N, D)` and `(N, C, L)`: curves against the index, a panel for each of at most 8 channels, with the median and
      the band that holds 90 % of the samples.

    Args:
        samples: Of one of these shapes.
        data: `(M, ...)` of the same shape, to compare with.
        levels: How many integers a value may be, for images; None for values that are none.
        titles: One for each of the first samples, written above images.
        n: The most images or curves; histograms, scatter plots and bands are of all samples.

    Raises:
        ValueError: Another shape, values that are not finite, or n below 1.
    """
    shape = tuple(getattr(samples, "shape", None) or np.shape(samples))
    if isinstance(n, bool) or not isinstance(n, Integral) or n < 1:
        raise ValueError(f"n is {n!r}, expected an integer of at least 1")
    if len(shape) not in (2, 3, 4):
        raise ValueError(f"samples have shape {shape}, expected (N, D), (N, C, L) or (N, C, H, W)")
    x = _numbers(samples, "samples", len(shape))
    y = None if data is None else _numbers(data, "data", len(shape))
    if y is not None and y.shape[1:] != x.shape[1:]:
        raise ValueError(f"data has shape {y.shape}, expected {('M', *x.shape[1:])} as the samples have")
    if x.ndim == 4:
        return _image_samples(x[:n], None if y is None else y[: min(n, len(x))], levels, titles)
    if x.ndim == 2 and x.shape[1] == 2:
        return samples_2d(x, y)
    if x.ndim == 2 and x.shape[1] <= 4:
        return _marginals(x, y)
    return _curves(x, y, n)


def _image_samples(x: np.ndarray, y: np.ndarray | None, levels: int | None, titles: Sequence[str] | None) -> Figure:
    both = x if y is None else np.concatenate((x, y))
    low, high = np.zeros((1, x.shape[1], 1, 1)), np.ones((1, x.shape[1], 1, 1))
    if levels is not None:
        high = high * (levels - 1)
    elif both.min() < 0 or both.max() > 1:
        low, high = np.quantile(both, (0.01, 0.99), axis=(0, 2, 3), keepdims=True)
        high = np.where(high > low, high, low + 1)
    x, y = ((x - low) / (high - low)).clip(0, 1), None if y is None else ((y - low) / (high - low)).clip(0, 1)
    if x.shape[1] not in (1, 3):
        channels = x.shape[1]
        names = [f"channel {k}" for k in range(channels)]
        return _blocks([_rows_of_channels(v) for v in (x, y) if v is not None], channels, names)
    if y is None:
        return image_grid(x, titles=None if titles is None else list(titles)[: len(x)])
    columns = min(math.ceil(math.sqrt(max(len(x), len(y)))), 8)
    return _blocks([x, y], columns)


def _rows_of_channels(x: np.ndarray) -> np.ndarray:
    """Every channel `(N C, 1, H, W)` an image of its own."""
    return x.reshape(-1, 1, *x.shape[2:])


def _blocks(parts: list[np.ndarray], columns: int, names: Sequence[str] = ()) -> Figure:
    """Blocks of images `(N, C, H, W)` beside each other, samples and then data, each of so many columns."""
    rows = max(math.ceil(len(x) / columns) for x in parts)
    cells = np.full((rows, len(parts) * (columns + 1) - 1, *parts[0].shape[1:]), np.nan)
    heads: list[tuple[int, str]] = []
    for k, (part, name) in enumerate(zip(parts, ("samples", "data"), strict=False)):
        first = k * (columns + 1)
        for i, image in enumerate(part):
            cells[i // columns, first + i % columns] = image
        heads += [(first + i, text) for i, text in enumerate(names)] if names else [(first, name)]
    widest = max(map(_text_width, names)) if names else 0.0
    mosaic = _Mosaic(cells, head=TEXT * 1.6, widest=widest)
    for column, text in heads:
        if names:
            mosaic.over(0, column, text)
        else:
            mosaic.above(column, text)
    return mosaic.figure


def _marginals(x: np.ndarray, y: np.ndarray | None) -> Figure:
    """Histograms on the diagonal and scatter plots below it, of `(N, D)` for a small D."""
    d = x.shape[1]
    given = [("data", y, MUTED), ("samples", x, BLUE)]
    sets = [(name, v, colour) for name, v, colour in given if v is not None]
    figure = _figure(*CHART) if d == 1 else _figure(WIDTH, WIDTH)
    panels = figure.subplots(d, d, squeeze=False)
    pooled = np.concatenate([v for _, v, _ in sets])
    centre, half = _window(pooled, coverage=0.998, flattest=0.0)
    half = np.where(half > 0, half, 1.0)
    for i, row in enumerate(panels):
        for j, ax in enumerate(row):
            if j > i:
                ax.remove()
                continue
            ax.set_xlim(centre[j] - half[j], centre[j] + half[j])
            if i == j:
                edges = np.linspace(centre[i] - half[i], centre[i] + half[i], 41).tolist()
                for name, v, colour in sets:
                    style: dict[str, Any] = {"color": colour, "density": True}
                    ax.hist(v[:, i], edges, histtype="stepfilled", alpha=0.18, **style)
                    ax.hist(v[:, i], edges, histtype="step", linewidth=1.2, label=f"{name}, n = {len(v)}", **style)
            else:
                ax.set_ylim(centre[i] - half[i], centre[i] + half[i])
                for _, v, colour in sets:
                    size, alpha = _dots(len(v))
                    points: dict[str, Any] = {"s": size, "alpha": alpha, "color": colour, "linewidths": 0}
                    ax.scatter(v[:, j], v[:, i], rasterized=True, **points)
            left = "density" if i == j else f"x{_subscript(i)}"
            _finish(ax, f"x{_subscript(j)}" if i == d - 1 else "", left if j == 0 else "")
            for axis in (ax.xaxis, ax.yaxis):
                axis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    if d == 1:
        _legend(panels[0, 0], outside=True)
    else:  # in the corner that is empty
        figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="upper right", frameon=False, fontsize=SMALL)
    return figure


def _curves(x: np.ndarray, y: np.ndarray | None, n: int) -> Figure:
    """Samples `(N, D)` or `(N, C, L)` against the index of a value."""
    if x.ndim == 2:
        x, y = x[:, None], None if y is None else y[:, None]
    channels = min(x.shape[1], 8)
    index = np.arange(x.shape[2])
    figure = _figure(WIDTH, 1.2 + 1.6 * channels)
    panels = figure.subplots(channels, 1, squeeze=False, sharex=True)[:, 0]
    for k, ax in enumerate(panels):
        for name, v, colour in (("data", y, VERMILION), ("samples", x, BLUE)):
            if v is None:
                continue
            low, middle, high = np.quantile(v[:, k], (0.05, 0.5, 0.95), axis=0)
            ax.fill_between(index, low, high, color=colour, alpha=0.15, linewidth=0)
            dashes = "solid" if name == "samples" else (0, (4, 2))
            label = f"{name}: median and 90 %, n = {len(v)}"
            ax.plot(index, middle, color=colour, linewidth=1.5, linestyle=dashes, label=label)
        shown = min(n, len(x))
        alpha = float(np.clip(3 / shown, 0.08, 0.6))
        ax.plot(index, x[:n, k].T, color=INK, linewidth=0.5, alpha=alpha)
        name = "value" if x.shape[1] == 1 else f"channel {k}"
        _finish(ax, "index" if k == channels - 1 else "", name, grid=True)
        ax.margins(x=0.01)
    panels[-1].xaxis.set_major_locator(MaxNLocator(8, integer=True))
    _legend(panels[0], outside=True)
    return figure


def _subscript(i: int) -> str:
    """The index that is shown for value i, from 1."""
    return str(i + 1).translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))


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
    x, t = _states(rows, times, "rows")
    labels = [f"{symbol} = {_short(v)}" for v in t]
    if x.ndim == 5:
        shown, widened = _fit_range(x)
        mosaic = _Mosaic(shown, left=max(map(_text_width, labels)) + 4, foot=widened)
        for i, label in enumerate(labels):
            mosaic.before(i, label)
        return mosaic.figure
    count = math.ceil(len(x) / 5)
    columns = math.ceil(len(x) / count)
    side = WIDTH / max(columns, 3)
    figure = _figure(side * columns + 0.3, (side + 0.35) * count + 0.2)
    windows = [_window(frame) for frame in x]
    common = _window(x.reshape(-1, 2))
    separate = min(half[0] for _, half in windows) < common[1][0] / 6
    axes = figure.subplots(count, columns, squeeze=False)
    size, alpha = _dots(x.shape[1])
    for i, ax in enumerate(axes.flat):
        if i >= len(x):
            ax.remove()
            continue
        ax.scatter(x[i][:, 0], x[i][:, 1], s=size, alpha=alpha, color=BLUE, linewidths=0, rasterized=True)
        _plane(ax, windows[i] if separate else common, labels[i], ticks=3)
        _finish(ax, "x₁", "" if i % columns else "x₂")
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
    p = _points(points, "points")
    v = _points(vectors, "vectors")
    if p.shape != v.shape:
        raise ValueError(f"points and vectors must have one shape, got {p.shape} and {v.shape}")
    figure = _figure(5.0, 5.2)
    ax = figure.subplots()
    if density is not None:
        height = _numbers(density, "density", 1)
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
        s = _points(samples, "samples")
        size, alpha = _dots(len(s))
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
    _finish(ax, "x₁", "x₂", title, pad=18)
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
    x, t = _states(states, times, "states")
    if len(x) < 2 or columns < 2:
        raise ValueError(f"a trajectory needs at least 2 states and 2 columns, got {len(x)} and {columns}")
    if x.ndim == 5:
        keep = np.linspace(0, len(x) - 1, min(columns, len(x))).round().astype(int)
        shown, widened = _fit_range(x[keep])
        mosaic = _Mosaic(shown.swapaxes(0, 1), head=TEXT * 1.6, foot=widened)
        labels = [f"{symbol} = {_short(value, 2)}" if i == 0 else _short(value, 2) for i, value in enumerate(t[keep])]
        size = mosaic.size_of(labels)
        for i, label in enumerate(labels):
            mosaic.over(0, i, label, size)
        return mosaic.figure
    figure = _figure(5.0, 5.2)
    ax = figure.subplots()
    n = x.shape[1]
    alpha = float(np.clip(6 / math.sqrt(n), 0.1, 0.8))
    ax.add_collection(LineCollection(list(x.swapaxes(0, 1)), colors=MUTED, linewidths=0.6, alpha=alpha))
    size = 1.4 * _dots(n)[0]
    ends = ((x[0], "white", MUTED, t[0], "start"), (x[-1], BLUE, BLUE, t[-1], "end"))
    for place, fill, edge, value, name in ends:
        label = f"{name}, {symbol} = {_short(value)}"
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
    _plane(ax, _window(x.reshape(-1, 2), coverage=1.0))
    _finish(ax, "x₁", "x₂")
    _legend(ax, outside=True)
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
    x = _numbers(centres, "centres", 1)
    given = {"mean": mean, "stderr": stderr, "held_out": held_out}
    values = {name: _numbers(v, name, 1) for name, v in given.items() if v is not None}
    for name, v in values.items():
        if v.shape != x.shape:
            raise ValueError(f"{name} must have shape {x.shape} like centres, got {v.shape}")
    errors = values.get("stderr")
    if errors is not None and errors.min() < 0:
        raise ValueError(f"stderr must not be negative, got {errors.min():.4g}")
    order = np.argsort(x)
    figure = _figure(*CHART)
    ax = figure.subplots()
    training = ax.errorbar(
        x[order],
        values["mean"][order],
        yerr=None if errors is None else errors[order],
        **_line(0),
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
        handles += ax.plot(x[order], values["held_out"][order], **_line(1), **dashed, label="held out")
    if errors is not None or "held_out" in values:
        _legend(ax, handles=handles)
    _log_if_wide(ax, np.concatenate([v for name, v in values.items() if name != "stderr"]))
    _finish(ax, labels[axis], ylabel, grid=True)
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
    s = _numbers(steps, "steps", 1)
    if not series:
        raise ValueError("series is empty; give at least one name and its values")
    order = np.argsort(s, kind="stable")
    figure = _figure(*CHART)
    ax = figure.subplots()
    drawn = []
    for i, (name, given) in enumerate(series.items()):
        y = _numbers(given, f"series {name!r}", 1, allow_nan=True)
        if y.shape != s.shape:
            raise ValueError(f"series {name!r} must have shape {s.shape} like steps, got {y.shape}")
        known = order[~np.isnan(y[order])]
        if len(known) == 0:
            raise ValueError(f"series {name!r} has no value that is not NaN")
        x, y = s[known], y[known]
        window = len(y) // 50
        if len(y) > 200:
            ax.plot(x, y, color=CYCLE[i % len(CYCLE)], linewidth=0.6, alpha=0.3, rasterized=True)
            smooth = _running_mean(y, window)
            ax.plot(x, smooth, **_line(i), label=f"{name}, mean of {2 * window + 1} values")
        else:
            marker: dict[str, Any] = {"marker": "o", "markersize": 3} if len(y) <= 30 else {}
            ax.plot(x, y, **_line(i), **marker, label=name)
        drawn.append(y)
    _log_if_wide(ax, np.concatenate(drawn))
    _legend(ax)
    ax.xaxis.set_major_locator(MaxNLocator(7, integer=True))
    ax.xaxis.set_major_formatter(lambda v, _: f"{v:,.0f}".replace(",", "\u202f"))
    ax.margins(x=0.01)
    _finish(ax, "training step", ylabel, grid=True)
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
    values = {"training": _numbers(train, "train", 1), "held out": _numbers(held_out, "held_out", 1)}
    pooled = np.concatenate(list(values.values()))
    quartiles = np.quantile(pooled, (0.25, 0.75))
    width = 2 * float(quartiles[1] - quartiles[0]) / len(pooled) ** (1 / 3)  # Freedman and Diaconis 1981
    bins = min(max(float(np.ptp(pooled)) / width, 10), 60) if width > 0 else 10
    edges = np.histogram_bin_edges(pooled, int(bins)).tolist()
    figure = _figure(*CHART)
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
    _legend(ax, outside=True)
    quantity = "negative log-likelihood" if unit == "bits/dim" else "log-likelihood"
    _finish(ax, f"{quantity} ({unit})", "share of samples per bin", grid=True)
    return figure


@checked
def samples_2d(samples: Array, data: Array | None = None) -> Figure:
    """Data and samples in the plane side by side, on the same axes.

    Args:
        samples: `(N, 2)`.
        data: `(M, 2)`, or None for the samples alone.

    Raises:
        ValueError: A wrong shape or values that are not finite.
    """
    panels = [("samples", _points(samples, "samples"), BLUE)]
    if data is not None:
        panels.insert(0, ("data", _points(data, "data"), MUTED))
    window = _window(np.concatenate([x for _, x, _ in panels]), coverage=0.999, flattest=0.5)
    figure = _figure(0.5 * WIDTH * len(panels), 0.5 * WIDTH * window[1][1] / window[1][0] + 0.5)
    size, alpha = _dots(max(len(x) for _, x, _ in panels))
    all_axes = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)
    for place, (ax, (name, x, colour)) in enumerate(zip(all_axes.flat, panels, strict=True)):
        ax.scatter(x[:, 0], x[:, 1], s=size, alpha=alpha, color=colour, linewidths=0, rasterized=True)
        _plane(ax, window, f"{name}, n = {len(x)}")
        _finish(ax, "x₁", "" if place else "x₂")
    return figure


@checked
def to_png(figure: Figure, dpi: int = DPI) -> bytes:
    """The figure as PNG; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    # Equal axes leave space that the layout cannot know of; a mosaic has no layout and is exact already.
    crop = None if figure.get_layout_engine() is None else "tight"
    figure.savefig(buffer, format="png", dpi=dpi, bbox_inches=crop, pad_inches=0.05, metadata={"Software": None})
    return buffer.getvalue()


@checked
def save(figure: Figure, path: str | Path, dpi: int = DPI) -> Path:
    """Write a PNG, whole or not at all: under another name first, then renamed. Folders are made as needed.

    Raises:
        ValueError: A name that does not end in .png.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"pictures are saved as PNG; give a name that ends in .png, got {path.name}")
    content = to_png(figure, dpi)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        draft.unlink(missing_ok=True)  # of a process that was killed
        with draft.open("xb") as file:  # nothing that is there, and no link, is written to
            file.write(content)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return path


class ShownFigure(Figure):
    """A figure that a notebook shows whether or not a backend of matplotlib is active there."""

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        """The picture, sharp on any screen, and its size on the page: 100 CSS pixels to an inch."""
        dpi = DPI if self.get_layout_engine() is None else 150  # a mosaic's pixels are whole dots at DPI alone
        content = to_png(self, dpi)
        width, height = (int.from_bytes(content[k : k + 4], "big") for k in (16, 20))  # of the IHDR chunk
        return content, {"width": round(width * 100 / dpi), "height": round(height * 100 / dpi)}


class _Mosaic:
    """Rows of images in one axes, an image pixel a whole number of dots at `DPI`, so that none is blurred.

    Args:
        images: `(R, K, C, H, W)` in [0, 1], or NaN for a place left empty.
        left: Space for text before each row, in points.
        head: Space for text above the rows, in points.
        every: Whether that is above every row, or only the first.
        widest: The width of the longest text above an image, in points; a small image is enlarged to it.
        foot: Whether the range was widened, to be said below.
    """

    def __init__(
        self,
        images: np.ndarray,
        left: float = 0.0,
        head: float = 0.0,
        every: bool = False,
        widest: float = 0.0,
        foot: bool = False,
    ) -> None:
        rows, columns, _, height, width = images.shape
        dot = DPI / 72  # dots in a point
        self.left, self.head, self.every = round(left * dot), round(head * dot), every
        room = (WIDTH * DPI - self.left) / columns
        side = max(height, width)
        enough = max((0.4 + 0.02 * side) * DPI / side, widest * dot / width)
        scale = max(1, int(min(0.93 * room / width, enough)))
        scale -= scale % 2 if scale > 1 else 0  # even, so that half the resolution is sharp too
        self.cell = (height * scale, width * scale)
        self.gap = max(4, 2 * round(0.025 * side * scale))
        bottom = round(SMALL * 1.8 * dot) if foot else 0
        size = (
            rows * (self.cell[0] + self.gap) + (rows if every else 1) * self.head + self.gap + bottom,
            columns * (self.cell[1] + self.gap) + self.gap + self.left,
        )
        canvas = np.ones((*size, 3), dtype=np.float32)
        for r in range(rows):
            for k in range(columns):
                image = images[r, k]
                if np.isnan(image).any():
                    continue
                pixels = np.broadcast_to(image.clip(0, 1).transpose(1, 2, 0), (height, width, 3))
                y, x = self._corner(r, k)
                canvas[y : y + self.cell[0], x : x + self.cell[1]] = pixels.repeat(scale, 0).repeat(scale, 1)
        self.figure = ShownFigure(figsize=(size[1] / DPI, size[0] / DPI), facecolor="white")
        self.ax = self.figure.add_axes((0, 0, 1, 1))
        self.ax.set_axis_off()
        self.ax.imshow(canvas, interpolation="nearest", extent=(0, size[1], size[0], 0), aspect="auto")
        if foot:
            fits = SMALL * min(1.0, (size[1] - self.left - 2 * self.gap) / dot / (_text_width(_FOOT) * SMALL / TEXT))
            self._text(self.left + self.gap, size[0] - bottom / 2, _FOOT, fontsize=fits, color=MUTED, va="center")

    def _corner(self, row: int, column: int) -> tuple[int, int]:
        """Dots from the top and the left to an image."""
        y = self.gap + row * (self.cell[0] + self.gap) + (row + 1 if self.every else 1) * self.head
        return y, self.left + self.gap + column * (self.cell[1] + self.gap)

    def _text(self, x: float, y: float, text: str, **style: Any) -> None:
        given: dict[str, Any] = {"fontsize": TEXT, "color": INK, "parse_math": False} | style
        self.ax.text(x, y, text, **given)

    def size_of(self, labels: Sequence[str]) -> float:
        """The size at which none of the labels above neighbouring images runs into another, at most `TEXT`."""
        room = (self.cell[1] + self.gap) * 72 / DPI - TEXT / 2
        return TEXT * min(1.0, room / max(map(_text_width, labels)))

    def over(self, row: int, column: int, text: str, size: float = TEXT) -> None:
        """Text centred above an image."""
        y, x = self._corner(row, column)
        self._text(x + self.cell[1] / 2, y - 0.45 * self.head, text, ha="center", va="center", fontsize=size)

    def above(self, column: int, text: str) -> None:
        """Text above the first row that begins with the image of a column."""
        y, x = self._corner(0, column)
        self._text(x, y - 0.45 * self.head, text, ha="left", va="center")

    def before(self, row: int, text: str) -> None:
        """Text to the left of a row."""
        y, x = self._corner(row, 0)
        self._text(x - 2 * self.gap, y + self.cell[0] / 2, text, ha="right", va="center")


_FOOT = "range widened beyond the data's where noise exceeds it"


def _numbers(values: Array, name: str, ndim: int, allow_nan: bool = False) -> np.ndarray:
    """A finite float64 array of `ndim` dimensions with at least one value."""
    try:
        if isinstance(values, Tensor):
            values = values.detach().cpu().double().numpy()
        x = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} must be an array of numbers, got {type(values).__name__}") from error
    if x.ndim != ndim or x.size == 0:
        raise ValueError(f"{name} must have {ndim} dimensions and at least one value, got shape {x.shape}")
    if not (np.isfinite(x) | (np.isnan(x) & allow_nan)).all():
        raise ValueError(f"{name} has values that are not finite")
    return x


def _images(values: Array, name: str, ndim: int) -> np.ndarray:
    x = _numbers(values, name, ndim)
    if x.shape[-3] not in (1, 3):
        shape = "(N, C, H, W)" if ndim == 4 else "(T, N, C, H, W)"
        raise ValueError(f"{name} must be {shape} with C = 1 or 3, got shape {x.shape}")
    return x


def _points(values: Array, name: str) -> np.ndarray:
    x = _numbers(values, name, 2)
    if x.shape[1] != 2:
        raise ValueError(f"{name} must be points (N, 2), got shape {x.shape}")
    return x


def _states(values: Array, times: Array, name: str) -> tuple[np.ndarray, np.ndarray]:
    """`(T, N, C, H, W)` or `(T, N, 2)`, and times `(T,)`."""
    shape = tuple(getattr(values, "shape", ())) or np.shape(values)
    if len(shape) not in (3, 5):
        raise ValueError(f"{name} must be images (T, N, C, H, W) or points (T, N, 2), got shape {tuple(shape)}")
    x = _images(values, name, 5) if len(shape) == 5 else _numbers(values, name, 3)
    if x.ndim == 3 and x.shape[2] != 2:
        raise ValueError(f"{name} must be images (T, N, C, H, W) or points (T, N, 2), got shape {x.shape}")
    t = _numbers(times, "times", 1)
    if len(t) != len(x):
        raise ValueError(f"times must have one value for each of the {len(x)} {name}, got {len(t)}")
    return x, t


def _fit_range(x: np.ndarray) -> tuple[np.ndarray, bool]:
    """Images `(T, ...)` mapped to [0, 1] time by time, and whether any range was widened for it."""
    away = np.abs(x - 0.5).reshape(len(x), -1)
    half = np.maximum(np.quantile(away, 0.98, axis=1), 0.5)
    scaled = 0.5 + (x - 0.5) * (0.5 / half).reshape(-1, 1, 1, 1, 1)
    return scaled, bool((half > 0.5 * 1.02).any())


def _text_width(text: str) -> float:
    """Points that text takes at the size `TEXT`, about."""
    return 0.62 * TEXT * len(text)


def _short(value: float, digits: int = 3) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.{digits}g}"


def _window(x: np.ndarray, coverage: float = 0.995, flattest: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Centre and half sides, `(2,)` each, of a box that holds `coverage` of each coordinate of `(N, 2)`.

    The shorter side is at least `flattest` times the longer.
    """
    low, high = np.quantile(x, ((1 - coverage) / 2, (1 + coverage) / 2), axis=0)
    half = np.maximum((high - low) / 2, flattest * max(high - low) / 2)
    return (low + high) / 2, 1.08 * half if half.max() > 0 else np.ones(2)


def _dots(n: int) -> tuple[float, float]:
    """Marker area and opacity that keep n points apart."""
    return float(np.clip(4000 / n, 1.8, 10)), float(np.clip(30 / math.sqrt(n), 0.3, 0.9))


def _running_mean(y: np.ndarray, half: int) -> np.ndarray:
    """The mean of the 2 half + 1 values around each, or of those there are near the ends."""
    total = np.concatenate([[0.0], y.cumsum()])
    i = np.arange(len(y))
    first, last = np.maximum(i - half, 0), np.minimum(i + half, len(y) - 1)
    return (total[last + 1] - total[first]) / (last + 1 - first)


def _figure(width: float, height: float) -> Figure:
    return ShownFigure(figsize=(width, height), facecolor="white", layout="constrained")


def _line(i: int) -> dict[str, Any]:
    return {"color": CYCLE[i % len(CYCLE)], "linewidth": 1.5}


def _legend(ax: Axes, outside: bool = False, **place: Any) -> None:
    above = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": 2, "borderaxespad": 0.3}
    place |= above if outside else {"loc": "best"}
    legend = ax.legend(frameon=False, fontsize=SMALL, labelcolor=INK, handlelength=1.8, columnspacing=1.5, **place)
    for text in legend.get_texts():
        text.set_parse_math(False)  # names are names, whatever they contain


def _plane(ax: Axes, window: tuple[np.ndarray, np.ndarray], title: str = "", ticks: int = 4) -> None:
    """Equal axes over a box."""
    (left, bottom), (right, top) = window[0] - window[1], window[0] + window[1]
    ax.set_xlim(left, right)
    ax.set_ylim(bottom, top)
    ax.set_aspect("equal")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 5, 10]))
    if title:
        ax.set_title(title, fontsize=TEXT, color=INK)


def _log_if_wide(ax: Axes, values: np.ndarray) -> None:
    if values.min() > 0 and values.max() > 30 * values.min():
        ax.set_yscale("log")


def _finish(ax: Axes, xlabel: str, ylabel: str, title: str = "", grid: bool = False, pad: float | None = None) -> None:
    """Labels, thin frame, quiet ticks."""
    ax.set_facecolor("white")
    ax.set_xlabel(xlabel, fontsize=TEXT, color=INK)
    ax.set_ylabel(ylabel, fontsize=TEXT, color=INK)
    if title:
        ax.set_title(title, fontsize=TEXT + 1, color=INK, loc="left", pad=pad)
    ax.tick_params(which="both", labelsize=SMALL, color=FAINT, labelcolor=MUTED, width=0.8)
    for side, spine in ax.spines.items():
        spine.set_color(FAINT)
        spine.set_linewidth(0.8)
        spine.set_visible(not grid or side in ("left", "bottom"))
    if grid:
        ax.grid(True, axis="y", color=FAINT, linewidth=0.6)
        ax.set_axisbelow(True)
    else:
        ax.grid(False)
