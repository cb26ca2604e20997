import io
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from scoresde.data import Data, Discrete, Identity, Standardise, image_folder, npz
from scoresde.data.rows import Rows

# 5×4 pixels of three colours are also 5 channels of 4×3: what is not about layout says which.
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
    everything = torch.cat([data.train[:], data.test[:]])
    assert rows(everything) == rows(torch.from_numpy(PIXELS.transpose(0, 3, 1, 2).copy()))
    assert torch.equal(data.whole()[0], torch.from_numpy(PIXELS.transpose(0, 3, 1, 2).copy()))


def test_npz_grey_pictures_get_a_channel(tmp_path: Path) -> None:
    assert npz(save(tmp_path, x=PIXELS[..., 0]), channels_last=True).shape == (1, 5, 4)
    assert npz(save(tmp_path, x=PIXELS[..., 0])).shape == (1, 5, 4)
    assert npz(save(tmp_path, x=PIXELS[..., 0]), channels_last=False).shape == (5, 4)
    assert npz(save(tmp_path, x=FLOATS.reshape(20, 3, 2))).shape == (3, 2)  # a series, for all one can tell


def test_npz_floats_are_standardised_by_the_training_values(tmp_path: Path) -> None:
    data = npz(save(tmp_path, z=FLOATS), key="z", test_size=5)
    assert data.train.dtype == torch.float64
    assert isinstance(data.transform, Standardise)
    x = data.transform.encode(data.train, dtype=torch.float64)
    assert float(x.mean()) == pytest.approx(0, abs=1e-12)
    assert float(x.std()) == pytest.approx(1, abs=1e-12)
    assert rows(torch.cat([data.train[:], data.test[:]])) == rows(torch.from_numpy(FLOATS))


def test_npz_levels_and_foreign_types(tmp_path: Path) -> None:
    small = PIXELS.reshape(20, -1) % 17
    for dtype in (np.uint8, ">i2", np.uint16, np.uint64, np.float32):
        data = npz(save(tmp_path, x=small.astype(dtype)), levels=17)
        assert data.transform == Discrete(17)
        assert rows(torch.cat([data.train[:], data.test[:]])) == rows(torch.from_numpy(small))
    for foreign in (">f4", ">f8", np.longdouble, np.float16):
        values = np.round(FLOATS * 8).astype(foreign)
        data = npz(save(tmp_path, x=values))
        assert rows(torch.cat([data.train[:], data.test[:]])) == rows(torch.from_numpy(values.astype(np.float64)))


def test_npz_labels_follow_their_samples(tmp_path: Path) -> None:
    labels = np.arange(20) % 7
    data = npz(save(tmp_path, x=PIXELS.reshape(20, -1), y=labels), label_key="y", test_size=3, seed=4)
    label_of = {x.tobytes(): int(y) for x, y in zip(PIXELS, labels, strict=True)}
    for values, classes in ((data.train, data.train_labels), (data.test, data.test_labels)):
        assert classes is not None
        assert classes.tolist() == [label_of[x.numpy().tobytes()] for x in values]
    assert data.num_classes == 7


def test_npz_counts_a_class_that_only_the_test_part_has(tmp_path: Path) -> None:
    for place in range(6):  # wherever the split puts the last class
        labels = np.zeros(6, dtype=np.int64)
        labels[place] = 1
        assert npz(save(tmp_path, x=FLOATS[:6], y=labels), label_key="y", test_size=2).num_classes == 2


