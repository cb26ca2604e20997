"""Pictures of data beside samples, for the top of a run's page: arrays in, a matplotlib `Figure` or PNG out.

Densities are drawn on dark ground, so that they look the same on light and dark pages; what is drawn with axes and
words has no ground of its own, and dark pages invert it.
"""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from scoresde.plots.style import BLUE, FAINT, INK, MUTED, SMALL, TEXT, ShownFigure, to_png

__all__ = ["Plane", "dark_png", "densities", "filmstrip", "marginals", "mosaic", "pairs", "profiles"]

GROUND, LIGHT = "#000004", "#d8d6de"  # in dark figures: the background, which is the colour map's darkest, and text
PIXELS = 96  # dots per inch of mosaics: a dot is a CSS pixel
RUN_DPI = 120  # dots per inch of the other figures, which are wide
_SIDE = 80  # CSS pixels of a small image: about two centimetres


def mosaic(images: np.ndarray) -> bytes:
    """Images as a PNG with transparent gaps. An image pixel is an integer number of CSS pixels, an image about 2 cm.

    Args:
        images: Images `(R, K, C, H, W)` in [0, 1] with C = 1 or 3; NaN for a place that is left empty.
    """
    rows, columns, _, height, width = images.shape
    scale, gap = scale_of(height, width)
    cell = (height * scale + gap, width * scale + gap)
    canvas = np.zeros((rows * cell[0], columns * cell[1], 4), dtype=np.uint8)
    for r in range(rows):
        for k in range(columns):
            if np.isnan(images[r, k]).any():
                continue
            pixels = np.broadcast_to(images[r, k].clip(0, 1).transpose(1, 2, 0), (height, width, 3))
            y, x = r * cell[0] + gap // 2, k * cell[1] + gap // 2
            shown = (pixels * 255).round().astype(np.uint8).repeat(scale, 0).repeat(scale, 1)
            canvas[y : y + height * scale, x : x + width * scale, :3] = shown
            canvas[y : y + height * scale, x : x + width * scale, 3] = 255
    buffer = io.BytesIO()
    Image.fromarray(canvas).save(buffer, "png", dpi=(PIXELS, PIXELS), optimize=True)
    return buffer.getvalue()


def scale_of(height: int, width: int) -> tuple[int, int]:
    """The CSS pixels of a pixel of an image, and those of the gap between images."""
    scale = max(1, round(_SIDE / max(height, width)))
    return scale, 2 * max(2, round(scale * max(height, width) / 40))


