"""YAML files of a run directory, read within limits; apart from the other formats, since PyYAML is slow to import."""

import re
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

import yaml

from scoresde.storage.bounded import YAML, Count, DamagedFile, Limits, decoded, read_file

__all__ = ["parse_yaml", "read_yaml"]

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# Plain scalars, read as OmegaConf reads them, without numbers to the base of 60.
_NULL = re.compile("~|null|Null|NULL|")
_TRUE = re.compile("yes|Yes|YES|true|True|TRUE|on|On|ON")
_FALSE = re.compile("no|No|NO|false|False|FALSE|off|Off|OFF")
_INTEGER = re.compile("[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|0[0-7_]+|0|[1-9][0-9_]*)")
_FLOAT = re.compile(
    r"""[-+]?[0-9]+(?:_[0-9]+)*\.[0-9_]*(?:[eE][-+]?[0-9]+)?
    |[-+]?[0-9]+(?:_[0-9]+)*[eE][-+]?[0-9]+
    |\.[0-9]+(?:_[0-9]+)*(?:[eE][-+][0-9]+)?
    |[-+]?\.(?:inf|Inf|INF)
    |\.(?:nan|NaN|NAN)""",
    re.X,
)


def read_yaml(path: Path, limits: Limits = YAML) -> Any:
    """The plain values of a YAML file; see `parse_yaml`.

    Raises:
        FileNotFoundError: No such file.
        DamagedFile: As for `parse_yaml`, or a file that is too large.
    """
    return parse_yaml(read_file(path, limits.size), path, limits)


def parse_yaml(content: bytes, path: Path, limits: Limits = YAML) -> Any:
    """The dicts, lists, strings, numbers, booleans and None of a YAML text; None for an empty text.

    Tags, anchors, aliases and merge keys are rejected: no file that this package writes has any. Plain scalars are
    read as OmegaConf reads them.

    Args:
        content: The text.
        path: The file it is from, for messages.
        limits: Limits on values and depth.

    Raises:
        DamagedFile: Not YAML, other than plain values, more than one document, a key that comes twice or is no string,
            number or boolean, an integer of more than 64 bits, or too many values.
    """
    text = decoded(content, path, "YAML")
    try:
        return _Yaml(path, limits).document(yaml.parse(text, Loader=_Loader))
    except yaml.YAMLError as error:
        raise DamagedFile(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from error


class _Yaml:
    """The plain values that a parser's events stand for, counted before they are built."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self.path, self.count = path, Count(path, limits)

    def document(self, events: Iterator[Any]) -> Any:
        found: list[Any] = []
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                if found:
                    raise self._error(event, "more than one document")
                found.append(self._node(next(events), events, 0))
        return found[0] if found else None

    def _node(self, event: Any, events: Iterator[Any], depth: int) -> Any:
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise self._error(event, "an alias or anchor (&, *)")
        if event.tag is not None and event.tag != "!":
            raise self._error(event, f"the tag {event.tag}")
        self.count.add(1, depth)
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event)
        if isinstance(event, yaml.SequenceStartEvent):
            items = []
            while not isinstance(event := next(events), yaml.SequenceEndEvent):
                items.append(self._node(event, events, depth + 1))
            return items
        mapping: dict[Any, Any] = {}
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            if isinstance(event, yaml.ScalarEvent) and event.value == "<<" and event.implicit[0]:
                raise self._error(event, "a merge key (<<)")
            key = self._node(event, events, depth + 1)
            if not isinstance(key, Hashable) or key is None:
                raise self._error(event, "a key that is no string, number or boolean")
            if key in mapping:
                raise self._error(event, f"the key {key!r} twice")
            mapping[key] = self._node(next(events), events, depth + 1)
        return mapping

    def _scalar(self, event: Any) -> Any:
        text: str = event.value
        if not event.implicit[0]:  # quoted
            return text
        if _NULL.fullmatch(text):
            return None
        if _TRUE.fullmatch(text) or _FALSE.fullmatch(text):
            return bool(_TRUE.fullmatch(text))
        if _INTEGER.fullmatch(text):
            return self._integer(event, text.replace("_", "").lower())
        if _FLOAT.fullmatch(text):
            plain = text.replace("_", "").lower()
            return float(plain.replace(".inf", "inf").replace(".nan", "nan"))
        return text

    def _integer(self, event: Any, text: str) -> int:
        if len(text) <= 70:
            digits = text.lstrip("+-")
            base = {"0b": 2, "0x": 16}.get(digits[:2], 8 if len(digits) > 1 and digits[0] == "0" else 10)
            try:
                value = int(text, base)
            except ValueError as error:  # "0x" and no more
                raise self._error(event, f"the number {text}") from error
            if -(2**63) <= value < 2**64:
                return value
        raise self._error(event, "an integer of more than 64 bits")

    def _error(self, event: Any, what: str) -> DamagedFile:
        mark = event.start_mark
        return DamagedFile(
            f"{self.path} has {what} in line {mark.line + 1}: expected plain mappings, lists, strings and numbers"
        )
