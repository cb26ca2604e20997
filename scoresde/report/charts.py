"""Interactive charts as plotly's traces: plain data, with colours left to the page's scheme.

A trace's `tone` is its place in the palette of `script.js`, or None for grey. plotly reads a small HTML in names,
so all text from runs goes through `_safe`.
"""

import html
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from scoresde.report.numbers import Value, as_dict, combine, is_number, metric_title, text
from scoresde.report.png import Picture

__all__ = [
    "Chart",
    "Palette",
    "Row",
    "Series",
    "against",
    "error_budget",
    "frontiers",
    "learning_curves",
    "loss_by_noise_level",
    "ranking",
]

_MOST_POINTS = 600
COLOURS = 7  # in the palette of `script.js`; a tone beyond it is a colour again with another dash
_MOST_FRONTIERS = 7
_MOST_NAMED = 16  # in a legend
_PARTS = {
    "stderr_data": "choice of held-out data",
    "stderr_dequantisation": "dequantisation",
    "stderr_probes": "probes",
    "solver_error": "solver, RMS per sample",
}


@dataclass(frozen=True)
class Chart:
    """Plotly's traces and layout; `fallback` is shown where scripts are off."""

    title: str
    caption: str
    traces: list[dict[str, Any]]
    layout: dict[str, Any]
    fallback: Picture | None = None


@dataclass(frozen=True)
class Series:
    """A run's part of a chart: its label, also a short one, its place in the palette, and its files' entries.

    `coloured` has the samplers that the picture of its comparison colours, in the order of the colours; `group` is the
    label that it shares with its repeats, of which a legend names one.
    """

    label: str
    tone: int
    log: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    comparison: list[dict[str, Any]] = field(default_factory=list)
    short: str = ""
    coloured: list[str] = field(default_factory=list)
    group: str = ""


@dataclass(frozen=True)
class Row:
    """A configuration in a chart of results: its name, the mean over its runs, and the value of each of them."""

    name: str
    mean: Value
    values: list[float]


def _chart(
    title: str, caption: str, traces: list[dict[str, Any]], layout: dict[str, Any], fallback: Picture | None = None
) -> Chart:
    named = sum(trace.get("showlegend", True) for trace in traces)
    if named > _MOST_NAMED:
        caption += " Point at a curve for its name."
    return Chart(title, caption, traces, {**layout, "showlegend": 1 < named <= _MOST_NAMED}, fallback)


def _safe(label: str) -> str:
    label = " ".join(label.split())
    return html.escape(label if len(label) <= 70 else label[:69] + "…", quote=False)


def _round(values: Iterable[float]) -> list[float]:
    return [float(f"{v:.5g}") for v in values]


def _axis(title: str, values: Sequence[float] = (), span: float = 30) -> dict[str, Any]:
    """An axis, logarithmic where positive values differ by more than a factor of `span`."""
    wide = bool(values) and min(values) > 0 and max(values) > span * min(values)
    return {"title": {"text": title}, **(_log_ticks(min(values), max(values)) if wide else {})}


