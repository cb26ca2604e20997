"""Conditions of data beside labels: read, split with the samples, checked, and known with a run."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from scoresde.data import Data, DataInfo, Identity, arrays, file, image_folder, parquet, table
from scoresde.data.conditions import ConditionInfo, checked_conditions
from scoresde.data.writing import write_npz


def made(**conditions: Any) -> Data:
    x = torch.arange(12.0).reshape(6, 2)
    given = conditions or {"vector": x + 0.5}
    train = {name: value[:4] for name, value in given.items()}
    test = {name: value[4:] for name, value in given.items()}
    labels = torch.tensor([0, 1, 0, 1, 0, 1])
    return Data("example", x[:4], x[4:], Identity(), labels[:4], labels[4:], None, None, None, None, train, test)


def test_parts_and_classes_keep_their_conditions() -> None:
    data = made()
    assert data.train_conditions is not None
    assert torch.equal(data.train_conditions["vector"], data.train + 0.5)
    one = data.of_class(1)
    assert one.train_conditions is not None
    assert torch.equal(one.train_conditions["vector"], one.train + 0.5)
    whole = data.whole_conditions()
    assert whole is not None
    assert torch.equal(whole["vector"], data.whole()[0] + 0.5)
    other = made(vector=torch.arange(12.0).reshape(6, 2))
    assert other.fingerprint() != data.fingerprint() != Data("x", data.train, data.test, Identity()).fingerprint()
    assert "vector (2,)" in repr(data)


def test_facts_are_stored_with_the_moments_of_the_training_part() -> None:
    pixels = torch.arange(6 * 2 * 4, dtype=torch.uint8).reshape(6, 2, 2, 2)
    constant = torch.cat((torch.arange(6.0)[:, None], torch.full((6, 1), 3.0)), 1)
    info = DataInfo.of(made(vector=constant, image=pixels, tokens=torch.zeros(6, 3, 5), mask=torch.ones(6, 3)))
    vector = info.conditions["vector"]
    assert vector.mean == (1.5, 3.0)
    assert vector.std == (float(torch.arange(4.0).double().std()), 1.0)
    assert info.conditions["image"].mean == (*pixels[:4].double().mean((0, 2, 3)).tolist(),)
    assert info.conditions["tokens"] == ConditionInfo((3, 5))
    assert DataInfo.from_plain(json.loads(json.dumps(info.to_plain()))) == info
    with pytest.raises(ValueError, match="conditions is"):
        DataInfo.from_plain({**info.to_plain(), "conditions": {"other": {}}})


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ({"angle": torch.zeros(6, 1)}, "condition 'angle', expected vector, image, tokens, mask"),
        ({"labels": torch.zeros(6)}, "labels are given beside conditions"),
        ({"vector": torch.zeros(6)}, r"shape \(6,\), expected \(N, k\); v\[:, None\]"),
        ({"vector": torch.zeros(5, 1)}, "5 rows, expected one for each of the 6 samples"),
        ({"vector": torch.full((6, 1), torch.nan)}, "must be finite, 6 of 6"),
        ({"vector": torch.zeros(6, 1, dtype=torch.bool)}, "dtype torch.bool, expected numbers"),
        ({"image": torch.zeros(6, 1, 2, 2, dtype=torch.int64)}, "expected floating point, or uint8"),
        ({"mask": torch.ones(6, 3)}, "there are no tokens"),
        ({"tokens": torch.zeros(6, 3, 2), "mask": torch.ones(6, 2)}, "tokens of shape"),
    ],
)
def test_conditions_that_make_no_sense(conditions: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        checked_conditions(conditions, 6, "the data")
    assert "\n" not in str(error.value)


def test_other_conditions_of_the_test_part_are_refused() -> None:
    x = torch.arange(4.0)[:, None]
    with pytest.raises(ValueError, match=r"test data have \(2,\) vector for a sample, expected \(1,\)"):
        Data("a", x, x, train_conditions={"vector": x}, test_conditions={"vector": torch.zeros(4, 2)})
    with pytest.raises(ValueError, match="for both train and test data"):
        Data("a", x, x, train_conditions={"vector": x})


def test_arrays_of_a_file(tmp_path: Path) -> None:
    x = np.arange(40.0).reshape(20, 2)
    path = str(tmp_path / "a.npz")
    np.savez(path, x=x, theta=x + 0.5, low=np.zeros((20, 4, 4), np.uint8), x_other=x, theta_other=x + 0.5)
    for split in ("random", "last"):
        keys: Any = {"vector": "theta", "image": "low"}
        for data in (
            arrays(path, key="x", condition_keys=keys, split=split),
            file(path, key="x", condition_keys=keys, split=split),
        ):
            assert data.train_conditions is not None
            assert data.test_conditions is not None
            assert torch.equal(data.train_conditions["vector"], data.train + 0.5)
            assert torch.equal(data.test_conditions["vector"], data.test + 0.5)
            assert data.test_conditions["image"].shape == (2, 1, 4, 4)
    with pytest.raises(ValueError, match=r"give its conditions, too, by test_condition_keys=\{vector: NAME\}"):
        arrays(path, key="x", test_key="x_other", condition_keys={"vector": "theta"})
    data = arrays(
        path, "x", test_key="x_other", condition_keys={"vector": "theta"}, test_condition_keys={"vector": "theta_other"}
    )
    assert data.test_conditions is not None
    assert torch.equal(data.test_conditions["vector"], data.test + 0.5)
    with pytest.raises(ValueError, match="has no array 'phi'"):
        arrays(path, key="x", condition_keys={"vector": "phi"})


def test_written_data_are_read_again(tmp_path: Path) -> None:
    data, path = made(), tmp_path / "a.npz"
    with path.open("wb") as stream:
        write_npz(data, stream)
    keys = ({"vector": f"condition_vector_{part}"} for part in ("train", "test"))
    read = arrays(str(path), condition_keys=next(keys), test_condition_keys=next(keys))
    assert read.fingerprint() == data.fingerprint()


def test_columns_of_a_table_and_of_pictures(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": np.arange(20.0), "b": np.arange(20.0) ** 2, "mass": np.arange(20.0) + 0.5})
    for suffix in ("csv", "parquet"):
        path = str(tmp_path / f"t.{suffix}")
        getattr(frame, f"to_{suffix}")(path, index=False)
        data = table(path, condition_columns=["mass"])
        assert data.shape == (2,)
        assert data.test_conditions is not None
        assert torch.equal(data.test_conditions["vector"][:, 0], data.test[:, 0] + 0.5)
    with pytest.raises(ValueError, match="condition_columns is"):
        table(path, columns=["a", "b"], condition_columns=["a"])
    with pytest.raises(ValueError, match="no column 'age'"):
        table(path, condition_columns=["age"])
    pictures = []
    for i in range(10):
        Image.new("L", (4, 4), i).save(tmp_path / "p.png")
        pictures.append({"image": (tmp_path / "p.png").read_bytes(), "mass": i + 0.5, "note": "text"})
    path = str(tmp_path / "pictures.parquet")
    pd.DataFrame(pictures).to_parquet(path)
    data = parquet(path, channels=1, condition_columns=["mass"])
    assert data.train_conditions is not None
    assert torch.equal(data.train_conditions["vector"][:, 0], data.train[:, 0, 0, 0] + 0.5)
    with pytest.raises(ValueError, match="holds 'text' in row 1, expected numbers"):
        parquet(path, channels=1, condition_columns=["note"])


def test_pictures_beside_pictures(tmp_path: Path) -> None:
    for i in range(1, 11):
        for folder, side in (("high", 4), ("low", 2)):
            (tmp_path / folder / str(i % 2)).mkdir(parents=True, exist_ok=True)
            Image.new("L", (side, side), i).save(tmp_path / folder / str(i % 2) / f"{i}.png")
    high, low = str(tmp_path / "high"), str(tmp_path / "low")
    data = image_folder(high, channels=1, condition_folder=low)
    assert data.test_conditions is not None
    assert data.train_conditions is not None
    assert data.train_conditions["image"].shape == (9, 1, 2, 2)
    assert torch.equal(data.train_conditions["image"][:, 0, 0, 0], data.train[:, 0, 0, 0])
    (tmp_path / "low" / "0" / "2.png").unlink()
    with pytest.raises(ValueError, match=r"no picture for .*2\.png: expected 0/2 with any of the suffixes"):
        image_folder(high, channels=1, condition_folder=low)
