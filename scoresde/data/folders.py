"""Data sets from folders of pictures, and from zip and tar archives of them."""

import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from scoresde.data.assembling import assembled, discrete
from scoresde.data.base import Data
from scoresde.data.folder_labels import CLASS_SUFFIX, LIST, common_depth, labels_of
from scoresde.data.images import SUFFIXES, Fit, Frames, Reading, Resample, Source, images_to_tensor, open_image
from scoresde.data.picture_rows import PictureRows, pictures_stay
from scoresde.data.rows import InMemory, Rows, Values
from scoresde.data.trees import Tree, open_tree

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["image_folder", "of_tree"]

_log = logging.getLogger(__name__)

_TRAIN = ("train", "training")
_TEST = ("test", "testing", "val", "valid", "validation")
"""Names of folders that are parts of a data set, in lower case; of those to test on, the first that is there."""


def image_folder(
    path: str,
    size: int | Sequence[int] | None = None,
    channels: int = 3,
    test_size: int | float = 0.1,
    labels: bool | None = False,
    seed: int = 0,
    resample: Resample = "lanczos",
    split_folders: bool = True,
    fit: Fit = "crop",
    background: str | None = None,
    bits: int | None = None,
    frames: Frames = "first",
    condition_folder: str | None = None,
    in_memory: InMemory = "auto",
) -> Data:
    """All pictures in a folder and its sub-folders, or in a zip or tar archive, as values `(C, H, W)`.

    In a folder, symbolic links are followed. What is passed over is logged, in one line with counts by suffix. Classes
    are those of a `dataset.json`, as EDM and StyleGAN write it, of files `.cls`, as in WebDataset, or else the names of
    sub-folders, in natural order.

    Args:
        path: The folder or archive. Files that are hidden or have no image suffix are passed over.
        size: Side, or height and width, to which every picture is resized; None if all have one size already.
        channels: 3 for RGB, 1 for grey; 4 or 2 with opacity as a further channel.
        test_size: Test samples, as a count (int) or a fraction (float).
        labels: Whether there are labels. None: if there are any, and every picture has one.
        seed: Seed of the random split.
        resample: Filter used for resizing, "lanczos" or "box".
        split_folders: Whether `train` and `test` (or `val`) as the only sub-folders are the parts of the data set.
            `test_size` and `seed` then have no effect, and classes are the folders below.
        fit: "crop" to cut the middle of the wanted proportions out before resizing, or "stretch", which distorts.
        background: Colour that transparent pictures are put on; None drops transparency if `channels` has none.
        bits: Bits of a channel, 8 or 16 (65536 levels); None: 8, and grey pictures of more are refused.
        frames: "first" to take the first frame of an animation, or "refuse".
        condition_folder: A second folder or archive, whose pictures at the same places, whatever their suffix, are the
            condition `image` of these. They have as many channels and keep their own size.
        in_memory: Whether pictures are decoded at once and held in memory, or decoded when they are asked for.

    Raises:
        ValueError: A folder that is not there or holds no pictures, a link that leads nowhere or round in a circle, an
            entry that leads out of its archive, a picture that cannot be read, sizes that differ while `size` is None,
            more than the limits of memory and pixels, or with `labels` a picture without one.
    """
    reading = Reading(size, channels, resample, fit, background, bits, frames)
    return of_tree(open_tree(path), path, reading, test_size, labels, seed, split_folders, condition_folder, in_memory)


def of_tree(
    tree: Tree,
    path: str,
    reading: Reading,
    test_size: int | float,
    labels: bool | None,
    seed: int,
    split_folders: bool,
    condition_folder: str | None,
    in_memory: InMemory,
) -> Data:
    """The pictures of a folder or of archives; the arguments are those of `image_folder`."""
    everything = tree.files()
    files = [file for file in everything if file.suffix.lower() in SUFFIXES]
    others = tree.passed + Counter(
        file.suffix.lower() or "without a suffix"
        for file in everything
        if file.suffix.lower() not in (*SUFFIXES, CLASS_SUFFIX) and file.name != LIST
    )
    if not files:
        found = f"; there are {_counts(others)}" if others else ""
        raise ValueError(
            f"there are no images in {path}; known suffixes are {' '.join(sorted(SUFFIXES))}{found}{_way_out(others)}"
        )
    if others:
        _log.warning("%s: %d pictures; passed over: %s", path, len(files), _counts(others))
    parts = _split_by_folder(path, files) if split_folders else None
    depth = None
    if parts is not None:
        files = [file for part in parts for file in part]
        depth = _split_depth(files)
    targets, names = None, None
    if labels is not False:
        found_labels = labels_of(tree, everything, files, depth, required=labels is True)
        if found_labels is not None:
            targets, names = found_labels
    values = _values(tree, path, files, reading, in_memory)
    low = None if condition_folder is None else _paired(condition_folder, tree, files, reading)
    bounds = [len(files)] if parts is None or not parts[1] else [len(part) for part in parts]
    return assembled(
        re.sub(r"\.(zip|tar|tgz|tar\.\w+)$", "", tree.path.resolve().name),
        values.split(bounds) if isinstance(values, Tensor) else _divided(values, bounds),
        [] if targets is None else targets.split(bounds),
        names,
        discrete(reading.levels),
        test_size,
        seed,
        conditions=[] if low is None else [{"image": part} for part in low.split(bounds)],
    )