def _log_ticks(low: float, high: float) -> dict[str, Any]:
    """Ticks of a logarithmic axis that never stand in each other's way: about 4 to 8 of them from `low` to `high`.

    They go on beyond both ends, for charts that are moved.
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


def _thin(x: list[float], y: list[float]) -> tuple[list[float], list[float]]:
    """Means of equally many neighbours each, where there are more points than can be seen."""
    size = math.ceil(len(x) / _MOST_POINTS)
    starts = range(0, len(x), max(size, 1))
    return tuple([statistics.fmean(v[i : i + size]) for i in starts] for v in (x, y))  # type: ignore[return-value]


def losses(log: list[dict[str, Any]]) -> dict[str, tuple[list[float], list[float]]]:
    """Steps and values of every loss that the log has finite values of."""
    names = [k for k in dict.fromkeys(k for line in log for k in line) if k == "loss" or k.endswith("_loss")]
    found = {}
    for name in names:
        points = [(float(e["step"]), float(e[name])) for e in log if is_number(e.get(name))]
        if points:
            found[name] = tuple(map(list, zip(*points, strict=True)))
    return found  # type: ignore[return-value]


def learning_curves(series: Sequence[Series], fallback: Picture | None = None) -> Chart | None:
    """Loss against the training step; of one run every loss in its log, of several the training loss."""
    traces: list[dict[str, Any]] = []
    everything: list[float] = []
    thinned = False
    for run in series:
        for place, (name, (x, y)) in enumerate(losses(run.log).items()):
            if len(series) > 1 and name != "loss":
                continue
            thinned |= len(x) > _MOST_POINTS
            x, y = _thin(x, y)
            label = run.label if len(series) > 1 else name.replace("_", " ")
            mode = "lines" if len(x) > 30 else "lines+markers"
            tone = run.tone if len(series) > 1 else place
            traces.append(_trace(label, tone, _round(x), _round(y), mode=mode, **_named(run, traces)))
            everything += y
    if not traces:
        return None
    caption = "Mean loss since the line before in the log."
    if len(series) == 1:
        caption += f" Last logged: step {text(series[0].log[-1]['step'])}."
    if thinned:
        caption += f" Neighbouring lines averaged, to at most {_MOST_POINTS} points a curve."
    layout = {"xaxis": _axis("training step"), "yaxis": _axis("loss", everything)}
    return _chart("Learning curve" if len(series) == 1 else "Learning curves", caption, traces, layout, fallback)


def _trace(label: str, tone: int | None, x: list[float], y: list[float], **options: Any) -> dict[str, Any]:
    return {"type": "scatter", "name": _safe(label), "tone": tone, "x": x, "y": y, **options}


def _named(run: Series, traces: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A name in the legend for a run and its repeats; pointing at a curve still gives the run's own."""
    if not run.group:
        return {}
    name = _safe(run.group)
    own = f"%{{x:.4~g}}, %{{y:.4~g}}<extra>{_safe(run.label).replace('%', '&#37;')}</extra>"
    shown = all(trace["name"] != name for trace in traces)
    return {"name": name, "legendgroup": name, "showlegend": shown, "hovertemplate": own}


def ranking(title: str, hint: str, rows: Sequence[Row], real: Value | None = None) -> Chart:
    """A chart of one measure of every configuration, the best at the top.

    Args:
        title: Name of the measure.
        hint: What it is of.
        rows: One for each configuration, at least two, the best first.
        real: What real data score, as a line to compare with.
    """
    shown = rows[:_MOST_ROWS]
    places = list(range(len(shown)))
    means = [row.mean.value for row in shown]
    bars = {"error_x": {**_bars([row.mean.stderr or 0.0 for row in shown])["error_y"], "thickness": 1.5, "width": 4}}
    single = [(value, place) for place, row in zip(places, shown, strict=True) for value in row.values]
    traces: list[dict[str, Any]] = []
    if real is not None:
        ends = {"mode": "lines", "hoverinfo": "name"}
        traces.append(_trace("training data", None, _round([real.value] * 2), [-0.5, len(shown) - 0.5], **ends))
    if len(single) > len(shown):
        x, y = zip(*single, strict=True)
        faint = {"mode": "markers", "opacity": 0.45, "hovertemplate": "%{x:.4~g}<extra>one run</extra>"}
        traces.append(_trace("single runs", None, _round(x), list(map(float, y)), **faint))
    names = [_lines(row.name) for row in shown]
    point = "%{x:.4~g}<extra>%{text}</extra>"
    options = {"mode": "markers", "marker": {"size": 9}, "text": names, "hovertemplate": point, **bars}
    traces.append(
        _trace("mean" if len(single) > len(shown) else "run", 0, _round(means), list(map(float, places)), **options)
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
            "tickvals": places,
            "ticktext": ticks,
            "range": [len(shown) - 0.5, -0.5],
            "showgrid": False,
        },
    }
    return _chart(f"{title[0].upper()}{title[1:]}", caption, traces, layout)


_MOST_ROWS = 24


def _lines(name: str) -> str:
    """A name in lines that leave the chart its room, broken after commas."""
    made = [""]
    for part in _safe(name).split(", "):
        if made[-1] and len(made[-1]) + len(part) > 26:
            made[-1] += ","
            made.append(part)
        else:
            made[-1] += f"{', ' if made[-1] else ''}{part}"
    return "<br>".join(made)


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
            bars = _bars([value.stderr or 0.0 for _, value in ordered])
            x, y = _round(p[0] for p in ordered), _round(p[1].value for p in ordered)
            traces.append(_trace(name or title, tone, x, y, mode="lines+markers", **bars))
    else:
        every = [(x, value, name) for name, points in lines for x, value in points]
        bars = _bars([value.stderr or 0.0 for _, value, _ in every])
        text = {
            "text": [_safe(name) for *_, name in every],
            "hovertemplate": "%{x:.4~g}, %{y:.4~g}<extra>%{text}</extra>",
        }
        x, y = _round(p[0] for p in every), _round(p[1].value for p in every)
        traces.append(_trace(title, 0, x, y, mode="markers", **text, **bars))
    settings = [x for _, points in lines for x, _ in points]
    values = [value.value for _, points in lines for _, value in points]
    layout = {"xaxis": _axis(key, settings, 8), "yaxis": _axis(title, values)}
    way = {1: "higher", -1: "lower"}[better]
    caption = f"Means over training seeds where there are several, ± standard error; {way} is better."
    return _chart(f"{title[0].upper()}{title[1:]} against {key}", caption, traces, layout)


