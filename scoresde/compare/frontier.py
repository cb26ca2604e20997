"""Figures of a comparison: error or quality of samplers against their cost, with the Pareto frontier.

Each takes a frame of `scoresde.compare.compare`, with any number of samplers and seeds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, LogLocator, NullFormatter, NullLocator

from scoresde.arguments import checked
from scoresde.compare.frame import LABELS, summarise
from scoresde.metrics.evaluate import HIGHER_IS_BETTER
from scoresde.plots.style import BLUE, FAINT, GREEN, INK, MUTED, PURPLE, SMALL, TEXT, VERMILION, ShownFigure

__all__ = ["coloured", "frontier", "frontiers", "pareto"]

Cost = Literal["nfe", "seconds"]

# The palette of Okabe and Ito (2008), and a purple of Tol (2021) that is distinct from the others on white.
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, "#E69F00", "#56B4E9")
OTHERS = "#c4c4c4"
_TICKS = (1, 2, 5)


@checked
def pareto(x: Sequence[float], y: Sequence[float], higher: bool = False) -> list[int]:
    """Indices of the Pareto-optimal points, by increasing x.

    >>> pareto([1, 2, 3, 4], [0.5, 0.7, 0.2, 0.2])
    [0, 2]

    Args:
        x: The costs.
        y: The values.
        higher: Whether a higher value is better.
    """
    sign = -1 if higher else 1
    order = sorted(range(len(x)), key=lambda i: (x[i], sign * y[i]))
    kept: list[int] = []
    for i in order:
        if not kept or sign * y[i] < sign * y[kept[-1]]:
            kept.append(i)
    return kept


@checked
def frontier(
    frame: pd.DataFrame,
    y: str = "error",
    x: Cost = "nfe",
    *,
    best: int = 6,
    highlight: Sequence[str] = (),
) -> Figure:
    """Error or quality against cost: a line for each sampler, a point for each number of steps.

    The broad grey line is the frontier, the best value at each cost. The samplers on it or closest to it are in colour,
    with their standard errors and names; the others are pale. Samplers with noise are dashed. A dotted line is the
    error of the reference, or the metric of other draws from the data's distribution. Points far from the frontier are
    outside of the figure, which gives their number; of a sampler in colour one is within it, unless that is too far.

    Args:
        frame: A frame of `compare`, with one or more seeds.
        y: "error", which samplers with noise do not have, or one of the metrics.
        x: "nfe" or "seconds".
        best: The number of samplers in colour, at most 6.
        highlight: Samplers that are in colour whatever their rank.

    Raises:
        ValueError: Another y or x, no finite values, an unknown name to highlight, or different n.
    """
    return frontiers(frame, (y,), (x,), best=best, highlight=highlight)


@checked
def frontiers(
    frame: pd.DataFrame,
    ys: Sequence[str] = ("error", "frechet_distance"),
    xs: Sequence[Cost] = ("nfe", "seconds"),
    *,
    best: int = 6,
    highlight: Sequence[str] = (),
) -> Figure:
    """Panels of `frontier`: a row for each y and a column for each x. A sampler has the same colour in all panels.

    A y without finite values (no deterministic samplers, or no data) is left out, unless it is the only one.

    Args:
        frame: A frame of `compare`.
        ys: "error" or metrics.
        xs: "nfe" or "seconds".
        best: The number of samplers in colour, as for `frontier`.
        highlight: Samplers in colour whatever their rank.

    Raises:
        ValueError: The errors of `frontier`.
    """
    kept, chosen = _panels_and_colours(frame, ys, xs, best, highlight)
    rows = [y for y in ys if any(p.y == y for p in kept)]
    figure = ShownFigure(figsize=(5.4 * len(xs) + 0.2, 3.7 * len(rows) + 0.3), facecolor="white", layout="constrained")
    axes = figure.subplots(len(rows), len(xs), squeeze=False)
    for panel in kept:
        panel.draw(axes[rows.index(panel.y)][list(xs).index(panel.x)], chosen)
    figure.legend(
        handles=_handles(kept, chosen),
        loc="outside upper left",
        ncols=6,
        frameon=False,
        fontsize=SMALL,
        labelcolor=INK,
        handlelength=2.2,
        columnspacing=1.6,
    )
    return figure


@checked
def coloured(
    frame: pd.DataFrame,
    ys: Sequence[str] = ("error", "frechet_distance"),
    xs: Sequence[Cost] = ("nfe", "seconds"),
    *,
    best: int = 6,
    highlight: Sequence[str] = (),
) -> list[str]:
    """The names of the samplers that `frontiers` draws in colour, in the order of the colours; see its arguments."""
    return list(_panels_and_colours(frame, ys, xs, best, highlight)[1])


def _panels_and_colours(
    frame: pd.DataFrame, ys: Sequence[str], xs: Sequence[Cost], best: int, highlight: Sequence[str]
) -> tuple[list["_Panel"], dict[str, str]]:
    """The panels with finite values, and the colours of samplers by name."""
    summary = summarise(frame)
    known = [*LABELS][2:]
    for name, choices in ((ys, known), (xs, ["nfe", "seconds"])):
        wrong = [v for v in name if v not in choices]
        if wrong or not name:
            what = repr(wrong[0]) if wrong else "nothing"
            raise ValueError(f"cannot draw {what}: expected one of {', '.join(choices)}")
    missing = [name for name in highlight if name not in set(summary["sampler"])]
    if missing:
        raise ValueError(f"highlight has {missing[0]!r}, which is not in the frame")
    if not 0 <= best <= len(COLOURS):
        raise ValueError(f"best is {best}, expected 0 to {len(COLOURS)}")
    panels = [_Panel(summary, y, x) for y in ys for x in xs]
    kept = [p for p in panels if p.curves]
    if not kept:
        raise ValueError(f"no finite {', '.join(ys)} in the frame: {_why(summary)}")
    return kept, _chosen([p.ranked() for p in kept if p.x == xs[0]], best, highlight)


def _why(summary: pd.DataFrame) -> str:
    problems = [text for text in summary["problem"] if text]
    return problems[0] if problems else "only samplers without noise have an error, and metrics need data"


def _chosen(rankings: Sequence[Sequence[str]], best: int, highlight: Sequence[str]) -> dict[str, str]:
    """Colours by name, for the highlighted samplers and then for the best of each ranking in turn."""
    first = list(dict.fromkeys(highlight))
    turns = [name for place in zip_longest(*rankings) for name in place if name is not None]
    names = list(dict.fromkeys([*first, *turns]))[: max(best, len(first))]
    return {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}


def _handles(panels: Sequence["_Panel"], chosen: dict[str, str]) -> list[Line2D]:
    curves = {c.name: c for p in panels for c in p.curves}
    handles = [Line2D([], [], color=INK, alpha=0.2, linewidth=6, solid_capstyle="butt", label="best at this cost")]
    if any(not c.noisy for c in curves.values()):
        handles.append(Line2D([], [], color=INK, linewidth=1.4, label="without noise"))
    if any(c.noisy for c in curves.values()):
        handles.append(Line2D([], [], color=INK, linewidth=1.4, linestyle=(0, (4, 2)), label="with noise"))
    others = sum(name not in chosen for name in curves)
    if others:
        handles.append(Line2D([], [], color=OTHERS, linewidth=1.0, label=f"{others} others"))
    return handles


@dataclass
class _Curve:
    """The points of a sampler by increasing cost."""

    name: str
    noisy: bool
    x: list[float] = field(default_factory=list)
    y: list[float] = field(default_factory=list)
    bar: list[float] = field(default_factory=list)


class _Panel:
    """A panel of one y against one x."""

    def __init__(self, summary: pd.DataFrame, y: str, x: Cost) -> None:
        self.y, self.x = y, x
        self.higher = y in HIGHER_IS_BETTER
        self.attrs = summary.attrs
        finite = summary[np.isfinite(summary[[x, y]].astype(float)).all(axis=1) & (summary[x] > 0)]
        self.curves = []
        for name, group in finite.groupby("sampler", sort=False):
            sorted_ = group.sort_values(x)
            values = [sorted_[v].astype(float).tolist() for v in (x, y, f"{y}_stderr")]
            self.curves.append(_Curve(str(name), bool(sorted_["error"].isna().all()), *values))
        self.points = [(a, b) for c in self.curves for a, b in zip(c.x, c.y, strict=True)]
        if not self.points:
            return
        xs, ys = zip(*self.points, strict=True)
        self.best = [self.points[i] for i in pareto(xs, ys, self.higher)]
        # A logarithmic axis needs values that span a factor of 10: it would enlarge differences of the size of errors.
        wide = not self.higher and min(ys) > 0 and self.best[0][1] > 10 * self.best[-1][1]
        self.log = wide or (y == "error" and min(ys) > 0)

    def gap(self, x: float, y: float) -> float:
        """The distance of a point from the frontier at its cost, of log y on a logarithmic axis and of y on another."""
        there = [b for a, b in self.best if a <= x][-1]
        return math.log(y / there) if self.log else abs(y - there)

    def ranked(self) -> list[str]:
        """Names of samplers by the distance of their points from the frontier; single points behind it come last."""

        def distance(curve: _Curve) -> tuple[bool, float]:
            gaps = sorted(self.gap(a, b) for a, b in self._pairs(curve))
            # Many samplers are good only from some number of steps on; so the better half counts.
            mean = float(np.mean(gaps[: math.ceil(len(gaps) / 2)])) + 0.1 * float(np.mean(gaps))
            return len(gaps) == 1 and mean > 0, mean

        return [c.name for c in sorted(self.curves, key=distance)]

    def floor(self) -> tuple[float, str] | None:
        """The value beyond which samplers cannot be told apart, and its name; None if it is unknown."""
        if self.y == "error":
            errors = [v for v in self.attrs.get("reference", {}).get("error", {}).values() if v > 0]
            return (max(errors), "error of the reference") if errors else None
        entry = self.attrs.get("floor", {}).get(self.y)
        if entry is None:
            return None
        return float(entry[0]), "exact samples" if self.y in self.attrs.get("exact", ()) else "training data"

    def limits(self, chosen: dict[str, str]) -> tuple[float, float]:
        """The limits of y, which include the frontier, the parts of coloured lines near it, and the floor if near."""
        near = [b for _, b in self.best]
        span = math.log(max(near) / min(near)) if self.log else max(near) - min(near)
        reach = max(0.6 * span, 1.6) if self.log else max(0.6 * span, 0.1 * abs(max(near)))
        shown = list(near)
        for curve in self.curves:
            if curve.name not in chosen:
                continue
            for a, b, bar in zip(curve.x, curve.y, np.nan_to_num(curve.bar), strict=True):
                if self.gap(a, b) < reach:
                    shown += [b] if self.log else [b - bar, b + bar]
        level = self.floor()
        low, high = min(shown), max(shown)
        if level is not None and level[0] > 0 and (not self.log or low / level[0] < 30):
            low, high = min(low, level[0]), max(high, level[0])
        low, high = self._with_all(low, high, chosen)
        if self.log:
            margin = (high / low) ** 0.06 * 1.05
            return low / margin, high * margin
        margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
        # No error and no metric is negative.
        return max(low - margin, 0.0), high + margin

    def _with_all(self, low: float, high: float, chosen: dict[str, str]) -> tuple[float, float]:
        """Limits within which each coloured sampler has a point, if they leave the given ones a third of the height."""

        def height(a: float, b: float) -> float:
            return math.log(b / a) if self.log else b - a

        most = 3 * height(low, high)
        for curve in self.curves:
            if curve.name in chosen and not any(low <= b <= high for b in curve.y):
                a, b = min(((min(low, b), max(high, b)) for b in curve.y), key=lambda limits: height(*limits))
                if height(a, b) <= most:
                    low, high = a, b
        return low, high

    def _pairs(self, curve: _Curve) -> list[tuple[float, float]]:
        return list(zip(curve.x, curve.y, strict=True))

    def draw(self, ax: Axes, chosen: dict[str, str]) -> None:
        low, high = self.limits(chosen)
        xs = [a for a, _ in self.points]
        ax.set_xscale("log")
        ax.set_xlim(min(xs) / 1.12, max(max(xs) * 1.12, min(xs) * 2))
        ax.set_yscale("log" if self.log else "linear")
        ax.set_ylim(low, high)
        for curve in self.curves:
            dashes: Any = (0, (4, 2)) if curve.noisy else "solid"
            if curve.name not in chosen:
                style: dict[str, Any] = {"color": OTHERS, "linewidth": 0.7, "markersize": 1.8}
                ax.plot(curve.x, curve.y, marker="o", linestyle=dashes, zorder=1, **style)
                continue
            drawn = ax.errorbar(
                curve.x,
                curve.y,
                yerr=np.nan_to_num(curve.bar),
                color=chosen[curve.name],
                linestyle=dashes,
                linewidth=1.4,
                elinewidth=0.9,
                marker="o",
                markersize=3.6,
                markerfacecolor="white" if curve.noisy else chosen[curve.name],
                zorder=3,
            )
            for bars in drawn.lines[2]:
                bars.set_alpha(0.45)
        steps = [*self.best, (ax.get_xlim()[1], self.best[-1][1])]
        ax.plot(*zip(*steps, strict=True), drawstyle="steps-post", color=INK, alpha=0.2, linewidth=6, zorder=2)
        self._draw_floor(ax)
        _names(ax, [(c, chosen[c.name]) for c in self.curves if c.name in chosen])
        self._frame(ax, low, high)

    def _draw_floor(self, ax: Axes) -> None:
        level = self.floor()
        if level is None or not ax.get_ylim()[0] <= level[0] <= ax.get_ylim()[1]:
            return
        ax.axhline(level[0], color=MUTED, linewidth=1.1, linestyle=":", zorder=2)
        ax.annotate(
            level[1], (0.01, level[0]), (0, 2), ax.get_yaxis_transform(), "offset points", fontsize=SMALL, color=MUTED
        )

    def _frame(self, ax: Axes, low: float, high: float) -> None:
        _ticks(ax.xaxis, *ax.get_xlim())
        if self.log:
            _ticks(ax.yaxis, low, high)
        outside = sum(b < low if self.higher else b > high for _, b in self.points)
        if outside:
            where = "below" if self.higher else "above"
            text = f"{outside} of {len(self.points)} points are {where}"
            ax.text(1, 1.01, text, transform=ax.transAxes, ha="right", va="bottom", fontsize=SMALL - 1, color=MUTED)
        ax.set_xlabel(LABELS[self.x], fontsize=TEXT, color=INK)
        ax.set_ylabel(LABELS[self.y], fontsize=TEXT, color=INK)
        ax.tick_params(which="both", labelsize=SMALL, color=FAINT, labelcolor=MUTED, width=0.8)
        for side, spine in ax.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(FAINT)
        ax.grid(True, color=FAINT, linewidth=0.5)
        ax.set_axisbelow(True)


def _ticks(axis: Any, low: float, high: float) -> None:
    """Give a logarithmic axis at most about 8 ticks, whose numbers are not written as powers."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in (_TICKS, (1, 3), (1,)):
        places = [d * 10.0**k for k in decades for d in digits if low <= d * 10.0**k <= high]
        if len(places) <= 8:
            break
    axis.set_major_locator(FixedLocator(places) if len(places) >= 2 else LogLocator(subs="all"))
    axis.set_major_formatter(lambda v, _: f"{v:g}")
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def _names(ax: Axes, curves: Sequence[tuple[_Curve, str]]) -> None:
    """Write names to the right of the axes, each joined to the last point of its line that is within them."""
    to_axes = ax.transData + ax.transAxes.inverted()
    low, high = ax.get_ylim()
    ends = []
    for curve, colour in curves:
        inside = [(a, b) for a, b in zip(curve.x, curve.y, strict=True) if low <= b <= high]
        if inside:
            ends.append((*to_axes.transform(inside[-1]).tolist(), curve.name, colour))
    ends.sort(key=lambda end: end[1])
    for (x, y, name, colour), place in zip(ends, _apart([end[1] for end in ends], 0.055), strict=True):
        ax.plot([x, 1.02], [y, place], transform=ax.transAxes, color=colour, linewidth=0.5, clip_on=False, zorder=2)
        ax.text(1.03, place, name, transform=ax.transAxes, va="center", fontsize=SMALL, color=colour, parse_math=False)


def _apart(places: Sequence[float], gap: float) -> list[float]:
    """Increasing positions, moved as little as possible, so that they are `gap` apart and at most 1."""
    out: list[float] = []
    for place in places:
        out.append(max(place, out[-1] + gap) if out else max(place, 0.0))
    limit = max(1.0, gap * (len(out) - 1))
    for i in reversed(range(len(out))):
        out[i] = min(out[i], limit)
        limit = out[i] - gap
    return out
