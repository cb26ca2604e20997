"""Text files of a run directory, read within limits.

A run directory may be damaged, or come from a stranger. Each reader here looks at the size of a file before it reads
it, and at the number and the nesting of its values before it builds them; it gives plain dicts, lists, strings and
numbers, whatever the file says; and it reports a file that cannot be used in one line which names it.
"""

import contextlib
import csv
import io
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = [
    "CheckpointError",
    "Count",
    "DamagedFile",
    "Limits",
    "check_regular",
    "complete_lines",
    "decoded",
    "parse_json",
    "parse_json_lines",
    "read_csv",
    "read_file",
    "read_json",
    "read_json_lines",
]


class CheckpointError(ValueError):
    """A file that is no checkpoint, model or other file of this package; the message is one line that names it."""


class DamagedFile(CheckpointError):
    """A regular file whose content is not what its name promises."""


@dataclass(frozen=True)
class Limits:
    """Limits on what is read of a file.

    Args:
        size: Number of bytes.
        values: Number of mappings, lists, keys and plain values together.
        depth: Number of mappings and lists inside each other.
    """

    size: int
    values: int
    depth: int = 50


_MB = 1_000_000
YAML = Limits(_MB, 20_000)
JSON = Limits(16 * _MB, 1_000_000)
TABLE = Limits(512 * _MB, 20_000_000)  # CSV and JSON Lines


def check_regular(path: Path) -> None:
    """Reject a path at which there is something other than a regular file.

    Raises:
        CheckpointError: A directory, a named pipe (which could be waited for without end) or a device.
    """
    if path.exists() and not path.is_file():
        what = "a directory" if path.is_dir() else "a named pipe" if path.is_fifo() else "a device or a socket"
        raise CheckpointError(f"{path} is {what}, expected a file: move it away")


def read_file(path: Path, size: int = TABLE.size) -> bytes:
    """The content of a regular file.

    Raises:
        FileNotFoundError: No such file.
        CheckpointError: A directory, a named pipe or a device.
        DamagedFile: More than `size` bytes.
    """
    check_regular(path)
    with path.open("rb") as file:
        content = file.read(size + 1)
    if len(content) > size:
        has = max(path.stat().st_size, len(content))
        raise DamagedFile(f"{path} has {has:,} bytes, the limit for such a file is {size:,}")
    return content


def decoded(content: bytes, path: Path, kind: str) -> str:
    """The text of a file of UTF-8.

    Raises:
        DamagedFile: Bytes that are not UTF-8; the message names the `kind` of file.
    """
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise DamagedFile(f"{path} cannot be read as {kind}: {error.reason} at byte {error.start}") from error


class Count:
    """The values and the depth of a file, counted while it is read."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self.path, self.limits, self.values = path, limits, 0

    def add(self, values: int, depth: int = 0) -> None:
        self.values += values
        if self.values > self.limits.values:
            raise DamagedFile(f"{self.path} has more than {self.limits.values:,} values, the limit for such a file")
        if depth > self.limits.depth:
            raise DamagedFile(f"{self.path} is nested more than {self.limits.depth} levels deep, the limit")


# -- JSON -----------------------------------------------------------------------------------------------

_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]')


def read_json(path: Path, kind: type = object, limits: Limits = JSON) -> Any:
    """The values of a JSON file; see `parse_json`.

    Args:
        path: The file.
        kind: The type that it must have, `dict` or `list`; any if not given.
        limits: Limits on size, values and depth.

    Raises:
        FileNotFoundError: No such file.
        CheckpointError: No regular file.
        DamagedFile: As for `parse_json`, a value of another kind, or a file that is too large.
    """
    content = parse_json(read_file(path, limits.size), path, limits)
    if not isinstance(content, kind):
        raise DamagedFile(f"{path} holds no JSON {'object' if kind is dict else 'array'}")
    return content


def parse_json(content: bytes, path: Path, limits: Limits = JSON) -> Any:
    """The values of a JSON text; Python's `NaN` and `Infinity` are numbers.

    Args:
        content: The text.
        path: The file it is from, for messages.
        limits: Limits on values and depth.

    Raises:
        DamagedFile: Not JSON, or too many values.
    """
    return _parsed_json(content, path, Count(path, limits))


def _parsed_json(content: bytes, path: Path, count: Count) -> Any:
    # Every value but the first follows one of these. The count is an upper bound, since strings may have them too.
    count.add(1 + sum(content.count(mark) for mark in (b",", b":", b"[", b"{")))
    text = decoded(content, path, "JSON")
    if content.count(b"[") + content.count(b"{") > count.limits.depth:
        depth = 0
        for token in _TOKENS.finditer(text):
            depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token.group(), 0)
            count.add(0, depth)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError also for numbers with thousands of digits
        raise DamagedFile(f"{path} cannot be read as JSON: {' '.join(str(error).split())}") from error


def read_json_lines(path: Path, limits: Limits = TABLE) -> tuple[list[dict[str, Any]], int]:
    """The objects of a file with one in each line; see `parse_json_lines`.

    Raises:
        FileNotFoundError: No such file.
        DamagedFile: A file that is too large, or too many values.
    """
    return parse_json_lines(read_file(path, limits.size), path, limits)


def parse_json_lines(content: bytes, path: Path, limits: Limits = TABLE) -> tuple[list[dict[str, Any]], int]:
    """The objects of the complete lines of a text, and the number of damaged lines.

    Args:
        content: The text.
        path: The file it is from, for messages.
        limits: Limits on the values of all lines together, and on depth.

    Raises:
        DamagedFile: Too many values.
    """
    count = Count(path, limits)
    kept, damaged = [], 0
    for line in filter(None, map(bytes.strip, complete_lines(content).split(b"\n"))):
        try:
            entry = _parsed_json(line, path, count)
        except DamagedFile:
            if count.values > limits.values:
                raise
            entry = None
        if isinstance(entry, dict):
            kept.append(entry)
        else:
            damaged += 1
    return kept, damaged


# -- CSV ------------------------------------------------------------------------------------------------


def read_csv(path: Path, limits: Limits = TABLE) -> list[list[str]]:
    """The cells of the complete lines of a CSV file, its head first, up to the first line that cannot be read.

    Raises:
        FileNotFoundError: No such file.
        DamagedFile: A file that is too large, or too many values.
    """
    content = complete_lines(read_file(path, limits.size))
    Count(path, limits).add(content.count(b",") + content.count(b"\n"))
    rows: list[list[str]] = []
    with contextlib.suppress(csv.Error):  # damage; the rows before it are good
        rows.extend(csv.reader(io.StringIO(content.decode(errors="replace"), newline="")))
    return rows


def complete_lines(content: bytes) -> bytes:
    """A text up to its last line end: a line that was cut short might read as another number."""
    return content[: content.rfind(b"\n") + 1]
