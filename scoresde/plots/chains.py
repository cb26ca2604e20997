"""Figures of discrete sequences as rows of cells: on their way to noise and back, and beside each other."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scoresde.arguments import checked
from scoresde.plots.style import INK, TEXT, ShownFigure

__all__ = ["chain_states", "sequences"]


@checked
def chain_states(forward: Sequence[np.ndarray], reverse: Sequence[np.ndarray], titles: Sequence[str]) -> Figure:
    """Sequences as rows of cells, at several steps of a chain: data turning into noise, and noise into samples.

    Args:
        forward: States `(n, L)` of data at the steps of the columns, from data to noise.
        reverse: States `(m, L)` of samples at the same steps.
        titles: The titles of the columns.

    Raises:
        ValueError: Not one title for each column, or none.
    """
    if not titles or not len(forward) == len(reverse) == len(titles):
        raise ValueError(
            f"{len(forward)} forward and {len(reverse)} reverse states have {len(titles)} titles, expected one each"
        )
    highest = max(1.0, *(float(np.max(x)) for x in (*forward, *reverse)))
    figure = ShownFigure(figsize=(2.5 * len(titles) + 0.5, 4.6), facecolor="none", layout="constrained")
    axes = figure.subplots(2, len(titles), squeeze=False)
    for row, (name, states) in enumerate((("data to noise ⟶", forward), ("noise to samples ⟵", reverse))):
        for ax, title, x in zip(axes[row], titles, states, strict=True):
            _cells(ax, x, highest)
            ax.set_title(title if row == 0 else "", fontsize=TEXT + 1, color=INK)
        axes[row][0].set_ylabel(name, fontsize=TEXT, color=INK)
    return figure


@checked
def sequences(data: np.ndarray, samples: np.ndarray) -> Figure:
    """Discrete sequences as rows of cells, data on the left and samples on the right.

    Args:
        data: `(n, L)` data.
        samples: `(m, L)` samples.

    Raises:
        ValueError: Sequences of two lengths.
    """
    if data.ndim != 2 or samples.ndim != 2 or data.shape[1] != samples.shape[1]:
        raise ValueError(f"data have shape {data.shape} and samples {samples.shape}, expected (n, L) and (m, L)")
    rows = max(len(data), len(samples))
    figure = ShownFigure(figsize=(8.4, 0.4 + 0.15 * max(rows, 8)), facecolor="none", layout="constrained")
    highest = max(1.0, float(data.max()), float(samples.max()))
    for ax, title, x in zip(figure.subplots(1, 2), ("held-out data", "samples"), (data, samples), strict=True):
        _cells(ax, x, highest)
        ax.set_title(title, fontsize=TEXT, color=INK)
    return figure


def _cells(ax: Axes, x: np.ndarray, highest: float) -> None:
    ax.imshow(x, cmap="Blues", vmin=-0.15 * highest, vmax=highest, aspect="auto", interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)
    # White lines tell the cells apart.
    ax.set_xticks(np.arange(x.shape[1] + 1) - 0.5, minor=True)
    ax.set_yticks(np.arange(x.shape[0] + 1) - 0.5, minor=True)
    ax.grid(which="minor", color="white", linewidth=0.8)
    ax.tick_params(which="minor", length=0)
