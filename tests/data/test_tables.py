"""Tables of numbers, and parquet files of pictures."""

import decimal
import gzip
import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from pyarrow import parquet as pq

from scoresde.data import Data, Discrete, parquet, table

RNG = np.random.default_rng(0)
POINTS = np.round(RNG.normal(3.0, 2.0, (12, 2)), 4)
FRAME = pd.DataFrame({"a": POINTS[:, 0], "b": POINTS[:, 1], "kind": ["owl", "ant", "bee"] * 4})


def names_of(data: Data) -> list[str]:
    indices, names = data.whole()[1], data.class_names
    assert indices is not None
    assert names is not None
    return [names[i] for i in indices.tolist()]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".txt", ".csv.gz", ".parquet"])
def test_every_kind_of_file_gives_the_same_samples(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"points{suffix}"
    if suffix == ".parquet":
        FRAME.to_parquet(path)
    else:
        text = FRAME.to_csv(index=False, sep={".csv": ",", ".tsv": "\t", ".txt": " "}.get(suffix, ";")).encode()
        path.write_bytes(gzip.compress(text) if suffix.endswith(".gz") else text)
    data = table(str(path), label_column="kind")
    assert (data.name, data.shape, len(data.test)) == ("points", (2,), 2)
    assert np.array_equal(data.whole()[0].numpy(), POINTS)
    assert data.class_names == ("ant", "bee", "owl")
    assert names_of(data) == ["owl", "ant", "bee"] * 4


def test_files_without_a_head_and_with_an_index(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    np.savetxt(tmp_path / "a.txt", POINTS)
    assert np.array_equal(table(str(tmp_path / "a.txt")).whole()[0].numpy(), POINTS)
    assert table(str(tmp_path / "a.txt"), columns=["1"]).shape == (1,)
    FRAME[["a", "b"]].to_csv(tmp_path / "b.csv")
    assert np.array_equal(table(str(tmp_path / "b.csv")).whole()[0].numpy(), POINTS)
    assert "b.csv: the first column, which numbers the rows, is left out" in caplog.text


def test_columns_and_a_file_to_test_on(tmp_path: Path) -> None:
    FRAME[:8].to_csv(tmp_path / "train.csv", index=False)
    FRAME[8:].to_csv(tmp_path / "test.csv", index=False)
    data = table(str(tmp_path / "train.csv"), columns=["b"], label_column="kind", test_path=str(tmp_path / "test.csv"))
    assert np.array_equal(data.train.numpy(), POINTS[:8, 1:])
    assert np.array_equal(data.test.numpy(), POINTS[8:, 1:])
    last = table(str(tmp_path / "train.csv"), columns=["b"], split="last", test_size=2)
    assert np.array_equal(last.test.numpy(), POINTS[6:8, 1:])


def test_types_of_pandas(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "nullable": pd.array([1, 2, 3, 4], dtype="Int64"),
            "flag": [True, False, True, False],
            "exact": [decimal.Decimal("1.5"), decimal.Decimal(2), decimal.Decimal(3), decimal.Decimal(4)],
            "kind": pd.Categorical(["b", "a", "b", "a"]),
        }
    )
    frame.to_parquet(tmp_path / "a.parquet")
    data = table(str(tmp_path / "a.parquet"), label_column="kind", test_size=1)
    assert data.whole()[0].tolist() == [[1, 1, 1.5], [2, 0, 2], [3, 1, 3], [4, 0, 4]]
    assert names_of(data) == ["b", "a", "b", "a"]
    frame.astype({"nullable": "float32"})[["nullable"]].to_parquet(tmp_path / "a.parquet")
    assert table(str(tmp_path / "a.parquet"), test_size=1).train.dtype == torch.float32


def test_pixels_in_columns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    x = RNG.integers(0, 256, (5, 64))
    frame = pd.DataFrame(x, columns=[f"pixel{i}" for i in range(64)])
    frame.insert(0, "label", [3, 1, 3, 1, 3])
    frame.to_csv(tmp_path / "mnist.csv", index=False)
    assert table(str(tmp_path / "mnist.csv"), label_column="label").transform.levels is None
    assert "64 columns of integers 0..255, taken as measurements (data.levels=256" in caplog.text
    data = table(str(tmp_path / "mnist.csv"), label_column="label", levels=256, shape=[1, 8, 8])
    assert (data.shape, data.transform, data.class_names) == ((1, 8, 8), Discrete(256), ("1", "3"))
    assert np.array_equal(data.whole()[0].numpy().reshape(5, 64), x)


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        ("a,b\n1,2\n3,\n5,\n", {}, "column 'b' of .* has 2 missing values, the first in row 2: leave the column out"),
        ("a,b\n1,x\n3,y\n", {}, "column 'b' of .* holds text, such as 'x', not numbers: leave it out by columns="),
        ("a,b\n1,x\n3,y\n", {}, "or make it the label by label_column=b$"),
        ("a,b\n1,2\n3,4\n", {"columns": ["c"]}, "has no column 'c'; available: a, b"),
        ("a,b\n1,2\n3,4\n", {"label_column": "c"}, "has no column 'c'; available: a, b"),
        ("a,b\n1,2\n3,4\n", {"columns": ["a", "b"], "label_column": "b"}, "expected different names, without that"),
        ("a,b\n1,0.5\n3,1\n4,1\n", {"label_column": "b"}, "labels in column 'b' .* must be 3 integers or strings"),
        ("a,b\n1,0.5\n3,1\n", {"levels": 4}, "levels=4 is for integers, and .* has other numbers"),
        ("a,b\n", {}, "has no rows"),
        ("", {}, "cannot be read as a table"),
        ("a,b\n1,2\n3,4,5,6\n", {}, "cannot be read as a table"),
    ],
)
def test_table_refusals(tmp_path: Path, text: str, arguments: dict[str, Any], message: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        table(str(tmp_path / "a.csv"), **{"test_size": 1, **arguments})
    assert "\n" not in str(caught.value)


def test_tables_are_held_to_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCORESDE_MEMORY", str(1000 / 2**30))
    for path in (tmp_path / "a.csv", tmp_path / "a.parquet"):
        pd.DataFrame({"a": np.arange(500.0)}).to_csv(path) if path.suffix == ".csv" else pd.DataFrame(
            {"a": np.arange(500.0)}
        ).to_parquet(path)
        with pytest.raises(ValueError, match=f"{path.name} would take"):
            table(str(path))


# -- pictures -------------------------------------------------------------------------------------------

PIXELS = RNG.integers(0, 256, (6, 4, 5, 3), dtype=np.uint8)


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write(path: Path, where: slice, **columns: Any) -> str:
    path.parent.mkdir(exist_ok=True)
    rows = [{"bytes": png(p), "path": None} for p in PIXELS[where]]
    pd.DataFrame({"image": rows, **columns}).to_parquet(path)
    return str(path)


def test_parquet_of_pictures(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", slice(0, 6), label=[7, 9, 7, 9, 7, 9])
    data = parquet(path, test_size=2)
    assert torch.equal(data.whole()[0], torch.from_numpy(PIXELS.transpose(0, 3, 1, 2).copy()))
    assert names_of(data) == ["7", "9"] * 3
    assert parquet(path, labels=False).num_classes is None
    assert parquet(path, size=2, channels=1).shape == (1, 2, 2)
    pd.DataFrame({"jpg": [png(p) for p in PIXELS]}).to_parquet(path)
    assert torch.equal(parquet(path).whole()[0], data.whole()[0])


def test_parquet_of_a_folder_has_its_splits_and_names(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    folder = tmp_path / "data"
    folder.mkdir()
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["dog", "ant"])})
    for name, where in (
        ("train-00000-of-00002", slice(0, 2)),
        ("train-00001-of-00002", slice(2, 4)),
        ("test-00000-of-00001", slice(4, 6)),
    ):
        rows = {"image": [{"bytes": png(p), "path": None} for p in PIXELS[where]], "label": [1, 0]}
        datasets.Dataset.from_dict(rows, features).to_parquet(str(folder / f"{name}.parquet"))
    data = parquet(str(tmp_path))
    assert torch.equal(data.whole()[0], torch.from_numpy(PIXELS.transpose(0, 3, 1, 2).copy()))
    assert (len(data.train), data.class_names) == (4, ("dog", "ant"))
    assert names_of(data) == ["ant", "dog"] * 3


