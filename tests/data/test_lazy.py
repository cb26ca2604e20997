"""Samples that are read when they are asked for: the same values as in memory, and one line where they cannot be."""

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scoresde.data import arrays
from scoresde.data.cache import Cache, cache_folder
from scoresde.data.lazy_arrays import ArrayRows, StoredArray, consecutive
from scoresde.data.rows import Rows, UnreadableData, blocks, is_lazy, reads_lazily, taken
from scoresde.statistics import Statistics
from scoresde.training.moments import data_statistics

RNG = np.random.default_rng(0)


def saved(folder: Path, kind: str, x: np.ndarray, **others: np.ndarray) -> Path:
    """An array in a file of some kind."""
    path = folder / f"a.{kind}"
    if kind == "npy":
        np.save(path, x)
    elif kind == "npz":
        np.savez(path, x=x, **others)
    else:
        h5py = pytest.importorskip("h5py")
        with h5py.File(path := folder / "a.h5", "w") as file:
            file.create_dataset("x", data=x, chunks=(3, *x.shape[1:]) if kind == "chunked" else None)
    return path


@pytest.mark.parametrize("kind", ["npy", "npz", "contiguous", "chunked"])
@pytest.mark.parametrize("dtype", ["uint8", "float32", ">f8", "int16"])
def test_values_are_those_in_memory(tmp_path: Path, kind: str, dtype: str) -> None:
    x = RNG.integers(0, 200, (40, 5, 6, 3)).astype(dtype)
    path = saved(tmp_path, kind, x)
    settings: dict[str, Any] = {"levels": 256 if dtype == "int16" else None, "channels_last": True, "test_size": 7}
    whole = arrays(str(path), in_memory=True, **settings)
    lazy = arrays(str(path), in_memory=False, **settings)
    assert is_lazy(lazy.train)
    assert is_lazy(lazy.test)
    assert not is_lazy(whole.train)
    for split in ("train", "test"):
        theirs, own = getattr(whole, split), getattr(lazy, split)
        assert own.shape == theirs.shape
        assert own.dtype == theirs.dtype
        assert own.nbytes == theirs.nbytes
        assert torch.equal(own[:], theirs)
        order = torch.randperm(len(own), generator=torch.Generator().manual_seed(1))
        for index in (order, order[:3], torch.tensor([2, 2, 0, 2]), theirs.flatten(1)[:, 0] > 50, slice(2, 5), 3, -1):
            assert torch.equal(own[index], theirs[index])
        assert torch.equal(torch.cat(list(blocks(own, 4))), theirs)
        assert torch.equal(taken(own, order)[:], theirs[order])
        assert torch.equal(taken(taken(own, order), order)[:], theirs[order][order])
    assert lazy.transform == whole.transform
    assert repr(lazy) == repr(whole)
    assert lazy.fingerprint() == whole.fingerprint()
    for name, value in data_statistics(whole, True).state_dict().items():
        assert torch.equal(value, data_statistics(lazy, True).state_dict()[name])


def test_large_data_stay_in_their_file_by_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, "npy", RNG.integers(0, 255, (40, 3, 4, 4)).astype(np.uint8))
    assert not is_lazy(arrays(str(path)).train)
    monkeypatch.setenv("SCORESDE_MEMORY", "1e-6")
    assert is_lazy(arrays(str(path)).train)
    assert reads_lazily("auto", 2000)
    assert not reads_lazily("auto", 1000)
    assert not reads_lazily(True, 1e30)
    with pytest.raises(ValueError, match="in_memory is 'no', expected auto, true or false"):
        arrays(str(path), in_memory="no")  # type: ignore[arg-type]


def test_what_cannot_stay_in_its_file_is_refused(tmp_path: Path) -> None:
    x = RNG.standard_normal((20, 3))
    np.savez_compressed(tmp_path / "c.npz", x=x)
    np.save(tmp_path / "f.npy", np.asfortranarray(x))
    for name in ("c.npz", "f.npy"):
        with pytest.raises(ValueError, match="cannot stay in its file: in_memory=false is for numbers in .npy files"):
            arrays(str(tmp_path / name), in_memory=False)
    np.save(tmp_path / "o.npy", np.array([{}, {}]), allow_pickle=True)
    with pytest.raises(ValueError, match="o.npy is damaged or holds objects, which are not read"):
        arrays(str(tmp_path / "o.npy"), in_memory=False)


