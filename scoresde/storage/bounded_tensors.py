"""The header of a safetensors file, read within limits: nothing is allocated for the tensors that it declares."""

import math
from pathlib import Path
from typing import Any

from scoresde.storage.bounded import DamagedFile, Limits, check_regular, parse_json
from scoresde.storage.limits import check_memory

__all__ = ["read_tensor_header"]

_LIMITS = Limits(16_000_000, 1_000_000)
_MAX_DIMENSIONS = 8
# Bytes of an element.
_BYTES = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2}
_BYTES |= {"I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8, "C64": 8}


def read_tensor_header(path: Path) -> tuple[dict[str, tuple[str, tuple[int, ...]]], dict[str, str]]:
    """Types and shapes of the tensors of a safetensors file by name, and the file's metadata.

    Nothing is allocated for the tensors. Those that the header declares fill the file exactly.

    Raises:
        FileNotFoundError: No such file.
        DamagedFile: A file that is truncated, of another format, of another size than its header declares, or of more
            memory than `scoresde.storage.limits` allows.
    """
    check_regular(path)
    whole = path.stat().st_size
    foreign = f"{path} cannot be read as a safetensors file: truncated, or of another format"
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if whole < 10 or length > whole - 8:
            raise DamagedFile(foreign)
        if length > _LIMITS.size:
            raise DamagedFile(f"{path} has a header of {length:,} bytes, the limit is {_LIMITS.size:,}")
        content = file.read(length)
    try:
        header = parse_json(content, path, _LIMITS)
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
    """Type, shape and bytes of a tensor; −1 bytes if the entry contradicts its place in the file."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        return "", (), -1
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not (isinstance(dtype, str) and dtype in _BYTES and isinstance(shape, list) and len(shape) <= _MAX_DIMENSIONS):
        return "", (), -1
    if not (isinstance(offsets, list) and len(offsets) == 2):
        return "", (), -1
    if not all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 2**63 for n in (*shape, *offsets)):
        return "", (), -1
    size = math.prod(shape) * _BYTES[dtype]
    return dtype, tuple(shape), size if size == offsets[1] - offsets[0] else -1
