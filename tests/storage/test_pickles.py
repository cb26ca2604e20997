import collections
import io
import pickle
from typing import Any

import numpy as np
import pytest

from scoresde.storage.pickles import read_pickle

ARRAY = np.arange(24, dtype=">u2").reshape(2, 3, 4)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_and_arrays_of_every_protocol(protocol: int) -> None:
    plain: dict[Any, Any] = {
        "a": [1, 2.5, None, True, -5, 2**40, 2**300],
        "t": (1, 2, 3, (4, ())),
        5: "é",
        "b": b"\xff\0",
    }
    plain["s"] = {1, "two"}
    assert read_pickle(pickle.dumps(plain, protocol), "f") == plain
    shared = [1]
    assert read_pickle(pickle.dumps([shared, shared], protocol), "f") == [[1], [1]]
    for x in (ARRAY, ARRAY.T, ARRAY[::2], np.zeros((0, 3)), np.array(["ab", "c"]), np.array([True])):
        found = read_pickle(pickle.dumps({"x": x}, protocol), "f")["x"]
        assert found.dtype == x.dtype
        assert np.array_equal(found, x)
    assert read_pickle(pickle.dumps(np.float32(2.5), protocol), "f") == 2.5


def test_text_of_python_2_is_bytes() -> None:
    assert read_pickle(b"\x80\x02}q\x01U\x04dataq\x02]q\x03(K\x01K\x02es.", "f") == {b"data": [1, 2]}


class Loud:
    """An object whose pickle asks for a call, a harmless one."""

    def __reduce__(self) -> Any:
        return _called, ()


CALLS: list[Any] = []


def _called() -> None:
    CALLS.append(1)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize(
    ("value", "what"),
    [
        (Loud(), r"test_pickles\._called"),
        (io.BytesIO, "io.BytesIO"),
        (collections.OrderedDict(a=1), "collections.OrderedDict"),
        (np.array([{}], dtype=object), "an array of type 'O8'"),
        (np.zeros(2, dtype=[("a", "f4")]), "an array of type 'V4'"),
        (1j, "complex"),
    ],
)
def test_nothing_else_is_made_or_called(protocol: int, value: Any, what: str) -> None:
    with pytest.raises(ValueError, match=f"^f is a pickle with .*{what}.*: only plain values and arrays"):
        read_pickle(pickle.dumps(value, protocol), "f")
    assert not CALLS


@pytest.mark.parametrize("content", [b"", b"text", pickle.dumps([1, 2])[:-1], b"\x80\x02.", b"\x80\x02h\x05."])
def test_damage(content: bytes) -> None:
    with pytest.raises(ValueError, match="^f is damaged"):
        read_pickle(content, "f")


def test_an_array_has_the_size_of_its_data() -> None:
    content = pickle.dumps(np.zeros(5, np.uint8), 2).replace(b"K\x05\x85", b"K\x06\x85")
    with pytest.raises(ValueError, match="an array whose shape is not that of its data"):
        read_pickle(content, "f")


def test_what_is_shared_is_not_multiplied() -> None:
    nested: list[Any] = [0]
    for _ in range(60):
        nested = [nested, nested]
    found = read_pickle(pickle.dumps(nested, 2), "f")
    assert found[0] is found[1]
    nested[0] = nested
    with pytest.raises(ValueError, match="a list that holds itself"):
        read_pickle(pickle.dumps(nested, 2), "f")


@pytest.mark.parametrize(
    ("value", "problem"), [({(1, 2): 3}, "a key that is neither"), ({"a": {((),): 0, 1: 2}}, "a key that is neither")]
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_keys_are_text_or_numbers(value: Any, problem: str, protocol: int) -> None:
    with pytest.raises(ValueError, match=problem):
        read_pickle(pickle.dumps(value, protocol), "f")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"\x80\x04]]\x93.", "a name that is no text"),
        (b"\x80\x02cnumpy\ndtype\n(]K\x00K\x01tR.", "a type that has no name"),
        (b"\x80\x02c_codecs\nencode\n(]X\x06\0\0\0latin1tR.", "text in another encoding"),
        # The same text encoded again and again: each time a few instructions for a copy of it.
        (
            b"\x80\x02X\xe8\x03\0\0" + 1000 * b"a" + b"q\x00X\x06\0\0\0latin1q\x01c_codecs\nencode\nq\x02"
            + 3 * b"h\x02(h\x00h\x01tR" + b".", "more text than it holds",
        ),
    ],
)  # fmt: skip
def test_little_does_not_become_much(content: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        read_pickle(content, "f")


def test_an_array_has_few_axes() -> None:
    content = pickle.dumps(np.zeros(1, np.uint8), 2).replace(b"K\x01\x85", b"(" + 40 * b"K\x01" + b"t")
    with pytest.raises(ValueError, match="an array whose shape is not that of its data"):
        read_pickle(content, "f")
