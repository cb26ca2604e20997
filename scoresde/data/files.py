"""Data sets from the user's own files: an .npz archive or .npy file, or a folder of pictures."""

import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .arrays import channels_first, read_arrays
from .base import Data, split_indices
from .images import SUFFIXES, Resample, images_to_tensor, open_image
from .labels import index_classes, natural_order
from .transforms import Discrete, Standardisation, Transform, continuous

__all__ = ["image_folder", "npz"]

_log = logging.getLogger(__name__)

_PIXEL_LEVELS = 256  # more are standardised: counts and detector readings fill a part of their range
_TRAIN = ("train", "training")
_TEST = ("test", "testing", "val", "valid", "validation")
"""Names of folders that are parts of a data set, in lower case; of those to test on, the first that is there."""


def npz(
    path: str,
    key: str = "x",
    label_key: str | None = None,
    test_size: int | float = 0.1,
    levels: int | None = None,
    seed: int = 0,
    channels_last: bool | None = None,
    standardise: Standardisation = "auto",
    low: float | None = None,
    high: float | None = None,
    test_key: str | None = None,
    test_label_key: str | None = None,
) -> Data:
    """An array `(N, *shape)` written by `numpy.savez` or `numpy.save`; pickled objects are never read.

    uint8 arrays are discrete with 256 levels, other integers with the `levels` given; floating-point arrays
    are continuous and standardised by the moments of the training part, unless `levels` says that they hold
    integers.

    Args:
        path: The .npz archive, or an .npy file, which holds one array.
        key: Name of the array; an .npy file has none.
        label_key: Name of an array `(N,)` of classes, integers or strings; None for no labels.
        test_size: Test samples, as a count (int) or a fraction (float); without `test_key`.
        levels: Number of integer values, 0 .. levels-1.
        seed: Seed of the random split; without `test_key`.
        channels_last: Whether the array is `(N, H, W, C)` or `(N, H, W)`, and becomes `(N, C, H, W)`. None: as its
            shape says, where only one reading makes sense.
        standardise: What has a mean and a standard deviation of its own, where the array is continuous: `"all"`,
            `"channel"`, `"value"`, `"none"` or `"auto"`; see `scoresde.data.continuous`. More than 256 levels, which
            need not fill their range as 8-bit pixels do, have one for all, unless it is `"none"`.
        low: Lower end of the range of the model that the levels are mapped to. None: -1, or what standardises them.
        high: Upper end of that range. None: 1, or what standardises the levels.
        test_key: Name of an array `(M, *shape)` to test on, instead of a part of the other.
        test_label_key: Name of its classes `(M,)`.

    Raises:
        ValueError: A file or key that is not there, a damaged file, one above the limit of memory, an array of objects
            or of another unusable type or shape, labels that do not fit, or values that fail the checks of `Data`.
    """
    if (test_label_key is None) != (label_key is None or test_key is None):
        raise ValueError(
            f"label_key={label_key}, test_key={test_key} and test_label_key={test_label_key}: a test array has labels "
            "exactly if the other has, and test_label_key needs test_key"
        )
    keys = [key, *(k for k in (label_key, test_key, test_label_key) if k is not None)]
    arrays = dict(zip(keys, read_arrays(path, keys), strict=True))
    x = arrays[key]
    if x.dtype.kind not in "uif":
        raise ValueError(f"{_where(key, path)} has dtype {x.dtype}, expected integers or floating point")
    if x.dtype.kind in "ui" and levels is None:
        if x.dtype != np.uint8:
            raise ValueError(
                f"{_where(key, path)} has dtype {x.dtype}: give levels=, the number of values 0..levels-1"
                f"{_proposed_levels(x)}, or save floating point if the values are measurements"
            )
        levels = 256
    if levels is not None and standardise in ("channel", "value"):
        raise ValueError(
            f"standardise={standardise} is for continuous values, and the {levels} levels of {_where(key, path)} have "
            "one scale"
        )
    if (low is None) != (high is None):
        raise ValueError(f"low is {low} and high is {high}: give both ends of the model's range, or neither")
    if levels is None and low is not None:
        raise ValueError(f"low={low} and high={high} are of discrete data: give levels=, or leave them out")
    parts = [x] if test_key is None else [x, arrays[test_key]]
    if test_key is not None and (parts[1].dtype.kind not in "uif" or parts[1].shape[1:] != x.shape[1:]):
        raise ValueError(
            f"{_where(test_key, path)} has shape {parts[1].shape} and dtype {parts[1].dtype}, expected samples like "
            f"those of {key!r}, shape {x.shape} and dtype {x.dtype}"
        )
    values = [_values(part, channels_last, levels is not None, _where(key, path)) for part in parts]
    labels: list[Tensor] = []
    names = None
    if label_key is not None:
        targets = [arrays[k] for k in (label_key, test_label_key) if k is not None]
        for name, target, part in zip((label_key, test_label_key), targets, parts, strict=False):
            if target.shape != part.shape[:1] or target.dtype.kind not in "iuUS":
                raise ValueError(
                    f"labels {name!r} of {path} must be {len(part)} integers or strings, got shape {target.shape}, "
                    f"dtype {target.dtype}"
                )
        labels, names = index_classes(*targets)
    transform: Callable[[Tensor], Transform]
    if levels is None:
        transform = partial(continuous, standardise=standardise)
    elif low is not None and high is not None:
        transform = _always(Discrete(levels, low, high))
    elif levels <= _PIXEL_LEVELS or standardise == "none":
        transform = _always(Discrete(levels))
    else:
        transform = partial(Discrete.standardised, levels=levels)
    return _data_of(Path(path).stem, values, labels, names, transform, test_size, seed)