@dataclass(frozen=True)
class Plane:
    """A square window of the plane divided into cells, and the bandwidth of densities on it.

    Args:
        low: The corner with the smallest coordinates, `(2,)`.
        side: The length of a side.
        cells: The number of cells along a side.
        bandwidth: The standard deviation of the Gaussian that smooths densities, in the units of the plane.
    """

    low: np.ndarray
    side: float
    cells: int
    bandwidth: float

    @classmethod
    def around(cls, points: np.ndarray, cells: int = 96, reach: float = 1.25, smoothing: float = 1.2) -> "Plane":
        """The window around points.

        Args:
            points: The points, `(N, 2)`.
            cells: The number of cells along a side.
            reach: The length of a side, in units of the largest extent of the points.
            smoothing: The bandwidth, in units of the median distance to the tenth neighbour.
        """
        centre = (points.max(0) + points.min(0)) / 2
        side = reach * float(np.ptp(points, axis=0).max())
        some = points[:: max(1, len(points) // 800)]
        order = min(max(3, round(10 * len(some) / len(points))), len(some) - 1)
        gaps = np.sqrt(((some[:, None] - some[None]) ** 2).sum(-1))
        near = float(np.median(np.partition(gaps, order, axis=1)[:, order]))
        return cls(centre - side / 2, side, cells, max(smoothing * near, 0.5 * side / cells))

    def centres(self) -> np.ndarray:
        """The centres of the cells, `(cells, cells, 2)`, with x₁ along the second axis."""
        axis = (np.arange(self.cells) + 0.5) * self.side / self.cells
        centres: np.ndarray = np.stack(np.meshgrid(axis, axis), axis=-1) + self.low
        return centres

    def count(self, points: np.ndarray) -> np.ndarray:
        """The fraction of points `(N, 2)` in each cell, per area, `(cells, cells)`."""
        edges = [np.linspace(low, low + self.side, self.cells + 1) for low in self.low]
        counts, *_ = np.histogram2d(points[:, 0], points[:, 1], bins=edges)
        density: np.ndarray = counts.T / len(points) * (self.cells / self.side) ** 2
        return density

    def smooth(self, density: np.ndarray, bandwidth: float | None = None) -> np.ndarray:
        """The density `(cells, cells)` convolved with the Gaussian."""
        width = (self.bandwidth if bandwidth is None else bandwidth) * self.cells / self.side
        i = np.arange(self.cells)
        kernel = np.exp(-((i[:, None] - i) ** 2) / (2 * width**2))
        kernel /= kernel.sum(1).max()
        smooth: np.ndarray = kernel @ density @ kernel.T
        return smooth


def densities(panels: Sequence[tuple[str, np.ndarray]], corners: tuple[np.ndarray, np.ndarray]) -> Figure:
    """Densities in the plane side by side. The brightness grows with the square root, on the scale of the first.

    Args:
        panels: Titles, and densities `(n, n)` on the same window.
        corners: The window's lowest and highest corner, `(2,)` each.
    """
    side, head = 3.7, 0.3
    figure = ShownFigure(figsize=(side * len(panels), side + head), facecolor=GROUND)
    top = max(float(density.max()) for _, density in panels[:1]) or 1.0
    norm = PowerNorm(0.5, 0, top, clip=True)
    for place, (title, density) in enumerate(panels):
        ax = figure.add_axes(((place + 0.02) / len(panels), 0.02, 0.96 / len(panels), 0.96 * side / (side + head)))
        _dark(ax, density, norm, corners)
        ax.set_title(title, fontsize=11, color=LIGHT, pad=7)
        if place == 0:
            _scale_bar(ax, corners)
    return figure


def dark_png(figure: Figure) -> bytes:
    """A dark figure as PNG with a palette of 255 colours, about as many as its colour map has."""
    image = Image.open(io.BytesIO(to_png(figure, RUN_DPI))).convert("RGB")
    buffer = io.BytesIO()
    image.quantize(255, dither=Image.Dither.NONE).save(buffer, "png", dpi=(RUN_DPI, RUN_DPI), optimize=True)
    return buffer.getvalue()


def _dark(ax: Axes, density: np.ndarray, norm: PowerNorm, corners: tuple[np.ndarray, np.ndarray]) -> None:
    low, high = corners
    extent = (float(low[0]), float(high[0]), float(low[1]), float(high[1]))
    ax.imshow(density, cmap=_glow(), norm=norm, extent=extent, origin="lower", interpolation="bilinear", aspect="auto")
    ax.set_facecolor(GROUND)
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_color("#3b3846")
        spine.set_linewidth(0.8)


def _glow() -> Colormap:
    from matplotlib import colormaps

    return colormaps["magma"]


def _scale_bar(ax: Axes, corners: tuple[np.ndarray, np.ndarray]) -> None:
    """Draw a bar of a round length in the data's units, in the lower left corner."""
    low, high = corners
    span = float(high[0] - low[0])
    power = 10.0 ** math.floor(math.log10(span / 4))
    length = max(step * power for step in (1, 2, 5) if step * power <= span / 4)
    x, y = float(low[0]) + 0.05 * span, float(low[1]) + 0.05 * float(high[1] - low[1])
    ax.plot([x, x + length], [y, y], color=LIGHT, linewidth=1.6, solid_capstyle="butt")
    ax.text(x, y + 0.012 * float(high[1] - low[1]), f"{length:g}", color=LIGHT, fontsize=9, va="bottom")


def filmstrip(
    forward: Sequence[np.ndarray],
    reverse: Sequence[np.ndarray],
    fields: Sequence[tuple[np.ndarray, np.ndarray]],
    titles: Sequence[str],
    corners: tuple[np.ndarray, np.ndarray],
    field: str = "learned score\n∇ log pₜ(x)",
) -> Figure:
    """Data turning into noise, noise turning into samples, and a field of the model, at the same times.

    Each has a row, with data on the left and noise on the right, as in figure 1 of Sohl-Dickstein et al. (2015).

    Args:
        forward: Densities `(n, n)` of noised data on the window, from data to noise.
        reverse: Densities of samples on their way, at the same times.
        fields: Points `(M, 2)` and vectors `(M, 2)` at them, at the same times.
        titles: The titles of the columns.
        corners: The window's lowest and highest corner, `(2,)` each.
        field: What the vectors are, for the third row.
    """
    columns, side, left, head = len(titles), 1.72, 1.32, 0.34
    width, height = left + side * columns + 0.06, head + 3 * side + 0.06
    figure = ShownFigure(figsize=(width, height), facecolor=GROUND)
    rows = ("data to noise\n⟶", "noise to samples\n⟵", field)
    for k in range(columns):
        # Each time has its own brightness, since noise is spread much further than data.
        norm = PowerNorm(0.6, 0, float(forward[k].max()) or 1.0, clip=True)
        for row in range(3):
            x, y = left + side * k + 0.04, height - head - side * (row + 1) + 0.04
            place = (x / width, y / height, (side - 0.08) / width, (side - 0.08) / height)
            ax = figure.add_axes(place)
            shown = (forward[k], reverse[k], 0.3 * forward[k])[row]
            _dark(ax, shown, norm, corners)
            if row == 2:
                _arrows(ax, *fields[k])
                ax.set_xlim(corners[0][0], corners[1][0])
                ax.set_ylim(corners[0][1], corners[1][1])
        figure.text((left + side * (k + 0.5)) / width, 1 - 0.5 * head / height, titles[k], **_words(11))
    for row, title in enumerate(rows):
        y = 1 - (head + side * (row + 0.5)) / height
        figure.text(0.5 * left / width, y, title, linespacing=1.7, **_words(9.5))
    return figure


def _words(size: float) -> dict[str, Any]:
    return {"fontsize": size, "color": LIGHT, "ha": "center", "va": "center"}


def _arrows(ax: Axes, points: np.ndarray, vectors: np.ndarray) -> None:
    """Draw arrows whose length grows with the square root of the vectors', and is at most their spacing."""
    length = np.linalg.norm(vectors, axis=1)
    longest = float(np.quantile(length, 0.95)) or 1.0
    spacing = float(np.ptp(points[:, 0])) / max(math.sqrt(len(points)) - 1, 1)
    unit = vectors / np.maximum(length, 1e-300)[:, None]
    shown = unit * (spacing * np.sqrt(np.minimum(length / longest, 1)))[:, None]
    style: dict[str, Any] = {
        "angles": "xy",
        "scale_units": "xy",
        "scale": 1,
        "width": 0.006,
        "headwidth": 4,
        "headlength": 4.5,
    }
    ax.quiver(*points.T, *shown.T, color="#f5d9a8", alpha=0.95, pivot="mid", headaxislength=4, **style)


def marginals(data: np.ndarray, samples: np.ndarray, curve: tuple[np.ndarray, np.ndarray] | None = None) -> Figure:
    """Histograms of data `(M,)` and samples `(N,)` in one dimension.

    Args:
        data: The data.
        samples: The samples.
        curve: Points and the model's density at them, `(K,)` each, if it is known.
    """
    figure = _clear(8.4, 3.6)
    ax = figure.subplots()
    edges = _edges(data, samples)
    _histograms(ax, data, samples, edges)
    if curve is not None:
        ax.plot(*curve, color=INK, linewidth=1.2, label="model density")
    ax.legend(frameon=False, fontsize=SMALL, labelcolor=INK)
    ax.set_yticks([])
    _quiet(ax, "x", "density")
    return figure


def _edges(data: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """The edges of bins that hold the data and all but a thousandth of the samples."""
    low, high = np.quantile(samples, (0.0005, 0.9995))
    low, high = min(low, data.min()), max(high, data.max())
    bins = int(np.clip(2 * min(len(data), len(samples)) ** (1 / 3) * 2, 12, 80))
    return np.linspace(low, high if high > low else low + 1, bins + 1)


def _histograms(ax: Axes, data: np.ndarray, samples: np.ndarray, edges: np.ndarray) -> None:
    ax.hist(data, edges.tolist(), density=True, color=MUTED, alpha=0.35, label="held-out data")
    ax.hist(samples, edges.tolist(), density=True, histtype="step", color=BLUE, linewidth=1.6, label="samples")


def pairs(data: np.ndarray, samples: np.ndarray, names: Sequence[str]) -> Figure:
    """Pairs of a few dimensions: data above the diagonal, samples below it, histograms of both on it.

    Args:
        data: The data, `(M, F)`.
        samples: The samples, `(N, F)`.
        names: The names of the F dimensions.
    """
    count = data.shape[1]
    side = min(2.4, 6.4 / count)
    figure = _clear(side * count + 0.5, side * count + 0.6)
    axes = figure.subplots(count, count, squeeze=False)
    edges = [_edges(data[:, i], samples[:, i]) for i in range(count)]
    for i in range(count):
        for j in range(count):
            ax = axes[i, j]
            if i == j:
                _histograms(ax, data[:, i], samples[:, i], edges[i])
            else:
                x, colour = (data, MUTED) if j > i else (samples, BLUE)
                size = float(np.clip(3000 / len(x), 1.5, 8))
                style: dict[str, Any] = {
                    "s": size,
                    "alpha": float(np.clip(25 / math.sqrt(len(x)), 0.25, 0.8)),
                    "linewidths": 0,
                }
                ax.scatter(x[:, j], x[:, i], color=colour, rasterized=True, **style)
                ax.set_ylim(edges[i][0], edges[i][-1])
            ax.set_xlim(edges[j][0], edges[j][-1])
            ax.xaxis.set_major_locator(MaxNLocator(3))
            ax.yaxis.set_major_locator(MaxNLocator(3))
            _quiet(ax, names[j] if i == count - 1 else "", names[i] if j == 0 else "")
            if i != count - 1:
                ax.tick_params(labelbottom=False)
            if j or i == j:
                ax.tick_params(labelleft=False)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    style = {"frameon": False, "fontsize": TEXT, "labelcolor": INK, "ncols": 2}
    figure.legend(
        handles, ["held-out data, above", "samples, below"][: len(labels)], loc="outside upper center", **style
    )
    return figure


def profiles(data: np.ndarray, samples: np.ndarray, most: int = 3) -> Figure:
    """Long vectors and series as curves: a few over the band that holds 80 % of all, the data beside the samples.

    Args:
        data: The data, `(M, C, L)`; each of the first channels has a row of panels.
        samples: The samples, `(N, C, L)`.
        most: The largest number of channels.
    """
    rows = min(data.shape[1], most)
    figure = _clear(9.6, 2.3 * rows + 0.5)
    axes = figure.subplots(rows, 2, sharex=True, sharey="row", squeeze=False)
    index = np.arange(data.shape[2])
    for row in range(rows):
        for ax, (name, x, colour) in zip(
            axes[row], (("held-out data", data, MUTED), ("samples", samples, BLUE)), strict=True
        ):
            low, middle, high = np.quantile(x[:, row], (0.1, 0.5, 0.9), axis=0)
            ax.fill_between(index, low, high, color=colour, alpha=0.18, linewidth=0)
            ax.plot(index, middle, color=colour, linewidth=1.8)
            ax.plot(index, x[:5, row].T, color=colour, linewidth=0.7, alpha=0.75)
            ax.margins(x=0)
            ax.set_title(name if row == 0 else "", fontsize=TEXT + 1, color=INK)
            channel = f"channel {row}" if data.shape[1] > 1 else "value"
            _quiet(ax, "index" if row == rows - 1 else "", channel if ax is axes[row][0] else "")
    return figure


def _clear(width: float, height: float) -> Figure:
    """A figure with a transparent background."""
    return ShownFigure(figsize=(width, height), facecolor="none", layout="constrained")


def _quiet(ax: Axes, xlabel: str, ylabel: str) -> None:
    ax.set_facecolor("none")
    ax.set_xlabel(xlabel, fontsize=TEXT, color=INK)
    ax.set_ylabel(ylabel, fontsize=TEXT, color=INK)
    ax.tick_params(labelsize=SMALL, color=FAINT, labelcolor=MUTED, width=0.8)
    for side, spine in ax.spines.items():
        spine.set_color(FAINT)
        spine.set_visible(side in ("left", "bottom"))
