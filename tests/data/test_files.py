from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from scoresde.data import Discrete, Identity, Standardise, image_folder, npz

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (20, 5, 4, 3), dtype=np.uint8)
FLOATS = RNG.normal(3.0, 2.0, (20, 6))


def save(folder: Path, **arrays: Any) -> str:
    path = folder / "example.npz"
    np.savez_compressed(path, **arrays)
    return str(path)


def rows(x: torch.Tensor) -> list[list[float]]:
    return sorted(x.flatten(1).tolist())


def test_npz_pixels(tmp_path: Path) -> None:
    data = npz(save(tmp_path, x=PIXELS), channels_last=True)
    assert (data.name, data.shape, len(data.train), len(data.test)) == ("example", (3, 5, 4), 18, 2)
    assert data.transform == Discrete(256)
    assert data.train.dtype == torch.uint8
    everything = torch.cat([data.train, data.test])
    assert rows(everything) == rows(torch.from_numpy(PIXELS.transpose(0, 3, 1, 2).copy()))
    assert torch.equal(data.whole()[0], torch.from_numpy(PIXELS.transpose(0, 3, 1, 2).copy()))


def test_npz_grey_pictures_get_a_channel(tmp_path: Path) -> None:
    assert npz(save(tmp_path, x=PIXELS[..., 0]), channels_last=True).shape == (1, 5, 4)
    assert npz(save(tmp_path, x=PIXELS[..., 0])).shape == (5, 4)


def test_npz_floats_are_standardised_by_the_training_values(tmp_path: Path) -> None:
    data = npz(save(tmp_path, z=FLOATS), key="z", test_size=5)
    assert data.train.dtype == torch.float64
    assert isinstance(data.transform, Standardise)
    x = data.transform.encode(data.train, dtype=torch.float64)
    assert float(x.mean()) == pytest.approx(0, abs=1e-12)
    assert float(x.std()) == pytest.approx(1, abs=1e-12)
    assert rows(torch.cat([data.train, data.test])) == rows(torch.from_numpy(FLOATS))


def test_npz_levels_and_foreign_types(tmp_path: Path) -> None:
    small = PIXELS.reshape(20, -1) % 17
    for dtype in (np.uint8, ">i2", np.uint16, np.uint64, np.float32):
        data = npz(save(tmp_path, x=small.astype(dtype)), levels=17)
        assert data.transform == Discrete(17)
        assert rows(torch.cat([data.train, data.test])) == rows(torch.from_numpy(small))
    for foreign in (">f4", ">f8", np.longdouble, np.float16):
        values = np.round(FLOATS * 8).astype(foreign)
        data = npz(save(tmp_path, x=values))
        assert rows(torch.cat([data.train, data.test])) == rows(torch.from_numpy(values.astype(np.float64)))


def test_npz_labels_follow_their_samples(tmp_path: Path) -> None:
    labels = np.arange(20) % 7
    data = npz(save(tmp_path, x=PIXELS, y=labels), label_key="y", test_size=3, seed=4)
    label_of = {x.tobytes(): int(y) for x, y in zip(PIXELS, labels, strict=True)}
    for values, classes in ((data.train, data.train_labels), (data.test, data.test_labels)):
        assert classes is not None
        assert classes.tolist() == [label_of[x.numpy().tobytes()] for x in values]
    assert data.num_classes == 7


def test_npz_counts_a_class_that_only_the_test_part_has(tmp_path: Path) -> None:
    for place in range(6):  # wherever the split puts the last class
        labels = np.zeros(6, dtype=np.int64)
        labels[place] = 1
        assert npz(save(tmp_path, x=PIXELS[:6], y=labels), label_key="y", test_size=2).num_classes == 2