def _bars(errors: list[float]) -> dict[str, Any]:
    return {"error_y": {"type": "data", "array": _round(errors), "thickness": 1, "width": 2}}


def loss_by_noise_level(series: Sequence[Series], fallback: Picture | None = None) -> Chart | None:
    """Mean squared error of the predicted noise against log(σ/α), over the last ten lines of the log."""
    traces: list[dict[str, Any]] = []
    everything: list[float] = []
    for run in series:
        bins: dict[float, list[float]] = {}
        lines = [
            e for e in run.log if isinstance(e.get("loss_by_log_snr"), list) and isinstance(e.get("log_snr"), list)
        ]
        for line in lines[-10:]:
            for level, value in zip(line["log_snr"], line["loss_by_log_snr"], strict=False):
                if is_number(level) and is_number(value):
                    bins.setdefault(-float(level), []).append(float(value))
        if not bins:
            continue
        x = sorted(bins)
        means = [combine([Value(v) for v in bins[level]]) for level in x]
        y = [m.value for m in means]
        bars = {**_bars([m.stderr or 0.0 for m in means]), **_named(run, traces)}
        traces.append(_trace(run.label, run.tone, _round(x), _round(y), mode="lines+markers", **bars))
        everything += y
    if not traces:
        return None
    caption = "Mean squared error of the predicted noise at the end of training, ± standard error over log lines."
    layout = {"xaxis": _axis("log(σ/α): data left, noise right"), "yaxis": _axis("loss of the noise", everything)}
    return _chart("Loss by noise level", caption, traces, layout, fallback)


def error_budget(series: Sequence[Series], unit: str) -> Chart | None:
    """The parts of the held-out likelihood's error, side by side: `unit` is "bits/dim" or "nats"."""
    entries = [(run, as_dict(run.summary.get("likelihood"))) for run in series]
    entries = [(run, e) for run, e in entries if (e.get("bits_per_dim") is not None) == (unit == "bits/dim")]
    traces: list[dict[str, Any]] = []
    everything: list[float] = []
    for tone, (key, part) in enumerate(_PARTS.items()):
        points = [(run, float(e[key])) for run, e in entries if is_number(e.get(key)) and e[key] >= 0]
        if points:
            runs, values = zip(*points, strict=True)
            bar = _trace(part, tone, [], _round(values))
            places = [_safe(run.short or run.label) for run in runs]
            traces.append({**bar, "type": "bar", "x": places, "hovertext": [_safe(run.label) for run in runs]})
            everything += values
    if len(series) == 1 and traces:
        # Of a single run the parts stand on the axis: there is nothing else to tell apart.
        bars = [t["y"][0] for t in traces]
        traces = [{**_trace("error", 0, [], bars), "type": "bar", "x": [t["name"] for t in traces]}]
    if not traces:
        return None
    caption = (
        "Standard errors of the mean from its three random parts, which add in quadrature, and the solver's error "
        "of a single sample, which bounds the error of the mean."
    )
    if any(entry.get("conditional") is True for _, entry in entries):
        caption += " Of models with classes it is the likelihood given the label."
    across = {**_axis("run, by its number" if len(series) > 1 else ""), "type": "category"}
    layout = {"barmode": "group", "xaxis": across, "yaxis": _axis(f"error, {unit}", everything)}
    return _chart("Error of the likelihood", caption, traces, layout)


