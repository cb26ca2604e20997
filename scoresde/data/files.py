"""Data sets from the user's own files: an .npz archive, or a folder of pictures."""

import pickle
import zipfile
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .base import Data, split_indices
from .images import Resample, images_to_tensor
from .transforms import Discrete, Standardisation, Transform, continuous

__all__ = ["image_folder", "npz"]

_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}


def npz(
    path: str,
    key: str = "x",
    label_key: str | None = None,
    test_size: int | float = 0.1,
    levels: int | None = None,
    seed: int = 0,
    channels_last: bool = False,
    standardise: Standardisation = "auto",
) -> Data:
    """An array `(N, *shape)` from an archive written by `numpy.savez`; pickled objects are never read.

    uint8 arrays are discrete with 256 levels, other integers with the `levels` given; floating-point arrays
    are continuous and standardised by the moments of the training part, unless `levels` says that they hold
    integers.

    Args:
        path: The .npz file.
        key: Name of the array.
        label_key: Name of an integer array `(N,)` of classes; None for no labels.
        test_size: Test samples, as a count (int) or a fraction (float).
        levels: Number of integer values, 0 .. levels-1.
        seed: Of the random split.
        channels_last: The array is `(N, H, W, C)` or `(N, H, W)` and becomes `(N, C, H, W)`.
        standardise: What has a mean and a standard deviation of its own, where the array is continuous: `"all"`,
            `"channel"`, `"value"`, `"none"` or `"auto"`; see `scoresde.data.continuous`.

    Raises:
        ValueError: A file or key that is not there, an array of objects or of another unusable type or shape,
            labels that do not fit, or values that fail the checks of `Data`.
    """
    x, y = _load_arrays(path, key, label_key)
    where = f"array {key!r} of {path}"
    if x.dtype.kind not in "uif":
        raise ValueError(f"{where} has dtype {x.dtype}, expected integers or floating point")
    if x.dtype.kind in "ui" and levels is None:
        if x.dtype != np.uint8:
            raise ValueError(f"{where} has dtype {x.dtype}: give levels=, the number of values 0..levels-1")
        levels = 256
    if levels is not None and standardise in ("channel", "value"):
        raise ValueError(
            f"standardise={standardise} is for continuous values, and the {levels} levels of {where} have one scale"
        )
    if channels_last:
        if x.ndim not in (3, 4):
            raise ValueError(f"{where}: channels_last needs (N, H, W, C) or (N, H, W), got shape {x.shape}")
        x = x[:, None] if x.ndim == 3 else x.transpose(0, 3, 1, 2)
    if x.ndim < 2:
        raise ValueError(f"{where} must be (N, *shape), got shape {x.shape}")
    if y is not None and (y.shape != x.shape[:1] or y.dtype.kind not in "ui"):
        raise ValueError(
            f"labels {label_key!r} of {path} must be {len(x)} integers, got shape {y.shape}, dtype {y.dtype}"
        )
    values = torch.from_numpy(_native(x))
    labels = None if y is None else torch.from_numpy(y.astype(np.int64))
    return _split_data(Path(path).stem, values, labels, None, levels, test_size, seed, standardise)


def image_folder(
    path: str,
    size: int | None = None,
    channels: int = 3,
    test_size: int | float = 0.1,
    labels: bool = False,
    seed: int = 0,
    resample: Resample = "lanczos",
) -> Data:
    """All pictures in a folder and its sub-folders, in memory as 8-bit values `(C, H, W)`, 256 levels.

    Args:
        path: The folder. Files that are hidden or have no image suffix are passed over.
        size: Side to which every picture is centre-cropped and resized; None if all have one size already.
        channels: 3 for RGB, 1 for grey. Transparency is dropped.
        test_size: Test samples, as a count (int) or a fraction (float).
        labels: The names of the sub-folders, sorted, are the classes 0, 1, ...
        seed: Of the random split.
        resample: Filter used for resizing, "lanczos" or "box".

    Raises:
        ValueError: A folder that is not there or holds no pictures, a picture that cannot be read, sizes that
            differ while `size` is None, or with `labels` a picture outside any sub-folder.
    """
    root = Path(path)
    if not root.is_dir():
        raise ValueError(f"there is no folder {path}")
    files = sorted(
        (p.relative_to(root) for p in root.rglob("*") if p.suffix.lower() in _SUFFIXES and p.is_file()),
        key=lambda p: p.as_posix(),
    )
    files = [p for p in files if not any(part.startswith(".") for part in p.parts)]
    if not files:
        raise ValueError(f"there are no images in {path}; known suffixes are {' '.join(sorted(_SUFFIXES))}")
    targets, num_classes = None, None
    if labels:
        loose = next((p for p in files if len(p.parts) == 1), None)
        if loose is not None:
            raise ValueError(f"labels=true takes classes from sub-folders, but {root / loose} is in none")
        names = sorted({p.parts[0] for p in files})
        targets = torch.tensor([names.index(p.parts[0]) for p in files])
        num_classes = len(names)
    from PIL import Image

    sources = ((str(root / p), partial(Image.open, root / p)) for p in files)
    values = images_to_tensor(sources, len(files), size, channels, resample)
    return _split_data(root.resolve().name, values, targets, num_classes, 256, test_size, seed)


def _split_data(
    name: str,
    values: Tensor,
    labels: Tensor | None,
    num_classes: int | None,
    levels: int | None,
    test_size: int | float,
    seed: int,
    standardise: Standardisation = "auto",
) -> Data:
    if labels is not None and num_classes is None and len(labels):
        num_classes = int(labels.max()) + 1  # of all samples: the largest may fall into the test part
    train, test = split_indices(len(values), test_size, seed)
    transform: Transform = Discrete(levels) if levels is not None else _fit(name, values, train, standardise)
    return Data(
        name=name,
        train=values[train],
        test=values[test],
        transform=transform,
        train_labels=None if labels is None else labels[train],
        test_labels=None if labels is None else labels[test],
        num_classes=num_classes,
        rows=torch.cat((train, test)),
    )


def _fit(name: str, values: Tensor, train: Tensor, standardise: Standardisation) -> Transform:
    bad = int((~values.isfinite()).sum())
    if bad:
        raise ValueError(f"{name}: values must be finite, {bad} of {values.numel()} are NaN or infinite")
    try:
        return continuous(values[train], standardise)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _native(x: np.ndarray) -> np.ndarray:
    """A contiguous array of a type torch has; it lacks other byte orders, long double and some unsigned."""
    if x.dtype.kind == "f":
        dtype = x.dtype.newbyteorder("=") if x.dtype.itemsize <= 8 else np.dtype(np.float64)
    else:
        dtype = np.dtype(np.uint8) if x.dtype == np.uint8 else np.dtype(np.int64)
    return np.ascontiguousarray(x, dtype=dtype)


def _load_arrays(path: str, key: str, label_key: str | None) -> tuple[np.ndarray, np.ndarray | None]:
    if not Path(path).is_file():
        raise ValueError(f"there is no file {path}")
    try:
        archive = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} is not an .npz archive that numpy can read without pickle") from error
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise ValueError(f"{path} holds a single array; save it as an .npz archive: numpy.savez(path, {key}=array)")
    with archive:
        available = ", ".join(archive.files) or "none"

        def read(name: str) -> np.ndarray:
            if name not in archive.files:
                raise ValueError(f"{path} has no array {name!r}; available: {available}")
            try:
                return archive[name]
            except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
                raise ValueError(
                    f"array {name!r} of {path} is damaged or holds pickled objects, which are not read; "
                    f"save it as numbers (available: {available})"
                ) from error

        return read(key), None if label_key is None else read(label_key)
