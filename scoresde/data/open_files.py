"""A file that several threads read at any place."""

import os
import threading
from pathlib import Path

import numpy as np

from scoresde.data.rows import UnreadableData

__all__ = ["OpenFile"]


class OpenFile:
    """A file that several threads read at any place; it is closed when nothing refers to it any more.

    Args:
        path: The file.

    Raises:
        UnreadableData: A file that cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        except OSError as error:
            raise UnreadableData(f"{path} cannot be read: {error.strerror}") from error
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        """Bytes that it has now."""
        return os.fstat(self._handle).st_size

    def read(self, offset: int, count: int) -> bytes:
        """The bytes from a place on, as many as are wanted or as there are."""
        into = np.empty(count, np.uint8)
        return into[: self.read_into(into, offset)].tobytes()

    def read_into(self, into: np.ndarray, offset: int) -> int:
        """Fill an array with the bytes from a place on; the number of bytes that there were.

        Raises:
            UnreadableData: An error of the file system.
        """
        view = into.reshape(-1).data if into.size else memoryview(b"")
        done = 0
        while done < len(view):
            got = self._read_part(view[done:], offset + done)
            if got == 0:
                break
            done += got
        return done

    def _read_part(self, view: memoryview, offset: int) -> int:
        try:
            if hasattr(os, "preadv"):
                return os.preadv(self._handle, [view], offset)
            with self._lock:  # where a file has one place for all
                os.lseek(self._handle, offset, os.SEEK_SET)
                part = os.read(self._handle, len(view))
        except OSError as error:
            raise UnreadableData(f"{self.path} cannot be read at byte {offset}: {error.strerror}") from error
        view[: len(part)] = part
        return len(part)

    def __del__(self) -> None:
        if hasattr(self, "_handle"):
            os.close(self._handle)
