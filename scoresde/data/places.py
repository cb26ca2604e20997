"""Paths of data, as people write them."""

from os import PathLike
from pathlib import Path

__all__ = ["located"]


def located(path: str | PathLike[str], name: str = "path", expected: str = "a file or folder") -> Path:
    """A path with `~` or `~user` at its beginning replaced.

    Args:
        path: The path.
        name: The argument that it comes from, for messages.
        expected: The kinds of places that are taken, for messages.

    Raises:
        ValueError: An empty path, which would be the current folder, or no such user.
    """
    text = str(path)
    if not text.strip():
        raise ValueError(f"{name} is empty, expected {expected}")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{name}: {text.split('/')[0]} has no home folder") from error
