"""Overrides on the command line: checked before Hydra sees them, and brought into the form that it wants."""

import itertools
import re
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep, Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from scoresde.cli.choices import conf_dir, groups, options
from scoresde.cli.output import UsageError, nearest
from scoresde.cli.settings import check_groups, check_settings, declared, edited, unread

__all__ = [
    "check_overrides",
    "edit_own",
    "follow_sweeps",
    "is_sweep",
    "name_directory",
    "parsed",
    "planned_jobs",
    "quoted",
]


def parsed(arguments: Sequence[str]) -> list[Override]:
    """The overrides among the arguments.

    Raises:
        UsageError: one that does not follow Hydra's grammar.
    """
    try:
        return OverridesParser.create().parse_overrides(without_flags(arguments))
    except (OverrideParseException, HydraException) as error:
        raise UsageError(" ".join(str(error).split())) from error


def is_sweep(arguments: Sequence[str]) -> bool:
    """Whether the arguments ask for several jobs."""
    return bool({"-m", "--multirun", "hydra.mode=MULTIRUN"} & set(arguments))


def quoted(text: str) -> str:
    """A value as Hydra's grammar wants it."""
    if re.fullmatch(r"[\w./@+-]+", text, re.ASCII):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def name_directory(command: str, arguments: Sequence[str]) -> list[str]:
    """The arguments with one that is no override as `run=`; training has no such, as it makes its own."""
    texts = without_flags(arguments)
    places = [t for t in texts if "=" not in t and not t.startswith(("+", "~"))]
    if command == "train" or len(places) != 1:
        return list(arguments)
    return [f"run={quoted(a)}" if a == places[0] else a for a in arguments]


def edit_own(command: str, arguments: Sequence[str]) -> list[str]:
    """The arguments with `sampler.KEY=VALUE`, where no sampler is chosen, as an addition to none.

    The command changes the run's own sampler by it; so with every group that it takes from the run.
    """
    texts = without_flags(arguments)
    overrides = parsed(arguments)
    own = edited(command, overrides)
    added = {
        text: "++" + text.lstrip("+")
        for text, override in zip(texts, overrides, strict=True)
        if str(override.key_or_group).partition(".")[0] in own and not override.is_delete()
    }
    return [added.get(argument, argument) for argument in arguments]


def check_overrides(command: str, arguments: Sequence[str]) -> None:
    """Compose the configuration once before Hydra does, and refuse what the command does not take.

    Raises:
        UsageError: naming the key or choice and the nearest that exists.
    """
    overrides = parsed(arguments)
    _, read = declared(command)
    plain: list[str] = []
    sweeps: list[list[str]] = []
    for override in overrides:
        if override.is_hydra_override():
            continue
        _check_form(override, read, is_sweep(arguments))
        if override.is_sweep_override():
            key = str(override.input_line).split("=", 1)[0]
            sweeps.append([f"{key}={choice}" for choice in _choices(override)])
        else:
            plain.append(str(override.input_line))
    folder, name, found = _sources(command, arguments, overrides)
    longest = max((len(s) for s in sweeps), default=1)
    composed: list[tuple[DictConfig, list[Override]]] = []
    with initialize_config_dir(version_base="1.3", config_dir=folder):
        for i in range(longest):
            chosen = plain + [s[min(i, len(s) - 1)] for s in sweeps]
            try:
                composed.append((compose(config_name=name, overrides=chosen + found), parsed(chosen)))
                check_settings(command, *composed[-1])
            except HydraException as error:
                raise UsageError(_explain(command, name, error, chosen, found)) from error
            except UsageError:
                raise
            except (OmegaConfBaseException, ValueError) as error:
                raise UsageError(" ".join(str(error).split())) from error
    GlobalHydra.instance().clear()
    # Last, as this imports what they name.
    for config, given in composed:
        check_groups(command, config, given)


def _check_form(override: Override, read: dict[str, str | None], sweep: bool) -> None:
    """Refuse what can be seen to be wrong without the configuration."""
    if not override.key_or_group:
        raise UsageError(f"{override.input_line!r} has no key: write key=value")
    group = str(override.key_or_group)
    if override.is_sweep_override():
        if not sweep:
            raise UsageError(
                f"{override.input_line!r} is a list of choices: add --multirun to run each, "
                f"or quote it if it is one value: {group}=\\'...\\'"
            )
        return
    if override.is_delete() or group not in groups():
        return
    value = override.value()
    if value is None and read.get(group) is None:
        raise UsageError(f"{override.input_line!r}: leave it out, no {group} is chosen unless you name one")
    if not isinstance(value, str) and not (isinstance(value, list) and group == "experiment"):
        raise UsageError(f"{override.input_line!r}: expected one of {', '.join(options(group))}")
    if override.is_add() and group in read:
        raise UsageError(f"{override.input_line!r}: {group} is chosen without +: {group}={value}")


