"""Samples on disk: one file, or files of a fixed number of samples in a folder, which are written as they are drawn.

Samples NAME are in `samples/NAME.npz`. Where there are more than a file takes, they are in the folder `samples/NAME`:
in 00000.npz, 00001.npz, ..., each of which is a file of samples by itself, and `index.json` says what they are when the
last is written. While samples are drawn, those that fill no file yet are in `unfinished.npz` there, so that the same
command goes on where another was stopped.
"""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scoresde.options.errors import ConfigError
from scoresde.runs.directory import Run
from scoresde.runs.results import is_of
from scoresde.storage.bounded import DamagedFile, read_json
from scoresde.storage.files import remove_leftovers
from scoresde.storage.limits import check_memory, check_unpacked

__all__ = ["NOTE", "Rows", "SampleWriter", "StoredSamples", "find_samples", "per_file", "stored_samples"]

NOTE = "note"  # the array of a file of samples that says how they were drawn, as JSON
_FORMAT = "scoresde-samples-1"
_INDEX, _UNFINISHED = "index.json", "unfinished.npz"
_BYTES = 2**27  # of the samples of a file, as float32
_EVERY = 30.0  # seconds after which samples that fill no file are written nevertheless

Rows = Mapping[str, np.ndarray]
"""Arrays with a row for each sample; `x` has the samples."""


@dataclass(frozen=True)
class StoredSamples:
    """Samples that are complete on disk.

    Attributes:
        path: Their file, or the folder of their files.
        note: How they were drawn; None in a file of an older version, or one that cannot be read.
        shape: `(n, ...)`.
        files: Names of the files in the folder, in order; none for a single file.
    """

    path: Path
    note: dict[str, Any] | None
    shape: tuple[int, ...]
    files: tuple[str, ...] = ()

    def read(self) -> Tensor:
        """All samples, `(n, ...)` in raw units.

        Raises:
            ConfigError: A file that is missing or damaged; the message names it, and what could be read.
        """
        if not self.files:
            return _read(self.path)[0]
        check_memory(8 * int(np.prod(self.shape)), f"{self.path}, {self.shape[0]} samples,")
        return torch.cat(list(self.parts()))

    def parts(self) -> Iterator[Tensor]:
        """The samples of one file after the other, `(m, ...)` each in raw units.

        Raises:
            ConfigError: As for `read`.
        """
        count = 0
        for name in self.files or (None,):
            path = self.path if name is None else self.path / name
            part, note = _read(path)
            if note is None and self.files:
                raise ConfigError(
                    f"{path} is {'damaged' if path.is_file() else 'missing'}; {count} of {self.shape[0]} samples were "
                    "read before it: draw the rest by the command that drew them, with overwrite=true"
                )
            yield part
            count += len(part)


def stored_samples(path: Path) -> StoredSamples | None:
    """Samples by the path of their single file, `NAME.npz`, or of their folder `NAME`; None if there are none."""
    if path.is_file():
        samples, note = _read(path)
        return StoredSamples(path, note, tuple(samples.shape))
    folder = path if path.is_dir() else path.with_suffix("")
    try:
        index = read_json(folder / _INDEX, dict)
        shape, files, note = index["shape"], index["files"], index[NOTE]
        known = index["format"] == _FORMAT and isinstance(note, dict)
        known = known and all(isinstance(size, int) for size in shape)
        # Names of this folder alone, whoever wrote the index.
        known = known and all(name == _name(k) for k, name in enumerate(files))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (DamagedFile, KeyError, TypeError):
        known = False
    return StoredSamples(folder, note, tuple(shape), tuple(files)) if known else StoredSamples(folder, None, (0,))


def find_samples(folder: Path, settings: dict[str, Any]) -> str | None:
    """The name of complete samples in a folder that were drawn with these settings; None if there are none."""
    names = {path.name.removesuffix(".npz") for path in folder.glob("*.npz")}
    names |= {path.parent.name for path in folder.glob(f"*/{_INDEX}")}
    for name in sorted(names, key=lambda name: (len(name), name)):
        stored = stored_samples(folder / f"{name}.npz")
        if stored is not None and is_of(stored.note, settings) and stored.shape[:1] == (settings["n"],):
            return name
    return None


