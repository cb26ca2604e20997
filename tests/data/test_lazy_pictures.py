"""Pictures that are decoded when they are asked for: the values of those in memory, and one line where they fail."""

import io
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from scoresde.data import Data, file, huggingface, image_folder, parquet, webdataset
from scoresde.data.rows import UnreadableData, is_lazy
from scoresde.training.moments import data_statistics

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (24, 6, 5, 3)).astype(np.uint8)


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def folder(place: Path) -> Path:
    for i, pixels in enumerate(PIXELS):
        target = place / f"class_{i % 3}" / f"{i:03}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(png(pixels))
    return place


def zipped(place: Path) -> Path:
    path = place / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for i, pixels in enumerate(PIXELS):
            archive.writestr(f"class_{i % 3}/{i:03}.png", png(pixels))
    return path


def tarred(path: Path, which: range, classes: bool = True) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for i in which:
            for suffix, content in (("png", png(PIXELS[i])), ("cls", str(i % 3).encode())):
                if suffix == "png" or classes:
                    member = tarfile.TarInfo(f"{i:03}.{suffix}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    return path


def shards(place: Path, names: tuple[str, ...] = ("s-0.tar", "s-1.tar", "s-2.tar")) -> Path:
    place.mkdir(exist_ok=True)
    for k, name in enumerate(names):
        tarred(place / name, range(8 * k, 8 * k + 8))
    return place


def table(place: Path, names: tuple[str, ...] = ("data-0.parquet", "data-1.parquet")) -> Path:
    import pyarrow as pa
    from pyarrow import parquet as pq

    place.mkdir(exist_ok=True)
    for name, part in zip(names, np.split(np.arange(24), len(names)), strict=True):
        rows = {"image": [{"bytes": png(PIXELS[i]), "path": None} for i in part], "label": [int(i % 3) for i in part]}
        pq.write_table(pa.table(rows), place / name, row_group_size=5)
    return place


def same(whole: Data, lazy: Data) -> None:
    assert not is_lazy(whole.train)
    assert is_lazy(lazy.train)
    assert is_lazy(lazy.test)
    assert torch.equal(lazy.train[:], whole.train[:])
    assert torch.equal(lazy.test[:], whole.test[:])
    order = torch.randperm(len(whole.train), generator=torch.Generator().manual_seed(0))
    assert torch.equal(lazy.train[order], whole.train[order])
    assert lazy.class_names == whole.class_names
    assert lazy.fingerprint() == whole.fingerprint()
    for name, value in data_statistics(whole, True).state_dict().items():
        assert torch.equal(value, data_statistics(lazy, True).state_dict()[name])


def test_folders_and_archives(tmp_path: Path) -> None:
    for path in (folder(tmp_path / "f"), zipped(tmp_path), tarred(tmp_path / "a.tar", range(24))):
        settings: dict[str, Any] = {"labels": True, "test_size": 4}
        same(image_folder(str(path), **settings), image_folder(str(path), in_memory=False, **settings))
        settings = {"size": 4, "channels": 1}
        same(image_folder(str(path), **settings), image_folder(str(path), in_memory=False, **settings))
    assert is_lazy(file(str(tmp_path / "f"), in_memory=False).train)


def test_parts_of_a_folder_stay_apart(tmp_path: Path) -> None:
    for part in ("train", "test"):
        folder(tmp_path / "d" / part)
    same(image_folder(str(tmp_path / "d")), image_folder(str(tmp_path / "d"), in_memory=False))


def test_shards(tmp_path: Path) -> None:
    place = shards(tmp_path / "w")
    whole = webdataset(str(place))
    assert (len(whole.train), len(whole.test), whole.class_names) == (21, 3, ("0", "1", "2"))
    for path in (str(place), str(place / "s-*.tar"), str(place / "s-{0..2}.tar")):
        same(webdataset(path), webdataset(path, in_memory=False))
    assert webdataset(str(place), labels=False).train_labels is None
    parts = shards(tmp_path / "p", ("train-0.tar", "train-1.tar", "val-0.tar"))
    data = webdataset(str(parts), in_memory=False)
    assert torch.equal(data.test[:], torch.from_numpy(PIXELS[16:]).permute(0, 3, 1, 2))
    assert torch.equal(data.train[:], torch.from_numpy(PIXELS[:16]).permute(0, 3, 1, 2))
    tarred(tmp_path / "plain.tar", range(24), classes=False)
    assert webdataset(str(tmp_path / "plain.tar")).train_labels is None
    with pytest.raises(ValueError, match=r"labels=true, but .*plain.tar has no files .cls"):
        webdataset(str(tmp_path / "plain.tar"), labels=True)


def test_a_missing_or_broken_shard_is_named_with_what_there_is(tmp_path: Path) -> None:
    place = shards(tmp_path / "w")
    with pytest.raises(ValueError, match=r"s-3.tar is missing, of 4 shards there are 3"):
        webdataset(str(place / "s-{0..3}.tar"))
    content = (place / "s-1.tar").read_bytes()
    (place / "s-1.tar").write_bytes(content[:5000])
    message = r"s-1.tar is cut off.*member.*\(shard 2 of 3; 8 pictures in those before are whole\)"
    with pytest.raises(ValueError, match=message):
        webdataset(str(place), in_memory=False)
    (place / "s-1.tar").write_bytes(content)
    data = webdataset(str(place), in_memory=False, test_size=4)
    (place / "s-1.tar").write_bytes(content[:5000])  # the same file, cut off under the reader
    with pytest.raises(UnreadableData, match=r"s-1.tar.*is cut off: .*s-1.tar ends at byte 5000"):
        data.train[:]
    with pytest.raises(ValueError, match="there are no shards"):
        webdataset(str(tmp_path / "nothing"))
    tarred(tmp_path / "packed.tar.gz", range(24))
    with pytest.raises(ValueError, match="packed archive, whose pictures cannot be read one by one: unpack it"):
        webdataset(str(tmp_path / "packed.tar.gz"), in_memory=False)
    assert len(webdataset(str(tmp_path / "packed.tar.gz")).train) == 21


def test_tables_of_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = table(tmp_path / "t")
    same(parquet(str(place)), parquet(str(place), in_memory=False))
    assert [p.suffix for p in (place / ".scoresde").glob("pictures-*")].count(".bin") == 1
    from scoresde.data import parquet_files

    def never(*_: Any) -> Iterator[bytes]:
        yield from ()
        raise AssertionError("copied again")

    with monkeypatch.context() as patch:
        patch.setattr(parquet_files, "_encoded", never)
        parquet(str(place), in_memory=False)
    copy = next((place / ".scoresde").glob("pictures-*.bin"))
    data = parquet(str(place), in_memory=False, test_size=4)
    copy.write_bytes(copy.read_bytes()[:-200])
    with pytest.raises(UnreadableData, match="is cut off at picture 23 of 24: remove it to copy it anew"):
        data.whole()
    same(parquet(str(place)), parquet(str(place), in_memory=False))  # a copy that is cut off is none


def test_missing_shards_of_tables_are_named(tmp_path: Path) -> None:
    place = table(tmp_path / "t", ("train-00000-of-00003.parquet", "train-00002-of-00003.parquet"))
    with pytest.raises(ValueError, match=r"train-00001-of-00003 is missing: of 3 shards there are 2"):
        parquet(str(place))


def test_a_copy_that_fails_leaves_nothing(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet as pq

    pq.write_table(pa.table({"image": [png(PIXELS[0]), None]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a.parquet cannot be read after 1 of 2 rows: the row is empty"):
        parquet(str(tmp_path / "a.parquet"), in_memory=False)
    assert not list((tmp_path / ".scoresde").iterdir())


def test_the_library_of_hugging_face(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    place = table(tmp_path / "t")
    settings: dict[str, Any] = {
        "data_files": str(place / "*.parquet"), "label_column": "label", "cache_dir": str(tmp_path / "cache"),
    }  # fmt: skip
    same(huggingface("parquet", **settings), huggingface("parquet", in_memory=False, **settings))


def _resize(place: Path) -> None:
    (place / "class_2" / "023.png").write_bytes(png(PIXELS[0, :4]))


def _remove(place: Path) -> None:
    (place / "class_2" / "023.png").unlink()


def _spoil(place: Path) -> None:
    target = place / "class_2" / "023.png"
    target.write_bytes(target.read_bytes()[:70])


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (_resize, "images differ in size: .* is 5x6, .*023.png is 5x4; give size="),
        (_remove, "cannot read the image .*023.png: .*No such file.* \\(number 23 of 24\\)"),
        (_spoil, "cannot read the image .*023.png: .*number 23 of 24"),
    ],
)
def test_a_picture_that_cannot_be_read_is_named(tmp_path: Path, harm: Callable[[Path], None], message: str) -> None:
    place = folder(tmp_path / "f")
    data = image_folder(str(place), in_memory=False, test_size=4)
    harm(place)
    with pytest.raises(UnreadableData, match=message):
        data.whole()


def test_large_data_are_decoded_when_needed_by_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, tables = folder(tmp_path / "f"), table(tmp_path / "t")
    monkeypatch.setenv("SCORESDE_MEMORY", str((PIXELS.nbytes - 1) / 2**30))
    assert is_lazy(image_folder(str(place)).train)
    assert is_lazy(parquet(str(tables)).train)
    with pytest.raises(ValueError, match="would take .* of memory"):
        image_folder(str(place), in_memory=True)
