"""Overrides on the command line: checked before Hydra sees them, and brought into the form that it wants."""

import itertools
import math
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from scoresde.cli.catalogue import conf_dir, flag_value, further_folders, groups, options
from scoresde.cli.console import UsageError, nearest
from scoresde.cli.files import check_files, file_with_key
from scoresde.cli.settings import UnreadKey, check_groups, check_settings, declared, edited, is_path, unread, with_home
from scoresde.cli.spaces import MOST_JOBS, integers, range_length
from scoresde.shell import override as as_override
from scoresde.shell import quoted

__all__ = [
    "check_overrides",
    "composing",
    "edit_own",
    "expand_paths",
    "follow_sweeps",
    "is_sweep",
    "name_directory",
    "parsed",
    "planned_jobs",
]

_MOST_PROBES = 100  # values of a range that are all checked before a sweep; of more the first and the last


def parsed(arguments: Sequence[str]) -> list[Override]:
    """The overrides among the arguments.

    Raises:
        UsageError: one that does not follow Hydra's grammar, with the quoting that makes its value a text.
    """
    parser = OverridesParser.create()
    found: list[Override] = []
    for text in without_flags(arguments):
        try:
            found += parser.parse_overrides([text])
        except (OverrideParseException, HydraException) as error:
            raise UsageError(_not_understood(text, str(error))) from error
    return found


def with_any_letters(arguments: Sequence[str]) -> list[str]:
    """The arguments, with quotes for Hydra around values that have letters of other alphabets and nothing special.

    Hydra's grammar knows ASCII alone outside of quotes, and names and paths do not.
    """

    def spelt(text: str) -> str:
        key, equals, value = text.partition("=")
        plain = re.fullmatch(r"[\w/+.~@?:\s-]+", value) and not value.isascii()
        return f"{key}={quoted(value)}" if equals and plain and not text.startswith("-") else text

    return [spelt(text) for text in arguments]


def _not_understood(text: str, reason: str) -> str:
    """The message about an override that does not follow Hydra's grammar."""
    key, equals, value = text.partition("=")
    if not equals:
        return f"{text!r} is no key=value: write that, in quotes where the value has blanks, as in 'name=my run'"
    if not re.fullmatch(r"(\+\+?|~)?[\w./@:-]+", key, re.ASCII):
        return f"{text!r}: {key!r} is no key, expected words with dots between them"
    as_text = f"as one text it is {_as_text(text)}"
    if re.match(r"\w+\(.*\)$", value) and value.count("(") == value.count(")"):  # a function of Hydra's
        found = re.search(r"while evaluating .*?: (.*)", " ".join(reason.partition("See https")[0].split()))
        return f"{text!r}: {found[1] if found else 'its arguments are not understood'}; {as_text}"
    special = sorted(set(re.findall(r"[^\w/\\+.$%*@?|:,\s-]|[^\x00-\x7f]", value)))
    which = " and ".join(repr(c) for c in special[:3])
    lists = "; a list is [a,b], a mapping {a: 1}" if value[:1] in ("[", "{") else ""
    return f"{text!r} is not understood, as {which or 'its value'} has a meaning of its own there{lists}; {as_text}"


def _as_text(override: str) -> str:
    """An override whose value is taken as a text, as a shell takes it."""
    key, _, value = override.partition("=")
    return shlex.quote(f"{key}={quoted(value)}")


def is_sweep(arguments: Sequence[str]) -> bool:
    """Whether the arguments ask for several jobs."""
    return bool({"-m", "--multirun", "hydra.mode=MULTIRUN"} & set(arguments))


def name_directory(command: str, arguments: Sequence[str]) -> list[str]:
    """The arguments with one that is no override as `run=`; training has no such, as it makes its own."""
    texts = without_flags(arguments)
    plain = [t for t in texts if "=" not in t and (t[:1] not in ("+", "~") or t.startswith("~/"))]
    places = plain or [t for t in texts if "/" in t and _is_folder(t)]
    if command == "train" or len(places) != 1:
        return list(arguments)
    return [as_override("run", a) if a == places[0] else a for a in arguments]


