"""Street View House Numbers."""

import numpy as np

from scoresde.data.array_data import array_file
from scoresde.data.array_files import read_arrays
from scoresde.data.assembling import Levels, array_data, as_labels
from scoresde.data.base import Data
from scoresde.data.layout import samples_first
from scoresde.data.places import located

__all__ = ["svhn"]


def svhn(path: str, labels: bool = True, test_size: int | float = 0.1, seed: int = 0) -> Data:
    """Street View House Numbers (Netzer et al. 2011), cropped digits of 32×32; class 10 of the files is the digit 0.

    Args:
        path: The folder of train_32x32.mat and test_32x32.mat, or the file to train on; extra_32x32.mat is left out.
        labels: Whether to keep the 10 classes.
        test_size: Test samples where the test file is missing, as a count (int) or a fraction (float).
        seed: Seed of their choice.

    Raises:
        ValueError: Files that are not there, damaged, or of another layout.
    """
    place = located(path)
    first = place / "train_32x32.mat" if place.is_dir() else place
    second = first.with_name(first.name.replace("train", "test"))
    parts, targets = [], []
    for file in [first] if second == first or not second.is_file() else [first, second]:
        x, y = read_arrays(array_file(str(file)), ("X", "y"))
        if x.ndim != 4 or x.shape[2] != 3 or x.dtype != np.uint8:
            raise ValueError(f"{file} has X of shape {x.shape} and dtype {x.dtype}, expected (32, 32, 3, N) bytes")
        pixels = samples_first(x, True, None, str(file)).transpose(0, 3, 1, 2)
        parts.append(pixels)
        targets.append(as_labels(y, len(pixels), f"labels of {file}") % 10)
    return array_data("svhn", parts, targets if labels else [], list("0123456789"), Levels(256), test_size, seed)
