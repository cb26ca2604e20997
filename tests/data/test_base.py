import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.model_selection import train_test_split

from scoresde.data.affine import Identity, Standardise
from scoresde.data.base import Data, split_indices
from scoresde.data.transforms import Discrete


def make(**changes: Any) -> Data:
    arguments: dict[str, Any] = {
        "name": "example",
        "train": torch.arange(6).reshape(3, 2),
        "test": torch.arange(2).reshape(1, 2),
        "transform": Discrete(17),
    }
    return Data(**(arguments | changes))


def test_integers_are_stored_compactly() -> None:
    data = make()
    assert data.train.dtype == data.test.dtype == torch.uint8
    assert data.train.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert make(train=torch.arange(6.0).reshape(3, 2)).train.dtype == torch.uint8
    assert make(transform=Discrete(300), train=torch.tensor([[299, 0]])).train.tolist() == [[299, 0]]
    assert data.shape == (2,)
    assert data.num_classes is None


def test_floats_keep_their_precision() -> None:
    for dtype in (torch.float32, torch.float64):
        train = torch.rand(3, 1, 2, dtype=dtype, generator=torch.Generator().manual_seed(0))
        assert make(train=train, test=train, transform=Identity()).train.dtype == dtype


def test_labels() -> None:
    data = make(train_labels=torch.tensor([0, 2, 1], dtype=torch.uint8), test_labels=torch.tensor([0]))
    assert data.num_classes == 3
    assert data.train_labels is not None
    assert data.train_labels.dtype == torch.int64
    assert make(train_labels=torch.zeros(3).long(), test_labels=torch.zeros(1).long(), num_classes=5).num_classes == 5


def test_repr_shows_no_values() -> None:
    assert repr(make()) == (
        "Data(example: 3 train, 1 test, shape (2,), no labels, Discrete(levels=17, low=-1.0, high=1.0))"
    )


def test_the_fingerprint_is_of_values_labels_and_split() -> None:
    labels = {"train_labels": torch.tensor([0, 1, 0]), "test_labels": torch.tensor([1])}
    base = make(**labels)
    same = make(**labels, name="another", transform=Discrete(17, 0.0, 1.0), train=base.train.long(), num_classes=5)
    assert same.fingerprint() == base.fingerprint()
    values = base.train.clone()
    values[0, 0] += 1
    others = [
        make(**labels, train=values),
        make(**labels, test=base.test + 1),
        make(**{**labels, "train_labels": torch.tensor([0, 1, 1])}),
        make(),
        make(**labels, train=base.train[[1, 0, 2]]),
    ]
    assert len({data.fingerprint() for data in [base, *others]}) == 6
    assert len(base.fingerprint()) == 16


def test_the_whole_is_in_the_order_of_the_source() -> None:
    labels = {"train_labels": torch.tensor([0, 1, 2]), "test_labels": torch.tensor([3])}
    values, classes = make(**labels, num_classes=4, rows=torch.tensor([3, 0, 1, 2])).whole()
    assert values.tolist() == [[2, 3], [4, 5], [0, 1], [0, 1]]
    assert classes is not None
    assert classes.tolist() == [1, 2, 3, 0]
    values, classes = make().whole()
    assert values.tolist() == [[0, 1], [2, 3], [4, 5], [0, 1]]
    assert classes is None


def test_classes_have_names() -> None:
    labelled = {"train_labels": torch.tensor([0, 2, 1]), "test_labels": torch.tensor([2])}
    assert make(**labelled).class_names == ("0", "1", "2")
    data = make(**labelled, class_names=("cat", "dog", "owl"))
    assert data.num_classes == 3
    other = data.with_classes(["owl", "ape", "cat", "dog"])
    assert (other.class_names, other.num_classes) == (("owl", "ape", "cat", "dog"), 4)
    assert other.train_labels is not None
    assert other.test_labels is not None
    assert (other.train_labels.tolist(), other.test_labels.tolist()) == ([2, 0, 3], [0])
    numbered = make(**labelled).with_classes(["cat", "dog", "owl"])  # called by their indices
    assert numbered.class_names == ("cat", "dog", "owl")
    with pytest.raises(ValueError, match="example has the classes dog, expected those of cat, owl"):
        data.with_classes(["cat", "owl"])
    with pytest.raises(ValueError, match="example has no labels, expected the classes cat"):
        make().with_classes(["cat"])
    for names in (("cat", "dog"), ("cat", "cat", "dog")):
        with pytest.raises(ValueError, match=r"class_names must be 3 different names|labels must lie in"):
            make(**labelled, class_names=names)


