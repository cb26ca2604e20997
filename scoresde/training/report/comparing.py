"""Runs beside each other: what differs, which are repeats of one another, and tables that can be sorted."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from scoresde.training.report.numbers import (
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
from scoresde.training.report.reading import Run

__all__ = ["SEED", "Cell", "Column", "data_set", "differing", "label", "measured", "repeats", "setting"]

SEED = "training.seed"
# How many training data there are, and what comes with them, does not change what is held out.
_SAME_DATA = ("data.n_train", "data.labels", "data.label_key", "data.label_column")
# Likelihoods that differ in these are estimates of different numbers, or of the same at another accuracy.
_CONDITIONS = ("n", "split", "dequantisation", "draws", "bound", "decoder", "divergence", "t_min", "tol")


@dataclass(frozen=True)
class Cell:
    """Text, and what to sort it by: a number, text, or None to come last."""

    text: str
    key: float | str | None


@dataclass(frozen=True)
class Column:
    """A column of a sortable table; `hint` says in full what the title abbreviates."""

    title: str
    cells: list[Cell]
    hint: str = ""


def data_set(run: Run) -> str:
    """The data set of a run, so that two runs with the same one can be compared."""
    entries = {k: v for k, v in run.config.items() if k.split(".")[0] == "data" and k not in _SAME_DATA}
    name = str(entries.pop("data._target_", "unknown data")).rpartition(".")[2]
    rest = ", ".join(f"{k.removeprefix('data.')}={v}" for k, v in sorted(entries.items()) if v is not None)
    return f"{name} ({rest})" if rest else name


def differing(runs: Sequence[Run]) -> list[str]:
    """The configuration's keys whose values are not the same in all runs, in the order of the configurations.

    A key that some runs lack because their class at that place is another is no difference of its own: the class is.
    """
    keys = dict.fromkeys(key for run in runs for key in run.config)
    classes = [key for key in keys if key.endswith("_target_") and _differs([run.config.get(key) for run in runs])]
    places = tuple(key.removesuffix("_target_") for key in classes)

    def values(key: str) -> list[Any]:
        found = [run.config.get(key, _NONE) for run in runs]
        explained = key.startswith(places) and key not in classes
        return [value for value in found if value is not _NONE] if explained else found

    return [key for key in keys if _differs(values(key))]


def _differs(values: Sequence[Any]) -> bool:
    return len({_exact(value) for value in values}) > 1


_NONE = object()


def _exact(value: Any) -> str:
    return "" if value is _NONE else repr(value)


def repeats(runs: Sequence[Run]) -> list[list[int]]:
    """Places of the runs that differ in their training seed alone; of those that share a seed, only the first."""
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


def _value_of(run: Run, key: str) -> str:
    """A configuration's value; of a class its own name."""
    value = _plain(run.config.get(key, _NONE))
    return value.rpartition(".")[2] if key.endswith("_target_") else value


def label(run: Run, keys: Sequence[str]) -> str:
    """The run by what sets it apart, if that is short, else by its name."""
    parts = [f"{_short(key, keys)}={_value_of(run, key)}" for key in keys if key in run.config]
    made = ", ".join(parts)
    return made if parts and len(made) <= 48 else run.name


def _short(key: str, keys: Sequence[str]) -> str:
    """A key without what it does not need to be told from the others; `sde._target_` is `sde`."""
    full = key.removesuffix("._target_")
    last = full.rpartition(".")[2]
    same = [k for k in keys if k.removesuffix("._target_").rpartition(".")[2] == last]
    return last if len(same) == 1 else full


def setting(runs: Sequence[Run], key: str, keys: Sequence[str]) -> Column:
    """The column of one of the configuration's `keys`."""

    def cell(run: Run) -> Cell:
        value = run.config.get(key, _NONE)
        if value is _NONE:
            return Cell("–", None)
        shown = _value_of(run, key)
        try:
            number = float(shown)  # YAML 1.1 takes 1e-5 for text
        except ValueError:
            return Cell(shown, shown)
        return Cell(shown, number if is_number(number) else shown)

    return Column(_short(key, keys), [cell(run) for run in runs], key)


