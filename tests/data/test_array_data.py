import gzip
import logging
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from scipy.io import savemat

from scoresde.data import Data, Discrete, arrays
from scoresde.data.array_names import find_arrays
from scoresde.data.rows import is_lazy
from scoresde.storage.digests import digest

RNG = np.random.default_rng(0)
PICTURES = RNG.integers(0, 256, (20, 3, 8, 8), dtype=np.uint8)
LABELS = np.arange(20) % 4
POINTS = RNG.normal(3.0, 2.0, (20, 6))


def load(path: Path, **arguments: Any) -> Data:
    return arrays(str(path), **arguments)


def labels_of(data: Data) -> list[str]:
    """The classes of all samples by name, in the order of the source."""
    indices, names = data.whole()[1], data.class_names
    assert indices is not None
    assert names is not None
    return [names[i] for i in indices.tolist()]


@pytest.mark.parametrize(
    ("names", "samples", "labels", "test", "test_labels"),
    [
        (("x_train", "y_train", "x_test", "y_test"), "x_train", "y_train", "x_test", "y_test"),
        (("X_train", "X_test"), "X_train", None, "X_test", None),
        (("test_images", "test_labels", "train_images", "train_labels"), "train_images", "train_labels",
         "test_images", "test_labels"),
        (("trainX", "trainY", "valX", "valY"), "trainX", "trainY", "valX", "valY"),
        (("x", "y"), "x", "y", None, None),
        (("X", "y"), "X", "y", None, None),
        (("data", "labels", "mean"), "data", "labels", None, None),
        (("train/images", "train/labels", "test/images", "test/labels"), "train/images", "train/labels",
         "test/images", "test/labels"),
        (("fields",), "fields", None, None, None),
        (("arr_0",), "arr_0", None, None, None),
        (("fields", "targets"), "fields", "targets", None, None),
        (("x_test",), "x_test", None, None, None),
        (("x_train", "y_train", "x_test"), "x_train", None, "x_test", None),
    ],
)  # fmt: skip
def test_arrays_are_found_by_their_usual_names(
    names: tuple[str, ...], samples: str, labels: str | None, test: str | None, test_labels: str | None
) -> None:
    found = find_arrays(names, "a.npz")
    assert (found.samples, found.labels, found.test, found.test_labels) == (samples, labels, test, test_labels)


@pytest.mark.parametrize("names", [("a", "b"), ("x", "images"), (), ("y",), ("x_val", "x_test")])
def test_arrays_that_are_not_told_apart_are_listed(names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=f"available: {', '.join(names) or 'none'}: say which by key=NAME"):
        find_arrays(names, "a.npz")


def test_npz_with_test_arrays_as_keras_and_medmnist_save_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    parts = {"train": slice(0, 12), "val": slice(12, 15), "test": slice(15, 20)}
    np.savez(
        tmp_path / "med.npz",
        **{f"{p}_images": PICTURES[s] for p, s in parts.items()},
        **{f"{p}_labels": LABELS[s, None] for p, s in parts.items()},
    )
    data = load(tmp_path / "med.npz")
    assert torch.equal(data.train, torch.from_numpy(PICTURES[:12]))
    assert torch.equal(data.test, torch.from_numpy(PICTURES[15:]))
    assert labels_of(data) == [str(y) for y in [*LABELS[:12], *LABELS[15:]]]
    assert "med.npz: val_images left out" in caplog.text
    assert load(tmp_path / "med.npz", labels=False).class_names is None
    assert load(tmp_path / "med.npz", key="val_images", test_size=1).num_classes is None  # what is named is taken alone