def test_samples_of_one_class() -> None:
    data = make(train_labels=torch.tensor([0, 1, 1]), test_labels=torch.tensor([1]), class_names=("cat", "dog"))
    dogs = data.of_class(1)
    assert (dogs.train.tolist(), dogs.test.tolist()) == ([[2, 3], [4, 5]], [[0, 1]])
    assert (dogs.class_names, dogs.num_classes) == (("cat", "dog"), 2)
    assert dogs.train_labels is not None
    assert dogs.train_labels.tolist() == [1, 1]
    with pytest.raises(ValueError, match="example has 1 training and 0 test samples of class cat: expected some"):
        data.of_class(0)
    with pytest.raises(ValueError, match="example has no labels"):
        make().of_class(0)


THREE = torch.tensor([0, 1, 2])
ONE = torch.tensor([0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": torch.zeros(0, 2).long()}, r"example: train data is empty, shape \(0, 2\)"),
        ({"test": torch.zeros(0, 2).long()}, "example: test data is empty"),
        ({"test": torch.zeros(3).long()}, r"test data must be \(N, \*shape\), got shape \(3,\)"),
        ({"test": torch.zeros(1, 3).long()}, r"differ in shape, \(2,\) and \(3,\)"),
        ({"train": torch.full((3, 2), 7)}, "constant data, every training value is 7"),
        (
            {"train": torch.tensor([[17, 0]])},
            "train data: raw values must be integers 0..16 .* worst value is 17",
        ),
        ({"test": torch.tensor([[math.nan, 0]])}, "test data: raw values .* worst value is nan"),
        ({"test": torch.tensor([[True, False]])}, "test data has dtype torch.bool"),
        ({"transform": Identity()}, "dtype torch.int64 under a continuous transform: .* use Discrete"),
        (
            {"transform": Identity(), "train": torch.tensor([[0.0, math.inf]])},
            "train data: values must be finite, 1 of 2",
        ),
        ({"train_labels": THREE}, "labels for both train and test data, or for neither"),
        ({"num_classes": 3}, "num_classes=3 needs labels"),
        ({"train_labels": THREE[:2], "test_labels": ONE}, r"train labels must have shape \(3,\), got \(2,\)"),
        (
            {"train_labels": THREE, "test_labels": ONE[:, None]},
            r"test labels must have shape \(1,\), got \(1, 1\)",
        ),
        ({"train_labels": THREE.float(), "test_labels": ONE}, "train labels have dtype torch.float32"),
        ({"train_labels": THREE - 1, "test_labels": ONE}, "train labels must lie in 0..1, got -1"),
        ({"train_labels": THREE, "test_labels": ONE + 3}, "test labels must lie in 0..2, got 3"),
        (
            {"train_labels": THREE, "test_labels": ONE, "num_classes": 2},
            "train labels must lie in 0..1, got 2",
        ),
    ],
)
def test_refusals(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        make(**changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("test_size", [7, 0.1, 0.25])
def test_split_is_scikit_learns(test_size: float) -> None:
    values = np.random.default_rng(0).random((33, 2))
    expected = train_test_split(values, test_size=test_size, random_state=5)
    for indices, part in zip(split_indices(33, test_size, 5), expected, strict=True):
        assert np.array_equal(values[indices.numpy()], part)


@pytest.mark.parametrize("test_size", [None, True, math.nan, "0.1"])
def test_split_refuses_what_is_no_number(test_size: Any) -> None:
    with pytest.raises(ValueError, match="test_size is .*, expected a count"):
        split_indices(10, test_size, 0)


@pytest.mark.parametrize("seed", [None, -1, 1.0, True, 2**32])
def test_split_refuses_a_seed_that_draws_anew(seed: Any) -> None:
    with pytest.raises(ValueError, match="seed must be"):
        split_indices(10, 2, seed)


@pytest.mark.parametrize("test_size", [0, 10, 11, -1, 0.0, 1.0, 0.95, 1.5])
def test_split_refuses_an_empty_part(test_size: float) -> None:
    with pytest.raises(ValueError, match=f"test_size={test_size} leaves"):
        split_indices(10, test_size, 0)


def test_without_a_transform_data_are_standardised() -> None:
    train = torch.tensor([[1.0, 2000.0], [3.0, 2000.5], [5.0, 2001.0]])
    data = Data("mine", train, train[:1])
    assert data.transform == Standardise.fit(train, "channel")
    with pytest.raises(ValueError, match="dtype torch.int64 under a continuous transform"):
        Data("mine", train.long(), train[:1].long())
    with pytest.raises(ValueError, match="constant data"):
        Data("mine", torch.ones(3, 2), torch.ones(1, 2))