def _is_folder(text: str) -> bool:
    with suppress(OSError, RuntimeError):  # a name that is too long, an unknown ~user
        return Path(text).expanduser().is_dir()
    return False


# -- paths ----------------------------------------------------------------------------------------------


def expand_paths(arguments: Sequence[str]) -> list[str]:
    """The arguments with `~` and `~user` at the beginning of paths replaced, which a shell leaves after `=`.

    Names of files and runs stay texts, though they look like numbers (`run=007`).

    Raises:
        UsageError: a value that is empty, as one from a shell variable that is not set.
    """
    texts = without_flags(arguments)
    return [_expand(argument) if argument in texts else argument for argument in arguments]


def _expand(argument: str) -> str:
    key, equals, value = argument.partition("=")
    plain = key.lstrip("+")
    if not equals or plain.startswith("~"):
        return argument
    if not value.strip():
        raise UsageError(f"{argument} has no value: is the shell variable in it set?")
    if is_path(plain):  # lists and sweeps by their elements
        value = re.sub(r"(^|[,\[(:]\s*)(~[^,\[\](){}]*)", lambda m: m[1] + quoted(with_home(plain, m[2])), value)
    if (plain == "name" or is_path(plain)) and re.fullmatch(r"[\w.+-]+", value, re.ASCII) and value.lower() != "null":
        value = quoted(value)
    return f"{key}={value}"


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
    folders = further_folders(arguments)
    _, read = declared(command)
    plain: list[str] = []
    sweeps: list[list[str]] = []
    search_path: list[str] = []
    for override in overrides:
        if override.is_hydra_override():
            if override.key_or_group == "hydra.searchpath":
                search_path = [str(override.input_line)]
            continue
        _check_form(override, read, is_sweep(arguments), folders)
        if override.is_sweep_override():
            key = str(override.input_line).split("=", 1)[0]
            sweeps.append([f"{key}={choice}" for choice in _probes(override, folders)])
        else:
            plain.append(str(override.input_line))
    name = flag_value(arguments, "--config-name", "-cn") or command
    longest = max((len(s) for s in sweeps), default=1)
    composed: list[tuple[DictConfig, list[Override]]] = []
    with composing(arguments):
        for i in range(longest):
            chosen = plain + [s[min(i, len(s) - 1)] for s in sweeps]
            try:
                check_files(command, parsed(chosen), folders)
                composed.append((compose(name, [*chosen, *search_path]), parsed(chosen)))
                check_settings(command, *composed[-1])
            except UnreadKey as error:
                file = file_with_key(error.key, parsed(chosen), folders)
                raise UsageError(f"{file}: {error}" if file else str(error)) from error
            except HydraException as error:
                raise UsageError(_explain(command, name, error, chosen, search_path, folders)) from error
            except UsageError as error:
                raise UsageError(f"{error}{_hint(str(error), chosen)}{integers(str(error), overrides)}") from error
            except (OmegaConfBaseException, ValueError, YAMLError) as error:
                text = " ".join(str(error).split())
                raise UsageError(f"{text}{_hint(text, chosen)}") from error
    # Last, as this imports what they name.
    for config, given in composed:
        try:
            check_groups(command, config, given)
        except UsageError as error:
            hint = _hint(str(error), [str(o.input_line) for o in given])
            raise UsageError(f"{error}{hint}{integers(str(error), overrides)}") from error


@contextmanager
def composing(arguments: Sequence[str]) -> Iterator[None]:
    """Let `compose` look up what Hydra's command would, with the same arguments."""
    folder = flag_value(arguments, "--config-path", "-cp")
    own = flag_value(arguments, "--config-dir", "-cd")
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
    """How to write a value as text that Hydra has read as a list, a mapping or an interpolation."""
    for override in overrides:
        key, _, value = override.partition("=")
        listed = value[:1] in ("[", "{") and message.startswith(f"{key.lstrip('+')} is ") and "expected text" in message
        if listed or ("${" in value and "nterpolation" in message):
            return f"; as one text: {_as_text(override)}"
    return ""


