"""Run directories and the jobs of a sweep, read for a report without trusting them.

Nothing here is executed, files are read only where they lie inside their run directory, and what cannot be read
is left out with a note.
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scoresde.config.jobs import settled
from scoresde.config.words import in_words, leaves
from scoresde.options.moved import with_current_names
from scoresde.report.numbers import as_dict, is_number
from scoresde.report.wording import own_sampler
from scoresde.storage import bounded
from scoresde.storage.bounded import CheckpointError, DamagedFile
from scoresde.storage.bounded_yaml import parse_yaml

__all__ = ["Job", "RunText", "Sweep", "find_runs", "natural", "read_csv", "read_json", "read_run", "read_sweep"]


@dataclass
class RunText:
    """The text of a run directory.

    Attributes:
        directory: The directory.
        name: Name of the run.
        text: Text of `config.yaml`.
        config: Leaves of the configuration by their dotted names.
        summary: Content of `summary.json`.
        log: Entries of `metrics.jsonl`.
        comparison: Rows of `comparison.csv`.
        coloured: Samplers that the figure of the comparison colours, in the order of the colours.
        notes: Remarks on what could not be read.
        comparisons: Settings of further comparisons by their names.
        words: Leaves of the configuration as they are on a command line.
        data: Facts of `data.json`.
        tuned: Content of the files of `scoresde tune`, by their numbers of evaluations.
        information: Content of the file of `scoresde information`, of held-out data.
        against: Content of its files about other runs, by their names.
        further_information: Content of its other files, by what their names add to "information-".
    """

    directory: Path
    name: str
    text: str
    config: dict[str, Any]
    summary: dict[str, Any]
    log: list[dict[str, Any]]
    comparison: list[dict[str, Any]]
    coloured: list[str]
    notes: list[str]
    comparisons: dict[str, dict[str, Any]] = field(default_factory=dict)
    words: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    tuned: dict[int, dict[str, Any]] = field(default_factory=dict)
    information: dict[str, Any] = field(default_factory=dict)
    against: dict[str, dict[str, Any]] = field(default_factory=dict)
    further_information: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """A job of a sweep; `runs` are its run directories that can be read."""

    number: int
    overrides: tuple[str, ...]
    status: str
    error: str
    log: str
    runs: tuple[Path, ...]


@dataclass
class Sweep:
    """Several run directories, and the jobs they come from where a sweep wrote them."""

    directory: Path
    runs: list[RunText] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


# -- files ----------------------------------------------------------------------------------------------


def _inside(run_dir: Path, name: str) -> Path:
    """The path of a file of the directory.

    Raises:
        FileNotFoundError: It is a link to somewhere else.
    """
    root = run_dir.resolve()
    path = (root / name).resolve()
    if not path.is_relative_to(root):
        raise FileNotFoundError(f"{name} lies outside {run_dir}")
    return path


def _read(run_dir: Path, name: str, read: Callable[[Path], Any], notes: list[str]) -> Any:
    """Content of a file by a reader of `scoresde.storage.bounded`; None, with a note, if it cannot be read."""
    try:
        return read(_inside(run_dir, name))
    except FileNotFoundError:
        return None
    except (CheckpointError, OSError) as error:
        message = str(error).replace(f"{run_dir.resolve()}{os.sep}", "")
        notes.append(f"{message}; it was left out.")
        return None


def read_json(run_dir: Path, name: str, notes: list[str]) -> Any:
    """A JSON file of the directory; None, with a note, if it cannot be read."""
    return _read(run_dir, name, bounded.read_json, notes)


def read_csv(run_dir: Path, name: str, notes: list[str]) -> list[list[str]] | None:
    """The lines of a CSV file of the directory; None, with a note, if it cannot be read."""
    lines: list[list[str]] | None = _read(run_dir, name, bounded.read_csv, notes)
    return lines


def read_run(directory: Path) -> RunText:
    """Read a run directory; an interrupted run has less.

    Raises:
        FileNotFoundError: No such directory, or one without `config.yaml`.
        CheckpointError: A `config.yaml` that is no file or too large.
    """
    try:
        content = bounded.read_file(_inside(directory, "config.yaml"), bounded.YAML.size)
    except OSError as error:
        what = "is not a run directory: it has no config.yaml" if directory.is_dir() else "does not exist"
        raise FileNotFoundError(f"{directory} {what}; give a directory that `scoresde train` wrote") from error
    notes: list[str] = []
    summary = as_dict(read_json(directory, "summary.json", notes))
    if not summary:
        notes.append("No summary yet: training was interrupted or is still running.")
    name, text = str(summary.get("name") or directory.resolve().name), content.decode(errors="replace")
    log, comparison = _read_log(directory, notes), _read_comparison(directory, notes)
    colours = as_dict(read_json(directory, "comparison.json", notes)).get("coloured") if comparison else None
    coloured = [str(sampler) for sampler in colours] if isinstance(colours, list) else []
    config = _flatten(content, notes)
    _mark_conditional(summary, config)
    trained = as_dict(summary.get("training")).get("steps")
    if log and is_number(trained) and log[-1]["step"] > trained:
        notes.append(
            f"Training has since continued to step {log[-1]['step']}; the model and its figures are of {trained}."
        )
    comparisons = _read_comparisons(directory, notes)
    data, words = as_dict(read_json(directory, "data.json", notes)), in_words(config)
    if "sampler" in (samples := as_dict(summary.get("samples"))):
        summary["samples"] = {**samples, "sampler": own_sampler(samples["sampler"], config, words)}
    return RunText(
        directory, name, text, config, summary, log, comparison, coloured, notes, comparisons, words, data,
        tuned=_read_tuned(directory, notes),
        information=as_dict(read_json(directory, "information-test.json", notes)),
        against=_read_against(directory, notes),
        further_information=_read_further(directory, notes),
    )  # fmt: skip


def _mark_conditional(summary: dict[str, Any], config: dict[str, Any]) -> None:
    """Say of likelihoods that are conditional on labels that they are; older versions did not."""
    for key, entry in summary.items():
        if key.startswith("likelihood") and isinstance(entry, dict):
            entry.setdefault("conditional", config.get("network.num_classes") is not None)


_MAX_COMPARISONS = 50


def _read_comparisons(directory: Path, notes: list[str]) -> dict[str, dict[str, Any]]:
    """The settings of comparisons other than `comparison.csv`, with the step of the model, by their names."""
    found = {}
    for path in sorted(directory.glob("comparison-*.json"), key=lambda p: natural(p.name))[:_MAX_COMPARISONS]:
        note = as_dict(read_json(directory, path.name, notes))
        further = {key: note[key] for key in ("step", "source") if note.get(key) is not None}
        found[path.stem] = {**as_dict(note.get("settings")), **further}
    return found


_MAX_TUNED = 50


def _read_tuned(directory: Path, notes: list[str]) -> dict[int, dict[str, Any]]:
    """The content of the files `tuned-STEPS.json` by their numbers of evaluations."""
    found = {}
    names = [path.name for path in directory.glob("tuned-*.json") if path.stem[6:].isdecimal()]
    for name in sorted(names, key=natural)[:_MAX_TUNED]:
        entry = as_dict(read_json(directory, name, notes))
        if entry:
            found[int(name[6:-5])] = entry
    return found


_MAX_AGAINST = 50
_MAX_FURTHER = 8


def _read_against(directory: Path, notes: list[str]) -> dict[str, dict[str, Any]]:
    """The results of comparisons by noise level with other runs, by the names of their files."""
    paths = [path for path in directory.glob("information-against-*.json") if not path.stem.endswith("-samples")]
    names = sorted((path.name for path in paths), key=natural)[:_MAX_AGAINST]
    return {name: as_dict(read_json(directory, name, notes)) for name in names}


def _read_further(directory: Path, notes: list[str]) -> dict[str, dict[str, Any]]:
    """Results of `scoresde information` beside those of held-out data, by what their names add to "information-".

    The rows of training data by which overfitting is told have no results of their own.
    """
    stems = [path.stem for path in directory.glob("information-*.json") if path.stem != "information-test"]
    stems = sorted((stem for stem in stems if not stem.startswith("information-against-")), key=natural)
    found = {stem: as_dict(read_json(directory, f"{stem}.json", notes)) for stem in stems[:_MAX_FURTHER]}
    return {stem.partition("-")[2]: note for stem, note in found.items() if as_dict(note.get("ways"))}


def _flatten(content: bytes, notes: list[str]) -> dict[str, Any]:
    """The leaves of a YAML mapping by dotted names."""
    problem = "config.yaml holds no mapping"
    try:
        plain = parse_yaml(content, Path("config.yaml"))
        if isinstance(plain, dict):
            return leaves(with_current_names(plain))
    except DamagedFile as error:
        problem = str(error)
    notes.append(f"{problem}: what differs from other runs is not known.")
    return {}


def _read_log(directory: Path, notes: list[str]) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl` with a step; of a step that was run again, only the later."""
    kept: list[dict[str, Any]] = []
    entries, broken = _read(directory, "metrics.jsonl", bounded.read_json_lines, notes) or ([], 0)
    for entry in entries:
        if "event" in entry or not is_number(entry.get("step")):
            continue
        while kept and kept[-1]["step"] >= entry["step"]:
            kept.pop()
        kept.append(entry)
    if broken:
        notes.append(f"Lines of metrics.jsonl that cannot be read and were left out: {broken}.")
    return kept


