"""Curves and histograms of training: losses against steps and noise level, and likelihoods."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from scoresde.arguments import checked
from scoresde.numerics.html import with_error
from scoresde.numerics.means import mean_and_error
from scoresde.plots.arrays import (
    Array,
    as_numbers,
    running_mean,
)
from scoresde.plots.style import CHART, CYCLE, MUTED, add_legend, finish_axes, line_style, log_if_wide, new_figure

__all__ = ["learning_curves", "likelihood_histogram", "loss_by_noise_level", "paired_differences"]


@checked
def loss_by_noise_level(
    centres: Array,
    mean: Array,
    stderr: Array | None = None,
    held_out: Array | None = None,
    axis: Literal["log_sigma", "log_snr"] = "log_sigma",
    ylabel: str = "loss",
) -> Figure:
    """The mean loss in bins of the noise level; the axis is logarithmic if it spans more than a factor of 30.

    Args:
        centres: The centres of the bins, `(K,)`, natural logarithms.
        mean: The training loss, `(K,)`.
        stderr: Standard errors of `mean`, `(K,)`, drawn as bars.
        held_out: The same loss on held-out data, `(K,)`.
        axis: The meaning of `centres`: log(σ/α), which is log σ if α = 1, or log(α/σ).
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
    """Values against the training step; more than 200 values are pale, below their running mean.

    The axis is logarithmic if the values span more than a factor of 30.

    Args:
        steps: The steps, `(S,)`.
        series: The values by name, `(S,)` each; NaN at steps without a measurement.
        ylabel: The quantity and its units.

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
def likelihood_histogram(
    train: Array, held_out: Array, unit: str = "bits/dim", solver_stderr: tuple[Array, Array] | None = None
) -> Figure:
    """Likelihoods of training and held-out samples, with their means and the standard errors of these.

    Each histogram sums to 1, on common bins. A gap between the two shows how far the model remembers its training data.

    Args:
        train: Negative log-likelihoods in bits/dim, or log-likelihoods in any other unit, `(N,)`.
        held_out: Those of held-out samples, `(M,)`.
        unit: The unit of both.
        solver_stderr: Standard errors of either from the solver, `(N,)` and `(M,)`; NaN where they are not known. They
            widen the error of the mean (`shared_error`).

    Raises:
        ValueError: A wrong shape, no values, or values that are not finite.
    """
    values = {"training": as_numbers(train, "train", 1), "held out": as_numbers(held_out, "held_out", 1)}
    shared: list[torch.Tensor | None] = [None, None]
    if solver_stderr is not None:
        names = ("solver_stderr of train", "solver_stderr of held_out")
        given = zip(solver_stderr, names, strict=True)
        shared = [torch.from_numpy(as_numbers(errors, name, 1, allow_nan=True)) for errors, name in given]
    edges = _edges(np.concatenate(list(values.values())))
    figure = new_figure(*CHART)
    ax = figure.subplots()
    for i, (name, v) in enumerate(values.items()):
        mean, error = mean_and_error(torch.from_numpy(v), shared[i])
        style: dict[str, Any] = {"color": CYCLE[i], "weights": np.full(len(v), 1 / len(v))}
        ax.hist(v, edges, histtype="stepfilled", alpha=0.18, **style)
        ax.hist(v, edges, histtype="step", linewidth=1.2, **style)
        dashes = "solid" if i == 0 else (0, (4, 2))
        label = f"{name}: mean {with_error(mean, error)}, n = {len(v)}"
        ax.axvline(mean, color=CYCLE[i], linewidth=1.6, linestyle=dashes, label=label)
    ax.set_ylim(0, ax.get_ylim()[1])
    add_legend(ax, outside=True)
    quantity = "negative log-likelihood" if unit == "bits/dim" else "log-likelihood"
    finish_axes(ax, f"{quantity} ({unit})", "share of samples per bin", grid=True)
    return figure


@checked
def paired_differences(
    differences: Mapping[str, Array], unit: str = "bits/dim", reference: str = "the first"
) -> Figure:
    """Differences of the likelihoods of the same samples, with their means and a band of two standard errors.

    Args:
        differences: The value of each sample less that under a reference, `(N,)`, by the names of models.
        unit: The unit of the values.
        reference: Name of the reference.

    Raises:
        ValueError: No differences, a wrong shape, no values, or values that are not finite.
    """
    if not differences:
        raise ValueError("differences is empty; give at least one name and its values")
    values = {name: as_numbers(v, f"differences {name!r}", 1) for name, v in differences.items()}
    edges = _edges(np.concatenate(list(values.values())))
    figure = new_figure(*CHART)
    ax = figure.subplots()
    ax.axvline(0, color=MUTED, linewidth=0.8)
    for i, (name, v) in enumerate(values.items()):
        color, (mean, error) = CYCLE[i % len(CYCLE)], mean_and_error(torch.from_numpy(v))
        style: dict[str, Any] = {"color": color, "weights": np.full(len(v), 1 / len(v))}
        ax.hist(v, edges, histtype="stepfilled", alpha=0.18, **style)
        ax.hist(v, edges, histtype="step", linewidth=1.2, **style)
        if error > 0:
            ax.axvspan(mean - 2 * error, mean + 2 * error, color=color, alpha=0.3, linewidth=0)
        label = f"{name}: {with_error(mean, error)}, n = {len(v)}"
        ax.axvline(mean, color=color, linewidth=1.6, label=label)
    ax.set_ylim(0, ax.get_ylim()[1])
    add_legend(ax, outside=True)
    finish_axes(ax, f"difference from {reference} ({unit})", "share of samples per bin", grid=True)
    return figure


def _edges(pooled: np.ndarray) -> list[float]:
    """Edges of 10 to 60 bins for all values, of the width of Freedman & Diaconis 1981."""
    quartiles = np.quantile(pooled, (0.25, 0.75))
    width = 2 * float(quartiles[1] - quartiles[0]) / len(pooled) ** (1 / 3)
    bins = min(max(float(np.ptp(pooled)) / width, 10), 60) if width > 0 else 10
    edges: list[float] = np.histogram_bin_edges(pooled, int(bins)).tolist()
    return edges
