"""Archives of pictures, classes that a file lists, and pictures that are not 8-bit RGB."""

import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from scoresde.data import Data, Discrete, image_folder
from scoresde.data.trees import check_inside


def png(value: Any, mode: str = "L", size: tuple[int, int] = (4, 3)) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, value).save(buffer, "PNG")
    return buffer.getvalue()


def write(place: Path, files: dict[str, bytes]) -> str:
    """A folder, zip or tar of these files, as its suffix says."""
    if place.suffix == ".zip":
        with zipfile.ZipFile(place, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    elif ".tar" in place.name:
        with tarfile.open(place, "w:gz" if place.suffix == ".gz" else "w") as tar:
            for name, content in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    else:
        for name, content in files.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(content)
    return str(place)


def load(path: str, **arguments: Any) -> Data:
    return image_folder(path, **{"channels": 1, "test_size": 1, **arguments})


def classes(data: Data) -> dict[int, str]:
    """The class of every picture by its value."""
    x, y = data.whole()
    assert y is not None
    assert data.class_names is not None
    return {int(p[0, 0, 0]): data.class_names[i] for p, i in zip(x, y.tolist(), strict=True)}


PLACES = ["a", "a.zip", "a.tar", "a.tar.gz"]


@pytest.mark.parametrize("place", PLACES)
def test_archives_are_read_as_folders_are(tmp_path: Path, place: str, caplog: pytest.LogCaptureFixture) -> None:
    files = {
        "set/train/dog/1.png": png(1),
        "set/test/cat/3.png": png(3),
        "set/train/cat/deeper/2.png": png(2),
        "set/test/dog/0.png": png(4),
        "set/readme.txt": b"",
        "__MACOSX/set/train/dog/._1.png": b"" if place != "a" else png(0),
    }
    if place == "a":
        del files["__MACOSX/set/train/dog/._1.png"]
    data = load(write(tmp_path / place, files), labels=True)
    assert (data.name, len(data.train), len(data.test)) == ("a", 2, 2)
    assert data.class_names == ("cat", "dog")
    assert classes(data) == {1: "dog", 2: "cat", 3: "cat", 4: "dog"}
    assert "4 pictures; passed over: 1 .txt" in caplog.text
    assert load(str(tmp_path / place), labels=None).fingerprint() == data.fingerprint()


@pytest.mark.parametrize("place", PLACES)
def test_classes_that_lie_in_one_folder(tmp_path: Path, place: str) -> None:
    path = write(
        tmp_path / place, {f"pets/{c}/{c}{i}.png": png(2 * i + (c == "dog")) for i in range(3) for c in ("cat", "dog")}
    )
    assert classes(load(path, labels=True)) == {0: "cat", 1: "dog", 2: "cat", 3: "dog", 4: "cat", 5: "dog"}


@pytest.mark.parametrize("place", ["a", "a.zip"])
def test_dataset_json_of_edm(tmp_path: Path, place: str) -> None:
    names = [f"0000{i // 2}/img{i:08}.png" for i in range(4)]
    files = {name: png(i) for i, name in enumerate(names)}
    listed = {"labels": [[name, 6 - 2 * i] for i, name in enumerate(names)]}
    path = write(tmp_path / place, {**files, "dataset.json": json.dumps(listed).encode()})
    for labels in (True, None):
        data = load(path, labels=labels)
        assert data.class_names == ("0", "2", "4", "6")
        assert classes(data) == {0: "6", 1: "4", 2: "2", 3: "0"}
    assert load(path).num_classes is None
    (tmp_path / place).rename(tmp_path / "first")
    path = write(tmp_path / place, {**files, "dataset.json": b'{"labels": null}'})
    assert load(path, labels=None).num_classes is None
    with pytest.raises(ValueError, match="labels=true, but .*dataset.json has none"):
        load(path, labels=True)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([["1.png", 0]], r"has no label for 2.png: add it, or give labels=false"),
        ([["1.png", 0], ["2.png", [0.5, 1]]], r"gives 2.png the label \[0.5, 1\], expected an integer"),
        ([["1.png", 0], ["../2.png", 1]], r"dataset.json names '../2.png', outside its own place: it is not opened"),
        ([["1.png", 0], ["/etc/2.png", 1]], "names '/etc/2.png', outside its own place"),
        ([["1.png", 0], ["C:\\2.png", 1]], "outside its own place"),
        ([["1.png"]], r'has the entry \["1.png"\], expected \["file.png", 3\]'),
        ("text", "has no list of labels"),
    ],
)
def test_dataset_json_refusals(tmp_path: Path, entries: Any, message: str) -> None:
    listed = {"1.png": png(1), "2.png": png(2), "dataset.json": json.dumps({"labels": entries}).encode()}
    with pytest.raises(ValueError, match=message) as caught:
        load(write(tmp_path / "a.zip", listed), labels=True)
    assert "\n" not in str(caught.value)