def measured(runs: Sequence[Run], groups: Sequence[Sequence[int]], mark: bool = False) -> list[Column]:
    """The columns of what was measured, for groups of runs: their means with errors.

    Args:
        runs: All of them.
        groups: A row for each, by places in `runs`.
        mark: Mark means over a single run, or over fewer runs than the group has.
    """
    made = []
    for title, hint, read, show in _measures(runs):
        found = [[v for v in (read(runs[place]) for place in group) if v is not None] for group in groups]
        if not any(found):
            continue
        cells = []
        for group, values in zip(groups, found, strict=True):
            if not values:
                cells.append(Cell("–", None))
                continue
            mean = combine(values)
            note = ""
            if mark and len(group) == 1 and mean.stderr is not None:
                note = " †"
            elif mark and len(values) < len(group):
                note = f" ({len(values)} of {len(group)})"
            cells.append(Cell(show(mean) + note, mean.value))
        made.append(Column(title, cells, hint))
    return made


_Measure = tuple[str, str, Callable[[Run], Value | None], Callable[[Value], str]]


def _shown(value: Value) -> str:
    return estimate(value.value, value.stderr)


def _shown_time(value: Value) -> str:
    if value.stderr is None:
        return duration(value.value)
    return f"{estimate(value.value, value.stderr)} s"


def _count(value: Value) -> str:
    whole = value.stderr in (None, 0.0) and value.value == int(value.value)
    return text(int(value.value)) if whole else _shown(value)


def _measures(runs: Sequence[Run]) -> list[_Measure]:
    """Title, explanation, reader and printer of all that can be measured of these runs."""

    def of(*path: str, error: str = "") -> Callable[[Run], Value | None]:
        def read(run: Run) -> Value | None:
            entry: Any = run.summary
            for part in path[:-1]:
                entry = as_dict(entry).get(part)
            entry = as_dict(entry)
            return _value(entry.get(path[-1]), entry.get(error))

        return read

    in_bits = any(as_dict(run.summary.get("likelihood")).get("bits_per_dim") is not None for run in runs)
    made = [measure for conditional in (False, True) for measure in _likelihoods(conditional, in_bits)]
    names = dict.fromkeys(k for run in runs for k in as_dict(as_dict(run.summary.get("samples")).get("metrics")))
    for name in names:
        read = of("samples", "metrics", name, "value", error="stderr")
        made.append((directed_title(name), "samples against held-out data", read, _shown))
    made += [
        ("last loss", "the last training loss in the log", of("training", "loss"), _shown),
        ("training", "time of training", of("training", "seconds"), _shown_time),
        ("parameters", "of the network", of("parameters"), _count),
    ]
    return made


def _likelihoods(conditional: bool, in_bits: bool) -> list[_Measure]:
    """The measures of held-out likelihoods that are `conditional` on labels, or of those that are not."""

    def read(key: str, error: str) -> Callable[[Run], Value | None]:
        def found(run: Run) -> Value | None:
            entry = as_dict(run.summary.get("likelihood"))
            if (entry.get("conditional") is True) != conditional:
                return None
            return _value(entry.get(key), entry.get(error)) if in_bits else _value(*nats(entry))

        return found

    kind = {"conditional": conditional}
    what = "of held-out data given their labels" if conditional else "of held-out data"
    if not in_bits:
        return [(f"{of_labels('log-likelihood', kind)} ↑", f"nats {what}", read("nats", "stderr"), _shown)]
    return [
        (f"{of_labels('bits/dim', kind)} ↓", f"bits/dim {what}", read("bits_per_dim", "stderr"), _shown),
        (f"{of_labels('ELBO', kind)} ↓", f"bits/dim {what} by the ELBO", read("elbo", "stderr_elbo"), _shown),
    ]


def _value(value: Any, stderr: Any) -> Value | None:
    if not is_number(value):
        return None
    return Value(float(value), float(stderr) if is_number(stderr) and stderr >= 0 else None)


def conditions(runs: Sequence[Run]) -> list[str]:
    """What the runs' evaluations do not have in common, though their numbers stand in one column."""
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
