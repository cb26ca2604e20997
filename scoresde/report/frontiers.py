"""Charts of samplers compared: error and quality against evaluations of the network."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from scoresde.report.numbers import Value, combine, is_number, metric_title, text
from scoresde.report.traces import COLOURS, Chart, Series, axis, chart, error_bars, rounded, trace

__all__ = ["Palette", "frontiers"]

_MAX_COLOURED = 7


def frontiers(series: Sequence[Series], palette: "Palette | None" = None) -> list[Chart]:
    """Chart error and quality against evaluations, from `comparison.csv`: a chart for each measure.

    Repeats over seeds become a mean with the scatter's standard error. As many curves as can be told apart are
    coloured, those on the Pareto frontier before those that come lowest elsewhere; the others are grey. A sampler has
    one colour in all charts that share a `palette`, and a run one kind of dash.
    """
    palette = Palette() if palette is None else palette
    measures = {
        key: [line for number, run in enumerate(series) for line in _frontier(run, number, key, len(series) > 1)]
        for key in ("error", "frechet_distance", "sliced_wasserstein", "noise_left", "nats_lost")
    }
    for lines in measures.values():
        every = [(nfe, point.value) for line in lines for nfe, point in line.points]
        lines.sort(key=lambda line: (not _leads(line.points, every), min(point.value for _, point in line.points)))
    _colour(palette, series, list(measures.values()))
    charts = (_chart(key, lines, palette, _problems(series)) for key, lines in measures.items())
    return [made for made in charts if made is not None]


def _colour(palette: "Palette", series: Sequence[Series], measures: Sequence[Sequence["_Line"]]) -> None:
    """Give colours to the samplers of the figures, and then to the best of each measure."""
    for run in series:
        for sampler in run.coloured:
            palette.add(sampler)
    # In turn, so that no measure's samplers take all colours.
    for turn in zip_longest(*(lines[:_MAX_COLOURED] for lines in measures)):
        for line in turn:
            if line is not None:
                palette.add(line.sampler)


def _chart(key: str, lines: Sequence["_Line"], palette: "Palette", problems: str) -> Chart | None:
    """Chart of a measure, the best of the lines first; None without any."""
    if not lines:
        return None
    traces: list[dict[str, Any]] = []
    for rank, line in enumerate(lines):
        x, y = [p[0] for p in line.points], [p[1].value for p in line.points]
        errors = [p[1].stderr or 0.0 for p in line.points]
        tone = palette.tone(line.sampler, line.run) if rank < _MAX_COLOURED else None
        shown = {"showlegend": False, "opacity": 0.5} if tone is None else {}
        options = {"mode": "lines+markers", **error_bars(errors), **shown}
        traces.append(trace(line.label, tone, rounded(x), rounded(y), **options))
    title = "error of the endpoint" if key == "error" else metric_title(key)
    what = "RMS distance per sample to the exact solution's endpoint" if key == "error" else title
    others = any(each["tone"] is None for each in traces)
    most = " Grey: the others; point at one for its name." if others else ""
    caption = f"{what[0].upper()}{what[1:]}, ± standard error; lower is better.{most}{problems}"
    axes = {
        "xaxis": axis("evaluations of the network, NFE", [p[0] for line in lines for p in line.points], 4),
        "yaxis": axis(title, [p[1].value for line in lines for p in line.points]),
    }
    # Grey below colour.
    return chart(f"Samplers: {title}", caption, traces[::-1], {**axes, "reversed": True})


class Palette:
    """Colours of samplers, the same in every chart of a page."""

    def __init__(self) -> None:
        self._indices: dict[str, int] = {}

    def add(self, sampler: str) -> None:
        """Give the sampler the next colour, if it has none and one is left."""
        if len(self._indices) < COLOURS:
            self._indices.setdefault(sampler, len(self._indices))

    def tone(self, sampler: str, run: int = 0) -> int | None:
        """The tone of a sampler's curve in a run, or None for grey."""
        index = self._indices.get(sampler)
        return None if index is None else index + COLOURS * run


@dataclass(frozen=True)
class _Line:
    """A sampler's points in one run, by evaluations."""

    sampler: str
    run: int
    label: str
    points: list[tuple[float, Value]]


def _leads(points: list[tuple[float, Value]], every: list[tuple[float, float]]) -> bool:
    """True if one of the points has nothing lower at as many evaluations or fewer."""
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
