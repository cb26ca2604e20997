"""Arrays from .npz and .npy files, whose sizes are checked before they are read, and the order of their axes."""

import logging
import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from scoresde.limits import check_memory

__all__ = ["channels_first", "read_arrays"]

_log = logging.getLogger(__name__)

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_arrays(path: str, keys: Sequence[str]) -> list[np.ndarray]:
    """The arrays of these names; pickled objects are never read.

    Args:
        path: An .npz archive, or an .npy file, which holds one array of no name.
        keys: Names of arrays; of a single array, whatever it is called, for an .npy file.

    Raises:
        ValueError: A file or array that is not there, damaged, or not of numbers or text, or arrays that declare to
            take more than `scoresde.limits` allows: what they declare is added up before anything is decompressed.
    """
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"there is no file {path}")
    try:
        with file.open("rb") as stream:
            magic = stream.read(6)
        if magic == np.lib.format.MAGIC_PREFIX:
            return _single(file, keys)
        if magic[:2] == b"PK":
            with _archive(file) as archive:
                return _members(archive, path, keys)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    raise ValueError(f"{path} is not an .npz archive or .npy file that numpy can read without pickle")


def _archive(file: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except Exception as error:  # whatever a damaged list of members makes zipfile raise
        raise ValueError(f"{file} is damaged: {' '.join(str(error).split())}") from error


def _single(file: Path, keys: Sequence[str]) -> list[np.ndarray]:
    if len(keys) > 1:
        names = ", ".join(f"{key}=..." for key in keys)
        raise ValueError(f"{file} holds a single array; save several in an .npz archive: numpy.savez(path, {names})")
    size = file.stat().st_size
    with file.open("rb") as stream:
        check_memory(_declared(stream, size, f"the array of {file}"), f"the array of {file}")
        stream.seek(0)
        return [_read(stream, f"the array of {file}")]


def _members(archive: zipfile.ZipFile, path: str, keys: Sequence[str]) -> list[np.ndarray]:
    members = {name.removesuffix(".npy"): archive.getinfo(name) for name in archive.namelist()}
    total = 0
    for key in keys:
        where = f"array {key!r} of {path}"
        if key not in members:
            raise ValueError(f"{path} has no array {key!r}; available: {', '.join(members) or 'none'}")
        with _opened(archive, members[key], where) as stream:
            total += _declared(stream, members[key].file_size, where)
        check_memory(total, where)
    arrays = []
    for key in keys:
        where = f"array {key!r} of {path}"
        with _opened(archive, members[key], where) as stream:
            arrays.append(_read(stream, where))
    return arrays


def _opened(archive: zipfile.ZipFile, member: zipfile.ZipInfo, where: str) -> BinaryIO:
    try:
        return archive.open(member)  # type: ignore[return-value]
    except Exception as error:  # encrypted, or compressed by a method that Python lacks
        raise _damaged(where) from error


def _declared(stream: BinaryIO, size: int, where: str) -> int:
    """Bytes of the array that a stream of `size` bytes holds, by its header."""
    try:
        version = np.lib.format.read_magic(stream)
        shape, _, dtype = _HEADERS[version](stream)
    except Exception as error:  # whatever a damaged header makes numpy and zipfile raise
        raise _damaged(where) from error
    if dtype.hasobject or dtype.names is not None:
        raise _damaged(where)
    needed = math.prod(shape) * dtype.itemsize
    if needed != size - stream.tell():
        raise ValueError(f"{where} is damaged: it declares {needed} bytes and holds {size - stream.tell()}")
    return needed


def _read(stream: BinaryIO, where: str) -> np.ndarray:
    try:
        return np.lib.format.read_array(stream, allow_pickle=False)
    except Exception as error:  # whatever a damaged file makes numpy, zipfile and its methods raise
        raise _damaged(where) from error


def _damaged(where: str) -> ValueError:
    return ValueError(f"{where} is damaged or holds objects, which are not read: save it as an array of numbers")


def channels_first(x: np.ndarray, channels_last: bool | None, pictures: bool, where: str) -> np.ndarray:
    """An array with the axis of channels before those of a picture, `(N, C, H, W)`.

    Args:
        x: `(N, *shape)`.
        channels_last: Whether x is `(N, H, W, C)`, or `(N, H, W)`. None: as its shape says, if only one reading
            makes sense, which is then said; arrays of other than 3 or 4 axes stay as they are.
        pictures: Whether values are levels of pixels, so that `(N, H, W)` is pictures of one channel.
        where: What x is, for messages.

    Raises:
        ValueError: x has no such axes, or both readings make sense.
    """
    if channels_last is not None and not isinstance(channels_last, bool):
        raise ValueError(f"channels_last is {channels_last!r}, expected true, false, or null to go by the shape")
    if channels_last and x.ndim not in (3, 4):
        raise ValueError(f"{where}: channels_last needs (N, H, W, C) or (N, H, W), got shape {x.shape}")
    if x.ndim == 4 and channels_last is None:
        channels_last = _is_last(x.shape, where)
    elif x.ndim == 3 and channels_last is None and pictures:
        channels_last = True
        _log.warning(
            "%s has shape %s: taken as pictures of one channel (data.channels_last=false: as it is)", where, x.shape
        )
    if not channels_last:
        return x
    return x[:, None] if x.ndim == 3 else x.transpose(0, 3, 1, 2)


def _is_last(shape: tuple[int, ...], where: str) -> bool:
    """Whether the last axis of `(N, a, b, c)` must be that of channels.

    An axis of channels has at most four entries, or is the one beside a square picture. Where that fits the last
    axis alone, the picture must be twice as long and wide at least as there are channels, to be sure.
    """
    a, b, c = shape[1:]
    first = a <= 4 or b == c
    last = a == b > 1 or (b != c <= 4 and min(a, b) >= c)
    if not last:
        return False
    if first or min(a, b) < 2 * c:
        raise ValueError(
            f"{where} has shape {shape}: it may be {a} channels of {b}×{c}, or {c} channels of {a}×{b}; say which, by "
            "channels_last=false for the first, data.channels_last=true for the second"
        )
    _log.warning(
        "%s has shape %s: taken as pictures of %d×%d with %d channels, as by data.channels_last=true "
        "(data.channels_last=false: as it is)", where, shape, a, b, c
    )  # fmt: skip
    return True