@pytest.mark.parametrize(
    ("arrays", "arguments", "message"),
    [
        (
            {"a": FLOATS, "b": FLOATS},
            {},
            "has several arrays that .* available: a, b: say which by key=NAME",
        ),
        ({"x": FLOATS}, {"label_key": "y"}, "has no array 'y'; available: x"),
        ({"x": np.array([{}, 1], dtype=object)}, {}, "array 'x' of .* is damaged or holds objects"),
        ({"x": np.array(["a", "b"])}, {}, "has dtype <U1, expected integers or floating point"),
        ({"x": FLOATS > 0}, {}, "has dtype bool"),
        ({"x": FLOATS.astype(int)}, {}, "has dtype int64: give levels="),
        ({"x": FLOATS[:, 0]}, {}, r"must be \(N, \*shape\), got shape \(20,\)"),
        ({"x": FLOATS}, {"channels_last": True}, r"channels_last needs .* got shape \(20, 6\)"),
        ({"x": FLOATS, "y": np.arange(19)}, {"label_key": "y"}, r"must be 20 integers or strings, got shape \(19,\)"),
        ({"x": FLOATS, "y": FLOATS[:, 0]}, {"label_key": "y"}, "must be 20 integers or strings, .* dtype float64"),
        ({"x": np.where(FLOATS > 4, np.nan, FLOATS)}, {}, "example: values must be finite"),
        ({"x": np.ones((9, 2))}, {}, "example: std must be positive, got 0: constant data"),
        ({"x": np.ones((9, 2), dtype=np.uint8)}, {}, "constant data, every training value is 1"),
        ({"x": PIXELS.reshape(20, -1)}, {"levels": 17}, "integers 0..16 .* worst value is 255"),
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
    for content in (b"", b"text", b"PK\x03\x04 cut off", b"\x80\x04\x95 a pickle"):
        (tmp_path / "bad.npz").write_bytes(content)
        with pytest.raises(ValueError, match=r"bad.npz (is not an .npz archive|is damaged)"):
            npz(str(tmp_path / "bad.npz"))
    path = Path(save(tmp_path, x=PIXELS))
    damaged = bytearray(path.read_bytes())
    damaged[200:260] = bytes(60)
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"array 'x' .* is damaged"):
        npz(str(path))


@pytest.mark.parametrize(
    ("shape", "first"),
    [
        ((8, 8, 3), (3, 8, 8)),  # these are pictures with channels last, and cannot be anything else
        ((16, 16, 4), (4, 16, 16)),
        ((218, 178, 3), (3, 218, 178)),
        ((28, 28, 1), (1, 28, 28)),
        ((32, 32, 13), (13, 32, 32)),
        ((3, 8, 8), None),  # these are what they are documented to be
        ((1, 28, 20), None),
        ((512, 4, 4), None),
        ((16, 8, 12), None),
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_npz_sees_that_channels_are_last(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    shape: tuple[int, ...],
    first: tuple[int, ...] | None,
    dtype: type,
) -> None:
    x: np.ndarray = np.random.default_rng(1).integers(0, 256, (3, *shape)).astype(dtype)
    data = npz(save(tmp_path, x=x), test_size=1)
    expected = x if first is None else x.transpose(0, 3, 1, 2)
    assert data.shape == expected.shape[1:]
    assert rows(data.whole()[0]) == rows(torch.from_numpy(expected.copy()))
    said = [r.getMessage() for r in caplog.records]
    assert len(said) == (first is not None)
    assert all("data.channels_last=true" in line and "\n" not in line for line in said)
    as_it_is = npz(save(tmp_path, x=x), test_size=1, channels_last=False)
    assert as_it_is.shape == shape


@pytest.mark.parametrize("shape", [(5, 4, 3), (4, 8, 3), (8, 8, 8), (3, 8, 3), (8, 8, 16)])
def test_npz_refuses_to_guess_where_channels_are(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = save(tmp_path, x=RNG.normal(size=(3, *shape)))
    with pytest.raises(ValueError, match="say which, by channels_last=false .*, data.channels_last=true"):
        npz(path)
    assert npz(path, channels_last=False).shape == shape
    assert npz(path, channels_last=True).shape == (shape[2], shape[0], shape[1])


@pytest.mark.parametrize("bad", ["no", 1])
def test_npz_takes_booleans_alone(tmp_path: Path, bad: Any) -> None:
    with pytest.raises(ValueError, match="channels_last is .*, expected true, false, or null"):
        npz(save(tmp_path, x=PIXELS), channels_last=bad)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (np.arange(20) % 10 + 1, tuple(str(i) for i in range(1, 11))),
        (np.arange(20) % 3 * 100, ("0", "100", "200")),
        (np.array(["dog10", "dog2"] * 10), ("dog2", "dog10")),
    ],
)
def test_npz_counts_the_classes_there_are(tmp_path: Path, labels: np.ndarray, names: tuple[str, ...]) -> None:
    data = npz(save(tmp_path, x=FLOATS, y=labels), label_key="y", test_size=5)
    assert (data.num_classes, data.class_names) == (len(names), names)
    indices = data.whole()[1]
    assert indices is not None
    assert [names[i] for i in indices.tolist()] == [str(y) for y in labels]


def test_npz_of_a_fixed_test_array(tmp_path: Path) -> None:
    path = save(tmp_path, x=FLOATS[:15], y=np.arange(15) + 1, tx=FLOATS[15:], ty=np.array([3, 1, 2, 2, 99]))
    data = npz(path, label_key="y", test_key="tx", test_label_key="ty")
    assert np.array_equal(data.train.numpy(), FLOATS[:15])
    assert np.array_equal(data.test.numpy(), FLOATS[15:])
    assert data.class_names == (*map(str, range(1, 16)), "99")
    assert data.test_labels is not None
    assert data.test_labels.tolist() == [2, 0, 1, 1, 15]
    assert data.transform == Standardise.fit(data.train)  # by the training values
    for arguments in ({"label_key": "y", "test_key": "tx"}, {"test_key": "tx", "test_label_key": "ty"}):
        with pytest.raises(ValueError, match="a test array has labels exactly if the other has"):
            npz(path, **arguments)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"array 'y' .* must be \(N, \*shape\), got shape \(15,\)"):
        npz(path, test_key="y")


def test_npz_of_many_levels_and_a_range(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 2**16, (20, 6), dtype=np.uint16)
    data = npz(save(tmp_path, x=x), levels=2**16, low=0.0, high=5.0)
    assert data.transform == Discrete(2**16, 0.0, 5.0)
    assert rows(data.transform.decode(data.transform.encode(data.whole()[0]))) == rows(torch.from_numpy(x.astype(int)))
    with pytest.raises(ValueError, match=r"has dtype uint16: give levels=.* \(the largest here is 4095: levels=4096"):
        npz(save(tmp_path, x=np.minimum(x, 4095)))
    with pytest.raises(ValueError, match=r"low=0.0 and high=1.0 are of discrete data"):
        npz(save(tmp_path, x=FLOATS), low=0.0, high=1.0)
    with pytest.raises(ValueError, match=r"low is 0.0 and high is None: give both ends"):
        npz(save(tmp_path, x=x), levels=2**16, low=0.0)


def test_many_levels_are_standardised_and_pixels_are_not(tmp_path: Path) -> None:
    # Counts of a detector: a band of a thousandth of the range of their type, far from its middle.
    counts = np.random.default_rng(0).poisson(40.0, (500, 6)).astype(np.uint16)
    data = npz(save(tmp_path, x=counts), levels=2**16)
    noise = torch.rand(data.train.shape, generator=torch.Generator().manual_seed(0))
    x = data.transform.encode(data.train, noise, torch.float64)
    assert abs(float(x.mean())) < 0.02
    assert float(x.std()) == pytest.approx(1, abs=0.01)
    assert torch.equal(data.transform.decode(data.transform.encode(data.train, noise)), data.train)
    # The density of a level changes by the width of its cell.
    scale = float((data.train.double().var() + 1 / 12).sqrt())
    assert data.transform.log_det((6,)) == pytest.approx(-6 * np.log(scale))
    assert npz(save(tmp_path, x=counts), levels=2**16, standardise="none").transform == Discrete(2**16)
    assert npz(save(tmp_path, x=counts), levels=256).transform == Discrete(256)
    assert npz(save(tmp_path, x=counts.astype(np.uint8))).transform == Discrete(256)


def test_npy(tmp_path: Path) -> None:
    path = str(tmp_path / "one.npy")
    for x in (FLOATS, np.asfortranarray(FLOATS.astype(np.float32))):
        np.save(path, x)
        data = npz(path, test_size=3)
        assert data.name == "one"
        assert np.array_equal(data.whole()[0].numpy(), x)
    with pytest.raises(ValueError, match="one.npy holds a single array; save several in an .npz archive"):
        npz(path, label_key="y")
    whole = Path(path).read_bytes()
    Path(path).write_bytes(whole[:-8])
    with pytest.raises(ValueError, match="the array of .*one.npy is damaged: it declares 480 bytes and holds 472"):
        npz(path)
    Path(path).write_bytes(whole[:30])
    with pytest.raises(ValueError, match="the array of .*one.npy is damaged"):
        npz(path)


def test_npz_looks_at_declared_sizes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path, x=np.zeros((1000, 1000), dtype=np.uint8), y=np.zeros(1000, dtype=np.uint8))
    assert os.path.getsize(path) < 3000
    monkeypatch.setenv("SCORESDE_MEMORY", str(9.9e5 / 2**30))
    with pytest.raises(ValueError, match=r"array 'x' of .* would take .* raise .* SCORESDE_MEMORY=1"):
        npz(path)
    monkeypatch.setenv("SCORESDE_MEMORY", str(1.0005e6 / 2**30))
    with pytest.raises(ValueError, match="array 'y' of .* would take"):  # together
        npz(path, label_key="y")
    monkeypatch.setenv("SCORESDE_MEMORY", "1e6")
    # A header that declares more than its file holds is not believed.
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**9, 100)})
    (tmp_path / "a.npy").write_bytes(header.getvalue())
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", header.getvalue())
    for name in ("a.npy", "a.npz"):
        with pytest.raises(ValueError, match="is damaged: it declares 800000000000 bytes and holds 0"):
            npz(str(tmp_path / name))


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
    assert rows(torch.cat([data.train[:], data.test[:]])) == rows(
        torch.from_numpy(np.stack(expected).transpose(0, 3, 1, 2))
    )


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
    pixels = torch.cat([colour_data.train[:], colour_data.test[:]])[:, :, 0, 0].tolist()
    assert sorted(pixels) == [[0, 255, 0], [255, 0, 0]]  # channels first, in the order red, green, blue
    (tmp_path / "2.png").write_bytes((tmp_path / "0.png").read_bytes())
    pair = image_folder(str(tmp_path), channels=1, test_size=1)
    # ITU-R 601 luma: 0.299 red, 0.587 green.
    assert {int(v) for v in torch.cat([pair.train[:], pair.test[:]])[:, 0, 0, 0]} == {76, 150}


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
    with pytest.raises(ValueError, match=r"channels must be 1 .grey. or 3 .RGB., .* got 5"):
        image_folder(path, channels=5)
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


