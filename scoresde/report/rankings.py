"""Charts of the results of a sweep: configurations by a measure, and a measure against a setting."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scoresde.report.numbers import Value
from scoresde.report.traces import COLOURS, Chart, axis, chart, error_bars, rounded, safe, trace

__all__ = ["Row", "against", "ranking"]

_MAX_ROWS = 24


@dataclass(frozen=True)
class Row:
    """A configuration in a chart of results: its name, the mean over its runs, and the value of each of them."""

    name: str
    mean: Value
    values: list[float]


def ranking(title: str, hint: str, rows: Sequence[Row], real: Value | None = None) -> Chart:
    """A chart of one measure of every configuration, the best at the top.

    Args:
        title: Name of the measure.
        hint: Words on what it measures.
        rows: One for each configuration, at least two, the best first.
        real: Score of real data, as a line to compare with.
    """
    shown = rows[:_MAX_ROWS]
    indices = list(range(len(shown)))
    means = [row.mean.value for row in shown]
    whiskers = {
        "error_x": {**error_bars([row.mean.stderr or 0.0 for row in shown])["error_y"], "thickness": 1.5, "width": 4}
    }
    single = [(value, index) for index, row in zip(indices, shown, strict=True) for value in row.values]
    traces: list[dict[str, Any]] = []
    if real is not None:
        ends = {"mode": "lines", "hoverinfo": "name"}
        traces.append(trace("training data", None, rounded([real.value] * 2), [-0.5, len(shown) - 0.5], **ends))
    if len(single) > len(shown):
        x, y = zip(*single, strict=True)
        faint = {"mode": "markers", "opacity": 0.45, "hovertemplate": "%{x:.4~g}<extra>one run</extra>"}
        traces.append(trace("single runs", None, rounded(x), list(map(float, y)), **faint))
    names = [_lines(row.name) for row in shown]
    point = "%{x:.4~g}<extra>%{text}</extra>"
    options = {"mode": "markers", "marker": {"size": 9}, "text": names, "hovertemplate": point, **whiskers}
    traces.append(
        trace("mean" if len(single) > len(shown) else "run", 0, rounded(means), list(map(float, indices)), **options)
    )
    ticks = [f"<b>{names[0]}</b>", *names[1:]]
    caption = f"{hint[0].upper()}{hint[1:]}, best first; whiskers: ± standard error"
    caption += ", of the scatter over training seeds where there are several." if len(single) > len(shown) else "."
    if len(shown) < len(rows):
        caption += f" The best {len(shown)} of {len(rows)}."
    tall = max(1, max(name.count("<br>") + 1 for name in names))
    layout = {
        "height": max(320, 150 + len(shown) * (12 + 16 * tall)),
        "xaxis": {"title": {"text": title}},
        "yaxis": {
            "title": {"text": ""},
            "tickvals": indices,
            "ticktext": ticks,
            "range": [len(shown) - 0.5, -0.5],
            "showgrid": False,
        },
    }
    return chart(f"{title[0].upper()}{title[1:]}", caption, traces, layout)


def _lines(name: str) -> str:
    """A name in lines that leave the chart its room, broken after commas."""
    lines = [""]
    for part in safe(name).split(", "):
        if lines[-1] and len(lines[-1]) + len(part) > 26:
            lines[-1] += ","
            lines.append(part)
        else:
            lines[-1] += f"{', ' if lines[-1] else ''}{part}"
    return "<br>".join(lines)


def against(title: str, key: str, better: int, lines: Sequence[tuple[str, Sequence[tuple[float, Value]]]]) -> Chart:
    """A chart of one measure against a setting that is a number.

    Args:
        title: Name of the measure.
        key: The setting.
        better: 1 if higher values are better, -1 if lower ones are.
        lines: Configurations that differ in this setting alone, by what they share, as pairs of setting and value.
    """
    joined = len(lines) <= COLOURS and any(len(points) > 1 for _, points in lines)
    traces: list[dict[str, Any]] = []
    if joined:
        for tone, (name, points) in enumerate(lines):
            ordered = sorted(points, key=lambda point: point[0])
            whiskers = error_bars([value.stderr or 0.0 for _, value in ordered])
            x, y = rounded(p[0] for p in ordered), rounded(p[1].value for p in ordered)
            traces.append(trace(name or title, tone, x, y, mode="lines+markers", **whiskers))
    else:
        every = [(x, value, name) for name, points in lines for x, value in points]
        whiskers = error_bars([value.stderr or 0.0 for _, value, _ in every])
        names = {
            "text": [safe(name) for *_, name in every],
            "hovertemplate": "%{x:.4~g}, %{y:.4~g}<extra>%{text}</extra>",
        }
        x, y = rounded(p[0] for p in every), rounded(p[1].value for p in every)
        traces.append(trace(title, 0, x, y, mode="markers", **names, **whiskers))
    settings = [x for _, points in lines for x, _ in points]
    values = [value.value for _, points in lines for _, value in points]
    layout = {"xaxis": axis(key, settings, 8), "yaxis": axis(title, values)}
    way = {1: "higher", -1: "lower"}[better]
    caption = f"Means over training seeds where there are several, ± standard error; {way} is better."
    return chart(f"{title[0].upper()}{title[1:]} against {key}", caption, traces, layout)
