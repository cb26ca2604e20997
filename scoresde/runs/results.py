"""Stored results of a run: each has settings, and a name made of the settings that differ from those of the run's own.

A result is a likelihood (`likelihood-test`), an evaluation of samples (`samples`) or a comparison of samplers
(`comparison`). One with other settings than the run's own has a further name, such as `likelihood-test-draws4`: its
files and its entry in the summary are added to the first, which is replaced only where the user says so.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from scoresde.options.errors import ConfigError
from scoresde.runs.directory import Run, check_name
from scoresde.runs.older import differed
from scoresde.sampling import ChainSampler, Sampler, TunedTimes
from scoresde.score import OptimalVariances
from scoresde.storage.bounded import DamagedFile, read_csv, read_file, read_json

__all__ = [
    "Filing",
    "choose_name",
    "differences",
    "digest_of",
    "further_name",
    "identity_of",
    "is_of",
    "key_of",
    "known_tables",
    "name_for_weights",
    "outdate",
    "set_aside",
    "shortened",
]

Settings = dict[str, Any]
# Settings that are left out where they are false or none.
_LEFT_OUT = ("corrected", "guidance", "start", "strength", "text", "cascade")


@dataclass(frozen=True)
class Filing:
    """The name and the place of a result.

    Attributes:
        name: Further name to store it under, instead of one made of the settings.
        label: Short text for the sampler, as part of a name.
        guidance: Short text for the guidance, as part of a name.
        cascade: Short text for the stages of a cascade, as part of a name.
        features: Short text for the features that samples are compared on, as part of a name.
        reference: Short text for the file that samples are compared with, as part of a name.
        source: File that the data are from, for the summary, if they are not the run's.
        overwrite: Replace the result of that name, or the run's own.
        own: It is the run's own result; one that is there with other settings gets a further name.
        first: Where there is none it is the run's own, whatever its settings.
    """

    name: str = ""
    label: str = ""
    guidance: str = ""
    cascade: str = ""
    features: str = ""
    reference: str = ""
    source: str | None = None
    overwrite: bool = False
    own: bool = False
    first: bool = True


# Keys of the summary for the run's own results, where they are not their names.
_KEYS = {"likelihood-test": "likelihood", "likelihood-train": "likelihood_train"}
_OWN = (*_KEYS, "samples", "comparison", "information-test", "information-train")
# Results that a run has beside its own, each with a table of samples: those against other runs, by noise level.
_AGAINST = "information-against-"
# Ends of the names of figures that belong to a result, after its own name.
_FIGURES = {"samples": ("-spectrum",), "information": ("-differences", "-typicality", "-dimension")}
# Settings whose values say what they are.
_PLAIN = (
    "data", "dequantisation", "divergence", "bound", "decoder", "digest", "sampler", "device", "guidance", "cascade",
    "features", "against",
)  # fmt: skip
# Settings that another part of a name stands for: the data's name, and the step of the model.
_SILENT = ("data_hash", "model", "unit", "split", "t_min", "conditional", "given")
_FEW = 4  # settings that a result may have and another of its kind may lack
_MAX_CHARACTERS = 80  # characters of the part of a name that settings, or names of runs, make


def key_of(name: str) -> str:
    """The key of the summary for the result of a name."""
    return _KEYS.get(name, name)


def digest_of(settings: Mapping[str, Any] | None) -> str:
    """Eight characters that two settings share exactly when they are the same."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]


def identity_of(sampler: Sampler | ChainSampler, run: Run | None = None) -> str:
    """A text that is the same for two samplers exactly when they are, tuned steps by their content.

    With a run it tells apart what a sampler that takes the model's own variances finds there.

    A named solver counts as the setting of its family that it is: `UniPC` as a `Multistep`. One that draws others than
    version 0.1.0 did with the same settings is told apart from that.
    """
    if isinstance(sampler, ChainSampler):
        return repr(sampler)
    if not isinstance(sampler.grid, TunedTimes):
        text = repr(Sampler(sampler.solver.general(), sampler.grid, sampler.denoise, sampler.noise))
        if run is not None and sampler.solver.takes_learned and OmegaConf.select(run.config, "network.learn_variance"):
            text += ", learned variances"
        path = None if run is None else run.directory / OptimalVariances.FILE
        if path is not None and "'optimal'" in text and path.is_file():
            text += f", variances {hashlib.sha256(read_file(path)).hexdigest()[:8]}"
        return f"{text}, not as in 0.1.0" if differed(sampler) else text
    steps = sampler.grid.tuned()
    return f"Tuned(steps={steps.evaluations}, digest={hashlib.sha256(steps.to_json().encode()).hexdigest()[:8]!r})"


