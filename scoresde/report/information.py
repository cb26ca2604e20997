"""Information of a run, from the file that `scoresde information` writes: a table, and charts over noise levels."""

import re
from collections.abc import Mapping
from typing import Any

from scoresde.information.three_ways import WAYS
from scoresde.report.numbers import as_dict, duration, estimate, is_number, split_name, text
from scoresde.report.png import Picture
from scoresde.report.tables import Table
from scoresde.report.traces import Chart, axis, chart, error_bars, rounded, trace

__all__ = [
    "FIGURES",
    "SHORT",
    "against_table",
    "information_charts",
    "information_table",
    "other_run",
    "points_of",
]

FIGURES = ("samples/information-test.png", "samples/information-test-differences.png")
"""Figures that the charts stand for."""

SHORT = {"ode": "ODE", "elbo": "ELBO", "immse": "I-MMSE"}
_COUNT, _TIME = "samples, n", "time"
_MAX_NAME = 24  # characters of a file's name above a column
_MAX_BANDS = 1000  # of a curve; the command writes 32 at most
Points = tuple[list[float], list[float], list[float]]


def information_table(note: dict[str, Any], further: Mapping[str, dict[str, Any]] | None = None) -> Table | None:
    """The table of the page: the three ways, and what they and the labels come to; None without results.

    Args:
        note: Content of the file about held-out data; without results, further ones are shown alone.
        further: Content of other files, by what their names add to "information-": a column for each.
    """
    notes = {name: each for name, each in {"test": note, **(further or {})}.items() if as_dict(each.get("ways"))}
    if not notes:
        return None
    columns = [dict(_rows(each)) for each in notes.values()]
    # Rows that further files alone have, as of another noise level, stand below those that they have in common.
    names = list(dict.fromkeys(name for column in columns for name in column))
    last = [name for name in (_COUNT, _TIME) if name in names]
    rows = [
        (name, *(column.get(name, "–") for column in columns))
        for name in [*(name for name in names if name not in last), *last]
    ]
    splits = [split_name(as_dict(each.get("settings"))) for each in notes.values()]
    head = [
        split if splits.index(split) == place else f"{split}, {_shortened(name.partition('-')[2] or name)}"
        for place, (name, split) in enumerate(zip(notes, splits, strict=True))
    ]
    return Table("Information", ("", *head), rows, _verdict(next(iter(notes.values()))))


def _shortened(name: str) -> str:
    return name if len(name) <= _MAX_NAME else f"{name[: _MAX_NAME // 2]}…{name[-_MAX_NAME // 2 :]}"


def _rows(note: dict[str, Any]) -> list[tuple[str, str]]:
    """What a file holds, by the names of the rows."""
    ways = as_dict(note.get("ways"))
    unit, given = text(note.get("unit")), _given(note)
    rows: list[tuple[str, str]] = [
        (f"{title}, {unit}{given}", _estimate(ways.get(name))) for name, title in WAYS.items() if name in ways
    ]
    agreements = note.get("agreements")
    for each in map(as_dict, agreements if isinstance(agreements, list) else []):
        second, first = (SHORT.get(name, name) for name in (text(each.get("second")), text(each.get("first"))))
        name = f"{second} less {first}, {unit}"
        said = "" if not _told(each) else ", agree" if each["agree"] else ", do not agree"
        rows.append((name, f"{_estimate(each)}{said}"))
    if "tail" in note:
        rows.append((f"of denoising errors, from noise below t_min, {unit}", _estimate(note["tail"])))
    if worse := as_dict(note.get("worse_than_no_prediction")):
        at = f"{text(worse.get('low'))} to {text(worse.get('high'))}"
        of = f"{text(worse.get('error'))} against {text(note.get('size'))}"
        rows.append((f"worse than no prediction of the noise, log(α/σ) from {at}", of))
    if "entropy" in note:
        rows.append((f"entropy under the model{given}, nats", _estimate(note["entropy"])))
    if "normal" in note:
        rows.append((f"normal density of the same moments, {unit}", _estimate(note["normal"])))
    if training := as_dict(note.get("training")):
        rows.append((f"held-out data cost more than training data, {unit}", _estimate(training.get("gap"))))
    if labels := as_dict(note.get("labels")):
        rows.append(("information of the labels, nats", _estimate(labels.get("nats"))))
        rows.append(("in bits", _estimate(labels.get("bits"))))
        above = labels.get("above_entropy") is True
        entropy = f"{text(labels.get('entropy_of_labels'))}{', which is less: badly trained without' if above else ''}"
        rows.append(("entropy of the labels, nats", entropy))
    if classes := as_dict(note.get("classes")):
        rows.append(
            (
                "information of the labels by predictions for every class, nats",
                f"{_estimate(classes.get('nats'))}, n = {text(classes.get('n'))}",
            )
        )
        rows.append(("share of labels that are the most probable class", _estimate(classes.get("accuracy"))))
    if dimension := as_dict(note.get("dimension")):
        level = dimension.get("log_snr")
        at = f" at log(α/σ) = {level:.3g}" if is_number(level) else ""
        of = f"{_estimate(dimension)} of {text(note.get('size'))}, n = {text(dimension.get('n'))}"
        rows.append((f"local intrinsic dimension{at}", of))
    typical = as_dict(note.get("typicality"))
    if "std" in typical:
        rows.append(("standard deviation of log-densities, nats", text(typical["std"])))
        rows.append(("samples more than 3 of them from the mean", text(typical.get("untypical"))))
    rows.append((_COUNT, text(note.get("n"))))
    if "seconds" in note:
        rows.append((_TIME, duration(note["seconds"])))
    return rows