def test_folder_looks_at_declared_sizes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(tmp_path)
    before = Image.MAX_IMAGE_PIXELS
    monkeypatch.setenv("SCORESDE_PIXELS", "19")
    with pytest.raises(ValueError, match=r"the image .*1.png has more than 19 pixels, .* variable SCORESDE_PIXELS"):
        image_folder(str(tmp_path))
    monkeypatch.setenv("SCORESDE_PIXELS", "20")
    monkeypatch.setenv("SCORESDE_MEMORY", "1e-7")
    with pytest.raises(ValueError, match=r"reading 6 images of 5x4 .or give size=. would take .* SCORESDE_MEMORY=1"):
        image_folder(str(tmp_path), in_memory=True)
    assert isinstance(image_folder(str(tmp_path)).train, Rows)
    assert before == Image.MAX_IMAGE_PIXELS
    monkeypatch.delenv("SCORESDE_MEMORY")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5)  # another program's: ours is what counts here
    assert len(image_folder(str(tmp_path)).train) == 5


def coloured(folder: Path, names: list[str]) -> None:
    """A picture of 2×2 for each name; its value is its place."""
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (2, 2), i).save(folder / name)


def values(data: Data, split: str) -> list[int]:
    return getattr(data, split)[:, 0, 0, 0].tolist()


