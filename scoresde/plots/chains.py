"""Figures of Markov chains: states of discrete sequences on their way to noise and back."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from scoresde.arguments import checked
from scoresde.plots.style import INK, TEXT, ShownFigure

__all__ = ["chain_states"]


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
            ax.set_title(title if row == 0 else "", fontsize=TEXT + 1, color=INK)
        axes[row][0].set_ylabel(name, fontsize=TEXT, color=INK)
    return figure
