"""Columns of tables of several runs: settings that differ, repeats of a configuration, and measures."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from scoresde.metrics.evaluate import HIGHER_IS_BETTER, LOWER_IS_BETTER
from scoresde.numerics.paired import PairedDifference
from scoresde.report.numbers import (
    Value,
    as_dict,
    combine,
    directed_title,
    duration,
    estimate,
    is_number,
    nats,
    of_labels,
    text,
)
from scoresde.report.paired import pairing
from scoresde.report.reading import RunText
from scoresde.report.sentence import dimensions
from scoresde.report.tables import main_metric

__all__ = [
    "SEED",
    "Cell",
    "Column",
    "Measure",
    "best",
    "conditions",
    "data_set",
    "differences",
    "differing",
    "label",
    "main_measures",
    "measured",
    "measures",
    "number_of",
    "repeats",
    "setting",
]

SEED = "training.seed"
# How many training data there are, and what comes with them, does not change what is held out.
_SAME_DATA = ("data.n_train", "data.labels", "data.label_key", "data.label_column")
# Likelihoods that differ in these are estimates of different numbers, or of the same at another accuracy.
_CONDITIONS = ("n", "split", "dequantisation", "draws", "bound", "decoder", "divergence", "t_min", "tol")


@dataclass(frozen=True)
class Cell:
    """A cell of a table: text, and a key to sort it by, which is a number, text, or None to come last.

    `mark` is "best" of the best in its column, "worse" of what is worse by more than two standard errors.
    """

    text: str
    key: float | str | None
    mark: str = ""


@dataclass(frozen=True)
class Column:
    """A column of a sortable table; `hint` says in full what the title abbreviates."""

    title: str
    cells: list[Cell]
    hint: str = ""


def data_set(run: RunText) -> str:
    """The data set of a run, so that two runs with the same one can be compared."""
    entries = {k: v for k, v in run.words.items() if k.split(".")[0] == "data" and k not in _SAME_DATA}
    name = str(entries.pop("data", "unknown data"))
    rest = ", ".join(f"{k.removeprefix('data.')}={v}" for k, v in sorted(entries.items()) if v is not None)
    return f"{name} ({rest})" if rest else name


def differing(runs: Sequence[RunText]) -> list[str]:
    """The settings whose values are not the same in all runs, in the words of the command line.

    A setting that some runs lack because their choice at that place is another is no difference of its own, unless it
    was given a value that is not the choice's: the choice is.
    """
    keys = dict.fromkeys(key for run in runs for key in run.words)
    inner = {key.rpartition(".")[0] for run in runs for key in run.config}
    chosen = [key for key in keys if key in inner or key.endswith("._target_")]
    chosen = [key for key in chosen if _differs([_value(run, key) for run in runs])]
    places = tuple(f"{key.removesuffix('._target_')}." for key in chosen)

    def differs(key: str) -> bool:
        values = [_value(run, key) for run in runs]
        if key.startswith(places) and key not in chosen and _NONE in values:
            place = max((place for place in places if key.startswith(place)), key=len)
            values = [value for value in values if value is not _NONE]
            return _differs(values) or any(key in run.words and _is_choice(run, place) for run in runs)
        return _differs(values)

    return [key for key in keys if differs(key)]


def _is_choice(run: RunText, place: str) -> bool:
    """True if the part of the configuration at `place` is a choice by name, and not a class of somebody's own."""
    own = str(run.config.get(f"{place}_target_", "")).rpartition(".")[2]
    return bool(run.words.get(place[:-1], own) != own)


def _differs(values: Sequence[Any]) -> bool:
    return len({_exact(value) for value in values}) > 1


_NONE = object()


def _exact(value: Any) -> str:
    return "" if value is _NONE else repr(value)