def _read_comparison(directory: Path, notes: list[str]) -> list[dict[str, Any]]:
    """The rows of `comparison.csv`; numbers as floats, None where there is none."""
    head, *lines = read_csv(directory, "comparison.csv", notes) or [[]]
    rows: list[dict[str, Any]] = [dict(zip(head, line, strict=False)) for line in lines]
    rows = [row for row in rows if row.get("sampler")]
    for row in rows:
        for key, value in row.items():
            if key not in ("sampler", "problem"):
                row[key] = _float(value)
    return rows


def _float(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if is_number(number) else None


# -- folders --------------------------------------------------------------------------------------------


def natural(name: str) -> list[tuple[int, str]]:
    """A key to sort names by, step_9 before step_10."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", name)]


def find_runs(directory: Path) -> list[Path]:
    """Run directories below a folder in natural order, not those inside of others, nor in hidden folders."""
    found: list[Path] = []
    for place, folders, files in os.walk(directory):
        if "config.yaml" in files:
            found.append(Path(place))
            folders.clear()
        folders[:] = [name for name in folders if not name.startswith(".")]
    return sorted(found, key=lambda path: natural(str(path)))


def read_sweep(directory: Path) -> Sweep:
    """Read the runs of a sweep, which lists its jobs in `jobs/`, or those below any other folder.

    Raises:
        FileNotFoundError: No such directory, or nothing in it.
    """
    if not directory.is_dir():
        raise FileNotFoundError(f"{directory} does not exist; give a directory that `scoresde train` wrote")
    sweep = Sweep(directory)
    for path in sorted(directory.glob("jobs/*.json"), key=lambda path: natural(path.name)):
        entry = read_json(directory, f"jobs/{path.name}", sweep.notes)
        if isinstance(entry, dict) and "status" in entry:
            sweep.jobs.append(_job(directory, settled({**entry, "status": str(entry["status"])}), sweep.notes))
    if sweep.jobs:
        paths = [path for job in sweep.jobs for path in job.runs]
    else:
        paths = find_runs(directory)
        if not paths:
            raise FileNotFoundError(
                f"{directory} is not a run directory: it has no config.yaml, and neither has a folder below it; "
                "give a directory that `scoresde train` wrote, or a folder of such"
            )
    for path in dict.fromkeys(paths):
        try:
            sweep.runs.append(read_run(path))
        except (OSError, CheckpointError):
            sweep.notes.append(f"{path.name} cannot be read and was left out.")
    return sweep


def _job(directory: Path, entry: dict[str, Any], notes: list[str]) -> Job:
    number, overrides, places = entry.get("number"), entry.get("overrides"), entry.get("runs")
    runs = []
    for place in places if isinstance(places, list) else [entry.get("run")]:
        path = _run_of_job(directory, place) if isinstance(place, str) and place else None
        if path is not None:
            runs.append(path)
        elif place and entry["status"] in ("finished", "skipped"):
            notes.append(f"The run directory {place!r} of job {number} is missing, or not one of this sweep's.")
    return Job(
        number if isinstance(number, int) else 0,
        tuple(map(str, overrides)) if isinstance(overrides, list) else (),
        str(entry["status"]),
        str(entry.get("error") or ""),
        str(entry.get("log") or ""),
        tuple(runs),
    )


def _run_of_job(directory: Path, place: str) -> Path | None:
    """The run directory, as a path relative to the sweep.

    A sweep reuses runs that are there already, so it may lie elsewhere; then its configuration has to be one of
    this package, so that the report of a stranger's sweep shows no other program's.
    """
    try:
        path = Path(os.path.normpath(directory / place))
        if Path(place).is_absolute() or not (path / "config.yaml").is_file():
            return None
        if not path.resolve().is_relative_to(directory.resolve()):
            config = _flatten(bounded.read_file(path / "config.yaml", bounded.YAML.size), [])
            if not {"sde._target_", "network._target_"} <= set(config):
                return None
    except (OSError, ValueError):
        return None
    return path
