"""Charts as plotly's traces and layout: plain data, with colours left to the page's scheme.

A trace's `tone` is its index in the palette of `script.js`, or None for grey. plotly reads a small HTML in names, so
all text from runs goes through `safe`.
"""

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from scoresde.report.png import Picture

__all__ = ["COLOURS", "Chart", "Series", "axis", "chart", "error_bars", "named", "rounded", "safe", "trace"]

COLOURS = 7
"""Colours in the palette of `script.js`; a tone beyond it is a colour again with another dash."""

_MAX_NAMED = 16  # in a legend


@dataclass(frozen=True)
class Chart:
    """A chart.

    Attributes:
        title: Its title.
        caption: One or two sentences.
        traces: Plotly's traces.
        layout: Plotly's layout.
        fallback: Figure that is shown where scripts are off.
    """

    title: str
    caption: str
    traces: list[dict[str, Any]]
    layout: dict[str, Any]
    fallback: Picture | None = None


@dataclass(frozen=True)
class Series:
    """A run's part of a chart.

    Attributes:
        label: Its label.
        tone: Its index in the palette.
        log: Entries of its log.
        summary: Its summary.
        comparison: Rows of its comparison of samplers.
        short: A short label.
        coloured: Samplers that the figure of its comparison colours, in the order of the colours.
        group: Label that it shares with its repeats, of which a legend names one.
    """

    label: str
    tone: int
    log: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    comparison: list[dict[str, Any]] = field(default_factory=list)
    short: str = ""
    coloured: list[str] = field(default_factory=list)
    group: str = ""


def chart(
    title: str, caption: str, traces: list[dict[str, Any]], layout: dict[str, Any], fallback: Picture | None = None
) -> Chart:
    """A chart with a legend, if it has several names and not too many."""
    count = sum(trace.get("showlegend", True) for trace in traces)
    if count > _MAX_NAMED:
        caption += " Point at a curve for its name."
    return Chart(title, caption, traces, {**layout, "showlegend": 1 < count <= _MAX_NAMED}, fallback)


def safe(label: str) -> str:
    """A label as plotly may show it: escaped, in one line and not too long."""
    label = " ".join(label.split())
    return html.escape(label if len(label) <= 70 else label[:69] + "…", quote=False)


def rounded(values: Iterable[float]) -> list[float]:
    """Values to five digits, which is all that a chart shows."""
    return [float(f"{v:.5g}") for v in values]


def axis(title: str, values: Sequence[float] = (), span: float = 30) -> dict[str, Any]:
    """An axis, logarithmic where positive values differ by more than a factor of `span`."""
    wide = bool(values) and min(values) > 0 and max(values) > span * min(values)
    return {"title": {"text": title}, **(_log_ticks(min(values), max(values)) if wide else {})}


def _log_ticks(low: float, high: float) -> dict[str, Any]:
    """Ticks of a logarithmic axis that never overlap: about 4 to 8 of them from `low` to `high`.

    They continue beyond both ends, for charts that are moved.
    """
    decades = math.log10(high / low)
    digits = (1, 2, 3, 5) if decades < 1.5 else (1, 2, 5) if decades < 2.5 else (1,)
    stride = max(1, math.ceil(decades / 7))
    first, last = math.floor(math.log10(low)) - stride, math.ceil(math.log10(high)) + stride
    ticks = [(digit, power) for power in range(first, last + 1) if power % stride == 0 for digit in digits]
    values = [float(f"{digit}e{power}") for digit, power in ticks]
    return {"type": "log", "tickvals": values, "ticktext": [_tick(digit, power) for digit, power in ticks]}


def _tick(digit: int, power: int) -> str:
    """A number from 0.001 to 9999 in full, others by a power of ten."""
    if -3 <= power <= 3:
        return f"{float(f'{digit}e{power}'):g}"
    exponent = str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"10{exponent}" if digit == 1 else f"{digit}·10{exponent}"


def trace(label: str, tone: int | None, x: list[float], y: list[float], **options: Any) -> dict[str, Any]:
    """A trace of points.

    Args:
        label: Its name.
        tone: Its index in the palette; None for grey.
        x: Horizontal coordinates.
        y: Vertical coordinates.
        **options: Further entries of the trace.
    """
    return {"type": "scatter", "name": safe(label), "tone": tone, "x": x, "y": y, **options}


def named(run: Series, traces: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Entries of a trace by which the legend names a run and its repeats once; the pointer shows its own name."""
    if not run.group:
        return {}
    name = safe(run.group)
    own = f"%{{x:.4~g}}, %{{y:.4~g}}<extra>{safe(run.label).replace('%', '&#37;')}</extra>"
    shown = all(other["name"] != name for other in traces)
    return {"name": name, "legendgroup": name, "showlegend": shown, "hovertemplate": own}


def error_bars(errors: list[float]) -> dict[str, Any]:
    """Entries of a trace for its standard errors."""
    return {"error_y": {"type": "data", "array": rounded(errors), "thickness": 1, "width": 2}}
