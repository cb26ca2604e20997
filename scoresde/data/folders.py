"""Data sets from folders of pictures."""

import logging
import os
from collections import Counter
from functools import partial
from pathlib import Path

import torch

from .assembling import assembled, discrete
from .base import Data
from .images import SUFFIXES, Resample, images_to_tensor, open_image
from .labels import natural_order

__all__ = ["image_folder"]

_log = logging.getLogger(__name__)

_TRAIN = ("train", "training")
_TEST = ("test", "testing", "val", "valid", "validation")
"""Names of folders that are parts of a data set, in lower case; of those to test on, the first that is there."""


def image_folder(
    path: str,
    size: int | None = None,
    channels: int = 3,
    test_size: int | float = 0.1,
    labels: bool = False,
    seed: int = 0,
    resample: Resample = "lanczos",
    split_folders: bool = True,
) -> Data:
    """All pictures in a folder and its sub-folders, in memory as 8-bit values `(C, H, W)`, 256 levels.

    Symbolic links are followed. What is passed over is logged, in one line with counts by suffix.

    Args:
        path: The folder. Files that are hidden or have no image suffix are passed over.
        size: Side to which every picture is centre-cropped and resized; None if all have one size already.
        channels: 3 for RGB, 1 for grey. Transparency is dropped.
        test_size: Test samples, as a count (int) or a fraction (float).
        labels: The names of the sub-folders, in natural order, are the classes 0, 1, ...
        seed: Seed of the random split.
        resample: Filter used for resizing, "lanczos" or "box".
        split_folders: Whether `train` and `test` (or `val`) as the only sub-folders are the parts of the data set.
            `test_size` and `seed` then have no effect, and classes are the folders below.

    Raises:
        ValueError: A folder that is not there or holds no pictures, a link that leads nowhere or round in a circle, a
            picture that cannot be read, sizes that differ while `size` is None, more than the limits
            of memory and pixels, or with `labels`
            a picture outside any sub-folder.
    """
    root = Path(path)
    if not root.is_dir():
        raise ValueError(f"there is no folder {path}")
    files, others = _pictures_below(root)
    if not files:
        found = f"; there are {_counts(others)}" if others else ""
        raise ValueError(f"there are no images in {path}; known suffixes are {' '.join(sorted(SUFFIXES))}{found}")
    if others:
        _log.warning("%s: %d pictures; passed over: %s", path, len(files), _counts(others))
    parts = _split_by_folder(path, files) if split_folders else None
    depth = 0 if parts is None else 1
    if parts is not None:
        files = [p for part in parts for p in part]
    targets, names = None, None
    if labels:
        loose = next((p for p in files if len(p.parts) == depth + 1), None)
        if loose is not None:
            raise ValueError(f"labels=true takes classes from sub-folders, but {root / loose} is in none")
        names = tuple(sorted({p.parts[depth] for p in files}, key=natural_order))
        targets = torch.tensor([names.index(p.parts[depth]) for p in files])
    sources = ((str(root / p), partial(open_image, root / p, p.suffix)) for p in files)
    values = images_to_tensor(sources, len(files), size, channels, resample)
    bounds = [len(files)] if parts is None or not parts[1] else [len(part) for part in parts]
    return assembled(
        root.resolve().name,
        values.split(bounds),
        [] if targets is None else targets.split(bounds),
        names,
        discrete(256),
        test_size,
        seed,
    )


def _pictures_below(root: Path) -> tuple[list[Path], Counter[str]]:
    """The pictures below a folder, relative to it and in order, and what else is there, counted by suffix."""
    pictures, others = [], Counter[str]()

    def refuse(error: OSError) -> None:
        raise ValueError(f"cannot read the folder {error.filename}: {error.strerror}") from error

    for folder, folders, files in os.walk(root, onerror=refuse, followlinks=True):
        here = Path(folder)
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in folders:
            _refuse_circle(root, here / name)
        for name in files:
            file = here / name
            if name.startswith("."):
                continue
            if not file.exists():
                raise ValueError(f"{file} is a link to what is not there: mend it, or remove it")
            if file.suffix.lower() in SUFFIXES and file.is_file():
                pictures.append(file.relative_to(root))
            else:
                others[file.suffix.lower() or "without a suffix"] += 1
    return sorted(pictures, key=lambda p: p.as_posix()), others


def _refuse_circle(root: Path, folder: Path) -> None:
    """Refuse a link to a folder that it lies in, by whatever way."""
    if folder.is_symlink():
        target, above = folder.resolve(), folder.parent
        while target != above.resolve():
            if above == root:
                return
            above = above.parent
        raise ValueError(f"{folder} is a link to {above}, in which it lies itself: remove it")


def _counts(others: Counter[str]) -> str:
    return ", ".join(f"{count} {suffix}" for suffix, count in others.most_common())


def _split_by_folder(path: str, files: list[Path]) -> tuple[list[Path], list[Path]] | None:
    """The pictures of the training and of the test folder, the latter possibly none; None without such folders."""
    tops = {p.parts[0] if len(p.parts) > 1 else "" for p in files}
    known = {top.lower(): top for top in tops}
    train = [known[name] for name in _TRAIN if name in known]
    test = [known[name] for name in _TEST if name in known]
    if len(train) != 1 or len(known) < len(tops) or len(train) + len(test) < len(tops):
        return None
    parts = [p for p in files if p.parts[0] == train[0]], [p for p in files if test and p.parts[0] == test[0]]
    left = f", {', '.join(test[1:])} left out" if test[1:] else ""
    to_test = f"{len(parts[1])} pictures of {test[0]}/ to test on" if test else "test samples are drawn from them"
    _log.warning("%s: %d pictures of %s/ to train on, %s%s", path, len(parts[0]), train[0], to_test, left)
    return parts
