"""The command line as a value: flags and overrides, parsed once, with what users may leave out filled in."""

import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override
from hydra.errors import HydraException, OverrideParseException

from scoresde.cli.catalogue import flag_value, further_folders
from scoresde.cli.console import UsageError
from scoresde.cli.flags import split_flags
from scoresde.cli.settings import is_path, with_home
from scoresde.shell import override as as_override
from scoresde.shell import quoted

_SENTENCES = ("text", "negative")  # keys whose values are sentences

__all__ = ["CommandLine", "as_text", "parse_overrides", "text_of"]


@dataclass(frozen=True)
class CommandLine:
    """A command with its flags and overrides; methods that change something return another.

    Attributes:
        command: Name of the command, such as `train`.
        flags: Hydra's flags, each followed by its value if it has one.
        overrides: Parsed overrides, in the order in which they were given.
    """

    command: str
    flags: tuple[str, ...]
    overrides: tuple[Override, ...]

    @classmethod
    def of(cls, command: str, arguments: Sequence[str]) -> "CommandLine":
        """Read the arguments of a command.

        A folder alone is its `run`, `~` at the beginning of a path is the home directory, and names of files and runs
        stay text even where they look like numbers (`run=007`). Where runs are compared, `run=A,B` is a list of them.

        Raises:
            UsageError: An unknown flag, an override without a value, or one that does not follow Hydra's grammar, with
                the quoting that makes its value text.
        """
        flags, texts = split_flags(command, arguments)
        texts = _name_directory(command, [_quote_letters(_quote_sentence(text)) for text in texts])
        return cls(command, tuple(flags), parse_overrides([_expand(text) for text in texts]))._with_runs_compared()

    @property
    def texts(self) -> list[str]:
        """The overrides as they were given."""
        return [text_of(override) for override in self.overrides]

    @property
    def arguments(self) -> list[str]:
        """Arguments for Hydra, flags first, since it takes overrides in one row only."""
        return [*self.flags, *self.texts]

    @cached_property
    def is_sweep(self) -> bool:
        """True if several jobs are asked for."""
        return "--multirun" in self.flags or "hydra.mode=MULTIRUN" in self.texts

    @cached_property
    def folders(self) -> list[Path]:
        """Further folders of configurations, in the order in which Hydra looks them up."""
        return further_folders(self.arguments)

    @property
    def config_name(self) -> str:
        """Name of the main configuration: the command's unless a flag names another."""
        return self.flag("--config-name") or self.command

    def flag(self, name: str) -> str | None:
        """The value of a flag, None if it is not there."""
        return flag_value(self.flags, name)

    def get(self, key: str) -> Override | None:
        """The last override of a key or group, None if there is none."""
        return next((o for o in reversed(self.overrides) if o.key_or_group == key), None)

    def value(self, key: str, default: Any = None) -> Any:
        """The value of the last override of a key, `default` if there is none or it is swept over."""
        override = self.get(key)
        return default if override is None or override.is_sweep_override() else override.value()

    def adding(self, *texts: str) -> "CommandLine":
        """The same line with further overrides at its end."""
        return replace(self, overrides=(*self.overrides, *parse_overrides(texts)))

    def leaving_out(self, *overrides: Override | None) -> "CommandLine":
        """The same line without some of its overrides."""
        return replace(self, overrides=tuple(o for o in self.overrides if not any(o is other for other in overrides)))

    def as_sweep(self) -> "CommandLine":
        """The same line, for several jobs."""
        return self if self.is_sweep else replace(self, flags=("--multirun", *self.flags))

    def _with_runs_compared(self) -> "CommandLine":
        """`run=A,B`, or `against=A,B`, as a list, where one job compares these runs; Hydra takes it for a sweep."""
        if self.is_sweep or not (self.command == "information" or self.value("paired") is True):
            return self

        def as_list(override: Override) -> str | None:
            choices = override.value() if override.is_sweep_override() else None
            key = override.key_or_group
            compared = key == "run" or (key == "against" and self.command == "information")
            if not compared or not (isinstance(choices, ChoiceSweep) and choices.simple_form):
                return None
            value = text_of(override).partition("=")[2]
            # Quotes and brackets are Hydra's to read.
            plain = not re.search(r"[\"'\[({]", value)
            return as_override(key, re.split(r"\s*,\s*", value)) if plain else f"{key}=[{value}]"

        return self.rewritten(as_list)

    def rewritten(self, rewrite: Callable[[Override], str | None]) -> "CommandLine":
        """The same line with overrides in another form; those for which `rewrite` returns None stay as they are."""
        forms = [(o, rewrite(o)) for o in self.overrides]
        return replace(self, overrides=tuple(o if text is None else parse_overrides([text])[0] for o, text in forms))