def test_a_file_that_is_cut_off_is_named_with_what_there_is_of_it(tmp_path: Path) -> None:
    path = saved(tmp_path, "npy", RNG.standard_normal((40, 3)))
    data = arrays(str(path), in_memory=False, split="last", test_size=5, standardise="none")
    os.truncate(path, path.stat().st_size - 8 * 3 * 10 - 1)
    assert len(data.train[:29]) == 29
    with pytest.raises(UnreadableData, match=r"is cut off: .*a.npy has .* bytes and the whole of 29 of 40 samples"):
        data.train[torch.tensor([1, 34])]
    with pytest.raises(ValueError, match="a.npy is damaged: it declares 960 bytes and holds 719"):
        arrays(str(path), in_memory=False)
    with pytest.raises(UnreadableData, match="cut off"):
        StoredArray(path, 128, (40, 3), np.dtype(np.float64), "the array")


def test_a_damaged_chunk_is_named_with_its_samples(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        node = file.create_dataset("x", data=RNG.standard_normal((400, 3)), chunks=(10, 3), compression="gzip")
        place = node.id.get_chunk_info(30)
    with (tmp_path / "a.h5").open("r+b") as raw:
        raw.seek(place.byte_offset)
        raw.write(bytes(place.size))
    data = arrays(str(tmp_path / "a.h5"), in_memory=False, split="last", test_size=5, standardise="none")
    assert len(data.train[:300]) == 300
    with pytest.raises(UnreadableData, match="array 'x' of .*a.h5 cannot be read at samples 300 to 305 of 400"):
        data.train[torch.arange(300, 306)]


def test_values_are_checked_whenever_they_are_read(tmp_path: Path) -> None:
    x = RNG.standard_normal((400, 3))
    x[333, 1] = np.nan
    path = saved(tmp_path, "npy", x)
    with pytest.raises(ValueError, match="values must be finite, 1 of 1188 are NaN or infinite"):
        arrays(str(path), in_memory=False, split="last", test_size=4)
    data = arrays(str(path), in_memory=False, split="last", test_size=4, standardise="none")
    with pytest.raises(UnreadableData, match="train data: values must be finite"):
        data.train[torch.arange(336)]
    levels = RNG.integers(0, 9, (40, 3)).astype(np.int16)
    levels[3, 0] = 300
    np.save(path, levels)
    with pytest.raises(ValueError, match="the worst value is 300"):
        arrays(str(path), in_memory=False, levels=16, split="last").train[:]
    np.save(path, np.ones((40, 3), np.uint8))
    with pytest.raises(ValueError, match="constant data, every training value is 1"):
        arrays(str(path), in_memory=False)


def test_an_archive_of_a_zip64_header_is_read_in_its_place(tmp_path: Path) -> None:
    x = RNG.standard_normal((20, 3))
    with zipfile.ZipFile(tmp_path / "z.npz", "w") as archive:
        for name in ("other", "x"):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:  # with a longer local header
                np.lib.format.write_array(stream, x if name == "x" else x[:5])
    data = arrays(str(tmp_path / "z.npz"), key="x", in_memory=False, split="last", test_size=2, standardise="none")
    assert torch.equal(data.train[:], torch.from_numpy(x[:18]))


class Counted(Rows):
    """Rows of a tensor that count what is read."""

    def __init__(self, values: torch.Tensor, place: Path, identity: str) -> None:
        super().__init__(tuple(values.shape), values.dtype, "counted rows")
        self.values, self.count, self._place, self._identity = values, 0, place, identity

    def read(self, indices: np.ndarray) -> torch.Tensor:
        self.count += len(indices)
        return self.values[indices]

    @property
    def identity(self) -> str:
        return self._identity

    @property
    def place(self) -> Path:
        return self._place


def test_results_are_kept_beside_the_data_and_found_while_they_fit(tmp_path: Path) -> None:
    from scoresde.data import Data, Identity

    values = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))

    def data(identity: str) -> tuple[Counted, Data]:
        rows = Counted(values, tmp_path, identity)
        return rows, Data("counted", rows, Counted(values[:5], tmp_path, identity + "t"), Identity())

    first, given = data("a")
    found = data_statistics(given, True)
    before, fingerprint = first.count, given.fingerprint()
    assert before >= 50
    assert first.count == before + 50
    assert {p.name.split("-")[0] for p in (tmp_path / ".scoresde").iterdir()} == {"fingerprint", "statistics"}
    again, given = data("a")
    used = again.count
    assert given.fingerprint() == fingerprint
    assert again.count == used
    for name, value in data_statistics(given, True).state_dict().items():
        assert torch.equal(value, found.state_dict()[name])
    assert again.count == used
    data_statistics(given, True, seed=1)  # other settings
    assert again.count == used + 50
    other, given = data("b")  # as after a change of the files
    used = other.count
    given.fingerprint()
    data_statistics(given, True)
    assert other.count == used + 100
    for file in (tmp_path / ".scoresde").iterdir():
        file.write_bytes(b"damaged")
    third, given = data("a")
    used = third.count
    assert given.fingerprint() == fingerprint
    assert isinstance(data_statistics(given, True), Statistics)
    assert third.count == used + 100


