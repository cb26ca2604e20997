"""One page about a run: numbers with their error bars, pictures, the learning curve, the configuration.

The page is a single file that needs no network and runs no scripts. Everything in it that comes from the run
directory is text, escaped, or a PNG file inside that directory, so that a stranger's run can be looked at.
"""

import base64
import json
import math
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from scoresde import plots
from scoresde.metrics import Estimate
from scoresde.training.checkpoint import write_atomically

__all__ = ["write_report"]

_TITLES = {
    "frechet_distance": "Fréchet distance",
    "sliced_wasserstein": "sliced Wasserstein distance",
    "mmd_polynomial": "MMD², polynomial kernel",
    "mmd_gaussian": "MMD², Gaussian kernel",
}
_LOWER = frozenset(_TITLES)
_HIGHER = frozenset({"precision", "recall", "density", "coverage"})
_PNG = b"\x89PNG\r\n\x1a\n"
_MOST_PICTURES = 24  # without a list, the newest so many by name


@dataclass(frozen=True)
class Table:
    """A table of text; the first cell of a row is its heading."""

    title: str
    head: tuple[str, ...]
    rows: list[tuple[str, ...]]
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """A PNG as a data URI, `width` CSS pixels wide where there is room."""

    title: str
    caption: str
    uri: Markup
    width: int


@dataclass
class Report:
    """What the template shows."""

    name: str
    directory: str
    config: str
    headline: list[tuple[str, str, str]] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    curve: Picture | None = None
    commands: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def write_report(run_dir: Path) -> Path:
    """Write `report.html` of a run directory, from whatever is there; an interrupted run has less.

    Reads `config.yaml`, and where they exist `summary.json`, `metrics.jsonl`, `pictures.json` and the
    pictures it lists (without it, those in `samples/`). What cannot be read is left out, and the page says
    so.

    Returns:
        The path of `report.html`, written whole or not at all.

    Raises:
        FileNotFoundError: No such directory, or one without `config.yaml`.
    """
    run_dir = Path(run_dir)
    config = run_dir / "config.yaml"
    if not config.is_file():
        what = "is not a run directory: it has no config.yaml" if run_dir.is_dir() else "does not exist"
        raise FileNotFoundError(f"{run_dir} {what}; give a directory that `scoresde train` wrote")
    text = config.read_text(encoding="utf-8", errors="replace")
    notes: list[str] = []
    summary = _dict(_read_json(run_dir / "summary.json", notes))
    name = str(summary.get("name") or run_dir.resolve().name)
    report = Report(name, str(run_dir), text, commands=_commands(run_dir), notes=notes)
    report.headline = list(_headline(summary))
    report.tables = [t for t in (_likelihood(summary), _training(summary), _quality(summary)) if t is not None]
    report.pictures = list(_pictures(run_dir, notes))
    report.curve = _curve(run_dir / "metrics.jsonl", notes)
    if not summary:
        notes.append("No summary yet: training was interrupted or is still running.")
    page = _environment().get_template("report.html.j2").render(report=report)
    path = run_dir / "report.html"
    write_atomically(path, lambda file: file.write(page.encode(errors="replace")))
    return path


def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


# -- reading --------------------------------------------------------------------------------------------


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _read_json(path: Path, notes: list[str]) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError, OSError):
        notes.append(f"{path.name} cannot be read as JSON and was left out.")
        return None