def repeats(runs: Sequence[RunText]) -> list[list[int]]:
    """Indices of the runs that differ in their training seed alone; only the first of those that share a seed."""
    groups: dict[str, dict[str, int]] = {}
    for place, run in enumerate(runs):
        rest = {k: _exact(v) for k, v in sorted(run.config.items()) if k != SEED}
        # A configuration that cannot be read is nobody's repeat.
        identity = json.dumps(rest) if rest else f"#{place}"
        groups.setdefault(identity, {}).setdefault(_exact(run.config.get(SEED, _NONE)), place)
    return [list(group.values()) for group in groups.values()]


def _plain(value: Any) -> str:
    if value is _NONE:
        return "–"
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _value(run: RunText, key: str) -> Any:
    """A setting's value, also where it is the choice's own and is not on the command line."""
    return run.words.get(key, run.config.get(key, _NONE))


def _value_of(run: RunText, key: str) -> str:
    """A setting's value as text; the name of a class without its module."""
    value = _plain(_value(run, key))
    return value.rpartition(".")[2] if key.endswith("_target_") else value


def label(run: RunText, keys: Sequence[str]) -> str:
    """A label of the run: the settings that set it apart, if that is short, else its name."""
    parts = [f"{_short(key, keys)}={_value_of(run, key)}" for key in keys if _value(run, key) is not _NONE]
    made = ", ".join(parts)
    return made if parts and len(made) <= 60 else run.name


def _short(key: str, keys: Sequence[str]) -> str:
    """A key without parts that it does not need to be distinct; `sde._target_` is `sde`."""
    full = key.removesuffix("._target_")
    last = full.rpartition(".")[2]
    same = [k for k in keys if k.removesuffix("._target_").rpartition(".")[2] == last]
    return last if len(same) == 1 else full


def setting(runs: Sequence[RunText], key: str, keys: Sequence[str]) -> Column:
    """The column of one of the settings, `keys`."""

    def cell(run: RunText) -> Cell:
        if _value(run, key) is _NONE:
            return Cell("–", None)
        shown, number = _value_of(run, key), number_of(run, key)
        return Cell(shown, shown if number is None else number)

    return Column(_short(key, keys), [cell(run) for run in runs], key)


def number_of(run: RunText, key: str) -> float | None:
    """A setting's value as a number, or None; 1e-5 is text in YAML 1.1 and counts, true and false do not."""
    try:
        number = float(_value_of(run, key))
    except ValueError:
        return None
    return number if is_number(number) else None


@dataclass(frozen=True)
class Measure:
    """A quantity that was measured of every run.

    Attributes:
        title: Title of its column, with an arrow where one direction is better.
        hint: The title in full.
        read: Reads the value of a run; None where it has none.
        show: Makes text of a value.
        better: 1 if higher values are better, -1 if lower ones are, 0 if neither.
        reference: Reads the score of real data in a run's evaluation; None where there is none.
        metric: Name of a metric of samples; empty for other measures.
        unit: Unit of the values, where runs are compared by pairs.
        pair: What the second of two runs has more than the first on the same samples; None where that is not known.
    """

    title: str
    hint: str
    read: Callable[[RunText], Value | None]
    show: Callable[[Value], str]
    better: int = 0
    reference: Callable[[RunText], Value | None] = lambda run: None
    metric: str = ""
    unit: str = ""
    pair: Callable[[RunText, RunText], PairedDifference | None] = lambda first, second: None

    def mean(self, runs: Sequence[RunText]) -> Value | None:
        """The mean over repeats, with their scatter as its error; None if no run has a value."""
        values = [value for value in map(self.read, runs) if value is not None]
        return combine(values) if values else None