def test_results_go_to_the_cache_where_the_place_is_not_writable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCORESDE_CACHE", str(tmp_path / "cache"))
    place = tmp_path / "data"
    place.mkdir()
    (place / ".scoresde").write_text("a file, so that no folder can be made here")
    rows = Counted(torch.randn(5, 2), place, "a")
    Cache(rows, 1).keep_value("kind", {"a": [1, 2]})
    assert Cache(rows, 1).value("kind") == {"a": [1, 2]}
    assert Cache(rows, 2).value("kind") is None
    assert [p.parent for p in (tmp_path / "cache").rglob("*.json")] == [cache_folder(place)]


def test_the_time_or_the_content_of_a_file_changes_its_identity(tmp_path: Path) -> None:
    path = saved(tmp_path, "npy", RNG.standard_normal((40, 3)))

    def identity() -> str | None:
        data = arrays(str(path), in_memory=False, standardise="none")
        assert is_lazy(data.train)
        return data.train.identity

    first = identity()
    assert identity() == first
    os.utime(path, (1, 1))
    second = identity()
    np.save(path, RNG.standard_normal((40, 3)))
    os.utime(path, (1, 1))
    assert len({first, second, identity()}) == 3


def test_indices_are_grouped_by_what_lies_together() -> None:
    indices = np.array([7, 3, 4, 5, 9, 8, 3])
    groups = [(places.tolist(), first) for places, first in consecutive(indices)]
    assert groups == [([1], 3), ([6, 2, 3], 3), ([0, 5, 4], 7)]
    assert not list(consecutive(np.arange(0)))


def test_an_index_that_no_sample_has_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, "npy", RNG.standard_normal((4, 3)))
    rows = arrays(str(path), in_memory=False, split="last", test_size=1, standardise="none").train
    with pytest.raises(IndexError, match="index 3 is out of range"):
        rows[3]
    assert isinstance(rows, Rows)
    assert "samples of the array" in repr(rows)
    assert ArrayRows.__name__ not in repr(rows)


@pytest.mark.parametrize("version", [2, 3])
def test_zarr(tmp_path: Path, version: int) -> None:
    zarr = pytest.importorskip("zarr")
    x = RNG.integers(0, 256, (40, 3, 4, 4)).astype(np.uint8)
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="w", zarr_format=version)
    for name, value in (("x", x), ("y", np.arange(40) % 3)):
        group.create_array(name, shape=value.shape, dtype=value.dtype, chunks=(7, *value.shape[1:]))[:] = value
    whole = arrays(str(tmp_path / "a.zarr"), test_size=5)
    lazy = arrays(str(tmp_path / "a.zarr"), test_size=5, in_memory=False)
    assert is_lazy(lazy.train)
    assert lazy.num_classes == 3
    assert torch.equal(lazy.train[:], whole.train[:])
    assert lazy.fingerprint() == whole.fingerprint()
    single = arrays(str(tmp_path / "a.zarr" / "x"), split="last", test_size=5, in_memory=False)
    assert torch.equal(single.train[:], torch.from_numpy(x[:35]))
    metadata = tmp_path / "a.zarr" / "x" / (".zarray" if version == 2 else "zarr.json")
    text = metadata.read_text()
    known = '"filters": null' if version == 2 else '"codecs": ['
    assert known in text
    evil = '"filters": [{"id": "pickle"}]' if version == 2 else '"codecs": [{"name": "numcodecs.pickle"},'
    metadata.write_text(text.replace(known, evil))
    with pytest.raises(ValueError, match="array 'x' of .* has the codec '.*pickle', which is not read"):
        arrays(str(tmp_path / "a.zarr"))
    metadata.write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        arrays(str(tmp_path / "a.zarr"))