def _check_form(override: Override, read: dict[str, str | None], sweep: bool, folders: Sequence[Path]) -> None:
    """Refuse what can be seen to be wrong without the configuration."""
    if not override.key_or_group:
        raise UsageError(f"{override.input_line!r} has no key: write key=value")
    group = str(override.key_or_group)
    if override.is_sweep_override():
        if not sweep:
            raise UsageError(
                f"{override.input_line!r} is a list of choices: add --multirun to run each, "
                f"or, if it is one text: {_as_text(str(override.input_line))}"
            )
        return
    if override.is_delete() or group not in groups(folders):
        return
    value = override.value()
    if value is None and read.get(group) is None:
        raise UsageError(f"{override.input_line!r}: leave it out, no {group} is chosen unless you name one")
    if not isinstance(value, str) and not (isinstance(value, list) and group in ("experiment", "logger")):
        raise UsageError(f"{override.input_line!r}: expected one of {', '.join(options(group, folders))}")
    if override.is_add() and group in read:
        raise UsageError(f"{override.input_line!r}: {group} is chosen without +: {group}={value}")


def _choices(override: Override, folders: Sequence[Path]) -> list[str]:
    """The values that a sweep goes through; of an interval, one end."""
    value = override.value()
    if isinstance(value, IntervalSweep):
        return [str(value.start)]
    if isinstance(value, Glob):
        return [name for name in options(str(override.key_or_group), folders) if _matches(name, value)]
    return [str(choice) for choice in override.sweep_string_iterator()]


def _probes(override: Override, folders: Sequence[Path]) -> list[str]:
    """The values that are checked: all, but of a long range the ends."""
    value = override.value()
    if isinstance(value, RangeSweep) and (length := range_length(value)) > _MOST_PROBES:
        assert value.start is not None  # or there would be none
        return [str(value.start), str(value.start + (length - 1) * value.step)]
    return _choices(override, folders)


def _matches(name: str, glob: Glob) -> bool:
    """Whether the name is one of those."""
    return any(fnmatch(name, g) for g in glob.include) and not any(fnmatch(name, g) for g in glob.exclude)


def planned_jobs(arguments: Sequence[str]) -> list[list[str]] | None:
    """The overrides of every job of a grid, in their order; None where a sweeper decides.

    Raises:
        UsageError: more jobs than anybody means.
    """
    overrides = parsed(arguments)
    if any(o.key_or_group == "hydra/sweeper" and o.value() != "basic" for o in overrides):
        return None
    rows: dict[str, list[str]] = {}
    for override in overrides:
        if not override.is_hydra_override():
            key = override.get_key_element()
            choices = (
                _choices(override, further_folders(arguments))
                if override.is_sweep_override()
                else [override.get_value_element_as_str()]
            )
            rows[key] = [f"{key}={choice}" for choice in choices]
    count = math.prod(map(len, rows.values()))
    if count > MOST_JOBS:
        raise UsageError(f"the sweep has {count:,} jobs, the limit is {MOST_JOBS:,}: leave some out, or make several")
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


def _explain(
    command: str, name: str, error: Exception, overrides: Sequence[str], found: Sequence[str], folders: Sequence[Path]
) -> str:
    """The message about an override that Hydra does not take."""
    text = " ".join(str(error).split())
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        names = error.options or options(group, folders)
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
        if _is_group(override, folders):
            return str(unread(command, key, parsed(overrides)))
        if "override" in text:
            return f"{override!r}: {key} has a default that the configuration leaves out: write +{override}"
        if override.startswith("~") and key.split(".")[0] in groups(folders):
            group = key.split(".")[0]
            return f"{override!r}: there is no {key}; choose {group}=NAME first if it is in another {group}"
    return re.sub(r"[.,]? To (append|override) .*$", "", text)


def _is_group(override: str, folders: Sequence[Path]) -> bool:
    return override.lstrip("+~").partition("=")[0].partition("@")[0] in groups(folders)
