import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from scipy.io import savemat

from scoresde import data as readers
from scoresde.cli.catalogue import conf_dir
from scoresde.data import file
from tests.data.test_benchmark_files import cifar10, write_idx
from tests.data.test_folders import png, write

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (10, 3, 8, 8), dtype=np.uint8)
Y = np.arange(10) % 2


def make(folder: Path) -> dict[str, str]:
    """A file or folder of every format, and the reader that `file` has to choose for it."""
    np.savez(folder / "a.npz", x=X, y=Y)
    np.save(folder / "a.npy", X)
    savemat(folder / "a.mat", {"x": X, "y": Y})
    torch.save({"x": torch.from_numpy(X)}, folder / "a.pt")
    (folder / "arrays").mkdir()
    np.save(folder / "arrays" / "x.npy", X)
    write(folder / "pictures", {f"{c}/{i}.png": png(10 * i + ord(c)) for i in range(4) for c in "ab"})
    write(folder / "a.zip", {f"{c}/{i}.png": png(10 * i + ord(c)) for i in range(4) for c in "ab"})
    write(folder / "a.tar.gz", {f"{c}/{i}.png": png(10 * i + ord(c)) for i in range(4) for c in "ab"})
    pd.DataFrame(RNG.normal(size=(10, 2)), columns=["a", "b"]).to_csv(folder / "a.csv", index=False)
    pd.DataFrame(RNG.normal(size=(10, 2)), columns=["a", "b"]).to_parquet(folder / "a.parquet")
    pd.DataFrame({"image": [png(i) for i in range(4)], "label": Y[:4]}).to_parquet(folder / "b.parquet")
    cifar10(folder / "cifar-10-batches-py")
    (folder / "mnist").mkdir()
    write_idx(folder / "mnist" / "train-images-idx3-ubyte.gz", X[:, 0])
    write_idx(folder / "mnist" / "train-labels-idx1-ubyte.gz", Y)
    (folder / "svhn").mkdir()
    savemat(folder / "svhn" / "train_32x32.mat", {"X": RNG.integers(0, 256, (32, 32, 3, 10), np.uint8), "y": Y + 1})
    (folder / "imagenet").mkdir()
    np.savez(folder / "imagenet" / "train_data_batch_1.npz", data=X.reshape(10, -1), labels=Y + 1)
    return {
        **dict.fromkeys(("a.npz", "a.npy", "a.mat", "a.pt", "arrays"), "arrays"),
        **dict.fromkeys(("pictures", "a.zip", "a.tar.gz"), "image_folder"),
        **dict.fromkeys(("a.csv", "a.parquet"), "table"),
        "b.parquet": "parquet",
        "cifar-10-batches-py": "cifar",
        **dict.fromkeys(("mnist", "mnist/train-images-idx3-ubyte.gz"), "idx"),
        **dict.fromkeys(("svhn", "svhn/train_32x32.mat"), "svhn"),
        "imagenet": "imagenet",
    }


def test_the_reader_is_told_from_the_content(tmp_path: Path) -> None:
    for name, reader in make(tmp_path).items():
        chosen = file(str(tmp_path / name))
        labels = {"labels": None} if reader == "image_folder" else {}
        assert chosen.fingerprint() == getattr(readers, reader)(str(tmp_path / name), **labels).fingerprint(), name
        unlabelled = reader == "table" or name in ("a.npy", "a.pt", "arrays")
        assert (chosen.class_names is None) == unlabelled, name


def test_arguments_go_to_the_reader_or_are_refused(tmp_path: Path) -> None:
    make(tmp_path)
    assert file(str(tmp_path / "pictures"), size=2, channels=1, labels=False).shape == (1, 2, 2)
    assert file(str(tmp_path / "pictures"), levels=256).transform.levels == 256
    with pytest.raises(ValueError, match="pictures has 256 levels, as pictures have, not levels=17"):
        file(str(tmp_path / "pictures"), levels=17)
    assert file(str(tmp_path / "a.npz"), split="last", test_size=3).test.shape == (3, 3, 8, 8)
    with pytest.raises(ValueError, match=r"a.npz is read as data=npz, .*, which has no size; it takes key, label_key"):
        file(str(tmp_path / "a.npz"), size=2)
    with pytest.raises(ValueError, match="is read as data=table, which has no labels; it takes columns, label_column"):
        file(str(tmp_path / "a.csv"), labels=True)


def test_every_choice_documents_all_arguments_of_its_function() -> None:
    choices = ("arrays", "cifar", "file", "idx", "image_folder", "imagenet", "npz", "parquet", "svhn", "table")
    for choice in (*choices, "webdataset"):
        parameters = inspect.signature(getattr(readers, choice)).parameters
        own = [
            p for p in (conf_dir() / "data").glob("*.yaml") if f"_target_: scoresde.data.{choice}\n" in p.read_text()
        ]
        assert own
        for path in own:
            node = yaml.safe_load(path.read_text())
            assert set(node) - {"_target_"} == set(parameters), path.name
            for name, value in node.items():
                default: Any = parameters[name].default if name != "_target_" else value
                assert value in ("???", default) or (path.stem, name) == ("edm", "labels"), (path.name, name)
            assert all("# " in line for line in path.read_text().splitlines() if not line.startswith("_target_"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.pkl", "a pickle can run code when it is loaded; if you trust it, numpy.savez"),
        ("a.tfrecord-00000-of-00002", "import os, tensorflow as tf"),
        ("a.xlsx", "pandas.read_excel.*data=table reads"),
        ("a.mp4", "ffmpeg -i"),
        ("lmdb/data.mdb", "lmdb.open"),
        ("a.unheard", "numpy.savez.path, x=x, y=y. writes one"),
        ("a.png", "is a single picture: give the folder"),
    ],
)
def test_other_formats_are_refused_with_the_way_out(tmp_path: Path, name: str, message: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"something")
    given = path.parent if name.startswith("lmdb") else path
    with pytest.raises(ValueError, match=message) as caught:
        file(str(given))
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="there is no file or folder .*gone"):
        file(str(tmp_path / "gone"))


def test_a_folder_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no files of a format that is read: give a folder of pictures"):
        file(str(tmp_path))
    Image.new("L", (2, 2)).save(tmp_path / "a.png")
    (tmp_path / "x.npy").write_bytes(b"")
    with pytest.raises(ValueError, match="leaves 0 training and 1 test"):  # pictures count for more
        file(str(tmp_path))
