"""Run directories of averages that are made after training."""

import shutil
from pathlib import Path

import pytest
import torch

from scoresde.cli import main
from scoresde.runs.directory import Run, load
from scoresde.storage.tensors import load_tensors
from tests.problems import Once

pytestmark = pytest.mark.slow

TOY = [
    *("data=two_moons", "+data.n_train=200", "+data.n_test=40", "network=mlp", "network.width=8", "network.blocks=1"),
    *("network.embedding.dim=8", "training.steps=60", "training.batch_size=32", "training.snapshots=5"),
    *("evaluation.samples=0", "evaluation.likelihood=0", "evaluation.pictures=false", "progress=false"),
]


@pytest.fixture(scope="module")
def trained(once: Once) -> Path:
    def make(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            patch.setenv("ACCELERATE_USE_CPU", "true")
            main(["train", *TOY, "name=moons"])

    return once("ema", make)


@pytest.fixture
def work(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = shutil.copytree(trained, tmp_path / "work")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    return folder


def test_each_average_is_a_run_that_other_commands_take(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["ema", "run=runs/moons", "std=[0.05,0.1,0.08]"])
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["weights", "std", "residual", "held-out", "loss"]
    # The run's own average has the width 0.05: the same weights, and the same loss as training logged.
    own, same, wider, between = (row.split() for row in rows[:4])
    logged = [line for line in (work / "runs/moons/metrics.jsonl").read_text().splitlines() if "held_out_loss" in line]
    assert logged
    assert own[-1] == same[-1] != wider[-1]
    assert float(between[2]) < 0.01
    directory = work / "runs/moons/ema/std-0.1"
    model, before = load(directory), load("runs/moons")
    twin = load("runs/moons/ema/std-0.05")
    assert all(torch.equal(p, q) for p, q in zip(twin.parameters(), before.parameters(), strict=True))
    assert any(not torch.equal(p, q) for p, q in zip(model.parameters(), before.parameters(), strict=True))
    assert Run.open(directory).config.training.ema.relative_std == 0.1
    assert Run.open(directory).summary().training["steps"] == 60
    # Commands take it, and a report compares the averages.
    main(["likelihood", f"run={directory}", "n=8", "tol=0.5", "progress=false"])
    assert Run.open(directory).summary().likelihood["n"] == 8
    assert not Run.open(work / "runs/moons").summary().likelihood
    main(["report", "run=runs/moons/ema"])
    page = (work / "runs/moons/ema/report.html").read_text()
    assert all(f"std-{std}" in page for std in ("0.05", "0.08", "0.1"))
    # Once more: the weights are the same, and results stay.
    main(["ema", "run=runs/moons", "std=0.1", "loss=false"])
    assert Run.open(directory).summary().likelihood["n"] == 8
    capsys.readouterr()
    # Trained further: the average moves with it, and what was of the earlier weights says so.
    main(["train", "run=runs/moons", "training.steps=70", "progress=false"])
    main(["ema", "run=runs/moons", "std=0.1", "loss=false"])
    assert Run.open(directory).step() == 70
    assert not Run.open(directory).summary().likelihood
    assert "likelihood-test-step60" in Run.open(directory).summary()


def test_an_earlier_step(work: Path) -> None:
    main(["ema", "run=runs/moons", "std=0.07", "step=40", "loss=false"])
    assert Run.open("runs/moons/ema/std-0.07-step-40").step() == 40


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["std=0.3"], "std is 0.3, expected a number above 0 and at most 0.2886"),
        (["std=[0.1,0.1]"], "std is [0.1, 0.1], expected values that differ"),
        (["std=0.005"], "cannot express std=0.005: 0."),
        (["step=7"], "there is no snapshot of step 7: the nearest is of step 5"),
    ],
)
def test_what_is_refused(work: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit):
        main(["ema", "run=runs/moons", "loss=false", *arguments])
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]
    assert not (work / "runs/moons/ema").exists()


def test_a_run_without_snapshots(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(work / "runs/moons/snapshots")
    with pytest.raises(SystemExit):
        main(["ema", "run=runs/moons", "loss=false"])
    assert "has no snapshots of averaged weights: train with training.snapshots=N" in capsys.readouterr().err


def test_snapshots_of_another_network(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (work / "runs/moons/snapshots").iterdir():
        tensors = load_tensors(path)
        assert {name.partition("/")[0] for name in tensors} == {"0.05", "0.1"}
    main(["train", *TOY, "name=wider", "network.width=16"])
    shutil.rmtree("runs/moons/snapshots")
    shutil.copytree("runs/wider/snapshots", "runs/moons/snapshots")
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["ema", "run=runs/moons", "loss=false"])
    assert "snapshots is of another network" in capsys.readouterr().err
