"""MNIST in its own files, and the data sets that are stored like it."""

import math
import re
from pathlib import Path

import numpy as np

from scoresde.data.assembling import Levels, array_data, as_labels
from scoresde.data.base import Data
from scoresde.data.places import located
from scoresde.data.trees import uncompressed

__all__ = ["idx"]

_IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def idx(
    path: str, labels: bool | None = None, test_size: int | float = 0.1, seed: int = 0, levels: int | None = None
) -> Data:
    """MNIST (LeCun et al. 1998) and what is stored like it (Fashion-MNIST, KMNIST, EMNIST), gzipped or not.

    Files are found by their names: `train-images-idx3-ubyte` with `train-labels-idx1-ubyte`, and `t10k-...` or
    `test-...` to test on.

    Args:
        path: The folder, or the file of the training images.
        labels: Whether there are labels. None: if their file is there.
        test_size: Test samples where no test file is there, as a count (int) or a fraction (float).
        seed: Seed of their choice.
        levels: Number of values 0 .. levels-1 of integers other than bytes.

    Raises:
        ValueError: Files that are not there, damaged, or of another format.
    """
    place = located(path)
    if place.is_dir():
        folder = place / "raw" if (place / "raw").is_dir() else place  # as torchvision unpacks them
        found = [p for p in sorted(folder.iterdir()) if re.search(r"images[-.]idx\d", p.name)]
        train = [p for p in found if not _is_test(p.name)]
        plain = {p.name.removesuffix(".gz"): p for p in sorted(train, reverse=True)}
        if len(plain) != 1:
            names = ", ".join(sorted(plain)) or "none"
            raise ValueError(
                f"{path} has {len(plain)} files of training images, such as train-images-idx3-ubyte(.gz): {names}; "
                "give the folder of one data set, or its file"
            )
        (place,) = plain.values()
    elif not place.is_file():
        raise ValueError(f"there is no file {path}")
    files = [place]
    other = _beside(place, *((a, b) for a in ("train", "Train") for b in ("t10k", "test")))
    if other is not None:
        files.append(other)
    parts = [_idx_array(file) for file in files]
    targets: list[np.ndarray] = []
    if labels is not False:
        for file, x in zip(files, parts, strict=True):
            target = _beside(file, ("images-idx3", "labels-idx1"), ("images.idx3", "labels.idx1"))
            if target is None and (labels or targets):
                raise ValueError(f"there is no file of labels beside {file}, such as train-labels-idx1-ubyte")
            if target is None:
                break
            targets.append(as_labels(_idx_array(target), len(x), str(target)))
    kind = Levels(levels).of(parts[0], str(place))
    shaped = [x[:, None] if x.ndim == 3 else x for x in parts]
    name = re.sub(r"[-_.]?(train[-_.]?)?images[-.].*", "", place.name) or place.resolve().parent.name
    return array_data(name, shaped, targets, None, kind, test_size, seed)


def _is_test(name: str) -> bool:
    return "t10k" in name or "test" in name.lower()


def _beside(file: Path, *changes: tuple[str, str]) -> Path | None:
    """The first file in the same folder, packed or not, that has its name with one of the changes."""
    for old, new in changes:
        if old not in file.name:
            continue
        name = file.name.replace(old, new)
        for candidate in (name, name.removesuffix(".gz"), f"{name}.gz"):
            if (file.parent / candidate).is_file():
                return file.parent / candidate
    return None


def _idx_array(path: Path) -> np.ndarray:
    content = uncompressed(path)
    dtype = np.dtype(_IDX_TYPES.get(content[2], "V1")) if len(content) > 4 and content[:2] == b"\0\0" else None
    if dtype is None or dtype.kind == "V" or not 1 <= content[3] <= 8:
        raise ValueError(f"{path} is no IDX file, the format of MNIST")
    start = 4 + 4 * content[3]
    shape = tuple(np.frombuffer(content[4:start], ">u4").tolist())
    if len(shape) != content[3] or math.prod(shape) * dtype.itemsize != len(content) - start:
        raise ValueError(f"{path} is damaged: it declares the shape {shape} and has {len(content) - start} bytes")
    return np.frombuffer(content, dtype, offset=start).reshape(shape)