@pytest.mark.parametrize(
    ("arrays", "arguments", "message"),
    [
        ({"a": FLOATS, "b": FLOATS}, {}, "has no array 'x'; available: a, b"),
        ({"x": FLOATS}, {"label_key": "y"}, "has no array 'y'; available: x"),
        ({"x": np.array([{}, 1], dtype=object)}, {}, r"damaged or holds pickled objects.*\(available: x\)"),
        ({"x": np.array(["a", "b"])}, {}, "has dtype <U1, expected integers or floating point"),
        ({"x": FLOATS > 0}, {}, "has dtype bool"),
        ({"x": FLOATS.astype(int)}, {}, "has dtype int64: give levels="),
        ({"x": FLOATS[:, 0]}, {}, r"must be \(N, \*shape\), got shape \(20,\)"),
        ({"x": FLOATS}, {"channels_last": True}, r"channels_last needs .* got shape \(20, 6\)"),
        ({"x": FLOATS, "y": np.arange(19)}, {"label_key": "y"}, r"must be 20 integers, got shape \(19,\)"),
        ({"x": FLOATS, "y": FLOATS[:, 0]}, {"label_key": "y"}, "must be 20 integers, .* dtype float64"),
        ({"x": FLOATS, "y": np.arange(20) - 1}, {"label_key": "y"}, "labels must lie in 0..18, got -1"),
        ({"x": np.where(FLOATS > 4, np.nan, FLOATS)}, {}, "example: values must be finite"),
        ({"x": np.ones((9, 2))}, {}, "example: std must be positive, got 0: constant data"),
        ({"x": np.ones((9, 2), dtype=np.uint8)}, {}, "constant data, every training value is 1"),
        ({"x": PIXELS}, {"levels": 17}, "integers 0..16 .* worst value is 255"),
        ({"x": FLOATS}, {"levels": 17}, "integers 0..16"),
        ({"x": FLOATS[:1]}, {}, "leaves 0 training and 1 test samples of 1"),
    ],
)
def test_npz_refusals(tmp_path: Path, arrays: dict[str, Any], arguments: dict[str, Any], message: str) -> None:
    path = save(tmp_path, **arrays)
    with pytest.raises(ValueError, match=message) as caught:
        npz(path, **arguments)
    assert "\n" not in str(caught.value)


def test_npz_refuses_other_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no file"):
        npz(str(tmp_path / "missing.npz"))
    np.save(tmp_path / "one.npy", FLOATS)
    with pytest.raises(ValueError, match=r"holds a single array; save it as an .npz archive"):
        npz(str(tmp_path / "one.npy"))
    for content in (b"", b"text", b"PK\x03\x04 cut off", b"\x80\x04\x95 a pickle"):
        (tmp_path / "bad.npz").write_bytes(content)
        with pytest.raises(ValueError, match=r"bad.npz is not an .npz archive"):
            npz(str(tmp_path / "bad.npz"))
    path = Path(save(tmp_path, x=PIXELS))
    damaged = bytearray(path.read_bytes())
    damaged[200:260] = bytes(60)
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"array 'x' .* is damaged"):
        npz(str(path))


def pictures(folder: Path, count: int = 6, size: tuple[int, int] = (5, 4)) -> None:
    for i in range(count):
        place = folder / "cats" if i % 2 else folder / "dogs"
        place.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{i}.png")


def test_folder_reads_the_pixels(tmp_path: Path) -> None:
    pictures(tmp_path)
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / "cats" / "._1.png").write_bytes(b"resource fork")
    data = image_folder(str(tmp_path), test_size=2)
    assert (data.name, data.shape, len(data.train), len(data.test)) == (tmp_path.name, (3, 4, 5), 4, 2)
    assert data.transform == Discrete(256)
    expected = [np.random.default_rng(i).integers(0, 256, (4, 5, 3), dtype=np.uint8) for i in range(6)]
    assert rows(torch.cat([data.train, data.test])) == rows(torch.from_numpy(np.stack(expected).transpose(0, 3, 1, 2)))


def test_folder_labels_are_the_sorted_sub_folders(tmp_path: Path) -> None:
    pictures(tmp_path)
    data = image_folder(str(tmp_path), test_size=2, labels=True)
    assert data.num_classes == 2
    cats = [np.random.default_rng(i).integers(0, 256, (4, 5, 3), dtype=np.uint8) for i in (1, 3, 5)]
    cat_pixels = rows(torch.from_numpy(np.stack(cats).transpose(0, 3, 1, 2)))
    assert data.train_labels is not None
    for x, y in zip(data.train, data.train_labels.tolist(), strict=True):
        assert (x.flatten().tolist() in cat_pixels) == (y == 0)


def test_folder_crops_the_centre_and_resizes(tmp_path: Path) -> None:
    # 8×4: the middle square is columns 2..5; its 2×2 blocks have means that a box filter returns exactly.
    pixels = np.zeros((4, 8), dtype=np.uint8)
    pixels[:, :2], pixels[:, 6:] = 255, 255
    pixels[:2, 2:4], pixels[:2, 4:6], pixels[2:, 2:4], pixels[2:, 4:6] = 10, 20, 30, 40
    for i in range(3):
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    data = image_folder(str(tmp_path), size=2, channels=1, test_size=1, resample="box")
    assert data.test.tolist() == [[[[10, 20], [30, 40]]]]
    lanczos = image_folder(str(tmp_path), size=2, channels=1, test_size=1)
    assert lanczos.shape == (1, 2, 2)
    assert not torch.equal(lanczos.test, data.test)
    assert image_folder(str(tmp_path), size=4, channels=1, test_size=1).test[0, 0].tolist() == pixels[:, 2:6].tolist()


