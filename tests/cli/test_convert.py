"""`scoresde convert`: nothing of the data is lost, and nothing that is there is replaced."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scoresde.cli import main
from scoresde.cli.completion import complete
from scoresde.data import Data, Discrete, file, writing

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (12, 3, 8, 8), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    np.savez("a.npz", data=X.reshape(12, -1), labels=np.arange(12) % 3 + 1)
    np.save("points.npy", RNG.normal(size=(12, 2)))
    return tmp_path


@pytest.mark.parametrize("destination", ["new/b.npz", "new/b.zip", "new/b"])
def test_what_is_written_is_what_was_read(folder: Path, capsys: pytest.CaptureFixture[str], destination: str) -> None:
    main(["convert", "a.npz", destination, "shape=[3,8,8]", "test_size=5", "seed=3"])
    out = capsys.readouterr().out
    assert "a.npz: 7 to train on, 5 to test on, shape (3, 8, 8)" in out
    choice = "npz" if destination.endswith("npz") else "edm"
    assert out.endswith(f"to use it: scoresde train data={choice} data.path={destination}\n")
    source, made = file("a.npz", shape=[3, 8, 8], test_size=5, seed=3), file(destination)
    assert made.fingerprint() == source.fingerprint()
    assert made.class_names == source.class_names == ("1", "2", "3")
    assert sorted(p.name for p in (folder / "new").iterdir()) == [Path(destination).name]


@pytest.mark.parametrize(("destination", "write"), [("b", "write_folder"), ("b.zip", "write_zip")])
def test_what_a_signal_ends_leaves_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], destination: str, write: str
) -> None:
    before = sorted(folder.iterdir())
    written = getattr(writing, write)
    monkeypatch.setattr(writing, write, lambda *a: (written(*a), os.kill(os.getpid(), signal.SIGTERM)))  # type: ignore[func-returns-value]
    with pytest.raises(SystemExit) as stop:
        main(["convert", "a.npz", destination, "shape=[3,8,8]"])
    assert stop.value.code == 128 + signal.SIGTERM
    assert capsys.readouterr().err == "scoresde: interrupted by SIGTERM\n"
    assert sorted(folder.iterdir()) == before


def test_other_values_than_pixels(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["convert", "points.npy", "b.npz", "split=last"])
    assert file("b.npz").fingerprint() == file("points.npy", split="last").fingerprint()
    np.save("levels.npy", RNG.integers(0, 17, (12, 1, 8, 8)))
    main(["convert", "levels.npy", "c.npz", "levels=17"])
    assert "data=npz data.path=c.npz data.levels=17" in capsys.readouterr().out
    assert file("c.npz", levels=17).fingerprint() == file("levels.npy", levels=17).fingerprint()


def test_names_of_classes_keep_their_order(tmp_path: Path) -> None:
    x, y = torch.from_numpy(X), torch.arange(12) % 3
    data = Data("a", x[:9], x[9:], Discrete(256), y[:9], y[9:], class_names=("owl", "ant", "bee/wasp"))
    with (tmp_path / "a.zip").open("wb") as stream:
        writing.write_zip(data, stream)
    with (tmp_path / "a.npz").open("wb") as stream:
        writing.write_npz(data, stream)
    for name in ("a.zip", "a.npz"):
        made = file(str(tmp_path / name))
        assert (made.fingerprint(), made.class_names) == (data.fingerprint(), data.class_names)
    (tmp_path / "a").mkdir()
    writing.write_folder(data, tmp_path / "a")
    listed = json.loads((tmp_path / "a" / "dataset.json").read_text())
    listed["class_names"] = ["owl"]
    (tmp_path / "a" / "dataset.json").write_text(json.dumps(listed))
    with pytest.raises(ValueError, match="has class_names that do not name the labels 0..2"):
        file(str(tmp_path / "a"))


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["a.npz"], 2, "convert takes a source and a destination, got a.npz"),
        ([], 2, "got neither"),
        (["a.npz", "points.npy"], 2, "points.npy is there already, and is not replaced"),
        (["a.npz", "b.tfrecord"], 2, "b.tfrecord is to be of the format .tfrecord: give a name with .npz or .zip"),
        (
            ["a.npz", "b.npz", "shap=[3,8,8]"],
            2,
            "convert has no 'shap', did you mean 'shape'?; with data=file",
        ),
        (["a.npz", "b.npz", "shape=[3,"], 2, "shape=[3, cannot be read as a value: write lists as [3,32,32]"),
        (["a.npz", "b.npz", "data=npx"], 2, "data has no choice 'npx', did you mean 'npz'"),
        (["a.npz", "b.npz", "--force"], 2, "convert has no option --force"),
        (["a.npz", "b.npz", "size=3"], 1, "which has no size; it takes key"),
        (["a.npz", "b.npz", "test_size=abc"], 1, "test_size is 'abc', expected an integer or a number"),
        (["gone.npz", "b.npz"], 1, "there is no file or folder gone.npz"),
        (["points.npy", "b.zip"], 1, "pictures are (C, H, W) with 1 to 4 channels and 256 levels: write an .npz file"),
        (["points.npy", "b"], 1, "write an .npz file"),
    ],
)
def test_refusals(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, message: str
) -> None:
    before = sorted(p.name for p in folder.iterdir())
    with pytest.raises(SystemExit) as stop:
        main(["convert", *arguments])
    error = capsys.readouterr().err
    assert stop.value.code == status
    assert message in error
    assert error.count("\n") == 1
    assert sorted(p.name for p in folder.iterdir()) == before


def test_an_interrupted_folder_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(data: Any, place: Path) -> None:
        (place / "train").mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(writing, "write_folder", stop)
    with pytest.raises(KeyboardInterrupt):
        main(["convert", "a.npz", "b", "shape=[3,8,8]"])
    assert sorted(p.name for p in folder.iterdir()) == ["a.npz", "points.npy"]


def test_help_and_completion(capsys: pytest.CaptureFixture[str]) -> None:
    main(["convert", "--help"])
    out = capsys.readouterr().out
    assert "usage: scoresde convert SOURCE DESTINATION" in out
    assert "shape: null" in out
    assert complete(["convert", "a", "b", "sha"]) == ["shape="]
    assert complete(["convert", "a", "b", "data=cifar", "coa"]) == ["coarse="]
    assert complete(["convert", "a", "b", "data=np"]) == ["data=npy", "data=npz"]
