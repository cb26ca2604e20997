"""The figure of widths along the principal directions of the data."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter

from scoresde.arguments import checked
from scoresde.plots.arrays import Array, as_numbers
from scoresde.plots.style import INK, MUTED, add_legend, finish_axes, line_style, new_figure

__all__ = ["spectra"]

_SIZE = (5.6, 4.2)
# Ratios that the lower axis may mark, and how many of them leave room for their numbers.
_RATIOS = (0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2, 3, 5, 7, 10, 20, 50, 100)
_MARKS = 7


@checked
def spectra(
    reference_std: Array,
    samples_std: Mapping[str, Array],
    stderr: Mapping[str, Array] | None = None,
    dimensions: Array | None = None,
    reference: str = "held-out data",
) -> Figure:
    """Standard deviations along principal directions of the data, above, and their ratios to the data's, below.

    Noise that is left in samples lifts the narrowest directions, on the right, far above 1; directions below 1 are too
    narrow. Values are those of `scoresde.metrics.Spectrum`.

    Args:
        reference_std: Standard deviations of the data, `(G,)`, positive, the widest first.
        samples_std: Standard deviations of sets of samples by their names, `(G,)`.
        stderr: Standard errors of the logarithms of their ratios by the same names, `(G,)`; a band of two of them.
        dimensions: Number of directions that each entry stands for, `(G,)`; one each if not given.
        reference: Name of the data.

    Raises:
        ValueError: No samples, shapes that differ, values that are not finite, or standard deviations that are not
            positive.
    """
    data = as_numbers(reference_std, "reference_std", 1)
    if not samples_std:
        raise ValueError("samples_std is empty; give at least one name and its standard deviations")
    sets = {name: as_numbers(v, f"samples_std {name!r}", 1) for name, v in samples_std.items()}
    errors = {name: as_numbers(v, f"stderr {name!r}", 1) for name, v in (stderr or {}).items()}
    counts = np.ones_like(data) if dimensions is None else as_numbers(dimensions, "dimensions", 1)
    for name, v in {"dimensions": counts, **sets, **errors}.items():
        if v.shape != data.shape:
            raise ValueError(f"{name} must have shape {data.shape} like reference_std, got {v.shape}")
    if min(v.min() for v in (data, *sets.values())) <= 0:
        raise ValueError("standard deviations must be positive")
    # An entry for several directions stands in the middle of them.
    place = np.cumsum(counts) - (counts - 1) / 2
    marker = {"marker": "o", "markersize": 2.5} if len(data) <= 80 else {}
    figure = new_figure(*_SIZE)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    above.plot(place, data, color=INK, linewidth=2.4, alpha=0.35, label=reference)
    below.axhline(1, color=MUTED, linewidth=1.0)
    for i, (name, std) in enumerate(sets.items()):
        above.plot(place, std, **line_style(i), **marker, label=name)
        ratio = std / data
        below.plot(place, ratio, **line_style(i), **marker)
        if name in errors:
            band = ratio * np.exp(-2 * errors[name]), ratio * np.exp(2 * errors[name])
            below.fill_between(place, *band, color=line_style(i)["color"], alpha=0.15, linewidth=0)
    above.set_yscale("log")
    _mark_ratios(below)
    below.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    add_legend(above, outside=True)
    finish_axes(above, "", "standard deviation", grid=True)
    finish_axes(below, "principal direction of the data, the widest first", "ratio to the data's", grid=True)
    return figure


def _mark_ratios(ax: Axes) -> None:
    """Give an axis of ratios a logarithmic scale with a few round numbers, 1 among them."""
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    low, high = min(low, 0.88), max(high, 1.14)
    ax.set_ylim(low, high)
    inside = [v for v in _RATIOS if low <= v <= high]
    # One end and every few of them, so that 1 stays.
    stride = -(-len(inside) // _MARKS)
    first = inside.index(1.0) % stride
    ax.yaxis.set_major_locator(FixedLocator(inside[first::stride]))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