def _verdict(note: dict[str, Any]) -> str:
    """What the ways say of the model, in a sentence or two."""
    agreements = note.get("agreements")
    failing = [
        text(each.get("verdict"))
        for each in map(as_dict, agreements if isinstance(agreements, list) else [])
        if each.get("agree") is False
    ]
    if not any(map(_told, map(as_dict, agreements if isinstance(agreements, list) else []))):
        return "The density in three ways."
    if not failing:
        return "The density in three ways, ± standard error: they agree within three of them and the solver's error."
    return f"The density in three ways, ± standard error. They do not agree: {'; '.join(failing)}."


def against_table(notes: Mapping[str, dict[str, Any]]) -> Table | None:
    """A row for each other run that the run is compared with; None without one."""
    rows: list[tuple[str, ...]] = []
    for file, note in notes.items():
        found = as_dict(note.get("divergence"))
        if "costs_more" in note:
            costs = f"{_estimate(note['costs_more'])} {text(note.get('unit'))}"
            apart = [_estimate(found.get(key)) for key in ("by_scores", "by_errors")]
            rows.append((other_run(file, note), costs, text(note.get("n")), *apart, text(found.get("samples"))))
    if not rows:
        return None
    head = ("", "costs more, held out", "n", "divergence by scores, nats", "by denoising errors", "samples")
    about = (
        "By errors of denoising at the same noise, ± standard error. The divergence is of the run's density from the "
        "other's, on samples of the run; both ways of it agree where these are of the run's density."
    )
    return Table("Against other runs", head, rows, about)


def other_run(file: str, note: dict[str, Any]) -> str:
    """The other run, and what the name of the file adds: the step of earlier weights, or settings that differ."""
    other, split = text(note.get("other")), as_dict(note.get("settings")).get("split")
    name = re.sub(r"[^\w.+-]+", "_", other).strip("_.")
    further = re.fullmatch(rf"information-against-{re.escape(name)}-{re.escape(text(split))}-(.+)\.json", file)
    return f"{other}, {further[1]}" if further else other


def information_charts(note: dict[str, Any], pictures: dict[str, Picture]) -> list[Chart]:
    """Charts of the curves: errors of denoising, and what held-out data cost more and labels save.

    Args:
        note: Content of the file.
        pictures: Figures for readers without scripts, by their files.
    """
    made = []
    curve = as_dict(note.get("curve"))
    edges = curve.get("log_snr")
    errors = {
        "model": points_of(edges, curve.get("error")),
        "normal density of the same moments": points_of(edges, curve.get("normal")),
    }
    caption = (
        "Error of denoising held-out data, ± standard error: the information that each noise level adds. The area "
        "between the curves is what the model knows beyond mean and covariance."
    )
    made.append(_chart("Information by noise level", caption, errors, pictures.get(FIGURES[0])))
    training, labels = (as_dict(as_dict(note.get(key)).get("curve")) for key in ("training", "labels"))
    further = {
        "held-out data cost more than training data": points_of(training.get("log_snr"), training),
        "labels save": points_of(labels.get("log_snr"), labels),
    }
    caption = "Nats of a sample per unit of log SNR, ± standard error; the area is what it comes to."
    made.append(_chart("Where information differs", caption, further, pictures.get(FIGURES[1])))
    return [each for each in made if each is not None]


def points_of(edges: Any, values: Any) -> Points | None:
    """Middles of the bands in log(σ/α), means and standard errors; None where they are not lists that fit."""
    values = as_dict(values)
    means, errors = values.get("mean"), values.get("stderr")
    if not (isinstance(edges, list) and isinstance(means, list) and isinstance(errors, list)):
        return None
    if not len(edges) - 1 == len(means) == len(errors) <= _MAX_BANDS or not all(map(is_number, edges)):
        return None
    rows = [
        (-(a + b) / 2, float(mean), float(error) if is_number(error) and error >= 0 else 0.0)
        for a, b, mean, error in zip(edges, edges[1:], means, errors, strict=False)
        if is_number(mean)
    ]
    if not rows:
        return None
    x, y, e = (list(column) for column in zip(*reversed(rows), strict=True))
    return x, y, e


def _chart(title: str, caption: str, curves: dict[str, Points | None], fallback: Picture | None) -> Chart | None:
    traces = []
    for tone, (name, points) in enumerate(curves.items()):
        if points is not None:
            x, y, errors = points
            traces.append(trace(name, tone, rounded(x), rounded(y), mode="lines+markers", **error_bars(errors)))
    if not traces:
        return None
    if len(traces) == 1 and len(curves) > 1:
        caption = f"{traces[0]['name'].capitalize()}: {caption[0].lower()}{caption[1:]}"
    layout = {"xaxis": axis("log(σ/α): data left, noise right"), "yaxis": axis("nats per unit of log SNR")}
    return chart(title, caption, traces, layout, fallback)


def _told(agreement: dict[str, Any]) -> bool:
    """Whether it is known if two ways agree, which one sample does not tell."""
    return isinstance(agreement.get("agree"), bool)


def _estimate(entry: Any) -> str:
    entry = as_dict(entry)
    return estimate(entry.get("mean"), entry.get("stderr"))


def _given(note: dict[str, Any]) -> str:
    return " given the label" if as_dict(note.get("settings")).get("conditional") is True else ""
