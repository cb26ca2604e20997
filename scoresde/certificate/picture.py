"""Pictures of certificates: distances to the exact posterior and coverage, or errors of samplers by evaluations."""

import math
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from scoresde.arguments import checked
from scoresde.certificate.posterior import LEVELS
from scoresde.certificate.posterior_frame import EXACT
from scoresde.plots.style import CYCLE, MUTED, SMALL, finish_axes, new_figure

__all__ = ["posterior_picture", "sampler_picture"]

_MARKERS = "osD^vPX"
_COLUMNS = 4  # panels side by side; further problems are in the table alone


@checked
def posterior_picture(frame: pd.DataFrame) -> Figure | None:
    """Sliced Wasserstein-2 against evaluations beside its floor, and coverage, for up to four problems.

    Args:
        frame: A frame with `POSTERIOR_COLUMNS`.

    Returns:
        The figure; None where no method has numbers.
    """
    good = frame[(frame["failure"] == "") & frame["sw2"].notna()]
    shown = list(good[good["method"] != EXACT].groupby(["problem", "noise"], sort=False, dropna=False).groups)[
        :_COLUMNS
    ]
    if not shown:
        return None
    figure = new_figure(2.9 * len(shown) + 1.6, 5.4)
    axes = figure.subplots(2, len(shown), squeeze=False)
    names = list(dict.fromkeys(good.loc[good["method"] != EXACT, "method"]))
    for k, (problem, noise) in enumerate(shown):
        same = good["noise"].isna() if pd.isna(noise) else good["noise"] == noise
        here = good[(good["problem"] == problem) & same]
        title = str(problem) if pd.isna(noise) else f"{problem}, noise {noise:g}"
        _distances(axes[0][k], here, names, title, first=k == 0)
        _coverage(axes[1][k], here, names, first=k == 0)
    handles, labels = axes[0][0].get_legend_handles_labels()
    for ax in axes[0][1:]:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            if label not in labels:
                handles.append(handle)
                labels.append(label)
    figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=SMALL)
    return figure


def _style(names: list[str], name: str) -> dict[str, Any]:
    i = names.index(name)
    return {"color": CYCLE[i % len(CYCLE)], "marker": _MARKERS[(i // len(CYCLE)) % len(_MARKERS)], "markersize": 4.5}


def _distances(ax: Axes, here: pd.DataFrame, names: list[str], title: str, first: bool) -> None:
    floor = here["floor"].iloc[0]
    ax.axhline(floor, color=MUTED, linewidth=1.0, linestyle=":", label="exact samples")
    for (name, _), group in here[here["method"] != EXACT].groupby(["method", "sampler"], sort=False):
        ordered = group.assign(cost=(group["nfe"] + group["vjp"]).clip(lower=1)).sort_values("cost")
        ax.errorbar(
            ordered["cost"],
            ordered["sw2"],
            yerr=ordered["sw2_stderr"],
            label=str(name),
            linewidth=1.0,
            elinewidth=0.8,
            **_style(names, str(name)),
        )
    ax.set_xscale("log")
    ax.set_yscale("log")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
    ax.set_title(title, fontsize=SMALL, loc="left", parse_math=False)
    finish_axes(ax, "evaluations and products", "sliced Wasserstein-2" if first else "", grid=True)


def _coverage(ax: Axes, here: pd.DataFrame, names: list[str], first: bool) -> None:
    ax.plot([0.4, 1], [0.4, 1], color=MUTED, linewidth=1.0, linestyle=":")
    # Of each method the row with the most steps.
    best = here[here["method"] != EXACT].sort_values("steps").groupby(["method", "sampler"], sort=False).tail(1)
    for _, row in best.iterrows():
        found = [row[f"coverage_{100 * level:.0f}"] for level in LEVELS]
        errors = [row[f"coverage_{100 * level:.0f}_stderr"] for level in LEVELS]
        name = str(row["method"])
        ax.errorbar(LEVELS, found, yerr=errors, linewidth=1.0, elinewidth=0.8, **_style(names, name))
    ax.set_ylim(-0.03, 1.03)
    finish_axes(ax, "credible level", "truths inside" if first else "", grid=True)


@checked
def sampler_picture(frame: pd.DataFrame) -> Figure | None:
    """Errors at numbers of evaluations: distances to true ends, and of samplers with noise to exact samples.

    Args:
        frame: A frame with `SAMPLER_COLUMNS`.

    Returns:
        The figure; None where there are no errors.
    """
    errors = frame[frame["check"].str.startswith("error at") & frame["value"].notna()]
    if errors.empty:
        return None
    noisy = errors["finding"].str.startswith("sliced")
    parts = [
        (errors[~noisy], "distance to true ends, root mean square"),
        (errors[noisy], "sliced Wasserstein-2 to exact samples"),
    ]
    parts = [(part, label) for part, label in parts if not part.empty]
    names = list(dict.fromkeys(errors["sampler"]))
    figure = new_figure(3.6 * len(parts) + 1.4, 3.2)
    for ax, (part, label) in zip(figure.subplots(1, len(parts), squeeze=False)[0], parts, strict=True):
        for name, group in part.groupby("sampler", sort=False):
            budgets = [int(check.rpartition(" ")[2]) for check in group["check"]]
            errors_of = [0.0 if math.isnan(e) else e for e in group["stderr"]]
            ax.errorbar(
                budgets,
                group["value"],
                yerr=errors_of,
                label=str(name),
                linewidth=1.0,
                elinewidth=0.8,
                **_style(names, str(name)),
            )
        ax.set_yscale("log")
        ticks = sorted({int(check.rpartition(" ")[2]) for check in part["check"]})
        ax.set_xticks(ticks, [str(tick) for tick in ticks])
        finish_axes(ax, "evaluations", label, grid=True)
    handles = [h for ax in figure.axes for h in ax.get_legend_handles_labels()[0]]
    labels = [text for ax in figure.axes for text in ax.get_legend_handles_labels()[1]]
    figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=SMALL)
    return figure
