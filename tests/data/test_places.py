"""Paths of data: in the home folder, and none at all."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from scoresde.data import Data, arrays, cifar, file, idx, image_folder, imagenet, parquet, svhn, table
from scoresde.data.places import located

READERS = [arrays, cifar, file, idx, image_folder, imagenet, parquet, svhn, table]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("path", ["", " "])
def test_an_empty_path_is_not_the_current_folder(reader: Callable[[str], Data], path: str) -> None:
    with pytest.raises(ValueError, match="^path is empty, expected a f"):
        reader(path)


@pytest.mark.parametrize("reader", [arrays, table])
def test_an_empty_path_of_test_samples(
    reader: Callable[..., Data], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.zeros((4, 2)))
    np.savetxt("x.csv", np.zeros((4, 2)), delimiter=",")
    with pytest.raises(ValueError, match="^test_path is empty, expected a file or folder$"):
        reader("x.npy" if reader is arrays else "x.csv", test_path="")


@pytest.mark.parametrize("reader", READERS)
def test_a_named_pipe_is_not_waited_for(reader: Callable[[str], Data], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe"):
        reader(str(tmp_path / "pipe"))


def test_a_path_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    np.savetxt(tmp_path / "x.csv", np.arange(20.0).reshape(10, 2), delimiter=",")
    for reader in (file, table):
        assert reader("~/x.csv").name == "x"
    np.save(tmp_path / "x.npy", np.arange(20.0).reshape(10, 2))
    assert arrays("~/x.npy", test_path="~/x.npy").name == "x"
    for each in READERS:
        with pytest.raises(ValueError, match="gone"):
            each("~/gone")
    assert located("a/~") == Path("a/~")
    with pytest.raises(ValueError, match="^path: ~nobody-of-this-name has no home folder$"):
        located("~nobody-of-this-name/a")
