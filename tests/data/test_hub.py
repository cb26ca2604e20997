import io
import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from scoresde.data import Data, Discrete, huggingface

PIXELS = np.random.default_rng(0).integers(0, 256, (10, 4, 5, 3), dtype=np.uint8)
LABELS = [i % 3 for i in range(10)]

Load = Callable[..., Data]


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """`huggingface` without a network, with its cache in the test's folder."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)  # the variables are read at import
    datasets.disable_progress_bars()

    def call(path: str, **arguments: Any) -> Data:
        return huggingface(path, cache_dir=str(tmp_path / "cache"), **arguments)

    return call


def parquet(path: Path, columns: dict[str, list[Any]], image: str | None = "image") -> str:
    """A parquet file; `image` names the column that is declared to hold pictures."""
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_dict(columns)
    if image is not None:
        table = table.cast_column(image, datasets.Image())
    table.to_parquet(str(path))
    return str(path)


def rows(x: torch.Tensor) -> list[list[int]]:
    return sorted(x.flatten(1).tolist())


def encoded(n: int = 10) -> list[dict[str, Any]]:
    return [{"bytes": png(p), "path": None} for p in PIXELS[:n]]


def test_parquet(load: Load, tmp_path: Path) -> None:
    file = parquet(tmp_path / "a.parquet", {"image": encoded(), "label": LABELS})
    data = load("parquet", data_files=file, label_column="label", test_size=3)
    assert (data.shape, len(data.train), len(data.test), data.num_classes) == ((3, 4, 5), 7, 3, 3)
    assert data.transform == Discrete(256)
    label_of = {p.transpose(2, 0, 1).tobytes(): y for p, y in zip(PIXELS, LABELS, strict=True)}
    for values, classes in ((data.train, data.train_labels), (data.test, data.test_labels)):
        assert classes is not None
        assert classes.tolist() == [label_of[x.numpy().tobytes()] for x in values]


@pytest.mark.parametrize("column", [encoded(), [png(p) for p in PIXELS]], ids=["struct", "bytes"])
def test_parquet_of_bytes_that_no_one_declared_pictures(load: Load, tmp_path: Path, column: list[Any]) -> None:
    file = parquet(tmp_path / "a.parquet", {"picture": column}, image=None)
    data = load("parquet", data_files=[file], image_column="picture")
    expected = torch.from_numpy(PIXELS.transpose(0, 3, 1, 2).copy())
    assert rows(torch.cat([data.train[:], data.test[:]])) == rows(expected)


def test_splits_of_their_own(load: Load, tmp_path: Path) -> None:
    files = {
        "train": parquet(tmp_path / "a.parquet", {"image": encoded(6), "label": [0] * 6}),
        "test": parquet(tmp_path / "b.parquet", {"image": encoded(10)[6:], "label": [0, 1, 0, 1]}),
    }
    data = load(
        "parquet",
        data_files=OmegaConf.create(files),
        split_test="test",
        label_column="label",
        size=3,
        channels=1,
    )
    assert (len(data.train), len(data.test), data.shape, data.num_classes) == (6, 4, (1, 3, 3), 2)
    assert data.test_labels is not None
    assert data.test_labels.tolist() == [0, 1, 0, 1]  # in the order of the file


def test_columns_that_are_conditions(load: Load, tmp_path: Path) -> None:
    mass = [float(p[0, 0, 0]) for p in PIXELS]
    columns = {"image": encoded(), "label": LABELS, "mass": mass, "n": LABELS, "note": ["a"] * 10}
    files = {"train": parquet(tmp_path / "a.parquet", columns), "test": parquet(tmp_path / "b.parquet", columns)}
    for options in ({}, {"split_test": "test"}):
        data = load("parquet", data_files=files, label_column="label", condition_columns=["mass", "n"], **options)
        for split, values, labels in (("train", data.train, data.train_labels), ("test", data.test, data.test_labels)):
            vector = data.conditions(split)["vector"]
            assert (vector.shape, vector.dtype) == ((len(values), 2), torch.float64)
            assert labels is not None
            assert torch.equal(vector, torch.stack((values[:, 0, 0, 0], labels), dim=1).double())
    for given, message in (
        (["note"], "column 'note' of split 'train' of parquet holds 'a' in row 1, expected numbers"),
        (["spin"], "split 'train' of parquet has no column 'spin'; available: image, label, mass, n, note"),
        (
            ["image"],
            r"condition_columns is \['image'\], expected different names, without those of pictures and labels",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            load("parquet", data_files=files, condition_columns=given)


def test_imagefolder(load: Load, tmp_path: Path) -> None:
    for i, pixels in enumerate(PIXELS):
        place = tmp_path / "pictures" / ("cats", "dogs")[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{i}.png")
    data = load("imagefolder", data_dir=str(tmp_path / "pictures"), label_column="label", test_size=0.2)
    assert (len(data.train), len(data.test), data.shape, data.num_classes) == (8, 2, (3, 4, 5), 2)
    cats = rows(torch.from_numpy(PIXELS[::2].transpose(0, 3, 1, 2).copy()))
    assert data.train_labels is not None
    for x, y in zip(data.train, data.train_labels.tolist(), strict=True):
        assert (x.flatten().tolist() in cats) == (y == 0)


def test_refusals(load: Load, tmp_path: Path) -> None:
    columns: dict[str, list[Any]] = {
        "image": encoded(),
        "text": ["a"] * 10,
        "some": [None, *LABELS[1:]],
        "flag": [True] * 10,
    }
    file = parquet(tmp_path / "a.parquet", columns)

    def refuses(message: str, path: str = "parquet", **arguments: Any) -> None:
        with pytest.raises(ValueError, match=message) as caught:
            load(path, **({"data_files": file} | arguments))
        assert "\n" not in str(caught.value)

    refuses("has no column 'img'; available: image, text, some, flag", image_column="img")
    refuses("has no column 'y'; available: image", label_column="y")
    refuses(r"column 'text' .* holds Value\('string'\), expected images", image_column="text")
    for column in ("some", "flag"):
        refuses(f"labels in column '{column}' .* must be integers", label_column=column)
    refuses("cannot load split 'valid' of data set 'parquet'", split_train="valid")
    refuses("cannot load split 'train' of data set 'parquet'", data_files=str(tmp_path / "missing.parquet"))
    refuses("cannot load split 'train' of data set 'no-one/nothing'", path="no-one/nothing", data_files=None)


def test_names_the_row_it_cannot_read(load: Load, tmp_path: Path) -> None:
    wrong: list[tuple[Any, str]] = [
        ({"bytes": b"text", "path": None}, "cannot read the image 2 of split 'train' of parquet"),
        (None, "cannot read the image 2 of split 'train' of parquet: the row is empty"),
        (
            {"bytes": png(PIXELS[0, :2]), "path": None},
            "images differ in size: 0 of .* is 5x4, 2 of .* is 5x2",
        ),
    ]
    for i, (row, message) in enumerate(wrong):
        images = encoded()
        images[2] = row
        file = parquet(tmp_path / f"{i}.parquet", {"image": images})
        with pytest.raises(ValueError, match=message):
            load("parquet", data_files=file)


def test_refuses_rows_that_name_a_file(load: Load, tmp_path: Path) -> None:
    secret = tmp_path / "elsewhere" / "secret.png"
    secret.parent.mkdir()
    secret.write_bytes(png(PIXELS[0]))
    up = str(tmp_path / "cache" / ".." / "elsewhere" / "secret.png")
    for place in (str(secret), "https://example.org/a.png", up):
        file = parquet(tmp_path / "a.parquet", {"image": [{"bytes": None, "path": place}] * 3}, image=None)
        with pytest.raises(ValueError, match=r"cannot read the image 0 of .* holds no picture but a path, '.*a?\.png'"):
            load("parquet", data_files=file)


def test_opens_no_other_format(load: Load, tmp_path: Path) -> None:
    # A format that Pillow has a reader for, and that is none of ours; the harmless SGI stands for all of them.
    buffer = io.BytesIO()
    Image.fromarray(PIXELS[0]).save(buffer, "SGI")
    file = parquet(tmp_path / "a.parquet", {"image": [{"bytes": buffer.getvalue(), "path": "0.png"}] * 3})
    with pytest.raises(ValueError, match="cannot read the image 0 of .*: its content is none of PNG, JPEG"):
        load("parquet", data_files=file)


def test_classes_keep_their_names(load: Load, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    declared = datasets.Dataset.from_dict({"image": encoded(), "label": LABELS})
    declared = declared.cast_column("label", datasets.ClassLabel(names=["plane", "car", "bird", "cat"]))
    declared = declared.cast_column("image", datasets.Image())
    declared.to_parquet(str(tmp_path / "declared.parquet"))
    data = load("parquet", data_files=str(tmp_path / "declared.parquet"), label_column="label")
    assert data.class_names == ("plane", "car", "bird", "cat")  # in the order of the column's own list
    assert data.num_classes == 4
    for labels, names in (
        ([10, 1, 2, 2, 1, 10, 1, 1, 1, 1], ("1", "2", "10")),
        (["c10", "c2"] * 5, ("c2", "c10")),
    ):
        file = parquet(tmp_path / "plain.parquet", {"image": encoded(), "label": labels})
        data = load("parquet", data_files=file, label_column="label", test_size=3)
        assert data.class_names == names
        label_of = {p.transpose(2, 0, 1).tobytes(): str(y) for p, y in zip(PIXELS, labels, strict=True)}
        assert data.train_labels is not None
        for x, y in zip(data.train, data.train_labels.tolist(), strict=True):
            assert names[y] == label_of[x.numpy().tobytes()]


def test_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"pip install scoresde\[huggingface\]"):
        huggingface("parquet")


def error_of(name: str, *, base: type[Exception] = Exception) -> type[Exception]:
    """An exception of that name, as the library of the hub has them; theirs take a response of the server."""
    return type(name, (base,), {})


def chained(*errors: Exception) -> Exception:
    """The first of the errors, raised from the second, and so on."""
    for outer, inner in itertools.pairwise(errors):
        outer.__cause__ = inner
    return errors[0]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            chained(ConnectionError("Couldn't reach 'a/b' on the Hub (OfflineModeIsEnabled)"),
                    error_of("OfflineModeIsEnabled")("Cannot reach https://huggingface.co: offline mode is enabled.")),
            "on the Hub .OfflineModeIsEnabled.; Cannot reach .* .HF_HUB_OFFLINE is set, and .* not in the cache",
        ),
        (
            ConnectionError("Couldn't reach 'a/b' on the Hub (LocalEntryNotFoundError)"),
            "there is no connection to it and it is not in the cache; files on this machine .* data=file",
        ),
        (
            chained(FileNotFoundError("Dataset 'a/b' is a gated dataset on the Hub."),
                    error_of("GatedRepoError")("401 Client Error. (Request ID: Root=1-2)\n\nAccess is restricted.")),
            "gated dataset on the Hub.; 401 Client Error .accept its terms at https://huggingface.co/datasets/a/b",
        ),
        (FileNotFoundError("Dataset 'a/b' doesn't exist on the Hub or cannot be accessed."), "look for the name at"),
        (
            chained(FileNotFoundError("Revision 'x' doesn't exist for dataset 'a/b' on the Hub."),
                    error_of("RevisionNotFoundError")("404 Client Error.")),
            "Revision 'x' doesn't exist .*data.revision takes a branch, a tag or a commit",
        ),
        (
            ValueError("Config name is missing.\nPlease pick one among the available configs: ['p', 'q']\n"
                       "Example of usage:\n\t`load_dataset('a/b', 'p')`"),
            r"Config name is missing. Please pick one .*: \['p', 'q'\] .name one by data.config=.$",
        ),
        (ValueError("BuilderConfig 'x' not found. Available: ['p']"), "Available: .'p'. .name one by data.config="),
        (ValueError("Unknown split \"x\". Should be one of ['train']."), "one of .'train'. .name one by data.split_"),
        (RuntimeError("Dataset scripts are no longer supported, but found b.py"), "data.revision=refs/convert/parquet"),
        (
            chained(error_of("DatasetGenerationError")("An error occurred while generating the dataset"),
                    ValueError("column 3 of row 7\nis no number")),
            "of data set 'a/b': column 3 of row 7 is no number$",
        ),
        (chained(OSError(28, "No space left on device", "/x")), r"No space left on device \(/x\) .*set HF_HOME"),
        (KeyError(), "of data set 'a/b': KeyError$"),
    ],
)  # fmt: skip
def test_the_cause_of_an_error_and_what_helps(
    load: Load, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("datasets.load_dataset", refuse)
    with pytest.raises(ValueError, match=said) as caught:
        load("a/b")
    assert "\n" not in str(caught.value)


def test_a_table_names_no_file_of_the_cache(load: Load, tmp_path: Path) -> None:
    # A picture of another data set, say, which the library has in its cache.
    place = tmp_path / "cache" / "other" / "0.png"
    place.parent.mkdir(parents=True)
    place.write_bytes(png(PIXELS[0]))
    file = parquet(tmp_path / "a.parquet", {"image": [{"bytes": None, "path": str(place)}] * 3}, image=None)
    for path in ("parquet", str(tmp_path / "own")):
        (tmp_path / "own").mkdir(exist_ok=True)
        (tmp_path / "own" / "train.parquet").write_bytes(Path(file).read_bytes())
        with pytest.raises(ValueError, match="cannot read the image 0 of .*: the row holds no picture but a path"):
            load(path, data_files=file if path == "parquet" else None)


def test_errors_of_the_library_itself(load: Load, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "own.py").write_text("raise SystemExit('never run')")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "bad.jsonl").write_bytes(b"{")
    for path, files, said in (
        (str(tmp_path / "own"), None, "scripts are no longer supported.*data.revision=refs/convert/parquet"),
        ("parquet", str(tmp_path / "bad.parquet"), "Parquet magic bytes not found"),
        ("json", str(tmp_path / "bad.jsonl"), "JSON parse error"),
    ):
        with pytest.raises(ValueError, match=said):
            load(path, data_files=files)