def test_folder_reads_all_suffixes_and_says_what_it_passes_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    formats = {
        "JPEG": (".jpg", ".jpeg", ".JFIF", ".jpe"),
        "PNG": (".png",),
        "AVIF": (".avif",),
        "TGA": (".tga",),
        "JPEG2000": (".jp2",),
        "PPM": (".ppm", ".pgm", ".pbm"),
        "WEBP": (".webp",),
        "TIFF": (".tif", ".tiff"),
        "BMP": (".bmp",),
        "GIF": (".gif",),
    }
    Image.init()
    written = 0
    for name, suffixes in formats.items():
        for suffix in suffixes if name in Image.SAVE else ():
            mode = "1" if suffix == ".pbm" else "RGB"
            Image.new(mode, (16, 16), 255 if mode == "1" else (200, 200, 200)).save(
                tmp_path / f"{written}{suffix}", name
            )
            written += 1
    Image.new("RGB", (16, 16)).save(tmp_path / "dark.png")
    data = image_folder(str(tmp_path), test_size=1)
    assert len(data.whole()[0]) == written + 1 >= 13
    assert not caplog.records
    for name in ("a.heic", "b.HEIC", "notes.txt", ".hidden.txt"):
        (tmp_path / name).write_text("")
    image_folder(str(tmp_path), test_size=1)
    (record,) = caplog.records
    assert record.getMessage() == f"{tmp_path}: {written + 1} pictures; passed over: 2 .heic, 1 .txt"


