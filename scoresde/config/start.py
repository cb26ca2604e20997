"""Relative paths where Hydra has moved a job to another directory than it was started in (`hydra.job.chdir=true`)."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["DATA_PATHS", "from_start", "started_in"]

DATA_PATHS = ("path", "test_path", "data_dir", "data_files")
"""Arguments of data that are files and folders, or lists or mappings of them."""

_start: Path | None = None


@contextmanager
def started_in(directory: str | Path) -> Iterator[None]:
    """Within, read relative paths as of this directory."""
    global _start
    before, _start = _start, Path(directory)
    try:
        yield
    finally:
        _start = before


def from_start(path: str) -> str:
    """The absolute path where the process has left the directory that `path` is relative to; else as it is."""
    if _start is None or not path or Path.cwd() == _start:
        return path
    return os.path.normpath(_start / path)
