"""Relative paths where Hydra has moved a job to another directory than it was started in (`hydra.job.chdir=true`)."""

import os
from pathlib import Path

__all__ = ["from_start", "set_start"]

_start: Path | None = None


def set_start(directory: str | Path) -> None:
    """Read relative paths from now on as of this directory."""
    global _start
    _start = Path(directory)


def from_start(path: str) -> str:
    """The absolute path where the process has left the directory that `path` is relative to; else as it is."""
    if _start is None or not path or Path.cwd() == _start:
        return path
    return os.path.normpath(_start / path)