def _values(tree: Tree, path: str, files: Sequence[PurePosixPath], reading: Reading, in_memory: InMemory) -> Values:
    """The pictures, in memory or decoded when they are asked for."""

    def source(i: int) -> Source:
        return tree.where(files[i]), partial(_open, tree, files[i])

    if pictures_stay(in_memory, len(files), source, reading):
        if tree.by_name:
            return PictureRows(
                len(files), source, reading, f"pictures of {path}", tree.path, partial(tree.identity, files)
            )
        if in_memory is False:
            raise ValueError(
                f"{path} is a packed archive, whose pictures cannot be read one by one: unpack it (gunzip for "
                ".tar.gz), or leave in_memory=false out"
            )
    sources = [source(i) for i in range(len(files))]
    return images_to_tensor(sources, reading, sorted(range(len(files)), key=lambda i: tree.place(files[i])))


def _divided(rows: Rows, sizes: Sequence[int]) -> list[Rows]:
    places = torch.arange(len(rows)).split(list(sizes))
    return [rows.select(part) for part in places] if len(sizes) > 1 else [rows]


def _paired(path: str, tree: Tree, files: Sequence[PurePosixPath], reading: Reading) -> Tensor:
    """The pictures of a second folder at the places of `files` in the first, in their order, at their own size."""
    other = open_tree(path)
    found = {_place(file): file for file in other.files() if file.suffix.lower() in SUFFIXES}
    missing = next((file for file in files if _place(file) not in found), None)
    if missing is not None:
        raise ValueError(
            f"condition_folder {path} has no picture for {tree.where(missing)}: expected {missing.with_suffix('')} "
            f"with any of the suffixes {' '.join(sorted(SUFFIXES))}"
        )
    sources = [(other.where(f), partial(_open, other, f)) for f in (found[_place(file)] for file in files)]
    return images_to_tensor(sources, replace(reading, size=None))


def _place(file: PurePosixPath) -> PurePosixPath:
    """The place of a picture without its suffix."""
    return file.with_suffix("")


def _open(tree: Tree, file: PurePosixPath) -> "Image":
    return open_image(tree.source(file), file.suffix)


def _counts(others: Counter[str]) -> str:
    return ", ".join(f"{count} {suffix}" for suffix, count in others.most_common())


def _way_out(others: Counter[str]) -> str:
    """The way out for a folder of something else."""
    if others[".npy"] or others[".npz"]:
        return ": data=npy reads a folder of .npy files, and data=npz one .npz file"
    if others[".tar"]:
        return ": data=webdataset reads a folder of .tar files"
    if others[".parquet"]:
        return ": data=huggingface data.path=parquet data.data_files=... reads those"
    return ""


def _split_by_folder(path: str, files: list[PurePosixPath]) -> tuple[list[PurePosixPath], list[PurePosixPath]] | None:
    """The pictures of the training and of the test folder, the latter possibly none; None without such folders."""
    depth = common_depth(files)
    tops = {p.parts[depth] if len(p.parts) > depth + 1 else "" for p in files}
    if len(tops) == 1 and depth > 0 and files[0].parts[depth - 1].lower() in _TRAIN:
        depth, tops = depth - 1, {files[0].parts[depth - 1]}  # no other than the training folder
    known = {top.lower(): top for top in tops}
    train = [known[name] for name in _TRAIN if name in known]
    test = [known[name] for name in _TEST if name in known]
    if len(train) != 1 or len(known) < len(tops) or len(train) + len(test) < len(tops):
        return None
    parts = (
        [p for p in files if p.parts[depth] == train[0]],
        [p for p in files if test and p.parts[depth] == test[0]],
    )
    left = f", {', '.join(test[1:])} left out" if test[1:] else ""
    to_test = f"{len(parts[1])} pictures of {test[0]}/ to test on" if test else "test samples are drawn from them"
    _log.warning("%s: %d pictures of %s/ to train on, %s%s", path, len(parts[0]), train[0], to_test, left)
    return parts


def _split_depth(files: Sequence[PurePosixPath]) -> int:
    """The number of folders down to those of classes, below the folders that are parts."""
    return next(i for i, part in enumerate(files[0].parts) if part.lower() in _TRAIN) + 1
