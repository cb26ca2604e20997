"""Runs compared by their likelihoods of the same samples, each with the first.

The likelihoods are those that `scoresde.runs.likelihood` stores with each run: equal indices have the same sample, the
same dequantisation and the same probes, since these belong to a seed and an index.
"""

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig

from scoresde.data import Data
from scoresde.numerics.paired import AgainstFirst
from scoresde.options.errors import ConfigError
from scoresde.runs.conditions import given_names, split_conditions
from scoresde.runs.directory import Run
from scoresde.runs.likelihood import samples_of
from scoresde.runs.likelihood_settings import LikelihoodSettings
from scoresde.runs.pictures.likelihoods import column, picture_of_differences
from scoresde.runs.results import Filing, choose_name, known_tables, shortened
from scoresde.runs.summary import LikelihoodEntry
from scoresde.score import NetworkScore
from scoresde.storage.digests import digest
from scoresde.storage.table import ResumableTable

__all__ = ["Compared", "Contender", "as_file_name", "check_alike", "compare_stored", "names_of"]


class Contender(NamedTuple):
    """A run that is compared with others: its name among them, its model, and the data that it is asked about."""

    name: str
    run: Run
    model: NetworkScore
    data: Data


@dataclass(frozen=True, eq=False)
class Compared(AgainstFirst):
    """Likelihoods of the same samples under several runs, with the differences of `AgainstFirst`.

    The solver's share of the error of a run's mean is 0 where the run does not tell it.

    Attributes:
        stem: Name of the table, its note and its figure, in the directory of the first run.
    """

    stem: str


def names_of(runs: Sequence[Run]) -> list[str]:
    """Names of runs: those of their directories, or where these are not distinct, the paths."""
    names = [run.directory.resolve().name for run in runs]
    return names if len(set(names)) == len(names) else [str(run.directory) for run in runs]


def check_alike(
    contenders: Sequence[Contender],
    split: str,
    n: int | None,
    filing: Filing,
    why: str = "paired=true compares likelihoods of the same samples",
) -> None:
    """Reject runs whose likelihoods are not of the same samples in the same units.

    Args:
        contenders: The runs, at least two.
        split: Split of the data.
        n: Number of samples; all if None.
        filing: As for `likelihood`.
        why: End of the message.

    Raises:
        ConfigError: What differs, with the values of two runs.
    """
    first = contenders[0]
    facts = _facts(first, split, n, filing)
    for other in contenders[1:]:
        differing = [
            f"{one.what} ({one.text} against {another.text})"
            for one, another in zip(facts, _facts(other, split, n, filing), strict=True)
            if one.key != another.key
        ]
        if differing:
            raise ConfigError(f"{first.name} and {other.name} differ in {', '.join(differing)}: {why}")


class _Fact(NamedTuple):
    """What the likelihoods of all runs must be of: its name, what is compared, and how it is told."""

    what: str
    key: str
    text: str


def _facts(contender: Contender, split: str, n: int | None, filing: Filing) -> list[_Fact]:
    """What the likelihoods of all runs must be of; a data set may have another name or place with each run."""
    data, names = contender.data, given_names(contender.model)
    raw, _ = samples_of(data, split, n, filing)
    conditions = split_conditions(contender.model, data, split)
    content, levels = digest({"x": raw}), data.transform.levels
    given = digest({name: values[: len(raw)] for name, values in conditions.items()}) if conditions else ""
    told = f"given the {names}" if names else "without labels"
    return [
        _Fact("data", content, f"{len(raw)} samples of {data.name}, digest {content[:8]}"),
        _Fact("levels", str(levels), "none" if levels is None else str(levels)),
        _Fact("transform", repr(data.transform), repr(data.transform)),
        _Fact("labels", told + given, f"{told}{', digest ' if given else ''}{given[:8]}"),
    ]