def _read_log(path: Path, notes: list[str]) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl` with a step; of a step that was run again, only the later."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    kept: list[dict[str, Any]] = []
    broken = 0
    for line in filter(None, map(str.strip, text.split("\n"))):
        try:
            entry = _dict(json.loads(line))
        except (ValueError, RecursionError):  # cut short by an interrupt or a full disk
            broken += 1
            continue
        if "event" in entry or not _is_number(entry.get("step")):
            continue
        while kept and kept[-1]["step"] >= entry["step"]:
            kept.pop()
        kept.append(entry)
    if broken:
        notes.append(f"Lines of {path.name} that cannot be read and were left out: {broken}.")
    return kept


# -- numbers --------------------------------------------------------------------------------------------


def _is_number(value: Any) -> bool:
    """Finite, also as a float: JSON has integers of any size."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def _text(value: Any) -> str:
    """A value as a table shows it: four digits, counts in full, a dash for none."""
    if value is None:
        return "–"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}".replace(",", "\u202f")
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _estimate(value: Any, stderr: Any) -> str:
    """`value ± stderr` as the metrics print it, or the value alone."""
    if _is_number(value) and _is_number(stderr) and stderr >= 0:
        return str(Estimate(float(value), float(stderr), 0, "")).partition(" (n")[0]
    return _text(value)


def _metric(entry: Any) -> str:
    return _estimate(_dict(entry).get("value"), _dict(entry).get("stderr"))


def _facts(entry: dict[str, Any]) -> str:
    """Sample size, cost and kind of an evaluation, as far as known."""
    facts = [
        f"n = {_text(entry['n'])}" if "n" in entry else "",
        f"{entry['dequantisation']} dequantisation" if entry.get("dequantisation") else "",
        str(entry.get("sampler", "")),
        f"{_text(entry['nfe'])} NFE" if "nfe" in entry else "",
        _duration(entry["seconds"]) if "seconds" in entry else "",
    ]
    return ", ".join(filter(None, facts))


def _duration(seconds: Any) -> str:
    if not _is_number(seconds) or seconds < 0:
        return _text(seconds)
    if seconds < 120:
        return f"{seconds:.3g} s"
    minutes, hours = round(seconds / 60), round(seconds / 3600, 1)
    return f"{minutes} min" if minutes < 120 else f"{hours:g} h"


def _headline(summary: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Name, value and small print of the numbers at the top."""
    held_out = _dict(summary.get("likelihood"))
    if held_out:
        in_bits = held_out.get("bits_per_dim") is not None
        name, key = ("bits/dim", "bits_per_dim") if in_bits else ("log-likelihood, nats", "nats")
        value = _estimate(held_out.get(key), held_out.get("stderr"))
        yield f"{name}, {_split(held_out)}", value, _facts(held_out)
    samples = _dict(summary.get("samples"))
    for key, entry in list(_dict(samples.get("metrics")).items())[:1]:
        small = {k: v for k, v in samples.items() if k in ("nfe", "seconds")}
        yield _title(key), _metric(entry), _facts({"n": _dict(entry).get("n"), **small})
    training = _dict(summary.get("training"))
    if "seconds" in training:
        steps = f"{_text(training['steps'])} steps" if "steps" in training else ""
        yield "training", _duration(training["seconds"]), steps
    if "parameters" in summary:
        yield "parameters", _text(summary["parameters"]), ""


def _split(entry: dict[str, Any]) -> str:
    split = entry.get("split", "test")
    return {"test": "held out", "train": "training data"}.get(str(split), str(split))


def _likelihood(summary: dict[str, Any]) -> Table | None:
    """A column for each split."""
    entries = [e for e in (_dict(summary.get(k)) for k in ("likelihood", "likelihood_train")) if e]
    if not entries:
        return None
    rows: list[tuple[str, ...]] = []
    if any(e.get("bits_per_dim") is not None for e in entries):
        rows.append(("bits/dim", *(_estimate(e.get("bits_per_dim"), e.get("stderr")) for e in entries)))
    if any(e.get("elbo") is not None for e in entries):
        rows.append(("bits/dim by the ELBO", *(_estimate(e.get("elbo"), e.get("stderr_elbo")) for e in entries)))
    rows.append(("log-likelihood, nats", *map(_nats, entries)))
    plain = {
        "n": "samples, n",
        "stderr_data": "standard error from the choice of samples",
        "stderr_dequantisation": "from dequantisation",
        "stderr_probes": "from probes",
        "solver_error": "error of the solver, RMS per sample",
        "dequantisation": "dequantisation",
        "draws": "dequantisation draws",
        "bound": "bound over draws",
        "decoder": "decoder at t_min",
        "divergence": "divergence",
        "nfe": "NFE, mean",
        "divergences": "divergences, mean",
        "t_min": "t_min",
        "tol": "tol, nats",
    }
    for key, title in plain.items():
        if any(key in e for e in entries):
            rows.append((title, *(_text(e.get(key)) for e in entries)))
    if any("seconds" in e for e in entries):
        rows.append(("time", *(_duration(e.get("seconds")) for e in entries)))
    note = "Means over samples of the probability-flow ODE's likelihood, ± standard error."
    return Table("Likelihood", ("", *map(_split, entries)), rows, note)


def _nats(entry: dict[str, Any]) -> str:
    """The log-likelihood; where the error is one of bits/dim, in its proportion."""
    nats, bits, stderr = entry.get("nats"), entry.get("bits_per_dim"), entry.get("stderr")
    if bits is not None:
        known = _is_number(nats) and _is_number(bits) and _is_number(stderr) and bits != 0
        stderr = stderr * abs(nats / bits) if known else None
    return _estimate(nats, stderr)


def _title(metric: str) -> str:
    return _TITLES.get(metric, metric.replace("_", " "))


def _quality(summary: dict[str, Any]) -> Table | None:
    samples = _dict(summary.get("samples"))
    metrics, reference = _dict(samples.get("metrics")), _dict(summary.get("reference"))
    if not samples and not reference:
        return None
    sides = [(name, side) for name, side in (("samples", metrics), ("training data", reference)) if side]
    rows = []
    for key in dict.fromkeys((*metrics, *reference)):
        better = " ↓" if key in _LOWER else " ↑" if key in _HIGHER else ""
        n = next((_dict(side[key]).get("n") for _, side in sides if key in side), None)
        rows.append((_title(key) + better, *(_metric(side.get(key)) for _, side in sides), _text(n)))
    head = ("against held-out data", *(name for name, _ in sides), "n")
    note = _facts(samples)
    if rows:
        note += ". " if note else ""
        note += "± standard error; ↓ lower is better, ↑ higher is better."
    if reference:
        note += " Training data show what is to be had at this n."
    return Table("Samples", head if rows else (), rows, note)


def _training(summary: dict[str, Any]) -> Table | None:
    training = _dict(summary.get("training"))
    titles = {"steps": "steps", "skipped": "steps skipped, loss not finite", "loss": "last loss"}
    rows = [(title, _text(training[key])) for key, title in titles.items() if key in training]
    if "seconds" in training:
        rows.append(("time", _duration(training["seconds"])))
        if _is_number(training.get("steps")) and _is_number(training["seconds"]) and training["seconds"] > 0:
            rows.append(("steps per second", _text(training["steps"] / training["seconds"])))
    if "parameters" in summary:
        rows.append(("parameters", _text(summary["parameters"])))
    return Table("Training", (), list(rows)) if rows else None


# -- pictures -------------------------------------------------------------------------------------------


def _inline(content: bytes, title: str, caption: str) -> Picture:
    width = int.from_bytes(content[16:20], "big")  # of the IHDR chunk, always the first
    # Base64 has no character that HTML gives a meaning, and megabytes of it are slow to escape.
    uri = Markup("data:image/png;base64," + base64.b64encode(content).decode())
    return Picture(title, caption, uri, max(round(width * 96 / plots.DPI), 1))


def _pictures(run_dir: Path, notes: list[str]) -> Iterator[Picture]:
    listed = _read_json(run_dir / "pictures.json", notes)
    if not isinstance(listed, list):
        found = sorted((run_dir / "samples").glob("*.png"), key=lambda p: _natural(p.name))
        if len(found) > _MOST_PICTURES:
            notes.append(f"samples/ has {len(found)} pictures; the last {_MOST_PICTURES} are shown.")
        listed = [{"file": f"samples/{path.name}", "title": path.stem} for path in found[-_MOST_PICTURES:]]
    root = run_dir.resolve()
    for entry in map(_dict, listed):
        file = str(entry.get("file", ""))
        try:
            path = (root / file).resolve()
            content = path.read_bytes() if path.is_relative_to(root) else b""
        except (OSError, ValueError):
            content = b""
        if content[:8] != _PNG or content[12:16] != b"IHDR":
            notes.append(f"The picture {file!r} is missing, not a PNG, or outside the run directory.")
            continue
        yield _inline(content, str(entry.get("title") or path.stem), str(entry.get("caption") or ""))


def _natural(name: str) -> list[tuple[int, str]]:
    """step_9 before step_10."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", name)]


def _curve(path: Path, notes: list[str]) -> Picture | None:
    lines = _read_log(path, notes)
    names = [k for k in dict.fromkeys(k for line in lines for k in line) if k == "loss" or k.endswith("_loss")]
    nan = float("nan")
    series = {
        name.replace("_", " "): [float(e[name]) if _is_number(e.get(name)) else nan for e in lines] for name in names
    }
    series = {name: values for name, values in series.items() if not all(map(math.isnan, values))}
    lost = [e["step"] for e in lines if "loss" in e and not _is_number(e["loss"])]
    if lost:
        notes.append(f"The loss was not finite at {len(lost)} logged steps, the last of them {lost[-1]}.")
    if not series:
        return None
    figure = plots.learning_curves([float(e["step"]) for e in lines], series)
    last = f"Last logged: step {_text(lines[-1]['step'])}."
    return _inline(plots.to_png(figure), "Learning curve", last)


def _commands(run_dir: Path) -> list[tuple[str, str]]:
    """What to do and the command for it."""
    place = str(run_dir)
    if not re.fullmatch(r"[\w./@+-]+", place, re.ASCII):  # Hydra's grammar wants the rest in quotes
        place = '"' + place.replace("\\", "\\\\").replace('"', '\\"') + '"'
    run = shlex.quote(f"run={place}")
    return [
        ("Go on with training from the last checkpoint", f"scoresde train {run}"),
        ("Draw samples", f"scoresde sample {run} n=64 seed=1"),
        ("Likelihood of held-out data", f"scoresde likelihood {run} split=test"),
        ("Sample quality", f"scoresde evaluate {run}"),
        ("This page again", f"scoresde report {run}"),
        ("The model in Python", f"model = scoresde.load({str(run_dir)!r})"),
    ]
