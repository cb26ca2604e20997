"""Text files of a run directory, read within limits.

A run directory may be damaged, or come from a stranger. Each reader here looks at the size of a file before it reads
it, and at the number and the nesting of its values before it builds them; it gives plain dicts, lists, strings and
numbers, whatever the file says; and it reports a file that cannot be used in one line which names it.
"""

import contextlib
import csv
import io
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scoresde.storage.limits import check_memory

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
    "read_tensor_header",
]


class CheckpointError(ValueError):
    """A file that is no checkpoint, model or other file of this package; the message is one line, and names it."""


class DamagedFile(CheckpointError):
    """A regular file that is not what its name promises."""


@dataclass(frozen=True)
class Limits:
    """How much of a file is read.

    Args:
        size: Bytes.
        values: Mappings, lists, keys and plain values together.
        depth: Mappings and lists inside each other.
    """

    size: int
    values: int
    depth: int = 50


_MB = 1_000_000
YAML = Limits(_MB, 20_000)
JSON = Limits(16 * _MB, 1_000_000)
TABLE = Limits(512 * _MB, 20_000_000)  # of CSV and of JSON Lines
HEADER = Limits(16 * _MB, 1_000_000)  # of a safetensors file


def check_regular(path: Path) -> None:
    """Refuse what is there and is no regular file.

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
    """Values and depth of a file while it is read."""

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
    """What a JSON file holds; see `parse_json`.

    Args:
        path: The file.
        kind: `dict` or `list`, if it has to be one.
        limits: On size, values and depth.

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
        limits: On values and depth.

    Raises:
        DamagedFile: Not JSON, or too many values.
    """
    return _parsed_json(content, path, Count(path, limits))


def _parsed_json(content: bytes, path: Path, count: Count) -> Any:
    # Every value but the first follows one of these: an upper bound, as strings may have them, too.
    count.add(1 + sum(content.count(mark) for mark in (b",", b":", b"[", b"{")))
    text = decoded(content, path, "JSON")
    if content.count(b"[") + content.count(b"{") > count.limits.depth:
        depth = 0
        for token in _TOKENS.finditer(text):
            depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token.group(), 0)
            count.add(0, depth)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # of numbers with thousands of digits, too
        raise DamagedFile(f"{path} cannot be read as JSON: {' '.join(str(error).split())}") from error


def read_json_lines(path: Path, limits: Limits = TABLE) -> tuple[list[dict[str, Any]], int]:
    """The objects of a file with one in each line; see `parse_json_lines`.

    Raises:
        FileNotFoundError: No such file.
        DamagedFile: A file that is too large, or too many values.
    """
    return parse_json_lines(read_file(path, limits.size), path, limits)


def parse_json_lines(content: bytes, path: Path, limits: Limits = TABLE) -> tuple[list[dict[str, Any]], int]:
    """The objects of the complete lines of a text, and how many lines are damaged.

    Args:
        content: The text.
        path: The file it is from, for messages.
        limits: On the values of all lines together, and on depth.

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
    """The cells of the complete lines of a CSV file, its head first, up to one that cannot be read.

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


# -- safetensors ----------------------------------------------------------------------------------------

_BYTES = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2}
_BYTES |= {"I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8, "C64": 8}
_DIMENSIONS = 8


def read_tensor_header(path: Path) -> tuple[dict[str, tuple[str, tuple[int, ...]]], dict[str, str]]:
    """Types and shapes of the tensors of a safetensors file by name, and the file's metadata.

    Nothing is allocated for the tensors. Those that the header declares fill the file exactly.

    Raises:
        FileNotFoundError: No such file.
        DamagedFile: Truncated, of another format, with declared sizes that are not those of the file, or of more
            memory than `scoresde.storage.limits` allows.
    """
    check_regular(path)
    whole = path.stat().st_size
    foreign = f"{path} cannot be read as a safetensors file: truncated, or of another format"
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if whole < 10 or length > whole - 8:
            raise DamagedFile(foreign)
        if length > HEADER.size:
            raise DamagedFile(f"{path} has a header of {length:,} bytes, the limit is {HEADER.size:,}")
        content = file.read(length)
    try:
        header = parse_json(content, path, HEADER)
    except DamagedFile as error:
        raise DamagedFile(f"{foreign} ({str(error).removeprefix(f'{path} ')})") from error
    if not isinstance(header, dict):
        raise DamagedFile(foreign)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise DamagedFile(foreign)
    tensors, total = {}, 0
    for name, entry in header.items():
        dtype, shape, size = _declared(entry)
        if size < 0:
            raise DamagedFile(f"{foreign} (what it says of the tensor {name[:80]!r})")
        tensors[name], total = (dtype, shape), total + size
    if total != whole - 8 - length:
        raise DamagedFile(f"{foreign} (its tensors take {total:,} bytes and it has {whole - 8 - length:,})")
    try:
        check_memory(total, str(path))
    except ValueError as error:
        raise DamagedFile(str(error)) from error
    return tensors, metadata


def _declared(entry: Any) -> tuple[str, tuple[int, ...], int]:
    """Type, shape and bytes of a tensor; −1 bytes if the entry says something else than its place in the file."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        return "", (), -1
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not (isinstance(dtype, str) and dtype in _BYTES and isinstance(shape, list) and len(shape) <= _DIMENSIONS):
        return "", (), -1
    if not (isinstance(offsets, list) and len(offsets) == 2):
        return "", (), -1
    if not all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 2**63 for n in (*shape, *offsets)):
        return "", (), -1
    size = math.prod(shape) * _BYTES[dtype]
    return dtype, tuple(shape), size if size == offsets[1] - offsets[0] else -1
