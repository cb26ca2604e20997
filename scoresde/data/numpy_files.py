"""Arrays that numpy has saved: .npz archives, .npy files, and folders of .npy files. Pickled objects are never read."""

import math
import struct
import zipfile
from pathlib import Path
from typing import BinaryIO

import numpy as np

from scoresde.data.array_files import ArrayFile, Header
from scoresde.data.labels import natural_order
from scoresde.data.lazy_arrays import LazyArray, StoredArray
from scoresde.data.trees import check_packing, open_zip

__all__ = ["NpyFile", "NpyFolder", "NpzFile"]

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class NpzFile(ArrayFile):
    """An .npz archive, as `numpy.savez` writes it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._archive, members = open_zip(path)
        if members and not any(m.filename.endswith(".npy") for m in members):
            raise ValueError(f"{path} is an archive without arrays: data=image_folder reads one of pictures")
        self._members = {m.filename.removesuffix(".npy"): m for m in members if not m.is_dir()}

    def names(self) -> list[str]:
        """Names of the arrays."""
        return list(self._members)

    def header(self, name: str) -> Header:
        """Shape and type of one array, which fills its member exactly."""
        with self._open(name) as stream:
            return _header(stream, self._members[name].file_size, self, name)

    def read(self, name: str) -> np.ndarray:
        """One array."""
        with self._open(name) as stream:
            return _array(stream, self, name)

    def lazy(self, name: str) -> LazyArray | None:
        """One array in its place in the archive, unless it is compressed."""
        member = self._members[name]
        if member.compress_type != zipfile.ZIP_STORED:
            return None
        with self.path.open("rb") as stream:
            # The local header, which has its own length of what follows it (PKWARE's application note, section 4.3.7).
            stream.seek(member.header_offset + 26)
            start = member.header_offset + 30 + sum(struct.unpack("<HH", stream.read(4)))
            stream.seek(start)
            return _stored(stream, start + member.file_size, self, name)

    def _open(self, name: str) -> BinaryIO:
        check_packing(self._members[name], self.where(name))
        try:
            return self._archive.open(self._members[name])  # type: ignore[return-value]
        except Exception as error:  # encrypted
            raise self.refusal(name) from error


class NpyFile(ArrayFile):
    """An .npy file, as `numpy.save` writes it: one array, which may stay on disk."""

    single = True

    def names(self) -> list[str]:
        """The name of the file, without its suffix."""
        return [self.path.stem]

    def header(self, name: str) -> Header:
        """Shape and type of the array, which fills the file exactly."""
        with self.path.open("rb") as stream:
            return _header(stream, self.path.stat().st_size, self, name)

    def read(self, name: str) -> np.ndarray:
        """The array."""
        with self.path.open("rb") as stream:
            return _array(stream, self, name)

    def mapped(self, name: str) -> np.ndarray | None:
        """The array as a view of the file, which writing to the view leaves as it is."""
        return np.asarray(np.load(self.path, mmap_mode="c", allow_pickle=False))

    def lazy(self, name: str) -> LazyArray | None:
        """The array in its file, unless it is stored in the order of Fortran, in which a row lies in pieces."""
        with self.path.open("rb") as stream:
            return _stored(stream, self.path.stat().st_size, self, name)


class NpyFolder(ArrayFile):
    """A folder of .npy files, whose names without the suffix are those of the arrays."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        files = sorted(path.glob("*.npy"), key=lambda p: natural_order(p.name))
        self._files = {file.stem: NpyFile(file) for file in files if not file.name.startswith(".")}

    def names(self) -> list[str]:
        """Names of the arrays."""
        return list(self._files)

    def header(self, name: str) -> Header:
        """Shape and type of one array."""
        return self._files[name].header(name)

    def read(self, name: str) -> np.ndarray:
        """One array."""
        return self._files[name].read(name)

    def mapped(self, name: str) -> np.ndarray | None:
        """One array as a view of its file."""
        return self._files[name].mapped(name)

    def lazy(self, name: str) -> LazyArray | None:
        """One array in its file."""
        return self._files[name].lazy(name)


def _header(stream: BinaryIO, size: int, file: ArrayFile, name: str) -> Header:
    """The header of a stream that ends at byte `size`, held to what follows it."""
    return _layout(stream, size, file, name)[0]


def _stored(stream: BinaryIO, size: int, file: ArrayFile, name: str) -> LazyArray | None:
    """The array behind the header at which a stream is, and which ends at byte `size`; None in Fortran's order."""
    header, fortran = _layout(stream, size, file, name)
    if fortran and len(header.shape) > 1:
        return None
    return StoredArray(file.path, stream.tell(), header.shape, header.dtype, file.where(name))


def _layout(stream: BinaryIO, size: int, file: ArrayFile, name: str) -> tuple[Header, bool]:
    """The header of a stream that ends at byte `size`, and whether the array is in the order of Fortran."""
    try:
        version = np.lib.format.read_magic(stream)
        shape, fortran, dtype = _HEADERS[version](stream)
    except Exception as error:  # whatever a damaged header makes numpy and zipfile raise
        raise file.refusal(name) from error
    if dtype.hasobject or dtype.names is not None:
        raise file.refusal(name)
    needed = math.prod(shape) * dtype.itemsize
    if needed != size - stream.tell():
        raise ValueError(f"{file.where(name)} is damaged: it declares {needed} bytes and holds {size - stream.tell()}")
    return Header(shape, dtype), fortran


def _array(stream: BinaryIO, file: ArrayFile, name: str) -> np.ndarray:
    try:
        return np.lib.format.read_array(stream, allow_pickle=False)
    except Exception as error:  # whatever a damaged file makes numpy, zipfile and its methods raise
        raise file.refusal(name) from error