def test_a_listed_link_does_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    write(tmp_path / "private", {"2.png": png(2)})
    entries = json.dumps({"labels": [["1.png", 0], ["2.png", 1]]}).encode()
    path = write(tmp_path / "a", {"1.png": png(1), "dataset.json": entries})
    (tmp_path / "a" / "2.png").symlink_to(tmp_path / "private" / "2.png")
    with pytest.raises(ValueError, match="dataset.json names 2.png, a link that leads out of"):
        load(path, labels=True)


@pytest.mark.parametrize("name", ["../up.png", "/abs.png", "a/../../up.png", "c:/x.png", "..\\up.png"])
def test_archives_name_nothing_outside(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="outside its own place"):
        check_inside(name, "a")
    for place in ("a.zip", "a.tar"):
        path = write(tmp_path / place, {"1.png": png(1), name: png(2)})
        with pytest.raises(ValueError, match="outside its own place: it is not opened"):
            load(path)


def test_links_in_archives_are_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "a.tar", {"1.png": png(1), "2.png": png(2), "4.png": png(4)})
    with tarfile.open(tmp_path / "a.tar", "a") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            link = tarfile.TarInfo("3.png")
            link.type, link.linkname = kind, "/etc/passwd"
            archive.addfile(link)
    entry = zipfile.ZipInfo("3.png")
    entry.external_attr = 0o120777 << 16
    write(tmp_path / "a.zip", {"1.png": png(1), "2.png": png(2), "4.png": png(4)})
    with zipfile.ZipFile(tmp_path / "a.zip", "a") as zipped:
        zipped.writestr(entry, "/etc/passwd")
    for name, count in (("a.tar", 2), ("a.zip", 1)):
        assert len(load(str(tmp_path / name)).whole()[0]) == 3
        assert f"{name}: 3 pictures; passed over: {count} links" in caplog.text


def test_webdataset_has_classes_beside_the_pictures(tmp_path: Path) -> None:
    files = {
        f"{i:03}.{suffix}": content
        for i in range(4)
        for suffix, content in (("png", png(i)), ("cls", b"%d" % (i % 2 + 5)))
    }
    path = write(tmp_path / "a.tar", files)
    assert classes(load(path, labels=True)) == {0: "5", 1: "6", 2: "5", 3: "6"}
    del files["002.cls"]
    with pytest.raises(ValueError, match="002.png has no class beside it .002.cls."):
        load(write(tmp_path / "b.tar", files), labels=True)


