"""Encoded pictures one after the other in a file, of which each can be read by its index.

A parquet file is read a row group at a time, and a single row of it at the cost of a group. So the pictures of one that
is to stay on disk are copied once, as they are encoded, into a file beside it.
"""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import IO

import numpy as np

from scoresde.data.cache import places_for
from scoresde.data.open_files import OpenFile
from scoresde.data.rows import UnreadableData

__all__ = ["Packed"]


class Packed:
    """The encoded pictures of files, copied into a file of their own if that is not there yet.

    Args:
        place: The file or folder that they are from.
        identity: What they are: names, sizes and times of the files, and the column.
        pictures: Gives their bytes in order; asked only where there is no copy.

    Raises:
        ValueError: No place that can be written to, or whatever `pictures` raises; what was copied then is removed.
    """

    def __init__(self, place: Path, identity: str, pictures: Iterable[bytes]) -> None:
        name = f"pictures-{hashlib.sha256(identity.encode()).hexdigest()[:24]}"
        folders = places_for(place)
        found = next((folder for folder in folders if _is_whole(folder / name)), None)
        self.path = (found or _copied(folders, name, pictures, place)) / f"{name}.bin"
        self.ends = np.load(self.path.with_suffix(".npy"), allow_pickle=False)
        self._file = OpenFile(self.path)

    def __len__(self) -> int:
        return len(self.ends)

    def read(self, index: int) -> bytes:
        """The bytes of a picture.

        Raises:
            UnreadableData: A copy that was cut off or removed.
        """
        start, end = int(self.ends[index - 1]) if index else 0, int(self.ends[index])
        content = self._file.read(start, end - start)
        if len(content) < end - start:
            raise UnreadableData(f"{self.path} is cut off at picture {index} of {len(self)}: remove it to copy it anew")
        return content


def _is_whole(stem: Path) -> bool:
    """Whether there is a copy whose length is the one that it was written with."""
    content, ends = stem.with_suffix(".bin"), stem.with_suffix(".npy")
    try:
        known = np.load(ends, mmap_mode="r", allow_pickle=False)
        return len(known) > 0 and content.stat().st_size == int(known[-1])
    except (OSError, ValueError):
        return False


def _copied(folders: Iterable[Path], name: str, pictures: Iterable[bytes], place: Path) -> Path:
    """The folder that a copy was written into."""
    problem: OSError | None = None
    for folder in folders:
        partial = folder / f"{name}.{os.getpid()}.partial"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stream = partial.open("wb")
        except OSError as error:
            problem = error
            continue
        try:
            with stream:
                _write(stream, pictures, folder / name)
            partial.replace(folder / f"{name}.bin")
            return folder
        except OSError as error:
            raise ValueError(f"the pictures of {place} cannot be copied to {folder}: {error.strerror}") from error
        finally:
            partial.unlink(missing_ok=True)
    raise ValueError(
        f"the pictures of {place} need a copy that can be read one by one, and no place for it can be written to "
        f"({problem}): set SCORESDE_CACHE to a folder"
    )


def _write(stream: IO[bytes], pictures: Iterable[bytes], stem: Path) -> None:
    ends, end = [], 0
    for content in pictures:
        stream.write(content)
        end += len(content)
        ends.append(end)
    np.save(stem.with_suffix(".npy"), np.array(ends, dtype=np.int64))