def test_labels_of_usual_kinds(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for y in (LABELS, LABELS[:, None], LABELS.astype(float), np.eye(4)[LABELS], LABELS == 1):
        np.savez(tmp_path / "a.npz", x=POINTS, y=y)
        assert labels_of(load(tmp_path / "a.npz")) == [
            str(int(n)) for n in (LABELS == 1 if y.dtype == bool else LABELS)
        ]
    np.savez(tmp_path / "a.npz", x=POINTS, y=LABELS, class_names=np.array(["owl", "dog", "cat", "ant"]))
    data = load(tmp_path / "a.npz")
    assert data.class_names == ("owl", "dog", "cat", "ant")
    assert labels_of(data) == [("owl", "dog", "cat", "ant")[y] for y in LABELS]
    np.savez(tmp_path / "a.npz", x=POINTS, y=LABELS + 1, class_names=np.array(["owl", "dog", "cat", "ant"]))
    with pytest.raises(ValueError, match="labels must be integers 0..3, the indices of owl, dog, cat, ant, .* 1 to 4"):
        load(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", x=POINTS, y=POINTS[:, 0])
    assert load(tmp_path / "a.npz").num_classes is None
    assert "'y' of .*" not in caplog.text
    assert "are no classes but quantities of dtype float64: left out" in caplog.text
    with pytest.raises(ValueError, match="labels 'y' of .* must be 20 integers or strings"):
        load(tmp_path / "a.npz", labels=True)
    np.savez(tmp_path / "a.npz", x=POINTS)
    with pytest.raises(ValueError, match="labels=true, but .* has none by a usual name; available: x"):
        load(tmp_path / "a.npz", labels=True)


def test_flat_rows_have_the_shape_that_is_given(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    np.savez(tmp_path / "a.npz", data=PICTURES.reshape(20, -1), labels=LABELS + 1)
    assert load(tmp_path / "a.npz").shape == (192,)
    assert "data.shape=[3,8,8] makes colour pictures" in caplog.text
    data = load(tmp_path / "a.npz", shape=[3, 8, 8])
    assert torch.equal(data.whole()[0], torch.from_numpy(PICTURES))
    np.savez(tmp_path / "a.npz", data=PICTURES.transpose(0, 2, 3, 1).reshape(20, -1))
    data = load(tmp_path / "a.npz", shape=[8, 8, 3], channels_last=True)
    assert torch.equal(data.whole()[0], torch.from_numpy(PICTURES))
    with pytest.raises(ValueError, match=r"samples of 192 values, .* shape=\[3, 9, 9\] \(243 values\) does not hold"):
        load(tmp_path / "a.npz", shape=[3, 9, 9])
    with pytest.raises(ValueError, match=r"shape is \[3, 0\], expected positive integers"):
        load(tmp_path / "a.npz", shape=[3, 0])


@pytest.mark.parametrize("dtype", [">f4", "<f4", "f2", "f8", "u1", ">u2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_of_any_type_and_order(tmp_path: Path, dtype: str, order: Any) -> None:
    x = np.asarray(PICTURES, dtype=dtype, order=order)
    np.save(tmp_path / "a.npy", x)
    data = load(tmp_path / "a.npy", levels=None if dtype[-2] == "f" else 256)
    assert torch.equal(data.whole()[0].double(), torch.from_numpy(PICTURES).double())


def test_samples_of_one_number_are_told_how_to_be_read(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", POINTS[:, 0])
    with pytest.raises(ValueError, match=r"got shape \(20,\); data.shape=\[1\] makes a sample of each number"):
        load(tmp_path / "a.npy")
    assert load(tmp_path / "a.npy", shape=[1]).whole()[0].shape == (20, 1)
    with pytest.raises(ValueError, match=r"x\[:, None\] makes a sample of each number"):
        Data("data", torch.zeros(5), torch.zeros(2), Discrete(2))


def test_npy_refuses_what_is_no_number(tmp_path: Path) -> None:
    for x, message in (
        (PICTURES > 9, r"bool, .* save it as uint8, x.astype\('uint8'\), and give levels=2"),
        (POINTS + 1j, r"complex128, .* numpy.stack\(\[x.real, x.imag\], 1\)"),
    ):
        np.save(tmp_path / "a.npy", x)
        with pytest.raises(ValueError, match=message):
            load(tmp_path / "a.npy")
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="holds objects, which are not read"):
        load(tmp_path / "a.npy")


def test_a_folder_of_npy_files_is_read_as_an_archive(tmp_path: Path) -> None:
    for name, x in (
        ("x_train", PICTURES[:15]),
        ("y_train", LABELS[:15]),
        ("x_test", PICTURES[15:]),
        ("y_test", LABELS[15:]),
    ):
        np.save(tmp_path / f"{name}.npy", x)
    data = load(tmp_path)
    assert (len(data.train), len(data.test), data.num_classes) == (15, 5, 4)
    single = load(tmp_path / "x_train.npy", test_path=str(tmp_path / "x_test.npy"))
    assert torch.equal(single.test, data.test)


def test_an_array_above_the_limit_stays_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.ascontiguousarray(PICTURES.transpose(0, 2, 3, 1))
    np.save(tmp_path / "a.npy", x)
    in_memory = load(tmp_path / "a.npy", split="last", test_size=5)
    monkeypatch.setenv("SCORESDE_MEMORY", str((x.nbytes - 1) / 2**30))
    data = load(tmp_path / "a.npy", split="last", test_size=5)
    assert is_lazy(data.train)
    assert torch.equal(data.train[:], torch.from_numpy(PICTURES[:15]))
    assert is_lazy(data.test)
    assert torch.equal(data.test[:], torch.from_numpy(PICTURES[15:]))
    assert data.fingerprint() == in_memory.fingerprint()
    drawn = load(tmp_path / "a.npy", test_size=5)
    assert drawn.rows is not None
    assert torch.equal(drawn.train[:], torch.from_numpy(PICTURES)[drawn.rows[:15]])
    np.save(tmp_path / "a.npy", x.astype(">u2"))
    wide = load(tmp_path / "a.npy", split="last", test_size=5, levels=256)
    assert is_lazy(wide.train)
    assert wide.fingerprint() == in_memory.fingerprint()
    with pytest.raises(ValueError, match="the array of .*a.npy would take .* of memory"):
        load(tmp_path / "a.npy", split="last", levels=256, in_memory=True)


def test_a_digest_does_not_depend_on_strides() -> None:
    x = torch.arange(24).reshape(4, 3, 2)
    for view in (x.permute(2, 1, 0), x[::2], x[:, 1:], x[0, 0, 0], x[:0].permute(2, 1, 0)):
        assert digest({"x": view}) == digest({"x": view.clone(memory_format=torch.contiguous_format)})


# -- MATLAB ---------------------------------------------------------------------------------------------


def test_mat_in_the_layout_of_svhn(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    x, y = PICTURES.transpose(2, 3, 1, 0), (LABELS + 1)[:, None]
    for name, part in (("train", slice(0, 15)), ("test", slice(15, 20))):
        savemat(tmp_path / f"{name}.mat", {"X": x[..., part], "y": y[part]})
    data = load(tmp_path / "train.mat", test_path=str(tmp_path / "test.mat"))
    assert torch.equal(data.train, torch.from_numpy(PICTURES[:15]))
    assert torch.equal(data.test, torch.from_numpy(PICTURES[15:]))
    assert labels_of(data) == [str(n + 1) for n in LABELS]
    assert "its last axis is taken for that of the samples" in caplog.text
    alone = load(tmp_path / "train.mat", labels=False, split="last", test_size=2)  # (H, W, 3, N) can be nothing else
    assert torch.equal(alone.whole()[0], data.train)


@pytest.mark.parametrize("compressed", [False, True])
def test_mat_has_the_types_of_matlab(tmp_path: Path, compressed: bool) -> None:
    words = np.array([["owl"], ["ant"]] * 10, dtype=object)
    savemat(tmp_path / "a.mat", {"data": POINTS, "labels": words, "other": {"a": 1}}, do_compression=compressed)
    data = load(tmp_path / "a.mat")
    assert np.array_equal(data.whole()[0].numpy(), POINTS)
    assert labels_of(data) == ["owl", "ant"] * 10
    with pytest.raises(ValueError, match="has dtype U|is damaged or holds objects|expected an array of numbers"):
        load(tmp_path / "a.mat", key="other")
    # Integers that MATLAB has as doubles are continuous, however they are stored.
    savemat(tmp_path / "b.mat", {"x": np.round(POINTS)})
    assert load(tmp_path / "b.mat").transform.levels is None
    (tmp_path / "c.mat").write_bytes(b"MATLAB 5.0 MAT-file, and no more")
    with pytest.raises(ValueError, match="c.mat cannot be read as a .mat file"):
        load(tmp_path / "c.mat")


def test_mat_refuses_to_guess_the_axis_of_samples(tmp_path: Path) -> None:
    savemat(tmp_path / "a.mat", {"x": POINTS[:6, :6], "y": LABELS[:6, None]})
    with pytest.raises(ValueError, match=r"shape \(6, 6\) and there are 6 labels: say .* samples_last=true or false"):
        load(tmp_path / "a.mat")
    for last in (True, False):
        data = load(tmp_path / "a.mat", samples_last=last, test_size=1)
        assert np.array_equal(data.whole()[0].numpy(), POINTS[:6, :6].T if last else POINTS[:6, :6])


# -- HDF5 -----------------------------------------------------------------------------------------------


def test_hdf5(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for part, where in (("train", slice(0, 15)), ("test", slice(15, 20))):
            file[f"{part}/images"] = PICTURES[where]
            file.create_dataset(f"{part}/labels", data=[f"c{n}" for n in LABELS[where]])
        file.create_dataset("packed", data=PICTURES, chunks=(5, 3, 8, 8), compression="gzip")
    data = load(tmp_path / "a.h5")
    assert torch.equal(data.whole()[0], torch.from_numpy(PICTURES))
    assert labels_of(data) == [f"c{n}" for n in LABELS]
    packed = load(tmp_path / "a.h5", key="packed")
    assert torch.equal(packed.whole()[0], torch.from_numpy(PICTURES))
    with pytest.raises(ValueError, match="no array 'x'; available: packed, test/images, test/labels, train/images"):
        load(tmp_path / "a.h5", key="x")
    monkeypatch.setenv("SCORESDE_MEMORY", str(2000 / 2**30))
    views = load(tmp_path / "a.h5", labels=False)
    train, test = torch.from_numpy(PICTURES[:15]), torch.from_numpy(PICTURES[15:])
    assert views.fingerprint() == Data("a", train, test, Discrete(256)).fingerprint()
    assert is_lazy(load(tmp_path / "a.h5", key="packed").train)
    with pytest.raises(ValueError, match="array 'packed' of .* would take"):
        load(tmp_path / "a.h5", key="packed", in_memory=True)


def test_hdf5_reads_no_other_file(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "private.h5", "w") as file:
        file["x"] = POINTS
    POINTS.tofile(tmp_path / "private.bin")
    layout = h5py.VirtualLayout((20, 6), "f8")
    layout[:] = h5py.VirtualSource(tmp_path / "private.h5", "x", shape=(20, 6))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["linked"] = h5py.ExternalLink("private.h5", "x")
        file.create_dataset("outside", POINTS.shape, "f8", external=[(str(tmp_path / "private.bin"), 0, POINTS.nbytes)])
        file.create_virtual_dataset("virtual", layout)
    with pytest.raises(ValueError, match="has no array 'linked'; available: outside, virtual"):
        load(tmp_path / "a.h5", key="linked")
    for name in ("outside", "virtual"):
        with pytest.raises(ValueError, match=f"array '{name}' of .* keeps its values in other files"):
            load(tmp_path / "a.h5", key=name)


def test_mat_of_version_7_3_is_hdf5(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.mat"
    path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(512) + b"\x89HDF\r\n\x1a\n")
    with monkeypatch.context() as patch:
        patch.setitem(__import__("sys").modules, "h5py", None)
        with pytest.raises(ImportError, match=r"a.mat is HDF5, which needs .* pip install 'scoresde\[hdf5\]'"):
            load(path)
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w", userblock_size=512) as file:
        file["X"] = PICTURES  # MATLAB's (8, 8, 3, 20), as HDF5 has it
        file["y"] = (LABELS + 1)[None].astype(float)
    with path.open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file".ljust(128))
    data = load(path)
    assert torch.equal(data.whole()[0], torch.from_numpy(PICTURES.transpose(0, 1, 3, 2).copy()))
    assert labels_of(data) == [str(n + 1) for n in LABELS]


# -- tensors --------------------------------------------------------------------------------------------


def test_tensors_of_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = torch.from_numpy(PICTURES), torch.from_numpy(LABELS)
    contents: list[Any] = [{"data": x, "targets": y}, (x, y), {"x": x, "y": y, "class_names": ["a", "b", "c", "d"]}]
    for content in contents:
        torch.save(content, tmp_path / "a.pt")
        data = load(tmp_path / "a.pt")
        assert torch.equal(data.whole()[0], x)
        names = ("a", "b", "c", "d") if "class_names" in content else ("0", "1", "2", "3")
        assert labels_of(data) == [names[n] for n in LABELS]
    torch.save(x.bfloat16().expand(20, 3, 8, 8), tmp_path / "b.pth")
    assert load(tmp_path / "b.pth").train.dtype == torch.float32
    torch.save({"x": logging.getLogger}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"holds objects or is damaged; save tensors alone: torch.save\({'x': x"):
        load(tmp_path / "a.pt")
    torch.save("text", tmp_path / "a.pt")
    with pytest.raises(ValueError, match="holds a str, expected a tensor, a pair"):
        load(tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "c.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("c/data/0", bytes(10_000))
    monkeypatch.setenv("SCORESDE_MEMORY", str(5000 / 2**30))
    with pytest.raises(ValueError, match="c.pt would take .* of memory"):
        load(tmp_path / "c.pt")
    monkeypatch.undo()
    # A tensor that declares more than it stores is looked at before it is copied.
    torch.save({"x": torch.zeros(1, 1).expand(2**20, 2**20)}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="array 'x' of .* would take .* of memory"):
        load(tmp_path / "a.pt")


def test_tensors_of_safetensors(tmp_path: Path) -> None:
    save_file({"x_train": PICTURES[:15], "x_test": PICTURES[15:]}, tmp_path / "a.safetensors")
    data = load(tmp_path / "a.safetensors")
    assert torch.equal(data.test, torch.from_numpy(PICTURES[15:]))
    whole = (tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "a.safetensors").write_bytes(whole[:-5])
    with pytest.raises(ValueError, match="a.safetensors cannot be read as a safetensors file"):
        load(tmp_path / "a.safetensors")


def test_other_files_are_refused_with_the_way_out(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("0.png", b"")
    with pytest.raises(ValueError, match="a.zip is an archive without arrays: data=image_folder reads one of pictures"):
        load(tmp_path / "a.zip")
    np.save(tmp_path / "x.npy", POINTS)
    with zipfile.ZipFile(tmp_path / "b.npz", "w", zipfile.ZIP_LZMA) as archive:
        archive.write(tmp_path / "x.npy", "x.npy")
    with pytest.raises(ValueError, match="array 'x' of .*b.npz is compressed by LZMA: pack the archive anew"):
        load(tmp_path / "b.npz")
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"text"))
    with pytest.raises(ValueError, match=r"numpy.savez\(path, x=x, y=y\) writes one"):
        load(tmp_path / "a.gz")
