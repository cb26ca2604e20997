import numpy as np
import pytest

from scoresde.data.labels import class_index, index_classes, natural_order


@pytest.mark.parametrize(
    ("labels", "indices", "names"),
    [
        (np.array([1, 10, 2]), [0, 2, 1], ("1", "2", "10")),
        (np.array([200, 0, 100, 0], dtype=np.uint64), [2, 0, 1, 0], ("0", "100", "200")),
        (np.array([1, -1], dtype=np.int8), [1, 0], ("-1", "1")),
        (np.array(["dog10", "dog2", "cat"]), [2, 1, 0], ("cat", "dog2", "dog10")),
        (np.array([b"b", b"a"]), [1, 0], ("a", "b")),
    ],
)
def test_classes_are_contiguous_and_in_natural_order(
    labels: np.ndarray, indices: list[int], names: tuple[str, ...]
) -> None:
    (found,), classes = index_classes(labels)
    assert found.tolist() == indices
    assert classes == names


def test_classes_are_those_of_all_parts() -> None:
    (train, test), names = index_classes(np.array([3, 5]), np.array([4, 3]))
    assert (train.tolist(), test.tolist(), names) == ([0, 2], [1, 0], ("3", "4", "5"))


def test_refuses_labels_that_are_no_classes() -> None:
    for labels in (np.array([0.5]), np.array([True]), np.array([2**63], dtype=np.uint64)):
        with pytest.raises(ValueError, match="labels"):
            index_classes(labels)
    with pytest.raises(ValueError, match="some labels are integers and others are strings"):
        index_classes(np.array([1]), np.array(["a"]))


def test_natural_order() -> None:
    names = ["b1", "a10", "a2", "10", "9", "a"]
    assert sorted(names, key=natural_order) == ["9", "10", "a", "a2", "a10", "b1"]


@pytest.mark.parametrize(
    ("label", "names", "index"),
    [
        ("dog", ("cat", "dog"), 1),
        (1, ("cat", "dog"), 1),
        ("1", ("cat", "dog"), 1),
        (1, ("1", "2", "10"), 0),
        (10, ("1", "2", "10"), 2),
        (2, ("001", "002"), 1),
        (-1, ("-1", "1"), 0),
    ],
)
def test_a_class_by_name_or_index(label: int | str, names: tuple[str, ...], index: int) -> None:
    assert class_index(label, names) == index


@pytest.mark.parametrize(
    ("label", "names", "message"),
    [
        ("dgo", ("cat", "dog"), "label is 'dgo', expected one of the classes cat, dog"),
        (2, ("cat", "dog"), "label is 2, expected 0 to 1, or one of the classes cat, dog"),
        (-1, ("cat", "dog"), "label is -1, expected 0 to 1"),
        (0, ("1", "2"), "label is 0, expected one of the classes 1, 2"),  # an index would be another's name
        (1, ("0", "100", "200"), "label is 1, expected one of the classes 0, 100, 200"),
        (True, ("cat", "dog"), "label is True"),
        ("x", tuple(f"class{i}" for i in range(100)), "class19 and 80 more"),
    ],
)
def test_refuses_what_is_no_class(label: int | str, names: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        class_index(label, names)
