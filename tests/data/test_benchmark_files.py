"""CIFAR, MNIST, SVHN and downsampled ImageNet, each in the layout of the files that its authors give out."""

import gzip
import pickle
import struct
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.io import savemat

from scoresde.data import Data, Discrete, cifar, idx, imagenet, svhn

RNG = np.random.default_rng(0)


def classes(data: Data, split: str) -> list[str]:
    indices, names = getattr(data, f"{split}_labels"), data.class_names
    assert names is not None
    return [names[i] for i in indices.tolist()]


# -- CIFAR ----------------------------------------------------------------------------------------------


def short(text: str) -> bytes:
    """A string of Python 2."""
    return b"U" + bytes([len(text)]) + text.encode()


def integers(values: list[int]) -> bytes:
    return b"](" + b"".join(b"K" + bytes([v]) for v in values) + b"e"


def pickled(x: np.ndarray, **labels: list[int]) -> bytes:
    """A batch as cPickle of Python 2 writes it with protocol 2, instruction by instruction."""
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85" + short("b") + b"\x87R("
        b"K\x01J" + struct.pack("<i", len(x)) + b"M\x00\x0c\x86cnumpy\ndtype\n" + short("u1") + b"K\x00K\x01\x87R(K\x03"
        + short("|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T" + struct.pack("<i", x.size) + x.tobytes()
        + b"tb"
    )  # fmt: skip
    named = b"".join(short(name) + integers(values) for name, values in labels.items())
    return b"\x80\x02}q\x00(" + short("data") + array + named + short("batch_label") + short("training batch") + b"u."


def cifar10(folder: Path) -> tuple[np.ndarray, list[int]]:
    x, y = RNG.integers(0, 256, (12, 3072), dtype=np.uint8), [i % 3 for i in range(12)]
    folder.mkdir()
    for i in range(5):
        (folder / f"data_batch_{i + 1}").write_bytes(pickled(x[2 * i : 2 * i + 2], labels=y[2 * i : 2 * i + 2]))
    (folder / "test_batch").write_bytes(pickle.dumps({b"data": x[10:], b"labels": y[10:]}, 2))
    (folder / "batches.meta").write_bytes(
        b"\x80\x02}" + short("label_names") + b"](" + b"".join(map(short, "zyx")) + b"es."
    )
    return x, y


def test_cifar_10_in_a_folder_or_archive(tmp_path: Path) -> None:
    x, y = cifar10(tmp_path / "cifar-10-batches-py")
    with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "cifar-10-batches-py", "cifar-10-batches-py")
    prints = set()
    for path in (tmp_path / "cifar-10-batches-py", tmp_path / "cifar-10-python.tar.gz"):
        data = cifar(str(path))
        assert (data.name, data.shape, data.transform) == ("cifar10", (3, 32, 32), Discrete(256))
        assert torch.equal(data.train, torch.from_numpy(x[:10].reshape(-1, 3, 32, 32)))
        assert torch.equal(data.test, torch.from_numpy(x[10:].reshape(-1, 3, 32, 32)))
        assert data.class_names == ("z", "y", "x")  # in the order of the files
        assert classes(data, "train") == ["zyx"[i] for i in y[:10]]
        prints.add(data.fingerprint())
    assert len(prints) == 1
    assert cifar(str(path), labels=False).num_classes is None
    with pytest.raises(ValueError, match="coarse=true is for CIFAR-100, and .* holds CIFAR-10"):
        cifar(str(path), coarse=True)


def test_cifar_100(tmp_path: Path) -> None:
    x = RNG.integers(0, 256, (5, 3072), dtype=np.uint8)
    for name, where in (("train", slice(0, 3)), ("test", slice(3, 5))):
        n = len(x[where])
        (tmp_path / name).write_bytes(pickled(x[where], fine_labels=[3, 1, 0][:n], coarse_labels=[1, 0, 0][:n]))
    meta: Mapping[str, Any] = {"fine_label_names": list("abcd"), "coarse_label_names": ["plants", "animals"]}
    (tmp_path / "meta").write_bytes(pickle.dumps(meta, 2))
    data = cifar(str(tmp_path))
    assert (data.name, data.class_names, classes(data, "train")) == ("cifar100", ("a", "b", "c", "d"), ["d", "b", "a"])
    assert classes(cifar(str(tmp_path), coarse=True), "train") == ["animals", "plants", "plants"]


