"""Overrides on the command line: checked before Hydra sees them, and brought into the form that it wants."""

import math
import re
from collections.abc import Sequence
from fnmatch import fnmatch
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep, Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from scoresde.cli.choices import conf_dir, groups, options
from scoresde.cli.output import UsageError, nearest

__all__ = ["check_overrides", "count_jobs", "follow_sweeps", "is_sweep", "name_directory", "parsed", "quoted"]


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


def check_overrides(command: str, arguments: Sequence[str]) -> None:
    """Compose the configuration once before Hydra does, to answer a wrong name with the nearest right one."""
    flags = [a for a in arguments if a.startswith("-")]
    if any(f.startswith(("--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn")) for f in flags):
        return
    overrides = parsed(arguments)
    known_groups = set(groups())
    settings = yaml.safe_load((conf_dir() / f"{command}.yaml").read_text(encoding="utf-8"))
    optional = {k for d in settings["defaults"] if isinstance(d, dict) for k, v in d.items() if v is None}
    plain: list[str] = []
    sweeps: list[list[str]] = []
    for override in overrides:
        if override.is_hydra_override():
            continue
        if not override.key_or_group:
            raise UsageError(f"{override.input_line!r} has no key: write key=value")
        wrong = not (override.is_delete() or override.is_sweep_override() or isinstance(override.value(), str | list))
        wrong = wrong and not (override.value() is None and override.key_or_group in optional)
        if override.key_or_group in known_groups and wrong:
            known = ", ".join(options(override.key_or_group))
            raise UsageError(f"{override.input_line!r}: expected one of {known}")
        if override.is_sweep_override():
            if not is_sweep(arguments):
                raise UsageError(
                    f"{override.input_line!r} is a list of choices: add --multirun to run each, "
                    f"or quote it if it is one value: {override.key_or_group}=\\'...\\'"
                )
            key = str(override.input_line).split("=", 1)[0]
            sweeps.append([f"{key}={choice}" for choice in _choices(override)])
        else:
            _check_type(override, settings.get(override.key_or_group))
            plain.append(str(override.input_line))
    longest = max((len(s) for s in sweeps), default=1)
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        for i in range(longest):
            chosen = plain + [s[min(i, len(s) - 1)] for s in sweeps]
            try:
                compose(config_name=command, overrides=chosen)
            except HydraException as error:
                raise UsageError(_explain(command, error, chosen)) from error
            except (OmegaConfBaseException, ValueError) as error:
                raise UsageError(" ".join(str(error).split())) from error
    GlobalHydra.instance().clear()


def _check_type(override: Override, default: Any) -> None:
    """Refuse a value of another kind than a setting of the command has: its code would say something obscure."""
    if override.is_delete():
        return
    value = override.value()
    kinds = {bool: ("true or false", bool), int: ("a whole number", int)}
    text, kind = kinds.get(type(default), ("", None))
    if kind is not None and type(value) is not kind:
        raise UsageError(f"{override.key_or_group} is {value!r}, expected {text}")


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


def count_jobs(arguments: Sequence[str]) -> int | None:
    """How many jobs a grid has; None where a sweeper decides."""
    overrides = parsed(arguments)
    if any(o.key_or_group == "hydra/sweeper" and o.value() != "basic" for o in overrides):
        return None
    return math.prod(len(_choices(o)) for o in overrides if o.is_sweep_override())


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


def _explain(command: str, error: Exception, overrides: Sequence[str]) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        names = error.options or options(group)
        return f"{group or command} has no choice {name!r}{nearest(name, names)}; expected one of {', '.join(names)}"
    known_groups = set(groups())
    chosen = {o.split("=", 1)[0]: o for o in overrides if o.split("=", 1)[0] in known_groups}
    keys = _known_keys(command, list(chosen.values()))
    for override in overrides:
        key = override.split("=", 1)[0].lstrip("+~")
        group = key.split(".")[0]
        if "." in key and group in known_groups and not any(k.startswith(f"{group}.") for k in keys):
            return f"{override}: no {group} is chosen: add {group}=NAME, one of {', '.join(options(group))}"
        if key in text and key.split("@")[0] not in keys:
            return f"unknown key {key!r}{nearest(key, keys)} ({text})"
    return text


def _known_keys(command: str, choices: list[str]) -> set[str]:
    """Every key of the configuration with these choices of groups, and the groups."""
    try:
        composed = compose(config_name=command, overrides=choices)
    except (HydraException, OmegaConfBaseException):
        composed = compose(config_name=command)
    config = OmegaConf.to_container(composed, resolve=False)
    keys = set(groups())

    def walk(node: Any, prefix: str) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                keys.add(f"{prefix}{key}")
                walk(value, f"{prefix}{key}.")

    walk(config, "")
    return keys
