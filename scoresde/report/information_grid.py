"""Information of several runs side by side, from the files that `scoresde information` writes with each."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from scoresde.information.three_ways import WAYS
from scoresde.numerics.paired import PairedDifference
from scoresde.report.columns import Cell, Column, Measure
from scoresde.report.information import SHORT, other_run, points_of
from scoresde.report.numbers import Value, as_dict, estimate, is_number, of_labels, text
from scoresde.report.reading import RunText, read_csv
from scoresde.report.traces import Chart, Series, axis, chart, error_bars, named, rounded, trace

__all__ = ["divergence_columns", "has_information", "information_curves", "information_measures", "information_notes"]

# What two tables must have in common for their rows to be pairs.
_SHARED = ("split", "unit", "conditional", "data_hash", "seed")
_DIFFER = "of three pairs of ways, those that are not one within their errors: 0 if the model's assumptions hold"
_UNTYPICAL = "samples whose log-density is more than 3 standard deviations from the mean"
# Settings on which the numbers of a column depend.
_CONDITIONS = ("draws", "seed", "tol", "divergence", "dimension_log_snr", "data_hash")


def has_information(run: RunText) -> bool:
    """True for a run with results of held-out data."""
    return bool(as_dict(run.information.get("ways")))


def information_measures(runs: Sequence[RunText]) -> list[Measure]:
    """The measures of information that these runs have values of, those of densities first."""
    kinds = dict.fromkeys(_kind(run) for run in runs if has_information(run))
    made = [measure for kind in kinds for measure in _densities(*kind)]
    made += [
        Measure("ways that differ", _DIFFER, _differing, _whole),
        Measure("labels, nats", "information of the labels", _read("labels", "nats"), _shown),
        Measure("by classes, nats", "the same by predictions for every class", _read("classes", "nats"), _shown),
        Measure("classified ↑", "share of labels that are the most probable", _read("classes", "accuracy"), _shown, 1),
        Measure("local dimension", "local intrinsic dimension by FLIPD, in the mean", _read("dimension"), _shown),
        Measure("untypical", _UNTYPICAL, _number("typicality", "untypical"), _whole),
        Measure("n", "held-out samples", _number("n"), _whole),
    ]
    return [measure for measure in made if any(measure.read(run) is not None for run in runs)]


def _kind(run: RunText) -> tuple[str, bool]:
    """The unit of the densities of a run, and whether they are conditional on labels."""
    return text(run.information.get("unit")), as_dict(run.information.get("settings")).get("conditional") is True


def _densities(unit: str, conditional: bool) -> list[Measure]:
    """The measures of densities in one unit, conditional on labels or not."""
    better, arrow = (1, "↑") if unit == "nats" else (-1, "↓")

    def of_kind(*path: str) -> Callable[[RunText], Value | None]:
        read = _read(*path)
        return lambda run: read(run) if _kind(run) == (unit, conditional) else None

    given = {"conditional": conditional}

    def of_way(name: str, title: str) -> Measure:
        short = f"{SHORT[name]}, {unit}"
        heading, hint = f"{of_labels(short, given)} {arrow}", f"{title}, {unit} of held-out data"
        measure = Measure(heading, hint, of_kind("ways", name), _shown, better, unit=short)
        return replace(measure, pair=_pairing()) if name == "immse" else measure

    ways = [of_way(name, title) for name, title in WAYS.items()]
    gap = "what held-out data cost more than as many training samples, by errors of denoising"
    return [*ways, Measure(f"held out less training, {unit}", gap, of_kind("training", "gap"), _shown)]


def _read(*path: str) -> Callable[[RunText], Value | None]:
    """A reader of the mean and standard error at a place in the file."""

    def read(run: RunText) -> Value | None:
        found: dict[str, Any] = run.information
        for part in path:
            found = as_dict(found.get(part))
        mean: Any = found.get("mean")
        error: Any = found.get("stderr")
        if not is_number(mean):
            return None
        return Value(float(mean), float(error) if is_number(error) and error >= 0 else None)

    return read


def _number(*path: str) -> Callable[[RunText], Value | None]:
    """A reader of the number at a place in the file."""

    def read(run: RunText) -> Value | None:
        found: Any = run.information
        for part in path:
            found = as_dict(found).get(part)
        return Value(float(found)) if is_number(found) else None

    return read


def _differing(run: RunText) -> Value | None:
    """The number of pairs of ways that do not agree; None where that is not known."""
    agreements = run.information.get("agreements")
    told = [as_dict(each).get("agree") for each in agreements] if isinstance(agreements, list) else []
    known = [each for each in told if isinstance(each, bool)]
    return Value(float(known.count(False))) if known else None


def _shown(value: Value) -> str:
    return estimate(value.value, value.stderr)


def _whole(value: Value) -> str:
    return text(int(value.value)) if value.value == int(value.value) else _shown(value)


def _pairing() -> Callable[[RunText, RunText], PairedDifference | None]:
    """What the second of two runs has more than the first by errors of denoising, which have the same noise."""
    known: dict[Path, list[float]] = {}

    def of(run: RunText) -> list[float]:
        if run.directory not in known:
            known[run.directory] = _pointwise(run)
        return known[run.directory]

    def paired(first: RunText, second: RunText) -> PairedDifference | None:
        settings = [as_dict(run.information.get("settings")) for run in (first, second)]
        if any(settings[0].get(key) != settings[1].get(key) for key in _SHARED):
            return None
        values = [of(first), of(second)]
        n = min(map(len, values))
        return PairedDifference.of(values[0][:n], values[1][:n], 0.0) if n > 1 else None

    return paired


def _pointwise(run: RunText) -> list[float]:
    """The density of each sample by errors of denoising, in the unit of the means; as many as can be read."""
    n: Any = run.information.get("n")
    size: Any = run.information.get("size")
    lines = read_csv(run.directory, "information-test.csv", run.notes) or [[]]
    if not (is_number(n) and is_number(size) and size > 0) or "immse" not in lines[0]:
        return []
    place = lines[0].index("immse")
    scale = 1.0 if run.information.get("unit") == "nats" else -1 / (size * math.log(2))
    values: list[float] = []
    for line in lines[1 : int(n) + 1]:
        try:
            index, value = int(line[0]), float(line[place])
        except (ValueError, IndexError):
            break
        if index != len(values) or not is_number(value):
            break
        values.append(scale * value)
    return values


def information_notes(runs: Sequence[RunText]) -> list[str]:
    """Remarks on what keeps the numbers of a column from being compared, and on networks that are badly trained."""
    made = []
    settings = [as_dict(run.information.get("settings")) for run in runs if has_information(run)]
    apart = [key for key in _CONDITIONS if len({repr(each.get(key)) for each in settings}) > 1]
    if apart:
        seen = "; ".join(f"{key}: {', '.join(dict.fromkeys(text(s.get(key)) for s in settings))}" for key in apart)
        made.append(f"Information here was not computed alike ({seen}).")
    worse = [
        str(place + 1) for place, run in enumerate(runs) if as_dict(run.information.get("worse_than_no_prediction"))
    ]
    if worse:
        made.append(
            f"At some noise levels the network of run{'s' * (len(worse) > 1)} {', '.join(worse)} errs more than no "
            "prediction of the noise would."
        )
    return made


def divergence_columns(runs: Sequence[RunText], names: Sequence[str]) -> tuple[list[Column], list[int]]:
    """Columns with a row for each pair of runs that was compared by noise level, and the place of its first run.

    Args:
        runs: The runs.
        names: Their names on the page.
    """
    # The other run may be on the page, too.
    known = {run.directory.resolve().name: name for run, name in zip(runs, names, strict=True)}
    found = [
        (place, known.get(other := other_run(file, note), other), note)
        for place, run in enumerate(runs)
        for file, note in run.against.items()
        if "costs_more" in note
    ]

    def column(title: str, hint: str, *path: str) -> Column:
        cells = []
        for _, _, note in found:
            entry: Any = note
            for part in path:
                entry = as_dict(entry).get(part)
            value = entry if is_number(entry) else as_dict(entry).get("mean")
            shown = text(entry) if is_number(entry) else estimate(value, as_dict(entry).get("stderr"))
            cells.append(Cell(shown, value) if is_number(value) else Cell("–", None))
        return Column(title, cells, hint)

    unit = text(found[0][2].get("unit")) if found else ""
    return [
        Column("run", [Cell(names[place], place) for place, _, _ in found], "whose samples the divergence is over"),
        Column("other", [Cell(other, other) for _, other, _ in found]),
        column(f"other costs more, {unit}", "on held-out data, at the same noise", "costs_more"),
        column("n", "held-out samples", "n"),
        column("KL by scores, nats", "of the run's density from the other's", "divergence", "by_scores"),
        column("KL by denoising errors", "the same if its scores are of its samples", "divergence", "by_errors"),
        column("samples", "drawn from the run", "divergence", "samples"),
    ], [place for place, _, _ in found]


def information_curves(series: Sequence[Series], runs: Sequence[RunText]) -> list[Chart | None]:
    """Charts with a curve for each run: what models know, where they overfit, and where labels matter."""
    known = (
        "Nats of a held-out sample that a model saves against the normal density of the same moments, ± standard "
        "error: what it knows beyond mean and covariance. Higher is better."
    )
    more = "What held-out data cost more than training data, ± standard error: at which noise a model overfits."
    saved = "What labels save, ± standard error: at which noise they matter."
    return [
        _curves("Known by noise level", known, series, runs, ("curve", "excess"), -1.0),
        _curves("Overfitting by noise level", more, series, runs, ("training", "curve"), 1.0),
        _curves("Labels by noise level", saved, series, runs, ("labels", "curve"), 1.0),
    ]


def _curves(
    title: str,
    caption: str,
    series: Sequence[Series],
    runs: Sequence[RunText],
    path: Sequence[str],
    sign: float,
) -> Chart | None:
    """A chart of one kind of curve, whose means and errors lie at `path` in the file, times a sign."""
    traces: list[dict[str, Any]] = []
    for each, run in zip(series, runs, strict=True):
        found, edges = run.information, None
        for part in path:
            found = as_dict(found.get(part))
            edges = found.get("log_snr", edges)
        points = points_of(edges, found)
        if points is not None:
            x, y, errors = points
            options = {**error_bars(errors), **named(each, traces)}
            y = [sign * value for value in y]
            traces.append(trace(each.label, each.tone, rounded(x), rounded(y), mode="lines+markers", **options))
    if not traces:
        return None
    layout = {"xaxis": axis("log(σ/α): data left, noise right"), "yaxis": axis("nats per unit of log SNR")}
    return chart(title, caption, traces, layout)
