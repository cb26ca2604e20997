"""CIFAR-10 and CIFAR-100 in the files for Python."""

import logging
import re
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from scoresde.data.assembling import Levels, array_data, as_labels
from scoresde.data.base import Data
from scoresde.data.labels import natural_order
from scoresde.data.trees import Tree, open_tree
from scoresde.storage.pickles import read_pickle

__all__ = ["cifar"]

_log = logging.getLogger(__name__)


def cifar(path: str, labels: bool = True, coarse: bool = False, test_size: int | float = 0.1, seed: int = 0) -> Data:
    """CIFAR-10 or CIFAR-100 (Krizhevsky 2009) in the files for Python: 32×32, 50,000 to train and 10,000 to test on.

    The files are pickles, and are read without running anything (see `scoresde.storage.pickles`).

    Args:
        path: The .tar.gz archive, or the folder that it unpacks to.
        labels: Whether to keep the classes.
        coarse: For CIFAR-100, the 20 superclasses instead of the 100 classes.
        test_size: Test samples where the test batch is missing, as a count (int) or a fraction (float).
        seed: Seed of their choice.

    Raises:
        ValueError: Files that are not there or damaged, or a pickle of more than plain values and arrays.
    """
    tree = open_tree(path)
    files = {file.name: file for file in tree.files()}
    batches = sorted((n for n in files if re.fullmatch(r"data_batch_\d+", n)), key=natural_order)
    hundred = not batches and "train" in files
    train, test = ["train"] if hundred else batches, "test" if hundred else "test_batch"
    if not train:
        raise ValueError(
            f"{path} has no CIFAR batches for Python: expected data_batch_1 to data_batch_5 and test_batch, or train "
            "and test, as in cifar-10-python.tar.gz and cifar-100-python.tar.gz"
        )
    if coarse and not hundred:
        raise ValueError(f"coarse=true is for CIFAR-100, and {path} holds CIFAR-10")
    if batches and len(batches) < 5:
        _log.warning("%s: %d of 5 batches are there: %s", path, len(batches), ", ".join(batches))
    key = ("coarse_labels" if coarse else "fine_labels") if hundred else "labels"
    parts, targets = [], []
    for names in (train, [test] if test in files else []):
        if names:
            read = [_cifar_batch(tree, files[name], key) for name in names]
            parts.append(np.concatenate([x for x, _ in read]))
            targets.append(np.concatenate([y for _, y in read]))
    meta = files.get("meta" if hundred else "batches.meta")
    classes = None if meta is None else _texts(_unpickled(tree, meta).get(key.replace("labels", "label_names")))
    name = "cifar100" if hundred else "cifar10"
    return array_data(name, parts, targets if labels else [], classes, Levels(256), test_size, seed)


def _unpickled(tree: Tree, file: PurePosixPath) -> dict[str, Any]:
    found = read_pickle(tree.read(file), tree.where(file))
    if not isinstance(found, dict):
        raise ValueError(f"{tree.where(file)} holds no dictionary, as CIFAR's batches do")
    return {k.decode("latin-1") if isinstance(k, bytes) else str(k): v for k, v in found.items()}


def _cifar_batch(tree: Tree, file: PurePosixPath, key: str) -> tuple[np.ndarray, np.ndarray]:
    batch = _unpickled(tree, file)
    x, y = batch.get("data"), batch.get(key)
    if not isinstance(x, np.ndarray) or x.dtype != np.uint8 or x.ndim != 2 or x.shape[1] != 3072:
        raise ValueError(f"{tree.where(file)} has no 'data' of rows of 3072 bytes, as CIFAR's batches do")
    if not isinstance(y, np.ndarray) and not (isinstance(y, list) and all(isinstance(each, int) for each in y)):
        raise ValueError(f"{tree.where(file)} has no {key!r} that are integers, as CIFAR's batches do")
    return x.reshape(-1, 3, 32, 32), as_labels(np.asarray(y), len(x), f"{key!r} of {tree.where(file)}")


def _texts(names: Any) -> list[str] | None:
    if not isinstance(names, list):
        return None
    return [n.decode("latin-1") if isinstance(n, bytes) else str(n) for n in names]
