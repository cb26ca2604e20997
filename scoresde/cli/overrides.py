"""Overrides of a command line: checked before Hydra sees them, and brought into the form that it wants."""

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Glob, IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from scoresde.cli.catalogue import conf_dir, groups, options
from scoresde.cli.command_line import CommandLine, as_text, parse_overrides, text_of
from scoresde.cli.console import UsageError, nearest
from scoresde.cli.files import check_files, file_with_key
from scoresde.cli.settings import UnreadKey, check_groups, check_settings, declared, edited, unread
from scoresde.cli.spaces import MOST_JOBS, integers, range_length

__all__ = [
    "check_overrides",
    "composing",
    "edit_own",
    "follow_sweeps",
    "planned_jobs",
]

_MOST_PROBES = 100  # values of a range that are all checked before a sweep; of more the first and the last


def edit_own(line: CommandLine) -> CommandLine:
    """Write `sampler.KEY=VALUE`, where no sampler is chosen, as an addition to none.

    The command changes the run's own sampler by it; likewise for every group that it takes from the run.
    """
    own = edited(line.command, list(line.overrides))

    def added(override: Override) -> str | None:
        is_own = str(override.key_or_group).partition(".")[0] in own and not override.is_delete()
        return "++" + text_of(override).lstrip("+") if is_own else None

    return line.rewritten(added)


def check_overrides(line: CommandLine) -> None:
    """Compose the configuration once before Hydra does, and reject what the command does not take.

    Every value of a sweep is checked, with the others at their first; of a long range only the ends are.

    Raises:
        UsageError: The key or choice, and the nearest that exists.
    """
    plain, swept, search_path = _probed(line)
    composed: list[tuple[DictConfig, tuple[Override, ...]]] = []
    with composing(line):
        for i in range(max((len(values) for values in swept), default=1)):
            texts = plain + [values[min(i, len(values) - 1)] for values in swept]
            composed.append((_composed(line, texts, search_path), parse_overrides(texts)))
    # Last, as this imports what they name.
    for config, given in composed:
        try:
            check_groups(line.command, config, given)
        except UsageError as error:
            hint = _hint(str(error), list(map(text_of, given)))
            raise UsageError(f"{error}{hint}{integers(str(error), line.overrides)}") from error


def _probed(line: CommandLine) -> tuple[list[str], list[list[str]], list[str]]:
    """Overrides of one value, those to be checked of each that is swept over, and Hydra's search path."""
    settings, read = declared(line.command)
    plain: list[str] = []
    swept: list[list[str]] = []
    search_path: list[str] = []
    for override in line.overrides:
        if override.is_hydra_override():
            if override.key_or_group == "hydra.searchpath":
                search_path = [text_of(override)]
            continue
        if override.is_sweep_override() and not line.is_sweep:
            raise UsageError(_no_sweep(override, settings))
        _check_form(override, read, line.folders)
        if override.is_sweep_override():
            key = text_of(override).split("=", 1)[0]
            swept.append([f"{key}={choice}" for choice in _probes(override, line.folders)])
        else:
            plain.append(text_of(override))
    return plain, swept, search_path


def _composed(line: CommandLine, texts: Sequence[str], search_path: Sequence[str]) -> DictConfig:
    """The configuration of one job, its files and settings checked."""
    given = parse_overrides(texts)
    try:
        check_files(line.command, given, line.folders)
        config = compose(line.config_name, [*texts, *search_path])
        check_settings(line.command, config, given)
        return config
    except UnreadKey as error:
        file = file_with_key(error.key, given, line.folders)
        raise UsageError(f"{file}: {error}" if file else str(error)) from error
    except HydraException as error:
        raise UsageError(_explain(line, error, texts, search_path)) from error
    except UsageError as error:
        raise UsageError(f"{error}{_hint(str(error), texts)}{integers(str(error), line.overrides)}") from error
    except (OmegaConfBaseException, ValueError, YAMLError) as error:
        text = " ".join(str(error).split())
        raise UsageError(f"{text}{_hint(text, texts)}") from error


@contextmanager
def composing(line: CommandLine) -> Iterator[None]:
    """Let `compose` look up what Hydra's command would, with the same flags."""
    folder = line.flag("--config-path")
    own = line.flag("--config-dir")
    main = folder if folder is None or "://" in folder else str(Path(folder).absolute())
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        search_path = create_config_search_path(main or str(conf_dir()))
        if own is not None:
            where = SearchPathQuery(provider="schema")
            search_path.prepend("command-line", f"file://{Path(own).absolute()}", where)
        GlobalHydra.instance().clear()
        Hydra.create_main_hydra2("scoresde", search_path)
        yield
    GlobalHydra.instance().clear()


def _hint(message: str, overrides: Sequence[str]) -> str:
    """A hint to quote a value that Hydra has read as a list, a mapping or an interpolation."""
    for override in overrides:
        key, _, value = override.partition("=")
        listed = value[:1] in ("[", "{") and message.startswith(f"{key.lstrip('+')} is ") and "expected text" in message
        if listed or ("${" in value and "nterpolation" in message):
            return f"; as one text: {as_text(override)}"
    return ""


def _no_sweep(override: Override, settings: Mapping[str, Any]) -> str:
    """The message about a list of choices for a command that is no sweep."""
    compared = ", or paired=true to compare them" if override.key_or_group == "run" and "paired" in settings else ""
    return (
        f"{override.input_line!r} is a list of choices: add --multirun to run each{compared}, or, if it is one text: "
        f"{as_text(text_of(override))}"
    )