def shortened(name: str, settings: Mapping[str, Any]) -> str:
    """A part of a file's name, which ends with the digest of the settings that it is made of if it is too long."""
    return name if len(name) <= _MAX_CHARACTERS else f"{name[:_MAX_CHARACTERS]}-{digest_of(settings)}"


def further_name(settings: Settings, own: Settings, labels: Mapping[str, str] | None = None) -> str:
    """The settings that differ from `own`, as part of a file's name; empty if none does.

    Args:
        settings: Settings of the result.
        own: Settings of the result that has no such part.
        labels: Short texts for values that are long.
    """
    parts = []
    for key, value in settings.items():
        if key in _SILENT or (value == own.get(key) and not (key == "data" and _other_data(settings, own))):
            continue
        text = (labels or {}).get(key) or (f"{value:g}" if isinstance(value, float) else str(value))
        text = re.sub(r"[^\w.+-]+", "_", text).strip("_.")
        if key == "data":
            text = f"{text}-{settings['data_hash'][:8]}"
        elif key == "digest":
            text = text[:8]
        parts.append(text if key in _PLAIN else f"{key}{text}")
    name = "-".join(filter(None, parts))
    return shortened(name, settings)


def _of_another_kind(settings: Settings, own: Settings) -> bool:
    """True if `own` lacks many of the settings, as the rows of overfitting do beside all information of a split."""
    return sum(key not in own for key in settings) > _FEW


def _other_data(settings: Settings, own: Settings) -> bool:
    return settings.get("data_hash") != own.get("data_hash")


def choose_name(
    own_name: str,
    known: Mapping[str, Settings | None],
    settings: Settings,
    own: Settings | None,
    *,
    given: str = "",
    overwrite: bool = False,
    labels: Mapping[str, str] | None = None,
) -> str:
    """The name under which a result is stored, so that no other is lost.

    It is the one that a result of the same settings has; for the run's own settings `own_name`; else a further name.

    Args:
        own_name: Name of the run's own result, such as `likelihood-test`.
        known: Settings of the results that are there, by their names; None for one of unknown settings.
        settings: Settings of the result.
        own: Settings that the run's own result would have; None if the first result is the run's own.
        given: Further name from the user.
        overwrite: Replace the result of the given name, or the run's own.
        labels: Short texts for values, as for `further_name`.

    Raises:
        ConfigError: The given name is no part of a file's name, or that of a result with other settings.
    """
    if given:
        check_name(given)
        name = f"{own_name}-{given}"
        if name in known and known[name] != settings and not overwrite:
            raise ConfigError(
                f"{name} is there already, {differences(known[name], settings)}: give another name, or overwrite=true "
                "to replace it"
            )
        return name
    if overwrite:
        return own_name
    for name in sorted(known, key=len):
        if known[name] == settings:
            return name
    if own_name not in known and own in (None, settings):
        return own_name
    reference = known.get(own_name) or own
    # Where nothing is known of the run's own, nothing tells what differs, and of another kind of result too much does.
    further = ""
    if reference and not _of_another_kind(settings, reference):
        further = further_name(settings, reference, labels)
    name = f"{own_name}-{further or digest_of(settings)}"
    return f"{name}-{digest_of(settings)}" if name in known else name


def name_for_weights(run: Run, own_name: str, settings: Settings, *, given: str = "", overwrite: bool = False) -> str:
    """The name under which a result of the run's present weights is stored.

    One of other weights makes room, and so does one whose settings cannot be read.

    Args:
        run: The run.
        own_name: Name of the run's own result.
        settings: Settings of the result, of which `model` tells the weights.
        given: Further name from the user.
        overwrite: Replace the result of the given name, or the run's own.
    """
    known = known_tables(run.directory, own_name)
    before = known.get(own_name)
    unknown = own_name in known and before is None and settings not in known.values() and not overwrite
    if not given and (unknown or (before is not None and before.get("model") != settings.get("model"))):
        set_aside(run, own_name, before, settings)
        known = known_tables(run.directory, own_name)
    return choose_name(own_name, known, settings, None, given=given, overwrite=overwrite)


def differences(before: Settings | None, now: Settings) -> str:
    """The differences of two settings, in words."""
    if before is None:
        return "with settings that are not known"
    keys = [key for key in now if now[key] != before.get(key)]
    shown = ", ".join(f"{key} {before.get(key)!r} instead of {now[key]!r}" for key in keys)
    return f"with {shown or 'further settings'}"


def known_tables(directory: Path, own_name: str) -> dict[str, Settings | None]:
    """Settings of the tables `own_name*.csv` that have rows, by their names; None where the note is missing."""
    return {path.stem: _settings_of(path) for path in directory.glob(f"{own_name}*.csv") if _has_rows(path)}


