"""Figures of samples, alone or beside data."""

import math
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from scoresde.arguments import checked
from scoresde.plots.arrays import Array, as_numbers, as_points, window_of
from scoresde.plots.mosaic import image_blocks, image_grid, rows_of_channels
from scoresde.plots.style import (
    BLUE,
    CHART,
    INK,
    MUTED,
    SMALL,
    VERMILION,
    WIDTH,
    add_legend,
    finish_axes,
    marker_style,
    new_figure,
    plane_axes,
    subscript,
)

__all__ = ["samples", "samples_2d"]


@checked
def samples(
    samples: Array,
    data: Array | None = None,
    *,
    levels: int | None = None,
    titles: Sequence[str] | None = None,
    n: int = 100,
) -> Figure:
    """Samples of any shape, in the kind of figure that the shape allows; `Samples.plot` calls this.

    - `(N, C, H, W)`: images side by side, with as many of the data to the right of them. Images of 1 or 3 channels are
      grey or RGB; with other channels every sample is a row with an image for each channel. Values that are neither
      integers of `levels` nor in [0, 1] are shown over their own range without 1 % at both ends, the same for all
      images of a channel.
    - `(N, 1)`, `(N, 3)`, `(N, 4)`: a histogram of each dimension, with scatter plots of every two.
    - `(N, 2)`: points in the plane, as `samples_2d`.
    - `(N, D)` and `(N, C, L)`: curves against the index, a panel for each of at most 8 channels, with the median and
      the band that holds 90 % of the samples.

    Args:
        samples: The samples, of one of these shapes.
        data: Data `(M, ...)` of the same shape, to compare with.
        levels: The number of levels of images of integers; None for other values.
        titles: A title for each of the first samples, written above images.
        n: The largest number of images or curves; histograms, scatter plots and bands show all samples.

    Raises:
        ValueError: Another shape, values that are not finite, or n below 1.
    """
    shape = tuple(getattr(samples, "shape", None) or np.shape(samples))
    if isinstance(n, bool) or not isinstance(n, Integral) or n < 1:
        raise ValueError(f"n is {n!r}, expected an integer of at least 1")
    if len(shape) not in (2, 3, 4):
        raise ValueError(f"samples have shape {shape}, expected (N, D), (N, C, L) or (N, C, H, W)")
    x = as_numbers(samples, "samples", len(shape))
    y = None if data is None else as_numbers(data, "data", len(shape))
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
    """Images `(N, C, H, W)` of samples x and data y, over the range of both."""
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
        return image_blocks([rows_of_channels(v) for v in (x, y) if v is not None], channels, names)
    if y is None:
        return image_grid(x, titles=None if titles is None else list(titles)[: len(x)])
    columns = min(math.ceil(math.sqrt(max(len(x), len(y)))), 8)
    return image_blocks([x, y], columns)


def _marginals(x: np.ndarray, y: np.ndarray | None) -> Figure:
    """Histograms on the diagonal and scatter plots below it, for samples `(N, D)` of a small D."""
    d = x.shape[1]
    given = [("data", y, MUTED), ("samples", x, BLUE)]
    sets = [(name, v, colour) for name, v, colour in given if v is not None]
    figure = new_figure(*CHART) if d == 1 else new_figure(WIDTH, WIDTH)
    panels = figure.subplots(d, d, squeeze=False)
    pooled = np.concatenate([v for _, v, _ in sets])
    centre, half = window_of(pooled, coverage=0.998, flattest=0.0)
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
                    size, alpha = marker_style(len(v))
                    points: dict[str, Any] = {"s": size, "alpha": alpha, "color": colour, "linewidths": 0}
                    ax.scatter(v[:, j], v[:, i], rasterized=True, **points)
            left = "density" if i == j else f"x{subscript(i)}"
            finish_axes(ax, f"x{subscript(j)}" if i == d - 1 else "", left if j == 0 else "")
            for axis in (ax.xaxis, ax.yaxis):
                axis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    if d == 1:
        add_legend(panels[0, 0], outside=True)
    else:  # in the empty corner
        figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="upper right", frameon=False, fontsize=SMALL)
    return figure


def _curves(x: np.ndarray, y: np.ndarray | None, n: int) -> Figure:
    """Samples `(N, D)` or `(N, C, L)` as curves against the index."""
    if x.ndim == 2:
        x, y = x[:, None], None if y is None else y[:, None]
    channels = min(x.shape[1], 8)
    index = np.arange(x.shape[2])
    figure = new_figure(WIDTH, 1.2 + 1.6 * channels)
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
        finish_axes(ax, "index" if k == channels - 1 else "", name, grid=True)
        ax.margins(x=0.01)
    panels[-1].xaxis.set_major_locator(MaxNLocator(8, integer=True))
    add_legend(panels[0], outside=True)
    return figure


@checked
def samples_2d(samples: Array, data: Array | None = None) -> Figure:
    """Data and samples in the plane side by side, on the same axes.

    Args:
        samples: The samples, `(N, 2)`.
        data: The data, `(M, 2)`, or None for the samples alone.

    Raises:
        ValueError: A wrong shape or values that are not finite.
    """
    panels = [("samples", as_points(samples, "samples"), BLUE)]
    if data is not None:
        panels.insert(0, ("data", as_points(data, "data"), MUTED))
    window = window_of(np.concatenate([x for _, x, _ in panels]), coverage=0.999, flattest=0.5)
    figure = new_figure(0.5 * WIDTH * len(panels), 0.5 * WIDTH * window[1][1] / window[1][0] + 0.5)
    size, alpha = marker_style(max(len(x) for _, x, _ in panels))
    all_axes = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)
    for place, (ax, (name, x, colour)) in enumerate(zip(all_axes.flat, panels, strict=True)):
        ax.scatter(x[:, 0], x[:, 1], s=size, alpha=alpha, color=colour, linewidths=0, rasterized=True)
        plane_axes(ax, window, f"{name}, n = {len(x)}")
        finish_axes(ax, "x₁", "" if place else "x₂")
    return figure