def test_parquet_of_a_folder_has_labels_in_every_split_and_a_limit_for_all_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "train-0.parquet", slice(0, 3), label=[0, 1, 0])
    write(tmp_path / "test-0.parquet", slice(3, 6))
    with pytest.raises(ValueError, match="has labels in the files of one split alone: .* or give labels=false"):
        parquet(str(tmp_path))
    assert len(parquet(str(tmp_path), labels=False).test) == 3
    write(tmp_path / "train-1.parquet", slice(3, 6))
    with pytest.raises(ValueError, match="train-1.parquet has no column 'label', which .*train-0.parquet has"):
        parquet(str(tmp_path))
    (tmp_path / "test-0.parquet").rename(tmp_path / "train-1.parquet")
    one = pq.ParquetFile(tmp_path / "train-0.parquet").metadata.row_group(0).total_byte_size
    monkeypatch.setenv("SCORESDE_MEMORY", str(1.5 * one / 2**30))
    with pytest.raises(ValueError, match=f"^{tmp_path} would take .* of memory"):
        parquet(str(tmp_path), labels=False, in_memory=True)


def test_parquet_refusals(tmp_path: Path) -> None:
    (tmp_path / "private.png").write_bytes(png(PIXELS[0]))
    path = str(tmp_path / "a.parquet")
    for rows, message in (
        (
            [{"bytes": None, "path": str(tmp_path / "private.png")}] * 3,
            "cannot read the image 0 of .*: the row holds no picture but a path",
        ),
        (
            [{"bytes": png(PIXELS[0]), "path": "a"}, {"bytes": None, "path": None}],
            "cannot read the image 1 of .*: the row is empty",
        ),
        ([b"text", b"text"], "cannot read the image 0 of .*: its content is none of PNG"),
        ([1, 2], "has 0 columns of pictures; available: image: say which by image_column=NAME$"),
    ):
        pd.DataFrame({"image": rows}).to_parquet(path)
        with pytest.raises(ValueError, match=message):
            parquet(path)
    with pytest.raises(ValueError, match="column 'image' of .* holds .*, expected encoded pictures"):
        parquet(path, image_column="image")
    write(Path(path), slice(0, 3), label=[1, None, 2])
    with pytest.raises(ValueError, match="labels in column 'label' of .* must be integers or strings"):
        parquet(path)
    (tmp_path / "a.parquet").write_bytes(b"PAR1, and no more")
    with pytest.raises(ValueError, match="a.parquet cannot be read as parquet"):
        parquet(path)
    with pytest.raises(ValueError, match="there is no parquet file"):
        parquet(str(tmp_path / "gone"))
