"""Run directories that are written to: whether they can be, and by one process at a time."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from scoresde.options.errors import ConfigError

__all__ = ["check_writable", "locked"]

# Names of what is written in place; other files are replaced as a whole, a link by a file.
_IN_PLACE = (
    "checkpoints", "ema", "metrics.jsonl", "restored", "samples", "snapshots", "tensorboard", "wandb",
)  # fmt: skip


def check_writable(directory: Path, *folders: str) -> None:
    """Reject a directory that cannot be written to, or one of these folders in it; what is not there yet is fine.

    Symbolic links in it are not followed, by which a stranger's run could have other files changed. The directory
    itself may be one: it is the user who names it.

    Raises:
        ConfigError: A file or folder that cannot be written to, or a link; the message names it.
    """
    for path in directory.glob("*") if directory.is_dir() else ():
        if path.is_symlink() and (path.name in _IN_PLACE or path.suffix in (".csv", ".lock")):
            raise ConfigError(
                f"{path} is a symbolic link, which is not followed for writing: put what it points to in its place"
            )
    for path in (directory, *(directory / name for name in folders)):
        if path.exists() and not path.is_dir():
            raise ConfigError(f"{path} is a file, expected a folder: move it away")
        if not path.exists():
            continue
        try:
            tempfile.TemporaryFile(dir=path).close()
        except OSError as error:
            raise ConfigError(
                f"{path} cannot be written to ({error.strerror}): make it writable, or use a copy"
            ) from error


@contextmanager
def locked(directory: Path, purpose: str, wait: bool = False) -> Iterator[None]:
    """Keep other processes from doing the same with a run directory, or `wait` for them.

    The directory is made if it is not there, and removed again if it stays empty.

    Raises:
        ConfigError: Another process is at it, or the directory cannot be written to.
    """
    check_writable(directory)
    made = [path for path in (directory, *directory.parents) if not path.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{purpose}.lock"
    lock = FileLock(path)
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout as error:
        raise ConfigError(f"{directory} is in use by another process ({purpose}): let it end first") from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.release()
        with suppress(OSError):  # folders that are still empty
            for folder in made:
                folder.rmdir()
