"""The figure of a classifier's accuracy by noise level."""

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from scoresde.arguments import checked
from scoresde.plots.arrays import Array, as_numbers
from scoresde.plots.style import CHART, MUTED, add_legend, finish_axes, line_style, new_figure

__all__ = ["accuracy_by_noise_level"]


@checked
def accuracy_by_noise_level(
    log_sigma: Array, accuracy: Mapping[str, Array], stderr: Mapping[str, Array] | None = None, chance: float = 0.0
) -> Figure:
    """The share of samples whose class a classifier finds, against the noise in them.

    Args:
        log_sigma: Noise levels log(σ/α), `(L,)`.
        accuracy: Shares by the name of the data, `(L,)` each.
        stderr: Their standard errors by the same names, `(L,)`, drawn as bars.
        chance: The share that guessing finds, drawn as a line; 0 for none.

    Raises:
        ValueError: No data, shapes that differ, or values that are not finite.
    """
    levels = as_numbers(log_sigma, "log_sigma", 1)
    if not accuracy:
        raise ValueError("accuracy is empty; give at least one name and its shares")
    shares = {name: as_numbers(v, f"accuracy {name!r}", 1) for name, v in accuracy.items()}
    errors = {name: as_numbers(v, f"stderr {name!r}", 1) for name, v in (stderr or {}).items()}
    for name, v in {**shares, **errors}.items():
        if v.shape != levels.shape:
            raise ValueError(f"{name} must have shape {levels.shape} like log_sigma, got {v.shape}")
    figure = new_figure(*CHART)
    ax = figure.subplots()
    if chance > 0:
        ax.axhline(chance, color=MUTED, linewidth=1.0, linestyle=(0, (4, 2)), label="chance")
    for i, (name, share) in enumerate(shares.items()):
        marks: dict[str, Any] = {"marker": "o", "markersize": 3.5, "elinewidth": 1.0, "label": name}
        ax.errorbar(levels, share, yerr=errors.get(name), **line_style(i), **marks)
    ax.set_ylim(0, 1.03)
    add_legend(ax)
    finish_axes(ax, "noise level, log (σ/α): data left, noise right", "share of right classes", grid=True)
    return figure
