"""Pictures that are decoded when they are asked for."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scoresde.data.images import Reading, Source, allow_pixels, picture, size_of, warn_of
from scoresde.data.rows import InMemory, Rows, UnreadableData, reads_lazily

__all__ = ["PictureRows", "pictures_stay"]


class PictureRows(Rows):
    """Pictures `(N, channels, H, W)` of one size, which are opened and decoded when they are asked for.

    Args:
        count: Number of pictures.
        source: The name, for messages, and the opener of a picture by its index; called from several threads.
        reading: How they are read.
        where: What they are, for messages.
        place: The file or folder that they are in, or None.
        files: What tells whether they are the same as before: names, sizes and times of their files; None if unknown.

    Raises:
        ValueError: No pictures, or a first one that cannot be read.
    """

    def __init__(
        self,
        count: int,
        source: Callable[[int], Source],
        reading: Reading,
        where: str,
        place: Path | None = None,
        files: Callable[[], str] | None = None,
    ) -> None:
        if count == 0:
            raise ValueError("there are no images to read")
        self._source, self._reading, self._place, self._files = source, reading, place, files
        self._known: str | None = None
        notes: Counter[str] = Counter()
        first = picture(*source(0), reading, notes)
        warn_of(notes, 1)
        allow_pixels()
        self._kind = first.dtype
        super().__init__((count, *first.shape), torch.from_numpy(first[:0].copy()).dtype, where)

    def read(self, indices: np.ndarray) -> Tensor:
        out = np.empty((len(indices), *self.shape[1:]), self._kind)
        notes: Counter[str] = Counter()
        for place, index in enumerate(indices.tolist()):
            name, opener = self._source(index)
            try:
                pixels = picture(name, opener, self._reading, notes, alone=False)
            except ValueError as error:
                raise UnreadableData(f"{error} (number {index} of {len(self)})") from error
            if pixels.shape != self.shape[1:]:
                raise UnreadableData(
                    f"images differ in size: {self._source(0)[0]} is {size_of(tuple(self.shape[1:]))}, {name} is "
                    f"{size_of(pixels.shape)}; give size= to crop and resize all of them"
                )
            out[place] = pixels
        return torch.from_numpy(out)

    @property
    def identity(self) -> str | None:
        if self._files is None:
            return None
        if self._known is None:
            told = hashlib.sha256(self._files().encode()).hexdigest()
            self._known = f"{told} {json.dumps(asdict(self._reading), default=list, sort_keys=True)}"
        return self._known

    @property
    def place(self) -> Path | None:
        return self._place


def pictures_stay(in_memory: InMemory, count: int, source: Callable[[int], Source], reading: Reading) -> bool:
    """Whether pictures are to be decoded when they are asked for; the first tells how much all of them take.

    Raises:
        ValueError: A choice that there is not, or a first picture that cannot be read.
    """
    if in_memory != "auto" or count == 0:
        return reads_lazily(in_memory, 0)
    return reads_lazily(in_memory, count * picture(*source(0), reading, Counter()).nbytes)
