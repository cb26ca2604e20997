"""Many files in one place: a folder, or a zip or tar archive, which is read without being unpacked."""

import gzip
import io
import os
import tarfile
import threading
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO

from scoresde.data.array_files import one_line
from scoresde.data.lazy_arrays import file_identity
from scoresde.data.open_files import OpenFile
from scoresde.data.places import located
from scoresde.data.rows import UnreadableData
from scoresde.storage.limits import check_memory

__all__ = ["Tree", "check_inside", "check_packing", "open_tree", "open_zip", "uncompressed"]

_MOST_FILES = 20_000_000
_METHODS = {zipfile.ZIP_BZIP2: "bzip2", zipfile.ZIP_LZMA: "LZMA"}


class Tree(ABC):
    """Files by their path below one place; hidden ones are passed over.

    Args:
        path: The place.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.passed: Counter[str] = Counter()
        """Entries that are no files, by what they are."""

    @abstractmethod
    def files(self) -> list[PurePosixPath]:
        """Paths of all files, sorted."""

    @abstractmethod
    def read(self, file: PurePosixPath) -> bytes:
        """The content of one file.

        Raises:
            ValueError: A damaged file, or one above the limit of memory.
        """

    def source(self, file: PurePosixPath) -> Path | IO[bytes]:
        """One file as what it can be opened from: its path, or a stream of its content."""
        return io.BytesIO(self.read(file))

    def place(self, file: PurePosixPath) -> int:
        """A number by which files are read fastest if in its order."""
        return 0

    @property
    def by_name(self) -> bool:
        """Whether files are read one by one, in any order and by several threads, at the cost of each."""
        return True

    def identity(self, files: Sequence[PurePosixPath]) -> str:
        """Files by their names, sizes and times, told without reading them."""
        return f"{file_identity(self.path)} {len(files)}"

    def inside(self, file: PurePosixPath) -> bool:
        """True if a file really lies in this place and is no link to another."""
        return True

    def where(self, file: PurePosixPath) -> str:
        """The file, for messages."""
        return f"{self.path}/{file}"


def open_tree(path: str) -> Tree:
    """The folder or archive of this path.

    Raises:
        ValueError: Neither of them, or damage.
    """
    place = located(path, expected="a folder of pictures or an archive")
    if place.is_dir():
        return _Folder(place)
    if not place.is_file():  # nor a named pipe, which would be waited for
        raise ValueError(f"there is no folder {path}, nor an archive")
    if zipfile.is_zipfile(place):
        return _Zip(place)
    try:
        return _Tar(place)
    except tarfile.TarError as error:
        raise ValueError(f"{path} is no folder, and no zip or tar archive: {one_line(error)}") from error
    except ValueError:
        raise
    except Exception as error:  # of damage, as each method of packing raises it
        raise ValueError(f"{path} cannot be read: {one_line(error)}") from error


def check_inside(name: str, where: str) -> PurePosixPath:
    """A path that a file from elsewhere names, if it leads to no other place.

    Raises:
        ValueError: An absolute path, or one with "..".
    """
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or name[1:2] == ":":
        raise ValueError(f"{where} names {name[:200]!r}, outside its own place: it is not opened")
    return path


def open_zip(path: Path) -> tuple[zipfile.ZipFile, list[zipfile.ZipInfo]]:
    """A zip archive and its members.

    Raises:
        ValueError: A damaged one.
    """
    try:
        archive = zipfile.ZipFile(path)
        return archive, archive.infolist()
    except Exception as error:  # whatever a damaged list of members makes zipfile raise
        raise ValueError(f"{path} is damaged: {one_line(error)}") from error


def check_packing(member: zipfile.ZipInfo, where: str) -> None:
    """Refuse a member of a zip archive that may be larger than it declares.

    Python unpacks bzip2 and LZMA whole before it looks at the size, and a thousand bytes of them can hold a gigabyte.

    Raises:
        ValueError: Any method but those of numpy and of every usual packer.
    """
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        method = _METHODS.get(member.compress_type, f"method {member.compress_type}")
        raise ValueError(f"{where} is compressed by {method}: pack the archive anew by deflate, zip's usual method")


def uncompressed(path: Path) -> bytes:
    """The content of a file, unpacked if it is gzip.

    Raises:
        ValueError: A damaged file, or more than the limit of memory.
    """
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
    if not packed:
        check_memory(path.stat().st_size, str(path))
        return path.read_bytes()
    parts, total = [], 0
    try:
        with gzip.open(path) as stream:
            while part := stream.read(2**24):
                total += len(part)
                check_memory(total, str(path))
                parts.append(part)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is damaged: {one_line(error)}") from error
    return b"".join(parts)


class _Folder(Tree):
    def files(self) -> list[PurePosixPath]:
        found = []

        def refuse(error: OSError) -> None:
            raise ValueError(f"cannot read the folder {error.filename}: {error.strerror}") from error

        for folder, folders, files in os.walk(self.path, onerror=refuse, followlinks=True):
            here = Path(folder)
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in folders:
                _refuse_circle(self.path, here / name)
            for name in files:
                file = here / name
                if name.startswith("."):
                    continue
                if not file.exists():
                    raise ValueError(f"{file} is a link to what is not there: mend it, or remove it")
                if file.is_file():
                    found.append(PurePosixPath(file.relative_to(self.path).as_posix()))
                else:
                    self.passed["no file"] += 1
        return sorted(found, key=lambda p: p.as_posix())

    def read(self, file: PurePosixPath) -> bytes:
        path = self.path / file
        check_memory(path.stat().st_size, str(path))
        return path.read_bytes()

    def source(self, file: PurePosixPath) -> Path | IO[bytes]:
        return self.path / file

    def identity(self, files: Sequence[PurePosixPath]) -> str:
        told = [(self.path / file).stat() for file in files]
        return "\n".join(f"{f} {known.st_size} {known.st_mtime_ns}" for f, known in zip(files, told, strict=True))

    def inside(self, file: PurePosixPath) -> bool:
        return (self.path / file).resolve().is_relative_to(self.path.resolve())


def _refuse_circle(root: Path, folder: Path) -> None:
    """Refuse a link to a folder that it lies in, by whatever way."""
    if folder.is_symlink():
        target, above = folder.resolve(), folder.parent
        while target != above.resolve():
            if above == root:
                return
            above = above.parent
        raise ValueError(f"{folder} is a link to {above}, in which it lies itself: remove it")


def _hidden(path: PurePosixPath) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


class _Zip(Tree):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._archive, members = open_zip(path)
        self._members: dict[PurePosixPath, zipfile.ZipInfo] = {}
        for member in members:
            name = check_inside(member.filename, str(path))
            if member.external_attr >> 28 == 0o12:  # a symbolic link, on Unix
                self.passed["links"] += 1
            elif not member.is_dir() and not _hidden(name):
                self._members[name] = member

    def files(self) -> list[PurePosixPath]:
        return sorted(self._members, key=lambda p: p.as_posix())

    def read(self, file: PurePosixPath) -> bytes:
        member = self._members[file]
        check_packing(member, self.where(file))
        check_memory(member.file_size, self.where(file))
        try:
            return self._archive.read(member)
        except Exception as error:  # encrypted or damaged
            raise ValueError(f"{self.where(file)} cannot be read: {one_line(error)}") from error


class _Tar(Tree):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            self._archive, self._plain = tarfile.open(path, "r:"), True  # noqa: SIM115  # as long as the tree is there
        except tarfile.ReadError:
            self._archive, self._plain = tarfile.open(path), False  # noqa: SIM115
        self._file, self._lock = OpenFile(path), threading.Lock()
        self._members: dict[PurePosixPath, tarfile.TarInfo] = {}
        for count, member in enumerate(self._listed()):
            if count == _MOST_FILES:
                raise ValueError(f"{path} has more than {_MOST_FILES:,} members, the limit")
            if member.isdir():
                continue
            name = check_inside(member.name, str(path))
            if not member.isreg():
                self.passed["links"] += 1
            elif not _hidden(name):
                self._members[name] = member

    def _listed(self) -> Iterator[tarfile.TarInfo]:
        """The members, as far as the archive goes.

        Raises:
            ValueError: An archive that ends within one.
        """
        last: tarfile.TarInfo | None = None
        count = 0
        while True:
            try:
                member = self._archive.next()
            except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
                if last is None:
                    raise
                raise ValueError(
                    f"{self.path} is cut off or damaged after {count} members, of which the last is {last.name}: "
                    f"{one_line(error)}; copy it anew"
                ) from error
            if member is None:
                break
            last, count = member, count + 1
            yield member
        if last is not None and self._plain and self._file.size < last.offset_data + last.size:
            raise ValueError(f"{self.path} is cut off within {last.name}, its member {count}; copy it anew")

    def files(self) -> list[PurePosixPath]:
        return sorted(self._members, key=lambda p: p.as_posix())

    @property
    def by_name(self) -> bool:
        return self._plain

    def read(self, file: PurePosixPath) -> bytes:
        member = self._members[file]
        check_memory(member.size, self.where(file))
        if self._plain and member.sparse is None:
            content = self._file.read(member.offset_data, member.size)
            if len(content) < member.size:
                raise UnreadableData(
                    f"{self.where(file)} is cut off: {self.path} ends at byte {self._file.size}; copy it anew"
                )
            return content
        try:
            with self._lock:
                stream = self._archive.extractfile(member)
                assert stream is not None
                return stream.read()
        except Exception as error:  # of damage
            raise ValueError(f"{self.where(file)} cannot be read: {one_line(error)}") from error

    def place(self, file: PurePosixPath) -> int:
        return self._members[file].offset