def compare_stored(
    contenders: Sequence[Contender],
    entries: Sequence[LikelihoodEntry],
    options: DictConfig,
    filing: Filing,
) -> Compared:
    """Pair likelihoods that are there by index, and write what they differ by into the directory of the first run.

    That is a table with a row for each sample, `paired-SPLIT-NAMES.csv`, a note of the same name with the means,
    differences and tests, and a figure.

    Args:
        contenders: The runs.
        entries: The entry of each in its summary.
        options: Options of the likelihoods.
        filing: How the result is named and stored.

    Raises:
        ConfigError: A name under which there are differences with other settings.
    """
    first, names = contenders[0], [contender.name for contender in contenders]
    tables = [contender.run.directory / entry["file"] for contender, entry in zip(contenders, entries, strict=True)]
    n = entries[0]["n"]
    values = torch.tensor([column(path)[:n] for path in tables], dtype=torch.float64)
    known = LikelihoodSettings(first.run, first.model, first.data, entries[0]["split"], options)
    settings = {**known.settings, "model": [contender.run.fingerprint() for contender in contenders]}
    own_name = _own_name(entries[0]["split"], names[1:])
    stored = known_tables(first.run.directory, own_name)
    stem = choose_name(own_name, stored, settings, None, given=filing.name, overwrite=filing.overwrite)
    shared = [entry.get("stderr_solver") or 0.0 for entry in entries]
    compared = Compared(names, known.unit.replace("_per_", "/"), values, shared, stem)
    with first.run.alone(stem):
        columns = ["index", *names, *(f"{name} - {names[0]}" for name in names[1:])]
        table = ResumableTable(first.run.directory / f"{stem}.csv", columns, settings)
        by_name = {name: each.values for name, each in zip(names[1:], compared.differences, strict=True)}
        rows = torch.stack([*values, *by_name.values()], 1).tolist()
        table.begin(([str(i), *map(repr, row)] for i, row in enumerate(rows)), **_note(contenders, entries, compared))
        caption = f"{'. '.join(compared.verdicts)}. The band is the mean difference ± two standard errors."
        picture_of_differences(first.run, stem, by_name, compared.unit, names[0], caption)
    return compared


def _own_name(split: str, others: Sequence[str]) -> str:
    return f"paired-{split}-{as_file_name(others)}"


def as_file_name(names: Sequence[str]) -> str:
    """Names of runs as a part of a file's name."""
    name = re.sub(r"[^\w.+-]+", "_", "-".join(names)).strip("_.")
    return shortened(name, {"names": list(names)})


def _note(contenders: Sequence[Contender], entries: Sequence[LikelihoodEntry], compared: Compared) -> dict[str, Any]:
    """Means, differences and tests, as JSON can hold them."""
    directory = contenders[0].run.directory
    runs = [
        {
            "name": contender.name,
            "directory": os.path.relpath(contender.run.directory, directory),
            "file": entry["file"],
            "mean": values.mean().item(),
            "stderr_probes": entry["stderr_probes"],
            "stderr_solver": entry.get("stderr_solver"),
        }
        for contender, entry, values in zip(contenders, entries, compared.values, strict=True)
    ]
    differences = [
        {
            "run": name,
            "from": compared.names[0],
            "mean": difference.mean,
            "stderr": _finite(difference.stderr),
            "solver": difference.shared,
            "total": difference.total,
            "total_stderr": _finite(difference.total_stderr),
            "unpaired_stderr": _finite(difference.unpaired_stderr),
            "more": difference.more,
            "less": difference.less,
            "ties": difference.ties,
            "p_value": difference.p_value,
            "verdict": verdict,
        }
        for name, difference, verdict in zip(compared.names[1:], compared.differences, compared.verdicts, strict=True)
    ]
    return {"unit": compared.unit, "n": len(compared.values[0]), "runs": runs, "differences": differences}


def _finite(value: float) -> float | None:
    """The number, or None for NaN, which JSON does not have."""
    return value if math.isfinite(value) else None