def _check_form(override: Override, read: Mapping[str, str | None], folders: Sequence[Path]) -> None:
    """Reject what is wrong whatever the configuration."""
    if not override.key_or_group:
        raise UsageError(f"{override.input_line!r} has no key: write key=value")
    group = str(override.key_or_group)
    if override.is_sweep_override() or override.is_delete() or group not in groups(folders):
        return
    value = override.value()
    if value is None and read.get(group) is None:
        raise UsageError(f"{override.input_line!r}: leave it out, no {group} is chosen unless you name one")
    if not isinstance(value, str) and not (isinstance(value, list) and group in ("experiment", "logger")):
        raise UsageError(f"{override.input_line!r}: expected one of {', '.join(options(group, folders))}")
    if override.is_add() and group in read:
        raise UsageError(f"{override.input_line!r}: {group} is chosen without +: {group}={value}")


def _choices(override: Override, folders: Sequence[Path]) -> list[str]:
    """Values of a sweep; for an interval, one end."""
    value = override.value()
    if isinstance(value, IntervalSweep):
        return [str(value.start)]
    if isinstance(value, Glob):
        return [name for name in options(str(override.key_or_group), folders) if _matches(name, value)]
    return [str(choice) for choice in override.sweep_string_iterator()]


def _probes(override: Override, folders: Sequence[Path]) -> list[str]:
    """Values to check: all, but only the ends of a long range."""
    value = override.value()
    if isinstance(value, RangeSweep) and (length := range_length(value)) > _MOST_PROBES:
        assert value.start is not None  # or there would be none
        return [str(value.start), str(value.start + (length - 1) * value.step)]
    return _choices(override, folders)


def _matches(name: str, glob: Glob) -> bool:
    """True if the glob matches the name."""
    return any(fnmatch(name, g) for g in glob.include) and not any(fnmatch(name, g) for g in glob.exclude)


def planned_jobs(line: CommandLine) -> list[list[str]] | None:
    """The overrides of every job of a grid, in their order; None where a sweeper decides.

    Raises:
        UsageError: More jobs than a sweep may have.
    """
    if line.value("hydra/sweeper", "basic") != "basic":
        return None
    rows: dict[str, list[str]] = {}
    for override in line.overrides:
        if not override.is_hydra_override():
            key = override.get_key_element()
            swept = override.is_sweep_override()
            choices = _choices(override, line.folders) if swept else [override.get_value_element_as_str()]
            rows[key] = [f"{key}={choice}" for choice in choices]
    count = math.prod(map(len, rows.values()))
    if count > MOST_JOBS:
        raise UsageError(f"the sweep has {count:,} jobs, the limit is {MOST_JOBS:,}: leave some out, or make several")
    return [list(job) for job in itertools.product(*rows.values())]


def follow_sweeps(line: CommandLine) -> CommandLine:
    """Write values inside a group that is swept over as sweeps of one choice.

    Before its jobs Hydra composes a sweep's configuration without the swept groups, where such a key may not exist.
    """
    swept = {str(o.key_or_group) for o in line.overrides if o.is_sweep_override()}

    def follow(override: Override) -> str | None:
        text = text_of(override)
        if override.is_sweep_override() or text.partition(".")[0].lstrip("+~") not in swept:
            return None
        if override.is_delete():
            raise UsageError(f"{text!r}: nothing can be taken out of a group that is swept over")
        key, _, value = text.partition("=")
        return f"{key}=choice({value})"

    return line.rewritten(follow)


def _explain(line: CommandLine, error: Exception, overrides: Sequence[str], search_path: Sequence[str]) -> str:
    """The message about an override that Hydra does not take."""
    folders, given = line.folders, parse_overrides(overrides)
    text = " ".join(str(error).split())
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        own = group.partition("/")[0]
        if own in groups(folders):  # one of whose choices may be in a folder of the group
            group, choice = own, str(error.missing_cfg_file).removeprefix(f"{own}/")
            names = options(group, folders)
        else:
            names = list(error.options or ())
        if not group:
            return (
                f"--config-name {choice}: there is no such file{nearest(choice, names)}; there are {', '.join(names)}"
            )
        return f"{group} has no choice {choice!r}{nearest(choice, names)}; expected one of {', '.join(names)}"
    merging = re.match(r"Error merging override (.+?=.*)", text)
    if merging is not None:
        key = merging[1].partition("=")[0].lstrip("+")
        return f"{merging[1]!r}: {key} is a mapping, of which {key}.NAME=VALUE changes a value"
    # With every key added, the check finds the one that nothing reads.
    added = [o if o.startswith(("+", "~")) or _is_group(o, folders) else f"++{o}" for o in overrides]
    try:
        config = compose(config_name=line.config_name, overrides=[*added, *search_path])
        check_settings(line.command, config, given)
        check_groups(line.command, config, given)
    except UsageError as problem:
        return str(problem)
    except (HydraException, OmegaConfBaseException, ValueError):
        pass
    keys = {o: o.split("=", 1)[0].lstrip("+~") for o in overrides}
    for override, key in keys.items():
        if f"'{key}'" not in text:
            continue
        if "already at" in text:
            return f"{override!r}: {key} is there already, leave out the +"
        if _is_group(override, folders):
            return str(unread(line.command, key, given))
        if "override" in text:
            return f"{override!r}: {key} has a default that the configuration leaves out: write +{override}"
        if override.startswith("~") and key.split(".")[0] in groups(folders):
            group = key.split(".")[0]
            return f"{override!r}: there is no {key}; choose {group}=NAME first if it is in another {group}"
    return re.sub(r"[.,]? To (append|override) .*$", "", text)


def _is_group(override: str, folders: Sequence[Path]) -> bool:
    return override.lstrip("+~").partition("=")[0].partition("@")[0] in groups(folders)