def _has_rows(table: Path) -> bool:
    try:
        return len(read_csv(table)) > 1
    except DamagedFile:
        return True


def _settings_of(table: Path) -> Settings | None:
    note = _note_of(table)
    # Older versions wrote the settings of likelihoods without a name.
    settings = note.get("settings", note)
    return settings if note and isinstance(settings, dict) else None


def _note_of(table: Path) -> dict[str, Any]:
    """Content of the JSON file beside a table; empty if there is none, or a damaged one."""
    try:
        note: dict[str, Any] = read_json(table.with_suffix(".json"), dict)
    except (FileNotFoundError, DamagedFile):
        return {}
    return note


def is_of(entry: Any, settings: Settings) -> bool:
    """True for an entry of the summary that is a result with these settings."""
    if not isinstance(entry, dict) or any(entry.get(key) != settings.get(key) for key in _LEFT_OUT):
        return False
    return all(key in entry and entry[key] == value for key, value in settings.items())


def set_aside(run: Run, name: str, before: Settings | None, now: Settings) -> None:
    """Make room for a result of the run: one with other settings gets a further name.

    Args:
        run: The run.
        name: Name of the result.
        before: Its settings; None if they are not known.
        now: Settings of the result that takes its place.
    """
    step = run.summary().entry(key_of(name)).get("step")
    if step is None and name.startswith("information-"):
        step = _note_of(run.directory / f"{name}.csv").get("step")
    if before is None:
        further = "earlier"
    elif _weights(before) != _weights(now) and step is not None:
        further = f"step{step}"
    else:
        further = further_name(before, now) or digest_of(before)
    _rename(run, name, further)


def _weights(settings: Settings) -> Any:
    """The fingerprint of the run's weights, which is the first where there are those of other runs."""
    model = settings.get("model")
    return model[0] if isinstance(model, list) and model else model


def outdate(run: Run, step: int) -> None:
    """Keep the results and figures of a model that is about to be trained further as those of its `step`."""
    summary = run.summary()
    # Older versions did not say of which step results are.
    dated = {key: {**entry, "step": step} for key, entry in summary.items() if _lacks_step(key, entry)}
    run.add_to_summary(**dated)
    for name in (*_OWN, *_against(run)):
        if key_of(name) in summary or (run.directory / f"{name}.csv").is_file():
            _rename(run, name, f"step{step}")
    run.date_pictures(step)


def _against(run: Run) -> list[str]:
    """Names of the results against other runs, of which those of earlier weights have a further name."""
    tables = [path for split in ("test", "train") for path in run.directory.glob(f"{_AGAINST}*-{split}.csv")]
    return sorted(path.stem for path in tables)


def _lacks_step(key: str, entry: Any) -> bool:
    return key.startswith(("likelihood", "samples")) and isinstance(entry, dict) and entry.get("step") is None


def _rename(run: Run, name: str, further: str) -> None:
    """Give a result, with its files, its figure and its entry in the summary, a further name.

    A number is added if there is one of that name; a renaming that was interrupted is completed.
    """
    summary, files = run.summary(), _files(run, name)
    target, number = f"{name}-{further}", 1
    while target in summary or files.keys() & _files(run, target).keys():
        number += 1
        target = f"{name}-{further}-{number}"
    if name.startswith(_AGAINST):  # before the result itself, so that what was interrupted is begun again
        for suffix in (".csv", ".json"):
            if (path := run.directory / f"{name}-samples{suffix}").is_file():
                path.rename(path.with_name(f"{target}-samples{suffix}"))
    for (_, suffix), path in files.items():
        path.rename(path.with_name(f"{target}{suffix}"))
    run.rename_picture(f"samples/{name}.png", f"samples/{target}.png")
    for end in _FIGURES.get(name.split("-")[0], ()):
        old, new = f"samples/{name}{end}.png", f"samples/{target}{end}.png"
        if (run.directory / old).is_file():
            (run.directory / old).rename(run.directory / new)
        if (run.directory / new).is_file():  # also if an earlier renaming stopped here
            run.rename_picture(old, new)
    entry = summary.get(key_of(name))
    if entry is None:
        return
    if "file" in entry:
        entry = {**entry, "file": f"{target}.csv"}
    moved: dict[str, Any] = {key_of(name): None, target: entry}
    if name == "samples":
        moved = {**moved, target: {**entry, "reference": summary.get("reference")}, "reference": None}
    run.add_to_summary(**moved)


def _files(run: Run, name: str) -> dict[tuple[str, str], Path]:
    """The files of a result, by their folder and suffix."""
    folders = (run.directory, run.directory / "samples")
    paths = [path for folder in folders for path in folder.glob(f"{name}.*") if path.suffix != ".lock"]
    return {(path.parent.name, path.suffix): path for path in sorted(paths)}
