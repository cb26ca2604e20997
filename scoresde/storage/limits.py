"""Limits on what a configuration or a file may ask for.

A run directory may come from a stranger, and a number in it can ask for all the memory there is or for days of work.
So sizes are estimated before anything is allocated, and held to limits that the user alone can raise: by environment
variables, which no file can set.
"""

import os
from pathlib import Path

__all__ = ["check_memory", "check_steps", "check_unpacked", "gib", "memory_limit", "most_pixels"]

_GIB = 2**30
_LIMITS = {"SCORESDE_MEMORY": 8.0, "SCORESDE_STEPS": 100_000.0, "SCORESDE_PIXELS": float(2**26)}


def check_memory(needed: float, what: str) -> None:
    """Reject what would take more memory than `SCORESDE_MEMORY`, in GiB; 8 if that is not set.

    Args:
        needed: Lower bound on the bytes that it takes.
        what: The subject of the message.

    Raises:
        ValueError: More than the limit, or a limit that is not a positive number.
    """
    most = _limit("SCORESDE_MEMORY")
    if needed > most * _GIB:
        raise ValueError(
            f"{what} would take {gib(needed)} of memory, the limit is {most:g} GiB: ask for less, or raise the limit "
            f"by the environment variable SCORESDE_MEMORY={max(1, -(-int(needed) // _GIB))}"
        )


def check_unpacked(path: Path, what: str) -> None:
    """Reject a file that would take more than that limit; a zip archive counts with its unpacked size.

    Args:
        path: The file.
        what: The subject of the message.

    Raises:
        ValueError: More than the limit, or a limit that is not a positive number.
        OSError: A file that cannot be read.
    """
    import zipfile

    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        pass  # no archive, or a damaged one, which its reader reports
    check_memory(size, what)


def memory_limit() -> int:
    """Largest number of bytes that may be taken, `SCORESDE_MEMORY` GiB; 8 GiB if that is not set.

    Raises:
        ValueError: A limit that is not a positive number.
    """
    return int(_limit("SCORESDE_MEMORY") * _GIB)


def check_steps(steps: int, what: str) -> None:
    """Reject a number of steps or repeats of a sampler above `SCORESDE_STEPS`; 100,000 if that is not set.

    Args:
        steps: The number of steps.
        what: The subject of the message.

    Raises:
        ValueError: More than the limit, or a limit that is not a positive number.
    """
    most = _limit("SCORESDE_STEPS")
    if steps > most:
        raise ValueError(
            f"{what} is {steps}, the limit is {most:.0f}: ask for less, or raise the limit by the environment variable "
            f"SCORESDE_STEPS={steps}"
        )


def most_pixels() -> int:
    """Largest number of pixels of an image that is read, `SCORESDE_PIXELS`; 8192 × 8192 if that is not set.

    Raises:
        ValueError: A limit that is not a positive number.
    """
    return int(_limit("SCORESDE_PIXELS"))


def gib(size: float) -> str:
    """A number of bytes in GiB, as messages print it."""
    return f"{size / _GIB:.3g} GiB"


def _limit(name: str) -> float:
    text = os.environ.get(name, "")
    if not text:
        return _LIMITS[name]
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not value > 0:
        raise ValueError(f"the environment variable {name} is {text!r}, expected a positive number")
    return value
