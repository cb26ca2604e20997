"""Runs on data that stay in their file: the command's numbers, resuming in another way, and data that have changed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from scoresde.cli import main

RNG = np.random.default_rng(0)
SMALL = (
    "network=mlp", "network.width=16", "network.blocks=1", "training.batch_size=16", "evaluation.samples=0",
    "evaluation.likelihood=0", "evaluation.pictures=false", "progress=false", "device=cpu",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", RNG.standard_normal((200, 3)) * [1, 5, 1])


def train(*words: str) -> None:
    main(["train", *words, "-q"])


def weights(run: str) -> dict[str, Any]:
    return load_file(f"{run}/model.safetensors")


def equal(first: str, second: str) -> bool:
    one, other = weights(first), weights(second)
    return one.keys() == other.keys() and all(bool((one[key] == other[key]).all()) for key in one)


def test_a_run_may_be_resumed_with_data_held_in_the_other_way(capsys: pytest.CaptureFixture[str]) -> None:
    data = ("data=npy", "data.path=a.npy", *SMALL)
    train(*data, "runs=.", "name=whole", "training.steps=8", "training.checkpoint_every=4")
    train(*data, "runs=.", "name=part", "training.steps=8", "training.checkpoint_every=4", "data.in_memory=false")
    assert equal("whole", "part")
    assert json.loads(Path("part/data.json").read_text()) == json.loads(Path("whole/data.json").read_text())
    assert {p.name.split("-")[0] for p in Path(".scoresde").iterdir()} == {"fingerprint", "statistics", "transform"}
    for run, before, after in (("part", "false", "true"), ("whole", "auto", "false")):
        config = Path(run, "config.yaml")
        assert f"in_memory: {before}" in config.read_text()
        config.write_text(config.read_text().replace(f"in_memory: {before}", f"in_memory: {after}"))
    train("run=part", "training.steps=12", "training.workers=0")
    train("run=whole", "training.steps=12", "training.workers=3")
    assert equal("whole", "part")
    with pytest.raises(SystemExit):
        train(*data, "data.in_memory=maybe")
    assert "in_memory is 'maybe', expected" in capsys.readouterr().err


def test_data_that_have_changed_are_refused_and_may_be_accepted(capsys: pytest.CaptureFixture[str]) -> None:
    train("data=npy", "data.path=a.npy", "data.in_memory=false", *SMALL, "runs=.", "name=r", "training.steps=4")
    content = np.load("a.npy")
    np.save("a.npy", content)  # the same values at another time
    train("run=r", "training.steps=6")
    content[7, 1] += 1
    np.save("a.npy", content)
    before = weights("r")
    with pytest.raises(SystemExit):
        train("run=r", "training.steps=8")
    assert "are not those that the run was trained on" in (err := capsys.readouterr().err)
    assert "accept these by accept=[data]" in err
    assert all(bool((before[key] == value).all()) for key, value in weights("r").items())
    train("run=r", "training.steps=8", "accept=[data]")
    assert json.loads(Path("r/summary.json").read_text())["training"]["steps"] == 8


def test_a_file_that_is_cut_off_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    train("data=npy", "data.path=a.npy", "data.in_memory=false", *SMALL, "runs=.", "name=r", "training.steps=4")
    content = Path("a.npy").read_bytes()
    Path("a.npy").write_bytes(content[:1000])
    with pytest.raises(SystemExit):
        train("run=r", "training.steps=8")
    err = capsys.readouterr().err
    assert "a.npy is damaged: it declares 4800 bytes and holds 872" in err
    assert "Traceback" not in err
    Path("a.npy").write_bytes(content)
    train("run=r", "training.steps=8")
