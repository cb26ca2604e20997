"""What a report is made of: run directories, and the jobs of a sweep, read without trusting them.

Nothing here is executed, files are read only where they lie inside their run directory, and what cannot be read
is left out with a note.
"""

import csv
import io
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from scoresde.training.report.numbers import as_dict, is_number
from scoresde.training.table import complete_lines, json_lines

__all__ = ["Job", "Run", "Sweep", "find_runs", "natural", "read_json", "read_run", "read_sweep"]

_MOST_LEAVES = 5_000  # of a configuration; YAML's references can make billions out of a few lines
_MOST_YAML = 1_000_000
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass
class Run:
    """A run directory's text.

    `config` has the leaves of the configuration by their dotted names; `coloured` the samplers that the picture of the
    comparison colours, in the order of the colours.
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
    runs: list[Run] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


# -- files ----------------------------------------------------------------------------------------------


def _read(run_dir: Path, name: str) -> bytes:
    """A file of the directory; one that is a link to somewhere else counts as missing."""
    root = run_dir.resolve()
    path = (root / name).resolve()
    if not path.is_relative_to(root):
        raise FileNotFoundError(f"{name} lies outside {run_dir}")
    if path.exists() and not path.is_file():  # a named pipe could be waited for without end
        raise OSError(f"{name} is no regular file")
    return path.read_bytes()


def read_json(run_dir: Path, name: str, notes: list[str]) -> Any:
    """A JSON file of the directory; None, with a note, if it cannot be read."""
    try:
        return json.loads(_read(run_dir, name).decode())
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError, OSError):
        notes.append(f"{name} cannot be read as JSON and was left out.")
        return None


def read_run(directory: Path) -> Run:
    """Read a run directory; an interrupted run has less.

    Raises:
        FileNotFoundError: No such directory, or one without `config.yaml`.
    """
    try:
        text = _read(directory, "config.yaml").decode(errors="replace")
    except OSError as error:
        what = "is not a run directory: it has no config.yaml" if directory.is_dir() else "does not exist"
        raise FileNotFoundError(f"{directory} {what}; give a directory that `scoresde train` wrote") from error
    notes: list[str] = []
    summary = as_dict(read_json(directory, "summary.json", notes))
    if not summary:
        notes.append("No summary yet: training was interrupted or is still running.")
    name = str(summary.get("name") or directory.resolve().name)
    log, comparison = _read_log(directory, notes), _read_comparison(directory, notes)
    colours = as_dict(read_json(directory, "comparison.json", notes)).get("coloured") if comparison else None
    coloured = [str(sampler) for sampler in colours] if isinstance(colours, list) else []
    return Run(directory, name, text, _flatten(text, notes), summary, log, comparison, coloured, notes)


def _flatten(text: str, notes: list[str]) -> dict[str, Any]:
    """The leaves of a YAML mapping by dotted names; lists of plain values are leaves, as text."""
    leaves: dict[str, Any] = {}
    count = 0

    def walk(node: Any, prefix: str, depth: int) -> None:
        nonlocal count
        count += 1
        if count > _MOST_LEAVES or depth > 50:
            raise ValueError("too large")
        if isinstance(node, dict) and node:
            for key, value in node.items():
                walk(value, f"{prefix}.{key}" if prefix else str(key), depth + 1)
        elif isinstance(node, list) and any(isinstance(item, (dict, list)) for item in node):
            for index, value in enumerate(node):
                walk(value, f"{prefix}.{index}", depth + 1)
        elif isinstance(node, (dict, list)):
            leaves[prefix] = json.dumps(node, default=str, ensure_ascii=False)
        else:
            leaves[prefix] = node

    try:
        if len(text) > _MOST_YAML:
            raise ValueError("too large")
        content = yaml.load(text, Loader=_Loader)
        if isinstance(content, dict):
            walk(content, "", 0)
            return leaves
    except (yaml.YAMLError, ValueError, RecursionError, TypeError):
        pass
    notes.append("config.yaml cannot be read as a mapping: what differs from other runs is not known.")
    return {}


def _read_log(directory: Path, notes: list[str]) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl` with a step; of a step that was run again, only the later."""
    try:
        text = _read(directory, "metrics.jsonl").decode(errors="replace")
    except OSError:
        return []
    kept: list[dict[str, Any]] = []
    entries, broken = json_lines(text)
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
    try:
        text = complete_lines(_read(directory, "comparison.csv").decode(errors="replace"))
        rows: list[dict[str, Any]] = [dict(row) for row in csv.DictReader(io.StringIO(text)) if row.get("sampler")]
    except FileNotFoundError:
        return []
    except (OSError, csv.Error):
        notes.append("comparison.csv cannot be read and was left out.")
        return []
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
            sweep.jobs.append(_job(directory, entry, sweep.notes))
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
        except OSError:
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
    this package, lest the report of a stranger's sweep show some other program's.
    """
    try:
        path = Path(os.path.normpath(directory / place))
        if Path(place).is_absolute() or not (path / "config.yaml").is_file():
            return None
        if not path.resolve().is_relative_to(directory.resolve()):
            config = _flatten((path / "config.yaml").read_text(errors="replace"), [])
            if not {"sde._target_", "network._target_"} <= set(config):
                return None
    except (OSError, ValueError):
        return None
    return path