def test_folder_opens_no_other_format(tmp_path: Path) -> None:
    coloured(tmp_path, ["0.png", "1.png", "3.png"])
    (tmp_path / "1.png").rename(tmp_path / "1.jpg")  # harmless, and frequent
    assert len(image_folder(str(tmp_path), test_size=1).train) == 2
    # Of formats that Pillow knows and that are not meant, the harmless SGI stands for all.
    Image.new("L", (2, 2)).save(tmp_path / "2.png", "SGI")
    with pytest.raises(ValueError, match=r"cannot read the image .*2.png: its content is none of PNG, JPEG"):
        image_folder(str(tmp_path), test_size=1)


def test_folder_classes_are_in_natural_order(tmp_path: Path) -> None:
    coloured(tmp_path, [f"{name}/{i}.png" for name in ("dog10", "dog2", "cat") for i in range(2)])
    data = image_folder(str(tmp_path), labels=True, test_size=2)
    assert data.class_names == ("cat", "dog2", "dog10")
    labels = data.whole()[1]
    assert labels is not None
    pairs = dict(zip(data.whole()[0][:, 0, 0, 0].tolist(), labels.tolist(), strict=True))
    # The pictures have their values by the order of writing, and the classes theirs by name.
    assert sorted(pairs.values()) == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("test", ["test", "val", "Validation"])
def test_folder_takes_train_and_test_for_splits(tmp_path: Path, test: str, caplog: pytest.LogCaptureFixture) -> None:
    coloured(tmp_path, [f"train/{c}/{i}.png" for i in range(3) for c in "ab"] + [f"{test}/{c}/0.png" for c in "bc"])
    data = image_folder(str(tmp_path), channels=1, labels=True)
    assert (sorted(values(data, "train")), sorted(values(data, "test"))) == ([0, 1, 2, 3, 4, 5], [6, 7])
    assert data.class_names == ("a", "b", "c")
    assert data.train_labels is not None
    assert data.test_labels is not None
    assert [v % 2 for v in values(data, "train")] == data.train_labels.tolist()
    assert [v - 5 for v in values(data, "test")] == data.test_labels.tolist()
    assert f"6 pictures of train/ to train on, 2 pictures of {test}/ to test on" in caplog.text
    assert len(image_folder(str(tmp_path), channels=1, test_size=3).test) == 2
    together = image_folder(str(tmp_path), labels=True, split_folders=False)
    assert together.class_names == tuple(sorted(("train", test)))


def test_folder_of_other_classes_beside_one_called_train(tmp_path: Path) -> None:
    coloured(tmp_path, [f"{c}/{i}.png" for i in range(3) for c in ("train", "bus")])
    assert image_folder(str(tmp_path), labels=True, test_size=2).class_names == ("bus", "train")