def measured(
    measures: Sequence[Measure], runs: Sequence[RunText], groups: Sequence[Sequence[int]], mark: bool = False
) -> list[Column]:
    """Columns of measures for groups of runs: their means with errors, the best marked.

    Args:
        measures: Measures, which have a column if any of the groups has a value.
        runs: All runs.
        groups: Indices of runs, a row for each group.
        mark: Mark means over a single run, or over fewer runs than the group has.
    """
    made = []
    for measure in measures:
        means = [measure.mean([runs[place] for place in group]) for group in groups]
        if not any(means):
            continue
        pairs = differences(measure, means, [[runs[place] for place in group] for group in groups])
        marks = best(means, measure.better, pairs)
        cells = []
        for group, mean, ranked in zip(groups, means, marks, strict=True):
            if mean is None:
                cells.append(Cell("–", None))
                continue
            note = ""
            counted = sum(measure.read(runs[place]) is not None for place in group)
            if mark and len(group) == 1 and mean.stderr is not None:
                note = " †"
            elif mark and counted < len(group):
                note = f" ({counted} of {len(group)})"
            cells.append(Cell(measure.show(mean) + note, mean.value, ranked))
        made.append(Column(measure.title, cells, measure.hint))
        if any(pair is not None for pair in pairs):
            shown = [Cell("–", None) if d is None else Cell(estimate(d.mean, d.stderr), d.mean) for d in pairs]
            made.append(Column(f"{measure.unit} from the best", shown, _PAIRED))
    return made


_PAIRED = "mean difference from the best on the same samples, ± its own standard error"


def differences(
    measure: Measure, means: Sequence[Value | None], groups: Sequence[Sequence[RunText]]
) -> list[PairedDifference | None]:
    """What single runs have more than the best of them on the same samples; None for others, and the best itself."""
    marks = best(means, measure.better)
    reference = groups[marks.index("best")] if "best" in marks else []
    if len(reference) != 1:
        return [None] * len(groups)
    return [
        measure.pair(reference[0], group[0]) if len(group) == 1 and mark != "best" else None
        for group, mark in zip(groups, marks, strict=True)
    ]


def best(
    means: Sequence[Value | None], better: int, pairs: Sequence[PairedDifference | None] | None = None
) -> list[str]:
    """A mark for each value: "best", "worse" by more than two standard errors of the difference, or nothing.

    Args:
        means: The values.
        better: 1 if higher values are better, -1 if lower ones are, 0 if neither.
        pairs: What each is more than the best on the same samples, where that is known; its error is then that of
            the difference.
    """
    known = [mean for mean in means if mean is not None]
    if not better or len({mean.value for mean in known}) < 2:
        return [""] * len(means)
    first = max(known, key=lambda mean: better * mean.value)

    def ranked(mean: Value | None, difference: PairedDifference | None) -> str:
        if mean is None or mean.value == first.value:
            return "" if mean is None else "best"
        if difference is not None:
            return "worse" if difference.apart and better * difference.mean < 0 else ""
        if mean.stderr is None or first.stderr is None:
            return ""
        return "worse" if abs(mean.value - first.value) > 2 * math.hypot(mean.stderr, first.stderr) else ""

    return [ranked(*each) for each in zip(means, pairs or [None] * len(means), strict=True)]


def _shown(value: Value) -> str:
    return estimate(value.value, value.stderr)


def _shown_time(value: Value) -> str:
    if value.stderr is None:
        return duration(value.value)
    return f"{estimate(value.value, value.stderr)} s"


def _count(value: Value) -> str:
    whole = value.stderr in (None, 0.0) and value.value == int(value.value)
    return text(int(value.value)) if whole else _shown(value)