def _sources(command: str, arguments: Sequence[str], overrides: Sequence[Override]) -> tuple[str, str, list[str]]:
    """The folder and name of the configuration, and the override that adds the user's own folders."""
    given = _flag(arguments, "--config-path", "-cp")
    folder = Path(given).absolute() if given else conf_dir()
    name = _flag(arguments, "--config-name", "-cn") or command
    own = _flag(arguments, "--config-dir", "-cd")
    if own and (Path(own) / f"{name}.yaml").is_file():  # a search path has groups alone
        folder, own = Path(own).absolute(), str(folder)
    given_too: list[Any] = [o.value() for o in overrides if o.key_or_group == "hydra.searchpath"]
    found = [str(path) for paths in given_too for path in paths or []]
    found += [f"file://{Path(own).absolute()}"] if own else []
    more = [f"hydra.searchpath=[{','.join(map(quoted, found))}]"] if found else []
    return str(folder), name, more


def _flag(arguments: Sequence[str], *names: str) -> str | None:
    """The value of a flag, written as the next argument or after an equals sign."""
    for argument, after in zip(arguments, [*arguments, None][1:], strict=True):
        name, equals, value = argument.partition("=")
        if name in names:
            return value if equals else after
    return None


def _choices(override: Override) -> list[str]:
    """What a sweep goes through; of an interval, one end."""
    value = override.value()
    if isinstance(value, IntervalSweep):
        return [str(value.start)]
    if isinstance(value, Glob):
        return [name for name in options(str(override.key_or_group)) if _matches(name, value)]
    return [str(choice) for choice in override.sweep_string_iterator()]


def _matches(name: str, glob: Glob) -> bool:
    """Whether the name is one of those."""
    return any(fnmatch(name, g) for g in glob.include) and not any(fnmatch(name, g) for g in glob.exclude)


def planned_jobs(arguments: Sequence[str]) -> list[list[str]] | None:
    """The overrides of every job of a grid, in their order; None where a sweeper decides."""
    overrides = parsed(arguments)
    if any(o.key_or_group == "hydra/sweeper" and o.value() != "basic" for o in overrides):
        return None
    rows: dict[str, list[str]] = {}
    for override in overrides:
        if not override.is_hydra_override():
            key = override.get_key_element()
            choices = _choices(override) if override.is_sweep_override() else [override.get_value_element_as_str()]
            rows[key] = [f"{key}={choice}" for choice in choices]
    return [list(job) for job in itertools.product(*rows.values())]


def follow_sweeps(arguments: Sequence[str]) -> list[str]:
    """The arguments, flags first, with values inside a group that is swept over as sweeps of one choice.

    Before its jobs Hydra composes a sweep's configuration without the swept groups, where such a key may not exist.
    """
    texts = without_flags(arguments)
    overrides = dict(zip(texts, parsed(arguments), strict=True))
    swept = {str(o.key_or_group) for o in overrides.values() if o.is_sweep_override()}

    def follow(text: str) -> str:
        override = overrides.get(text)
        if override is None or override.is_sweep_override() or text.partition(".")[0].lstrip("+~") not in swept:
            return text
        if override.is_delete():
            raise UsageError(f"{text!r}: nothing can be taken out of a group that is swept over")
        key, _, value = text.partition("=")
        return f"{key}=choice({value})"

    # Flags first: Hydra takes overrides in one row only.
    return [argument for argument in arguments if argument not in overrides] + [follow(text) for text in texts]


def without_flags(arguments: Sequence[str]) -> list[str]:
    """The overrides among the arguments: what is neither a flag nor the value of one."""
    valued = {"--cfg", "-c", "--package", "-p", "--experimental-rerun", "--info", "-i"}
    valued |= {"--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn"}
    texts, before = [], ""
    for argument in arguments:
        if not argument.startswith("-") and before not in valued:
            texts.append(argument)
        before = argument
    return texts


def _explain(command: str, name: str, error: Exception, overrides: Sequence[str], found: Sequence[str]) -> str:
    """What to say of an override that Hydra does not take."""
    text = " ".join(str(error).split())
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        names = error.options or options(group)
        return (
            f"{group or command} has no choice {choice!r}{nearest(choice, names)}; expected one of {', '.join(names)}"
        )
    merging = re.match(r"Error merging override (.+?=.*)", text)
    if merging is not None:
        key = merging[1].partition("=")[0].lstrip("+")
        return f"{merging[1]!r}: {key} is a mapping, of which {key}.NAME=VALUE changes a value"
    # With every key added, the check finds the one that nothing reads.
    added = [o if o.startswith(("+", "~")) or _is_group(o) else f"++{o}" for o in overrides]
    try:
        config = compose(config_name=name, overrides=[*added, *found])
        check_settings(command, config, parsed(overrides))
        check_groups(command, config, parsed(overrides))
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
        if _is_group(override):
            return str(unread(command, key, parsed(overrides)))
        if "override" in text:
            return f"{override!r}: {key} has a default that the configuration leaves out: write +{override}"
        if override.startswith("~") and key.split(".")[0] in groups():
            group = key.split(".")[0]
            return f"{override!r}: there is no {key}; choose {group}=NAME first if it is in another {group}"
    return re.sub(r"[.,]? To (append|override) .*$", "", text)


def _is_group(override: str) -> bool:
    return override.lstrip("+~").partition("=")[0].partition("@")[0] in groups()