def text_of(override: Override) -> str:
    """An override as it was written."""
    return str(override.input_line)


def parse_overrides(texts: Iterable[str]) -> tuple[Override, ...]:
    """Overrides of their texts.

    Raises:
        UsageError: One that does not follow Hydra's grammar, with the quoting that makes its value text.
    """
    return tuple(map(_parsed, texts))


@lru_cache(maxsize=4096)
def _parsed(text: str) -> Override:
    try:
        return OverridesParser.create().parse_overrides([text])[0]
    except (OverrideParseException, HydraException) as error:
        raise UsageError(_not_understood(text, str(error))) from error


def as_text(override: str) -> str:
    """An override whose value is taken as text, written for a shell."""
    key, _, value = override.partition("=")
    return shlex.quote(f"{key}={quoted(value)}")


def _not_understood(text: str, reason: str) -> str:
    """The message about an override that does not follow Hydra's grammar."""
    key, equals, value = text.partition("=")
    if not equals:
        return f"{text!r} is no key=value: write that, in quotes where the value has blanks, as in 'name=my run'"
    if not re.fullmatch(r"(\+\+?|~)?[\w./@:-]+", key, re.ASCII):
        return f"{text!r}: {key!r} is no key, expected words with dots between them"
    as_one = f"as one text it is {as_text(text)}"
    if re.match(r"\w+\(.*\)$", value) and value.count("(") == value.count(")"):  # a function of Hydra's
        found = re.search(r"while evaluating .*?: (.*)", " ".join(reason.partition("See https")[0].split()))
        return f"{text!r}: {found[1] if found else 'its arguments are not understood'}; {as_one}"
    special = sorted(set(re.findall(r"[^\w/\\+.$%*@?|:,\s-]|[^\x00-\x7f]", value)))
    which = " and ".join(repr(c) for c in special[:3])
    lists = "; a list is [a,b], a mapping {a: 1}" if value[:1] in ("[", "{") else ""
    return f"{text!r} is not understood, as {which or 'its value'} has a meaning of its own there{lists}; {as_one}"


def _quote_sentence(text: str) -> str:
    """Quote a sentence to draw by, whose commas and colons are its own; a list, or one in quotes, stays as it is."""
    key, equals, value = text.partition("=")
    own = key in _SENTENCES and bool(equals) and value[:1] not in ("", "[", '"', "'", "$") and value.lower() != "null"
    return f"{key}={quoted(value)}" if own else text


def _quote_letters(text: str) -> str:
    """Quote a value with letters of other alphabets and nothing special: Hydra's grammar knows only ASCII unquoted."""
    key, equals, value = text.partition("=")
    plain = re.fullmatch(r"[\w/+.~@?:\s-]+", value) and not value.isascii()
    return f"{key}={quoted(value)}" if equals and plain else text


def _name_directory(command: str, texts: Sequence[str]) -> list[str]:
    """Write the one text that is no override as `run=`; training takes none, since it makes its own directory.

    Several are the runs that `paired=true` or `information` compares.
    """
    plain = [t for t in texts if "=" not in t and (t[:1] not in ("+", "~") or t.startswith("~/"))]
    places = plain or [t for t in texts if "/" in t and _is_folder(t)]
    paired = command == "likelihood" and "paired=true" in map(str.lower, texts)
    if len(places) > 1 and (paired or command == "information"):
        return [as_override("run", [with_home("run", t) for t in places]), *(t for t in texts if t not in places)]
    if command == "train" or len(places) != 1:
        return list(texts)
    return [as_override("run", t) if t == places[0] else t for t in texts]


def _is_folder(text: str) -> bool:
    with suppress(OSError, RuntimeError):  # a name that is too long, an unknown ~user
        return Path(text).expanduser().is_dir()
    return False


def _expand(text: str) -> str:
    """Replace `~` and `~user` at the beginning of paths, which a shell leaves after `=`, and quote names.

    Raises:
        UsageError: An empty value, such as that of a shell variable that is not set.
    """
    key, equals, value = text.partition("=")
    plain = key.lstrip("+")
    if not equals or plain.startswith("~"):
        return text
    if not value.strip():
        raise UsageError(f"{text} has no value: is the shell variable in it set?")
    if is_path(plain):  # lists and sweeps by their elements
        value = re.sub(r"(^|[,\[(:]\s*)(~[^,\[\](){}]*)", lambda m: m[1] + quoted(with_home(plain, m[2])), value)
    if (plain == "name" or is_path(plain)) and re.fullmatch(r"[\w.+-]+", value, re.ASCII) and value.lower() != "null":
        value = quoted(value)
    return f"{key}={value}"