def measures(runs: Sequence[RunText]) -> list[Measure]:
    """The measures that these runs have values of, those of `main_measures` first."""

    def entry(*path: str, error: str = "") -> Callable[[RunText], Value | None]:
        def read(run: RunText) -> Value | None:
            found: Any = run.summary
            for part in path[:-1]:
                found = as_dict(found).get(part)
            found = as_dict(found)
            return _value_and_error(found.get(path[-1]), found.get(error))

        return read

    in_bits = any(as_dict(run.summary.get("likelihood")).get("bits_per_dim") is not None for run in runs)
    made = [measure for conditional in (False, True) for measure in _likelihoods(conditional, in_bits)]
    names = dict.fromkeys(k for run in runs for k in as_dict(as_dict(run.summary.get("samples")).get("metrics")))
    for name in names:
        better = -1 if name in LOWER_IS_BETTER else 1 if name in HIGHER_IS_BETTER else 0
        read = entry("samples", "metrics", name, "value", error="stderr")
        real = entry("reference", name, "value", error="stderr")
        made.append(Measure(directed_title(name), "samples against held-out data", read, _shown, better, real, name))
    made += [
        Measure("last loss", "the last training loss in the log", entry("training", "loss"), _shown),
        Measure("training", "time of training", entry("training", "seconds"), _shown_time),
        Measure("parameters", "of the network", entry("parameters"), _count),
    ]
    known = [measure for measure in made if any(measure.read(run) is not None for run in runs)]
    main = main_measures(known, runs)
    return main + [measure for measure in known if measure not in main]


def main_measures(measures: Sequence[Measure], runs: Sequence[RunText]) -> list[Measure]:
    """The measures that runs are ranked by: the held-out likelihood, and the main metric of samples."""
    metrics = [measure.metric for measure in measures if measure.metric]
    quality = main_metric(metrics, dimensions(runs[0])) if metrics else None
    likelihoods = [measure for measure in measures if measure.better and not measure.metric]
    return likelihoods[:1] + [measure for measure in measures if measure.metric and measure.metric == quality]


def _likelihoods(conditional: bool, in_bits: bool) -> list[Measure]:
    """The measures of held-out likelihoods that are `conditional` on labels, or of those that are not."""

    def read(key: str, error: str) -> Callable[[RunText], Value | None]:
        def found(run: RunText) -> Value | None:
            entry = as_dict(run.summary.get("likelihood"))
            if (entry.get("conditional") is True) != conditional:
                return None
            return _value_and_error(entry.get(key), entry.get(error)) if in_bits else _value_and_error(*nats(entry))

        return found

    kind = {"conditional": conditional}
    what = "of held-out data given their labels" if conditional else "of held-out data"
    pair = pairing()
    if not in_bits:
        title = f"{of_labels('log-likelihood', kind)} ↑"
        return [Measure(title, f"nats {what}", read("nats", "stderr"), _shown, 1, unit="nats", pair=pair)]
    title, value = f"{of_labels('bits/dim', kind)} ↓", read("bits_per_dim", "stderr")
    return [
        Measure(title, f"bits/dim {what}", value, _shown, -1, unit="bits/dim", pair=pair),
        Measure(
            f"{of_labels('ELBO', kind)} ↓", f"bits/dim {what} by the ELBO", read("elbo", "stderr_elbo"), _shown, -1
        ),
    ]


def _value_and_error(value: Any, stderr: Any) -> Value | None:
    if not is_number(value):
        return None
    return Value(float(value), float(stderr) if is_number(stderr) and stderr >= 0 else None)


def conditions(runs: Sequence[RunText]) -> list[str]:
    """Notes on differences of the runs' evaluations whose numbers stand in one column."""
    notes = []
    entries = [e for e in (as_dict(run.summary.get("likelihood")) for run in runs) if e]
    if len({e.get("conditional") is True for e in entries}) > 1:
        notes.append(
            "Likelihoods given the label are of p(x | label), others of p(x): they have columns of their own, as they "
            "cannot be compared."
        )
    apart = [key for key in _CONDITIONS if len({_exact(e.get(key)) for e in entries}) > 1]
    if apart:
        seen = "; ".join(f"{key}: {', '.join(dict.fromkeys(text(e.get(key)) for e in entries))}" for key in apart)
        notes.append(f"Likelihoods here were not computed alike ({seen}).")
    sizes = dict.fromkeys(
        text(as_dict(run.summary.get("samples")).get("n")) for run in runs if "samples" in run.summary
    )
    if len(sizes) > 1:
        notes.append(
            f"Samples here were measured in different numbers (n: {', '.join(sizes)}): the bias of the distances "
            "depends on n, so they cannot be compared."
        )
    return notes
