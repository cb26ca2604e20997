"""Restorations: measurements and the posterior samples of each, in a row."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from scoresde.arguments import checked
from scoresde.plots.arrays import Array, as_images, as_numbers
from scoresde.plots.mosaic import Mosaic
from scoresde.plots.style import BLUE, INK, TEXT, VERMILION, WIDTH, add_legend, finish_axes, new_figure, text_width

__all__ = ["restorations", "restored_curves"]

_UNSEEN = np.array([0.80, 0.86, 0.94])  # pixels that were not measured: no grey, so that they are told from values
_ROUND_OFF = 1e-4


@checked
def restorations(columns: Mapping[str, Array]) -> Figure:
    """A row of images for each measurement: what is measured, the measurement, samples, their mean, and the like.

    Args:
        columns: Images `(B, C, H, W)` in [0, 1] by the names that stand above them; C is 1 (grey) or 3 (RGB). NaN is a
            pixel that was not measured, which is pale blue.

    Raises:
        ValueError: No images, images of other shapes, or values that are not in [0, 1].
    """
    if not columns:
        raise ValueError("columns is empty, expected images by their names")
    parts = [_rgb(images, name) for name, images in columns.items()]
    if len({part.shape for part in parts}) > 1:
        shapes = ", ".join(f"{name} {part.shape}" for name, part in zip(columns, parts, strict=True))
        raise ValueError(f"columns have different shapes, expected as many images of one size in each: {shapes}")
    mosaic = Mosaic(np.stack(parts, 1), head=TEXT * 1.6, widest=max(map(text_width, columns)))
    size = mosaic.size_of(list(columns))
    for place, name in enumerate(columns):
        mosaic.over(0, place, name, size)
    return mosaic.figure


def _rgb(images: Array, name: str) -> np.ndarray:
    """Images as `(B, 3, H, W)`, pixels that were not measured in their colour."""
    x = as_numbers(images, name, 4, allow_nan=True)
    unseen = np.isnan(x).any(1, keepdims=True)
    x = as_images(np.nan_to_num(x), name, 4)
    if x.min() < -_ROUND_OFF or x.max() > 1 + _ROUND_OFF:
        raise ValueError(f"{name} must lie in [0, 1], got {x.min():.4g} to {x.max():.4g}")
    x = np.broadcast_to(x, (len(x), 3, *x.shape[2:]))
    return np.where(unseen, _UNSEEN[:, None, None], x)


@checked
def restored_curves(samples: Array, truth: Array | None = None, most: int = 4) -> Figure:
    """Posterior samples of vectors and series: their median and the band that holds 80 % of them, with the truth.

    Args:
        samples: `(B, n, D)`, n samples for each measurement.
        truth: What was measured, `(B, D)`, where it is known.
        most: The largest number of measurements, each in a panel.

    Raises:
        ValueError: Other shapes, or values that are not finite.
    """
    x = as_numbers(samples, "samples", 3)[:most]
    real = None if truth is None else as_numbers(truth, "truth", 2)[:most]
    if real is not None and real.shape != (len(x), x.shape[2]):
        raise ValueError(f"truth has shape {real.shape}, expected {(len(x), x.shape[2])} as the samples have")
    figure = new_figure(WIDTH, 0.8 + 1.5 * len(x))
    index = np.arange(x.shape[2])
    for row, ax in enumerate(figure.subplots(len(x), 1, squeeze=False, sharex=True)[:, 0]):
        low, middle, high = np.quantile(x[row], (0.1, 0.5, 0.9), axis=0)
        style: dict[str, Any] = {"color": BLUE, "linewidth": 1.5}
        ax.fill_between(index, low, high, color=BLUE, alpha=0.2, linewidth=0, label="80 % of the samples")
        ax.plot(index, middle, label="median", **style)
        ax.plot(index, x[row, :5].T, color=INK, linewidth=0.5, alpha=0.4)
        if real is not None:
            ax.plot(index, real[row], color=VERMILION, linewidth=1.2, linestyle=(0, (4, 2)), label="truth")
        finish_axes(ax, "index" if row == len(x) - 1 else "", "value", grid=True)
        ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        ax.margins(x=0.01)
    add_legend(figure.axes[0], outside=True)
    return figure
