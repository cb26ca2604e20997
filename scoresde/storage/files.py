"""Files and folders that are written whole or not at all."""

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

__all__ = ["new_folder", "remove_leftovers", "set_aside", "write_atomically", "write_bytes", "write_text"]

_TEMPORARY = re.compile(r"\.[a-z0-9_]{8}")  # the end of a name that mkstemp makes


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file under a temporary name, sync it, then rename it.

    Whatever stops it (a full disk, an interrupt), `path` is either what it was before or complete.

    Args:
        path: The file; missing folders are made.
        write: Function that is given the open file.
    """
    made = [parent for parent in path.parents if not parent.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files private; give this one the permissions that any other new file gets.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        _remove_empty(made)
        raise
    with contextlib.suppress(OSError):  # some file systems do not sync folders
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder under a temporary name, which is renamed to `path` at the end, or removed if anything stops it.

    Args:
        path: The folder, which must not be there; missing folders around it are made.
    """
    above = [parent for parent in path.parents if not parent.exists()]
    for parent in path.parents:
        if parent.exists() and not parent.is_dir():
            raise NotADirectoryError(20, "expected a folder, and it is a file", str(parent))
    made: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        yield made
        made.chmod(0o755)
        made.rename(path)
    except BaseException:
        if made is not None:
            with contextlib.suppress(OSError):
                shutil.rmtree(made)
        _remove_empty(above)
        raise


def _remove_empty(folders: list[Path]) -> None:
    with contextlib.suppress(OSError):  # others may use them by now
        for folder in folders:
            folder.rmdir()


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, as `write_atomically` does."""
    write_atomically(path, lambda file: file.write(content))


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8 whole or not at all."""
    write_bytes(path, text.encode())


def set_aside(path: Path) -> Path:
    """Rename a damaged file, so that a new one can take its place, and return the new path."""
    aside = path.with_name(f"{path.name}.damaged")
    number = 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.damaged-{number}")
    path.rename(aside)
    return aside


def remove_leftovers(folder: Path, *names: str) -> None:
    """Remove the temporary files that killed processes left behind.

    Only the holder of the files' lock may call it, since other processes may be writing them.

    Args:
        folder: The folder of the files.
        *names: Names of the files that were written, as patterns of `Path.glob`.
    """
    for name in names:
        for path in folder.glob(f".{name}.*"):
            if _TEMPORARY.fullmatch(path.suffix) and path.is_file() and not path.is_symlink():
                path.unlink(missing_ok=True)