def test_cifar_refusals(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no folder .*gone, nor an archive"):
        cifar(str(tmp_path / "gone"))
    with pytest.raises(ValueError, match="has no CIFAR batches for Python: expected data_batch_1"):
        cifar(str(tmp_path))
    for content, message in (
        (pickle.dumps(print), "data_batch_1 is a pickle with .*print: only plain values"),
        (pickle.dumps([1]), "data_batch_1 holds no dictionary"),
        (pickle.dumps({"data": [1]}), "data_batch_1 has no 'data' of rows of 3072 bytes"),
        (pickle.dumps({"data": np.zeros((1, 3072), "u1"), "labels": [[1]]}), "has no 'labels' that are integers"),
        (pickled(np.zeros((2, 3072), np.uint8), labels=[1]), "'labels' of .*data_batch_1 must be 2 integers"),
    ):
        (tmp_path / "data_batch_1").write_bytes(content)
        with pytest.raises(ValueError, match=message):
            cifar(str(tmp_path))


# -- IDX ------------------------------------------------------------------------------------------------


def write_idx(path: Path, x: np.ndarray, code: int = 8, dtype: str = ">u1") -> None:
    content = struct.pack(f">HBB{x.ndim}I", 0, code, x.ndim, *x.shape) + x.astype(dtype).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("names", ["train-{}-ubyte t10k-{}-ubyte", "emnist-train-{}-ubyte emnist-test-{}-ubyte"])
def test_mnist_in_its_own_files(tmp_path: Path, names: str, suffix: str) -> None:
    x, y = RNG.integers(0, 256, (8, 5, 4), dtype=np.uint8), np.arange(8) % 3
    folder = tmp_path / "raw"
    folder.mkdir()
    for name, where in zip(names.split(), (slice(0, 6), slice(6, 8)), strict=True):
        write_idx(folder / (name.format("images-idx3") + suffix), x[where])
        write_idx(folder / (name.format("labels-idx1") + suffix), y[where])
    first = folder / (names.split()[0].format("images-idx3") + suffix)
    for path in (tmp_path, folder, first):
        data = idx(str(path))
        assert (data.shape, data.transform) == ((1, 5, 4), Discrete(256))
        assert torch.equal(data.train[:, 0], torch.from_numpy(x[:6]))
        assert torch.equal(data.test[:, 0], torch.from_numpy(x[6:]))
        assert classes(data, "train") + classes(data, "test") == [str(n) for n in y]
    assert idx(str(first), labels=False).num_classes is None


def test_idx_of_other_types_and_without_other_files(tmp_path: Path) -> None:
    x = RNG.normal(size=(6, 3))
    write_idx(tmp_path / "waves.images-idx2", x, 0x0E, ">f8")
    data = idx(str(tmp_path / "waves.images-idx2"), test_size=2)
    assert np.array_equal(data.whole()[0].numpy(), x)
    assert data.num_classes is None
    with pytest.raises(ValueError, match="there is no file of labels beside"):
        idx(str(tmp_path / "waves.images-idx2"), labels=True)


def test_idx_refusals(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has 0 files of training images, such as train-images-idx3-ubyte"):
        idx(str(tmp_path))
    path = tmp_path / "train-images-idx3-ubyte.gz"
    write_idx(path, np.zeros((2, 3, 3)))
    whole = gzip.decompress(path.read_bytes())
    for content, message in (
        (gzip.compress(whole[:-1]), r"damaged: it declares the shape \(2, 3, 3\) and has 17 bytes"),
        (gzip.compress(b"text"), "is no IDX file"),
        (path.read_bytes()[:-9], "is damaged: "),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            idx(str(tmp_path))


def test_idx_is_held_to_the_limit_while_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_idx(tmp_path / "train-images-idx3-ubyte.gz", np.zeros((100, 100, 100)))
    monkeypatch.setenv("SCORESDE_MEMORY", str(1e5 / 2**30))
    with pytest.raises(ValueError, match="ubyte.gz would take .* the limit is"):
        idx(str(tmp_path))


# -- SVHN and ImageNet ----------------------------------------------------------------------------------


def test_svhn_has_digits_for_classes(tmp_path: Path) -> None:
    x, y = RNG.integers(0, 256, (12, 3, 32, 32), dtype=np.uint8), np.arange(12) % 10 + 1
    for name, where in (("train", slice(0, 10)), ("test", slice(10, 12))):
        savemat(tmp_path / f"{name}_32x32.mat", {"X": x[where].transpose(2, 3, 1, 0), "y": y[where, None]})
    data = svhn(str(tmp_path))
    assert torch.equal(data.train, torch.from_numpy(x[:10]))
    assert data.class_names == tuple("0123456789")
    assert classes(data, "train") == list("1234567890")
    with pytest.raises(ValueError, match="there is no file .*train_32x32.mat"):
        svhn(str(tmp_path / "gone" / "train_32x32.mat"))


def test_imagenet_of_several_files(tmp_path: Path) -> None:
    x, y = RNG.integers(0, 256, (14, 3 * 8 * 8), dtype=np.uint8), np.arange(14) + 1
    (tmp_path / "train").mkdir()
    for i in range(12):  # 10 comes after 2
        np.savez(
            tmp_path / "train" / f"train_data_batch_{i + 1}.npz", data=x[i : i + 1], labels=y[i : i + 1], mean=x[0]
        )
    np.savez(tmp_path / "val_data.npz", data=x[12:], labels=y[12:].tolist())
    data = imagenet(str(tmp_path))
    assert (data.name, data.shape) == ("imagenet8", (3, 8, 8))
    assert torch.equal(data.train.flatten(1), torch.from_numpy(x[:12]))
    assert torch.equal(data.test.flatten(1), torch.from_numpy(x[12:]))
    assert classes(data, "test") == ["13", "14"]
    np.savez(tmp_path / "val_data.npz", data=x[:, :100], labels=y)
    with pytest.raises(
        ValueError, match=r"array 'data' of .*val_data.npz has shape \(14, 100\) .* rows of 3·S·S bytes"
    ):
        imagenet(str(tmp_path))
    (tmp_path / "val").mkdir()
    with pytest.raises(ValueError, match="has no files train_data_batch_1.npz"):
        imagenet(str(tmp_path / "val"))