def _always(transform: Transform) -> Callable[[Tensor], Transform]:
    return lambda _: transform


def _where(key: str, path: str) -> str:
    return f"array {key!r} of {path}" if path.endswith(".npz") else f"the array of {path}"


def _proposed_levels(x: np.ndarray) -> str:
    """Bits that the values fit in, for a message."""
    if not x.size or x.min() < 0:
        return ""
    bits = max(1, int(x.max()).bit_length())
    return f" (the largest here is {x.max()}: levels={2**bits}, say)" if bits <= 16 else ""


def _values(x: np.ndarray, channels_last: bool | None, discrete: bool, where: str) -> Tensor:
    x = channels_first(x, channels_last, discrete, where)
    if x.ndim < 2:
        raise ValueError(f"{where} must be (N, *shape), got shape {x.shape}")
    return torch.from_numpy(_native(x))


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
    return _data_of(
        root.resolve().name,
        values.split(bounds),
        [] if targets is None else targets.split(bounds),
        names,
        _always(Discrete(256)),
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


def _data_of(
    name: str,
    values: Sequence[Tensor],
    labels: Sequence[Tensor],
    class_names: tuple[str, ...] | None,
    transform: Callable[[Tensor], Transform],
    test_size: int | float,
    seed: int,
) -> Data:
    """The data set of two parts, or of a single one that is split, with the transform of its training part."""
    rows = None
    if len(values) == 1:
        places = split_indices(len(values[0]), test_size, seed)
        values, labels = [values[0][i] for i in places], [y[i] for y in labels for i in places]
        rows = torch.cat(places)
    bad = int((~values[0].isfinite()).sum())
    if bad:
        raise ValueError(f"{name}: values must be finite, {bad} of {values[0].numel()} are NaN or infinite")
    try:
        fitted = transform(values[0])
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    return Data(
        name=name,
        train=values[0],
        test=values[1],
        transform=fitted,
        train_labels=labels[0] if labels else None,
        test_labels=labels[1] if labels else None,
        class_names=class_names,
        rows=rows,
    )


def _native(x: np.ndarray) -> np.ndarray:
    """A contiguous array of a type torch has; it lacks other byte orders, long double and some unsigned."""
    if x.dtype.kind == "f":
        dtype = x.dtype.newbyteorder("=") if x.dtype.itemsize <= 8 else np.dtype(np.float64)
    else:
        dtype = np.dtype(np.uint8) if x.dtype == np.uint8 else np.dtype(np.int64)
    return np.ascontiguousarray(x, dtype=dtype)