def test_folder_leaves_out_a_third_split_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    coloured(tmp_path, [f"{s}/{i}.png" for s in ("train", "test", "val") for i in range(2)])
    data = image_folder(str(tmp_path), channels=1)
    assert (values(data, "train"), values(data, "test")) == ([0, 1], [2, 3])
    assert "val left out" in caplog.text


def test_folder_follows_links(tmp_path: Path) -> None:
    coloured(tmp_path / "elsewhere", ["cats/0.png", "cats/1.png"])
    coloured(tmp_path / "data", ["dogs/0.png", "dogs/1.png"])
    (tmp_path / "data" / "cats").symlink_to(tmp_path / "elsewhere" / "cats")
    (tmp_path / "data" / "dogs" / "2.png").symlink_to(tmp_path / "elsewhere" / "cats" / "0.png")
    data = image_folder(str(tmp_path / "data"), labels=True, test_size=2)
    assert (len(data.whole()[0]), data.class_names) == (5, ("cats", "dogs"))
    circle = tmp_path / "data" / "dogs" / "again"
    circle.symlink_to(tmp_path / "data")
    with pytest.raises(ValueError, match=r"again is a link to .*data, in which it lies itself"):
        image_folder(str(tmp_path / "data"))
    circle.unlink()
    circle.symlink_to(tmp_path / "gone")
    with pytest.raises(ValueError, match=r"again is a link to what is not there"):
        image_folder(str(tmp_path / "data"))


@pytest.mark.parametrize("seed", [None, -1, 0.5, True, 2**32])
def test_refuses_a_seed_that_splits_anew(tmp_path: Path, seed: Any) -> None:
    coloured(tmp_path, ["0.png", "1.png", "2.png"])
    with pytest.raises(ValueError, match="seed must be"):
        image_folder(str(tmp_path), seed=seed)
    with pytest.raises(ValueError, match="seed must be"):
        npz(save(tmp_path, x=FLOATS), seed=seed)


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


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """The content cut off, or with bytes changed, added or taken away."""
    changed, place = bytearray(content), int(rng.integers(len(content)))
    match rng.integers(4):
        case 0:
            return content[:place]
        case 1:
            changed[place:place] = rng.bytes(8)
        case 2:
            del changed[place : place + 8]
        case _:
            for i in rng.integers(len(content), size=4):
                changed[i] = rng.integers(256)
    return bytes(changed)


def test_damaged_arrays_are_refused_in_one_line(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    whole = Path(save(tmp_path, x=FLOATS, y=np.arange(20) % 3)).read_bytes()
    single = io.BytesIO()
    np.save(single, FLOATS)
    said = []
    for i in range(400):
        path = tmp_path / ("a.npz" if i % 2 else "a.npy")
        path.write_bytes(damaged(whole if i % 2 else single.getvalue(), rng))
        try:
            npz(str(path), label_key="y" if i % 2 else None)
        except ValueError as error:
            said.append((path.name, str(error)))
    assert len(said) > 300
    assert all("\n" not in line and (line.startswith("a: ") or name in line) for name, line in said)


def test_damaged_pictures_are_refused_in_one_line(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    for name in ("0.png", "1.png"):
        picture.save(tmp_path / name)
    Image.init()
    said = []
    for name in ("m.png", "m.jpg", "m.webp", "m.bmp", "m.gif", "m.tif", "m.ppm", "m.jp2", "m.avif", "m.tga"):
        if Image.EXTENSION.get(Path(name).suffix) not in Image.SAVE:
            continue
        picture.save(tmp_path / name)
        whole = (tmp_path / name).read_bytes()
        for _ in range(30):
            (tmp_path / name).write_bytes(damaged(whole, rng))
            try:
                image_folder(str(tmp_path), test_size=1)
            except ValueError as error:
                said.append((name, str(error)))
        (tmp_path / name).unlink()
    assert len(said) > 100
    assert all("\n" not in line and name in line for name, line in said)