def test_folder_colour_and_grey(tmp_path: Path) -> None:
    for i, colour in enumerate(((255, 0, 0), (0, 255, 0))):
        Image.new("RGB", (2, 2), colour).save(tmp_path / f"{i}.png")
    colour_data = image_folder(str(tmp_path), test_size=1)
    pixels = torch.cat([colour_data.train, colour_data.test])[:, :, 0, 0].tolist()
    assert sorted(pixels) == [[0, 255, 0], [255, 0, 0]]  # channels first, in the order red, green, blue
    (tmp_path / "2.png").write_bytes((tmp_path / "0.png").read_bytes())
    pair = image_folder(str(tmp_path), channels=1, test_size=1)
    # ITU-R 601 luma: 0.299 red, 0.587 green.
    assert {int(v) for v in torch.cat([pair.train, pair.test])[:, 0, 0, 0]} == {76, 150}


def test_folder_turns_pictures_as_the_camera_says(tmp_path: Path) -> None:
    pixels = np.array([[0, 50, 100]], dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° clockwise
    for i in range(2):
        Image.fromarray(pixels).save(tmp_path / f"{i}.png", exif=exif)
    assert image_folder(str(tmp_path), channels=1, test_size=1).test.tolist() == [[[[0], [50], [100]]]]


def test_folder_refusals(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no folder"):
        image_folder(str(tmp_path / "missing"))
    with pytest.raises(ValueError, match="there are no images in"):
        image_folder(str(tmp_path))
    pictures(tmp_path)
    path = str(tmp_path)
    with pytest.raises(ValueError, match=r"channels must be 1 .grey. or 3 .RGB., got 4"):
        image_folder(path, channels=4)
    with pytest.raises(ValueError, match="size must be at least 1 pixel, got 0"):
        image_folder(path, size=0)
    with pytest.raises(ValueError, match="resample must be 'lanczos' or 'box', got 'cubic'"):
        image_folder(path, resample="cubic")  # type: ignore[arg-type]
    Image.new("RGB", (7, 4)).save(tmp_path / "wide.png")
    with pytest.raises(ValueError, match=r"cats.1.png is 5x4, .*wide.png is 7x4; give size="):
        image_folder(path)
    with pytest.raises(ValueError, match=r"labels=true takes classes from sub-folders, but .*wide.png is in none"):
        image_folder(path, labels=True)


def test_folder_names_the_file_it_cannot_read(tmp_path: Path) -> None:
    pictures(tmp_path)
    bad = tmp_path / "dogs" / "bad.png"
    whole = (tmp_path / "dogs" / "0.png").read_bytes()
    for content in (b"", b"text", whole[:60]):
        bad.write_bytes(content)
        with pytest.raises(ValueError, match=r"cannot read the image .*bad.png") as caught:
            image_folder(str(tmp_path))
        assert "\n" not in str(caught.value)
    Image.fromarray(np.full((4, 5), 40_000, dtype=np.uint16)).save(bad)
    with pytest.raises(ValueError, match=r"bad.png has mode I;16, more than 8 bits a channel"):
        image_folder(str(tmp_path))


def test_folder_refuses_a_decompression_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5)
    with pytest.raises(ValueError, match=r"cannot read the image .*1.png"):
        image_folder(str(tmp_path))


def test_npz_standardises_as_asked(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal([1e5, 0.6], [700, 0.1], size=(200, 2))
    path = save(tmp_path, x=x)
    assert npz(path).transform == npz(path, standardise="channel").transform
    assert npz(path, standardise="none").transform == Identity()
    data = npz(path, standardise="all")
    assert data.transform == Standardise.fit(data.train, "all")
    with pytest.raises(ValueError, match="standardise is 'no', expected one of auto, none"):
        npz(path, standardise="no")  # type: ignore[arg-type]
    path = save(tmp_path, x=x.astype(np.uint8))
    with pytest.raises(ValueError, match="standardise=channel is for continuous values, and the 256 levels of array"):
        npz(path, standardise="channel")
    assert npz(path, standardise="all").transform == Discrete(256)
