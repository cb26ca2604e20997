"""Downsampled ImageNet."""

import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from scoresde.data.array_data import array_file
from scoresde.data.array_files import read_arrays
from scoresde.data.assembling import Levels, array_data, as_labels
from scoresde.data.base import Data
from scoresde.data.labels import natural_order
from scoresde.data.places import located
from scoresde.storage.limits import check_memory

__all__ = ["imagenet"]


def imagenet(path: str, labels: bool = True, test_size: int | float = 0.1, seed: int = 0) -> Data:
    """Downsampled ImageNet (Chrabaszcz et al. 2017), as npz files: 1.28 million pictures of 32×32 (or 8, 16, 64).

    At 32×32 it takes 3.7 GiB, at 64×64 14.6 GiB, which the environment variable `SCORESDE_MEMORY` has to allow.

    Args:
        path: The folder of train_data_batch_1.npz, ... and val_data.npz, which may lie in folders of their own, or one
            of these files.
        labels: Whether to keep the classes, 1 to 1000.
        test_size: Test samples where val_data.npz is missing, as a count (int) or a fraction (float).
        seed: Seed of their choice.

    Raises:
        ValueError: Files that are not there, damaged, or above the limit of memory.
    """
    place = located(path)
    found = sorted(place.rglob("*.npz"), key=lambda p: natural_order(p.name)) if place.is_dir() else [place]
    train = [p for p in found if re.fullmatch(r"train_data(_batch_\d+)?\.npz", p.name) or p == place]
    test = [p for p in found if p.name == "val_data.npz" and p not in train]
    if not train:
        raise ValueError(f"{path} has no files train_data_batch_1.npz, ... of downsampled ImageNet")
    if len({p.name for p in train}) < len(train) or len(test) > 1:
        raise ValueError(
            f"{path} has several files of the same name, such as {train[0].name}: give the folder of one size"
        )
    parts, targets = [], []
    for files in [train, test] if test else [train]:
        x, y = _imagenet_part(files)
        parts.append(x)
        targets.append(y)
    side = parts[0].shape[-1]
    return array_data(f"imagenet{side}", parts, targets if labels else [], None, Levels(256), test_size, seed)


def _imagenet_part(files: Sequence[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Pictures and labels of several files, read one after the other into one array."""
    opened = [array_file(str(file)) for file in files]
    headers = []
    for file in opened:
        if not {"data", "labels"} <= set(file.names()):
            raise ValueError(f"{file.path} has no arrays 'data' and 'labels', as downsampled ImageNet has")
        headers.append(file.header("data"))
    width = headers[0].shape[-1] if headers[0].shape else 0
    side = math.isqrt(width // 3)
    for file, header in zip(opened, headers, strict=True):
        if header.dtype != np.uint8 or len(header.shape) != 2 or header.shape[1] != width or 3 * side * side != width:
            raise ValueError(
                f"{file.where('data')} has shape {header.shape} and dtype {header.dtype}, expected rows of "
                f"{'3·S·S' if 3 * side * side != width else width} bytes"
            )
    count = sum(header.shape[0] for header in headers)
    check_memory(count * width, f"reading {count} pictures of {side}x{side} of {files[0].parent}")
    x, y, start = np.empty((count, width), np.uint8), [], 0
    for file in opened:
        data, labels = read_arrays(file, ("data", "labels"))
        x[start : start + len(data)] = data
        start += len(data)
        y.append(as_labels(labels, len(data), f"labels of {file.path}"))
    return x.reshape(count, 3, side, side), np.concatenate(y)