def test_archives_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.zip").write_bytes(b"text")
    with pytest.raises(ValueError, match="a.zip is no folder, and no zip or tar archive"):
        load(str(tmp_path / "a.zip"))
    whole = Path(write(tmp_path / "b.tar.gz", {"1.png": png(1)})).read_bytes()
    (tmp_path / "b.tar.gz").write_bytes(whole[:60])
    with pytest.raises(ValueError, match="b.tar.gz (cannot be read|is no folder)"):
        load(str(tmp_path / "b.tar.gz"))
    path = write(tmp_path / "c.zip", {"1.png": bytes(10_000), "2.png": png(1)})
    monkeypatch.setenv("SCORESDE_MEMORY", str(5000 / 2**30))
    with pytest.raises(ValueError, match="c.zip/1.png would take"):
        load(path)
    with zipfile.ZipFile(tmp_path / "d.zip", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("1.png", png(1))
    with pytest.raises(ValueError, match="d.zip/1.png is compressed by bzip2: pack the archive anew by deflate"):
        load(str(tmp_path / "d.zip"))
    write(tmp_path / "shards", {"0.tar": b"", "1.tar": b""})
    with pytest.raises(ValueError, match=r"there are 2 .tar: data=webdataset reads a folder of .tar files"):
        load(str(tmp_path / "shards"))


# -- pictures -------------------------------------------------------------------------------------------


def test_opacity_is_kept_dropped_or_put_on_a_background(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    palette = Image.new("P", (4, 3), 0)
    palette.putpalette([200, 0, 100, 0, 0, 0])
    buffer = io.BytesIO()
    palette.save(buffer, "PNG", transparency=0)
    half, clear = png((200, 0, 100, 51), "RGBA"), png((200, 0, 100, 0), "RGBA")
    path = write(tmp_path, {"1.png": half, "2.png": clear, "3.png": buffer.getvalue(), "4.png": png((9, 9, 9), "RGB")})

    def pixels(**arguments: Any) -> list[list[int]]:
        return sorted(load(path, **arguments).whole()[0][:, :, 0, 0].tolist())

    assert pixels(channels=3) == [[9, 9, 9]] + 3 * [[200, 0, 100]]
    assert "3 of 4 images have transparency, which is dropped (data.background=white" in caplog.text
    caplog.clear()
    assert pixels(channels=4) == [[9, 9, 9, 255], *([200, 0, 100, a] for a in (0, 0, 51))]
    assert pixels(channels=3, background="white") == [[9, 9, 9], [244, 204, 224], [255, 255, 255], [255, 255, 255]]
    assert pixels(channels=3, background="#000000") == [[0, 0, 0], [0, 0, 0], [9, 9, 9], [40, 0, 20]]
    assert [p[1] for p in pixels(channels=2)] == [255, 0, 0, 51]
    assert not caplog.records
    with pytest.raises(ValueError, match="background is 'bleu', expected a colour as white or '#ff8800'"):
        pixels(background="bleu")


def test_sixteen_bits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    values = np.array([[0, 257, 40_000], [65_535, 128, 129]], dtype=np.uint16)
    for i, suffix in enumerate((".png", ".tif")):
        Image.fromarray(values // (i + 1)).save(tmp_path / f"{i}{suffix}")
    Image.fromarray((values // 257).astype(np.uint8)).save(tmp_path / "2.png")
    with pytest.raises(
        ValueError, match="has mode I;16, .* data.bits=8 converts it, data.bits=16 .* keeps 65536 levels"
    ):
        load(str(tmp_path))
    deep = load(str(tmp_path), bits=16)
    assert deep.transform.levels == 65536
    x = deep.whole()[0]
    assert x[:2, 0].tolist() == [values.tolist(), (values // 2).tolist()]
    assert x[2, 0].tolist() == (values // 257 * 257).tolist()
    for channels in (1, 2, 3, 4):
        data = load(str(tmp_path), bits=8, channels=channels)
        assert data.transform == Discrete(256)
        assert data.whole()[0][0, 0].tolist() == [[0, 1, 156], [255, 0, 1]]
        assert data.shape[0] == channels
    # A band of 16-bit values is resized without being cut to 8 bits.
    assert load(str(tmp_path), bits=16, size=1, resample="box").whole()[0][0].item() == round(values[:, :2].mean())
    with pytest.raises(ValueError, match="bits=16 needs channels=1, got 3"):
        load(str(tmp_path), bits=16, channels=3)
    Image.fromarray(np.ones((2, 3), np.float32)).save(tmp_path / "3.tif")
    with pytest.raises(ValueError, match="3.tif has mode F, more than 8 bits a channel: save it as an .npy file"):
        load(str(tmp_path), bits=8)


def test_animations(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    frames = [Image.new("L", (4, 3), v) for v in (10, 200)]
    frames[0].save(tmp_path / "1.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "2.png")
    for i in (3, 4):
        Image.new("L", (4, 3), i).save(tmp_path / f"{i}.png")
    assert sorted(load(str(tmp_path)).whole()[0][:, 0, 0, 0].tolist()) == [3, 4, 10, 10]
    assert "1 of 4 images have several frames: the first is read" in caplog.text
    with pytest.raises(ValueError, match="1.gif: it has 2 frames: frames=first takes the first"):
        load(str(tmp_path), frames="refuse")


def test_sizes(tmp_path: Path) -> None:
    pixels = np.zeros((4, 8), dtype=np.uint8)
    pixels[:, 4:] = 100
    Image.fromarray(pixels).save(tmp_path / "1.png")
    Image.fromarray(pixels.T.copy()).save(tmp_path / "2.png")
    stretched = load(str(tmp_path), size=2, fit="stretch", resample="box").whole()[0]
    assert torch.equal(stretched[:, 0], torch.tensor([[[0, 100], [0, 100]], [[0, 0], [100, 100]]], dtype=torch.uint8))
    assert load(str(tmp_path), size=[2, 4]).shape == (1, 2, 4)
    cut = load(str(tmp_path), size=[2, 4], resample="box").whole()[0]
    assert cut[0, 0].tolist() == [[0, 0, 100, 100]] * 2
    for arguments, message in (
        ({"size": [1, 2, 3]}, "size must be one number, or a height and a width"),
        ({"size": True}, "size must be at least 1 pixel"),
        ({"fit": "pad"}, "fit must be 'crop' or 'stretch'"),
        ({"bits": 12}, "bits must be 8, 16 or null"),
        ({"frames": "all"}, "frames must be 'first' or 'refuse'"),
    ):
        with pytest.raises(ValueError, match=message):
            load(str(tmp_path), **arguments)


def test_a_path_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "pictures").mkdir()
    for i in range(2):
        Image.fromarray(np.array([[0, 1], [2, i]], np.uint8)).save(tmp_path / "pictures" / f"{i}.png")
    assert image_folder("~/pictures", test_size=1).name == "pictures"