def per_file(shape: tuple[int, ...], most: int, block: int) -> int:
    """Number of samples of a file: whole blocks, of no more than `most` samples and of 128 MiB, but one at least.

    Args:
        shape: Shape of a sample.
        most: The largest number.
        block: Number of samples that are drawn at once.
    """
    return block * max(1, min(most, _BYTES // (4 * int(np.prod(shape)))) // block)


class SampleWriter:
    """Writes samples as they are drawn, and knows which are there already.

    Args:
        run: The run.
        name: Name of the samples.
        settings: What the samples depend on; samples of others are not gone on with.
        n: Number of samples in all.
        size: Number of samples of a file.
        keep: Go on with what another command has drawn; else it is removed.

    Attributes:
        done: Number of samples that are there.
        seconds: Seconds that drawing them took.
        nfe: Largest number of evaluations of one of them.
        first: The samples of the first file, or what is there of them.
    """

    def __init__(self, run: Run, name: str, settings: dict[str, Any], n: int, size: int, keep: bool = True) -> None:
        self.run, self.name, self.settings, self.n, self.size = run, name, settings, n, size
        self.folder = run.directory / "samples" / name
        self.done, self.seconds, self.nfe = 0, 0.0, 0
        self.files = 0
        self._buffer: list[Rows] = []
        self._fresh, self._written = False, time.perf_counter()
        self.first = torch.empty(0)
        if keep:
            self._find()
        elif self.folder.is_dir():
            self._clear()

    def _find(self) -> None:
        """Take what is there: complete files from the first on, and the samples that fill no file."""
        if self.folder.is_dir():
            remove_leftovers(self.folder, "*")
        while self.done + self.size <= self.n and (rows := self._known(_name(self.files))) is not None:
            if len(rows["x"]) != self.size:
                break
            self._count(rows)
            self.files += 1
        rows = self._known(_UNFINISHED)
        if rows is not None and len(rows["x"]) <= min(self.size, self.n - self.done):
            self._count(rows)
            self._buffer = [rows]

    def _known(self, name: str) -> Rows | None:
        """The arrays of a file of samples that follow those that are there; None if it is not one."""
        path = self.folder / name
        try:
            if path.is_symlink():
                return None
            check_unpacked(path, str(path))
            with np.load(path, allow_pickle=False) as file:
                note = json.loads(str(file[NOTE]))
                rows = {key: file[key] for key in file.files if key != NOTE}
            follows = is_of(note, self.settings) and note["first"] == self.done
            if not follows or len({len(values) for values in rows.values()}) != 1:
                return None
            self.seconds, self.nfe = max(self.seconds, float(note["seconds"])), max(self.nfe, int(note["nfe"]))
            return rows
        except Exception:  # not there, or whatever a damaged or foreign file makes numpy and zipfile raise
            return None

    def _count(self, rows: Rows) -> None:
        x = torch.from_numpy(rows["x"])
        if self.done < self.size:
            self.first = torch.cat((self.first, x)) if self.done else x
        self.done += len(x)

    def add(self, rows: Rows, nfe: int, seconds: float) -> None:
        """Add the samples that follow, and write them if they fill a file, or if the last time is long ago.

        Args:
            rows: Their arrays.
            nfe: Evaluations of one of them.
            seconds: Seconds of drawing so far, those of earlier commands included.
        """
        self.nfe, self.seconds = max(self.nfe, nfe), seconds
        self._count(rows)
        self._buffer.append(rows)
        self._fresh = True
        waiting = sum(len(each["x"]) for each in self._buffer)
        if waiting >= self.size and self.n > self.size:
            self._write(_name(self.files))
            self.files += 1
            self._buffer = []
            (self.folder / _UNFINISHED).unlink(missing_ok=True)
        elif time.perf_counter() - self._written > _EVERY:
            self.keep()

    def keep(self) -> None:
        """Write the samples that fill no file, if there are any new ones."""
        if self._fresh and self._buffer and self.done < self.n:
            self._write(_UNFINISHED)

    def _write(self, name: str) -> None:
        rows = self._joined()
        count = len(rows["x"])
        note = {**self.settings, "first": self.done - count, "seconds": self.seconds, "nfe": self.nfe}
        self.run.write_npz(f"samples/{self.name}/{name}", **rows, **{NOTE: np.array(json.dumps(note))})
        self._buffer, self._fresh, self._written = [rows], False, time.perf_counter()

    def _joined(self) -> dict[str, np.ndarray]:
        keys = self._buffer[0].keys()
        return {key: np.concatenate([each[key] for each in self._buffer]) for key in keys}

    def finish(self, cost: dict[str, Any], further: Rows) -> Path:
        """Write what is left, and the note: one file, or the index of several. The path of either.

        Args:
            cost: The note.
            further: Arrays of the samples as a whole, which are for a single file.
        """
        single = self.run.directory / "samples" / f"{self.name}.npz"
        if not self.files:
            arrays = {**self._joined(), **further, NOTE: np.array(json.dumps(cost))}
            self.run.write_npz(f"samples/{self.name}.npz", **arrays)
            self._clear()
            return single
        if self._buffer:
            self._write(_name(self.files))
            self.files += 1
        self._clear(kept=self.files)
        names = [_name(k) for k in range(self.files)]
        shape = [self.n, *self.first.shape[1:]]
        index = {"format": _FORMAT, "shape": shape, "files": names, NOTE: cost}
        self.run.write_json(f"samples/{self.name}/{_INDEX}", index)
        single.unlink(missing_ok=True)  # of samples that these replace
        return self.folder

    def _clear(self, kept: int = 0) -> None:
        """Remove the files of samples after the first, and what else is ours; the folder, too, if nothing is left."""
        if not self.folder.is_dir() or self.folder.is_symlink():
            return
        for path in self.folder.iterdir():
            numbered = path.suffix == ".npz" and path.stem.isdecimal() and int(path.stem) >= kept
            if path.name in (_INDEX, _UNFINISHED) or numbered:
                path.unlink()
        with suppress(OSError):
            self.folder.rmdir()


def _name(index: int) -> str:
    return f"{index:05d}.npz"


def _read(path: Path) -> tuple[Tensor, dict[str, Any] | None]:
    """The samples in a file, and their note."""
    try:
        check_unpacked(path, str(path))
        with np.load(path, allow_pickle=False) as file:
            note = json.loads(str(file[NOTE]))
            return torch.from_numpy(file["x"]), note if isinstance(note, dict) else None
    except Exception:  # whatever a damaged or foreign file makes numpy and zipfile raise
        return torch.empty(0), None
