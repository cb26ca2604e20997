"""The figure of the shares of modes or classes among samples."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from scoresde.arguments import checked
from scoresde.plots.arrays import Array, as_numbers
from scoresde.plots.style import BLUE, INK, MUTED, VERMILION, add_legend, finish_axes, new_figure

__all__ = ["group_shares"]

_HEIGHT = 3.4
_NAMES = 40  # names that fit on the axis


@checked
def group_shares(
    share: Array,
    stderr: Array,
    expected: Array,
    expected_stderr: Array | None = None,
    names: Sequence[str] | None = None,
    kind: str = "mode",
) -> Figure:
    """The share of each mode or class among samples as a bar, with those of the data; what has no samples is marked.

    Args:
        share: Shares among the samples, `(K,)`.
        stderr: Their standard errors, `(K,)`; bars of two of them.
        expected: Shares in the data, `(K,)`.
        expected_stderr: Standard errors of what exact samples have, `(K,)`; a band of two of them.
        names: Names of the groups; their numbers, from 1, if not given.
        kind: What the groups are, for the axis.

    Raises:
        ValueError: Shapes that differ, or values that are not finite.
    """
    given = {"share": share, "stderr": stderr, "expected": expected, "expected_stderr": expected_stderr}
    values = {name: as_numbers(v, name, 1) for name, v in given.items() if v is not None}
    for name, v in values.items():
        if v.shape != values["share"].shape:
            raise ValueError(f"{name} must have shape {values['share'].shape} like share, got {v.shape}")
    count = len(values["share"])
    texts = [str(k + 1) for k in range(count)] if names is None else [str(name) for name in names]
    if len(texts) != count:
        raise ValueError(f"names must have one entry for each of the {count} groups, got {len(texts)}")
    figure = new_figure(min(max(5.6, 3.2 + 0.22 * count), 9.6), _HEIGHT)
    ax = figure.subplots()
    place = np.arange(count)
    ax.bar(place, values["share"], 0.72, color=BLUE, alpha=0.75, label="samples, ± two standard errors")
    ax.errorbar(place, values["share"], yerr=2 * values["stderr"], fmt="none", ecolor=INK, elinewidth=1.0)
    middle, half = values["expected"], 2 * values.get("expected_stderr", np.zeros(count))
    edges = np.append(place - 0.5, count - 0.5)
    label = "exact samples, ± two standard errors" if half.any() else "data"
    ax.stairs(middle, edges, color=MUTED, linewidth=1.4, baseline=None, label=label)
    if half.any():
        ax.stairs(middle + half, edges, baseline=middle - half, fill=True, color=MUTED, alpha=0.2, linewidth=0)
    missing = place[values["share"] == 0]
    if len(missing):
        ax.plot(missing, np.zeros(len(missing)), "x", color=VERMILION, markersize=6, clip_on=False, label="no samples")
    ax.set_xlim(-0.6, count - 0.4)
    ax.set_ylim(bottom=0)
    stride = -(-count // _NAMES)
    ax.set_xticks(place[::stride], texts[::stride])
    if max(map(len, texts)) > 3:
        ax.tick_params(axis="x", labelrotation=45 if count <= 12 else 90)
    add_legend(ax, outside=True)
    finish_axes(ax, kind, "share of samples", grid=True)
    return figure