def frontiers(series: Sequence[Series], palette: "Palette | None" = None) -> list[Chart]:
    """Chart error and quality against evaluations, from `comparison.csv`: a chart for each measure.

    Repeats over seeds become a mean with the scatter's standard error. As many curves as can be told apart are
    coloured, those on the Pareto frontier before those that come lowest elsewhere; the others are grey. A sampler has
    one colour in all charts that share a `palette`, and a run one kind of dash.
    """
    palette = Palette() if palette is None else palette
    measures = {
        key: [line for number, run in enumerate(series) for line in _frontier(run, number, key, len(series) > 1)]
        for key in ("error", "frechet_distance", "sliced_wasserstein")
    }
    for lines in measures.values():
        every = [(nfe, point.value) for line in lines for nfe, point in line.points]
        lines.sort(key=lambda line: (not _leads(line.points, every), min(point.value for _, point in line.points)))
    for run in series:
        for sampler in run.coloured:
            palette.add(sampler)
    # The best of each measure in turn, so that no measure's samplers take all colours.
    for turn in zip_longest(*(lines[:_MOST_FRONTIERS] for lines in measures.values())):
        for line in turn:
            if line is not None:
                palette.add(line.sampler)
    charts = []
    for key, lines in measures.items():
        traces: list[dict[str, Any]] = []
        everything: list[float] = []
        evaluations: list[float] = []
        for rank, line in enumerate(lines):
            x, y = [p[0] for p in line.points], [p[1].value for p in line.points]
            errors = [p[1].stderr or 0.0 for p in line.points]
            tone = palette.tone(line.sampler, line.run) if rank < _MOST_FRONTIERS else None
            shown = {"showlegend": False, "opacity": 0.5} if tone is None else {}
            traces.append(
                _trace(line.label, tone, _round(x), _round(y), mode="lines+markers", **_bars(errors), **shown)
            )
            everything += y
            evaluations += x
        if traces:
            title = "error of the endpoint" if key == "error" else metric_title(key)
            what = "RMS distance per sample to the exact solution's endpoint" if key == "error" else title
            others = any(trace["tone"] is None for trace in traces)
            most = " Grey: the others; point at one for its name." if others else ""
            caption = f"{what[0].upper()}{what[1:]}, ± standard error; lower is better.{most}{_problems(series)}"
            axes = {
                "xaxis": _axis("evaluations of the network, NFE", evaluations, 4),
                "yaxis": _axis(title, everything),
            }
            # Grey below colour.
            charts.append(_chart(f"Samplers: {title}", caption, traces[::-1], {**axes, "reversed": True}))
    return charts


class Palette:
    """Colours of samplers, the same in every chart of a page."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}

    def add(self, sampler: str) -> None:
        """Give the sampler the next colour, if it has none and one is left."""
        if len(self._places) < COLOURS:
            self._places.setdefault(sampler, len(self._places))

    def tone(self, sampler: str, run: int = 0) -> int | None:
        """The tone of a sampler's curve in a run, or None for grey."""
        place = self._places.get(sampler)
        return None if place is None else place + COLOURS * run


@dataclass(frozen=True)
class _Line:
    """A sampler's points in one run, by evaluations."""

    sampler: str
    run: int
    label: str
    points: list[tuple[float, Value]]


def _leads(points: list[tuple[float, Value]], every: list[tuple[float, float]]) -> bool:
    """Whether one of the points has nothing lower at as many evaluations or fewer."""
    return any(all(x > nfe or y >= point.value for x, y in every) for nfe, point in points)


def _frontier(run: Series, number: int, key: str, named: bool) -> list[_Line]:
    cells: dict[str, dict[Any, list[dict[str, Any]]]] = {}
    for row in run.comparison:
        if is_number(row.get("nfe")) and is_number(row.get(key)):
            cells.setdefault(str(row["sampler"]), {}).setdefault(row.get("steps"), []).append(row)
    lines = []
    for sampler, by_steps in cells.items():
        points = [
            (statistics.fmean(r["nfe"] for r in rows), combine([Value(r[key], r.get(f"{key}_stderr")) for r in rows]))
            for rows in by_steps.values()
        ]
        label = f"{sampler}, {run.label}" if named else sampler
        lines.append(_Line(sampler, number, label, sorted(points, key=lambda p: p[0])))
    return lines


def _problems(series: Sequence[Series]) -> str:
    failed = [
        f"{row['sampler']} at {text(int(row['steps'])) if is_number(row.get('steps')) else 'its tolerance'} steps"
        for run in series
        for row in run.comparison
        if row.get("problem")
    ]
    if not failed:
        return ""
    return f" Failed: {', '.join(dict.fromkeys(failed[:5]))}{' and others' if len(failed) > 5 else ''}."
