"""Shards of WebDataset: tar archives of pictures with their classes beside them."""

import re
from collections import Counter
from collections.abc import Sequence
from glob import glob
from pathlib import Path, PurePosixPath

from scoresde.data.base import Data
from scoresde.data.folder_labels import CLASS_SUFFIX
from scoresde.data.folders import of_tree
from scoresde.data.images import SUFFIXES, Fit, Frames, Reading, Resample
from scoresde.data.labels import natural_order
from scoresde.data.lazy_arrays import file_identity
from scoresde.data.places import located
from scoresde.data.rows import InMemory
from scoresde.data.trees import Tree, open_tree

__all__ = ["webdataset"]

_PARTS = {"train": "train", "test": "test", "val": "val", "valid": "val", "validation": "val"}


def webdataset(
    path: str,
    size: int | Sequence[int] | None = None,
    channels: int = 3,
    test_size: int | float = 0.1,
    labels: bool | None = None,
    seed: int = 0,
    resample: Resample = "lanczos",
    fit: Fit = "crop",
    background: str | None = None,
    bits: int | None = None,
    frames: Frames = "first",
    in_memory: InMemory = "auto",
) -> Data:
    """The pictures in shards of WebDataset: tar archives, which are read by the places of their members.

    A sample is a picture, and its class is in the file `.cls` of the same name. Where all shards are called `train-...`
    and `test-...` (or `val-...`), these are the parts of the data set.

    Args:
        path: A folder of `.tar` files, one file, a pattern with `*`, or one with a range, as `train-{0000..0013}.tar`,
            of which none may be missing.
        size: Side, or height and width, to which every picture is resized; None if all have one size already.
        channels: 3 for RGB, 1 for grey; 4 or 2 with opacity.
        test_size: Test samples where there are no shards of them, as a count (int) or a fraction (float).
        labels: Whether there are labels. None: if there are files `.cls`.
        seed: Seed of the random split.
        resample: Filter used for resizing, "lanczos" or "box".
        fit: "crop" to cut out the middle before resizing, or "stretch".
        background: Colour that transparent pictures are put on; None drops transparency if `channels` has none.
        bits: Bits of a channel, 8 or 16; None: 8, and grey pictures of more are refused.
        frames: "first" or "refuse", for animations.
        in_memory: Whether pictures are decoded at once and held in memory, or decoded when they are asked for, which
            shards that are packed (`.tar.gz`) do not allow.

    Raises:
        ValueError: A shard that is missing, cut off or damaged, with what was found in it and in those before; or as
            for `image_folder`.
    """
    reading = Reading(size, channels, resample, fit, background, bits, frames)
    tree = _Shards(path, _shards(path))
    has_classes = any(file.suffix.lower() == CLASS_SUFFIX for file in tree.files())
    if labels and not has_classes:
        raise ValueError(f"labels=true, but {path} has no files {CLASS_SUFFIX}: leave it out")
    labels = labels if has_classes else False
    return of_tree(tree, path, reading, test_size, labels, seed, True, None, in_memory)


class _Shards(Tree):
    """Several archives as one place, in which each is a folder."""

    def __init__(self, path: str, shards: Sequence[Path]) -> None:
        place = located(path)
        super().__init__(place if place.exists() else shards[0].parent)
        self._trees: dict[str, Tree] = {}
        words = [re.match(r"[a-z]+", shard.name.lower()) for shard in shards]
        parts = [_PARTS.get(word[0]) if word is not None else None for word in words]
        pictures = 0
        for i, (shard, part) in enumerate(zip(shards, parts, strict=True)):
            try:
                tree = open_tree(str(shard))
            except ValueError as error:
                raise ValueError(
                    f"{error} (shard {i + 1} of {len(shards)}; {pictures} pictures in those before are whole)"
                ) from error
            pictures += sum(file.suffix.lower() in SUFFIXES for file in tree.files())
            self._trees[f"{part}/{shard.name}" if None not in parts and len(set(parts)) > 1 else shard.name] = tree
        self.passed = sum((tree.passed for tree in self._trees.values()), Counter())

    def files(self) -> list[PurePosixPath]:
        return [PurePosixPath(name) / file for name, tree in self._trees.items() for file in tree.files()]

    def _of(self, file: PurePosixPath) -> tuple[Tree, PurePosixPath]:
        depth = next(d for d in (1, 2) if "/".join(file.parts[:d]) in self._trees)
        return self._trees["/".join(file.parts[:depth])], PurePosixPath(*file.parts[depth:])

    def read(self, file: PurePosixPath) -> bytes:
        tree, own = self._of(file)
        return tree.read(own)

    def where(self, file: PurePosixPath) -> str:
        tree, own = self._of(file)
        return tree.where(own)

    @property
    def by_name(self) -> bool:
        return all(tree.by_name for tree in self._trees.values())

    def identity(self, files: Sequence[PurePosixPath]) -> str:
        return "\n".join([*(file_identity(tree.path) for tree in self._trees.values()), str(len(files))])


def _shards(path: str) -> list[Path]:
    """The shards that a path names, in natural order.

    Raises:
        ValueError: None, or one of a range that is missing.
    """
    span = re.search(r"\{(\d+)\.\.(\d+)\}", path)
    if span is not None:
        first, last = int(span[1]), int(span[2])
        names = [f"{path[: span.start()]}{i:0{len(span[1])}}{path[span.end() :]}" for i in range(first, last + 1)]
        found = [located(name) for name in names]
        missing = [shard for shard in found if not shard.is_file()]
        if missing:
            raise ValueError(f"{missing[0]} is missing, of {len(found)} shards there are {len(found) - len(missing)}")
        return found
    place = located(path)
    if place.is_file():
        return [place]
    names = glob(str(place)) if "*" in path else [str(p) for p in place.glob("*.tar*")] if place.is_dir() else []
    if not names:
        raise ValueError(f"there are no shards {path}: expected a folder of .tar files, or train-{{0000..0009}}.tar")
    return [Path(name) for name in sorted(names, key=natural_order)]
