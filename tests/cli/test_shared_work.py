"""Commands by two processes, whose results are to the bit those of one.

A cold start of processes takes seconds, so that two of them run all commands one after the other.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from scoresde.cli import main
from scoresde.runs.directory import Run
from scoresde.runs.sample_files import stored_samples
from tests.problems import Once

pytestmark = pytest.mark.slow

Command = tuple[list[str], dict[str, str]]

TRAIN = [
    *("train", "experiment=ring", "network.width=8", "network.blocks=1", "training.batch_size=32", "progress=false"),
    *("training.log_every=4", "evaluation.samples=0", "evaluation.likelihood=0", "evaluation.pictures=false"),
]
FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "SIZE_BASED_WRAP",
    "FSDP_MIN_NUM_PARAMS": "200",
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "2",
}


def commands(folder: str) -> list[Command]:
    """Commands about the run `folder`, which write into it."""
    run, quiet = f"run={folder}", "progress=false"
    asked = [
        ["sample", run, "n=200", "batch_size=32", "shard=64", quiet],
        ["sample", run, "n=1", "name=one", quiet],  # fewer samples than processes
        ["likelihood", run, "n=150", quiet],
        ["evaluate", run, "n=100", "likelihood=70", quiet],
        ["evaluate", run, "n=700", "save_reference=reference.npz", "reference=reference.npz", quiet],
        ["compare", run, "n=40", "samplers=[ddim,heun]", "steps=[2,3]", quiet],
        ["restore", run, "count=6", "n=16", "problem=denoise", "method=dps", "steps=3", quiet],
        ["information", run, "n=70", "draws=16", "overfitting=false", quiet],
        ["tune", run, "variances=true", "starts=32", quiet],
        ["certify", f"out={folder}", "prior=ring", "problems=none", "samplers=[ddim]", "steps=[4]", "samples=128"],
    ]
    return [(command, {}) for command in asked]


def processes(plan: list[Command], folder: Path, fate: str = "") -> list[tuple[int, str, str]]:
    """Status, output and errors of two processes that run these commands."""
    (folder / "plan.json").write_text(json.dumps(plan))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    started = []
    for rank in range(2):
        environment = {
            **os.environ,
            **{"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"},
            **{"MASTER_PORT": port, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "tests.cli.two_processes", str(folder / "plan.json"), fate],
                env=environment,
                cwd=folder,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    try:
        said = [process.communicate(timeout=300) for process in started]
    finally:
        for process in started:
            process.kill()
    return [(process.returncode, *each) for process, each in zip(started, said, strict=True)]


@pytest.fixture(scope="module")
def trained(once: Once) -> Path:
    def make(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            patch.setenv("ACCELERATE_USE_CPU", "true")
            main([*TRAIN, "training.steps=8", "name=ring"])

    return once("shared-work", make)


@pytest.fixture(scope="module")
def folders(trained: Path, once: Once) -> tuple[Path, Path]:
    """What one process and what two have written: `run`, and `fsdp`, a run whose weights were divided among two."""

    def make(folder: Path) -> None:
        for name in ("one", "two"):
            shutil.copytree(trained / "runs" / "ring", folder / name / "run")
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder / "one")
            patch.setenv("ACCELERATE_USE_CPU", "true")
            for command, _ in commands("run"):
                main(command)
        fsdp: Command = ([*TRAIN, "training.steps=8", "name=fsdp"], FSDP)
        shutil.copytree(trained / "runs" / "ring", folder / "two" / "more")
        again: Command = (["train", "run=more", "training.steps=12", "progress=false"], FSDP)
        said = processes([*commands("run"), fsdp, again], folder / "two")
        (folder / "said.json").write_text(json.dumps(said))

    made = once("shared-work-done", make)
    return made / "one", made / "two"


def test_one_process_speaks(folders: tuple[Path, Path]) -> None:
    first, second = json.loads((folders[0].parent / "said.json").read_text())
    assert (first[0], second[0]) == (0, 0), first[2] + second[2]
    assert "200 samples, " in first[1]
    assert second[1] == ""
    assert "Traceback" not in first[2] + second[2]
    assert "scoresde: " not in first[2] + second[2]


def test_samples_are_the_same(folders: tuple[Path, Path]) -> None:
    for name in ("n200-seed0", "one", "samples"):
        one, two = (stored_samples(folder / "run" / "samples" / f"{name}.npz") for folder in folders)
        assert one is not None
        assert two is not None
        assert len(one.files) == (4 if "n200" in name else 0)
        assert torch.equal(one.read(), two.read())
    counted = [sum(1 for _ in (folder / "run" / "samples").rglob("*.npz")) for folder in folders]
    assert counted[0] == counted[1] == 7


@pytest.mark.parametrize("pattern", ["likelihood-test*.csv", "information-test.csv"])
def test_tables_are_the_same(pattern: str, folders: tuple[Path, Path]) -> None:
    one, two = (sorted((folder / "run").glob(pattern)) for folder in folders)
    assert one
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]


@pytest.mark.parametrize("name", ["comparison.csv", "samplers.csv", "restored/*.csv"])
def test_cells_are_the_same_but_for_their_seconds(name: str, folders: tuple[Path, Path]) -> None:
    one, two = (pd.read_csv(next((folder / "run").glob(name))) for folder in folders)
    assert len(one)
    one, two = (table.drop(columns="seconds", errors="ignore") for table in (one, two))
    pd.testing.assert_frame_equal(one, two, check_exact=True)


def test_restorations_figures_and_variances_are_the_same(folders: tuple[Path, Path]) -> None:
    one, two = (np.load(next((folder / "run" / "restored").glob("*.npz"))) for folder in folders)
    assert all(np.array_equal(one[key], two[key]) for key in ("samples", "mean", "std", "y"))
    found = []
    for folder in folders:
        summary = {**Run.open(folder / "run").summary()}
        evaluated = next(entry for key, entry in summary.items() if key.startswith("samples") and entry["n"] == 100)
        variances = json.loads((folder / "run" / "variances.json").read_text())
        found.append(({k: v["value"] for k, v in evaluated["metrics"].items()}, {**variances, "seconds": 0}))
    assert found[0] == found[1]
    assert "nats_lost" in found[0][0]
    against = [
        entry["metrics"]
        for folder in folders
        for entry in Run.open(folder / "run").summary().values()
        if isinstance(entry, dict) and entry.get("against")
    ]
    assert against[0] == against[1]
    assert (folders[0] / "reference.npz").read_bytes() == (folders[1] / "reference.npz").read_bytes()


def test_divided_weights_are_trained_as_others_and_load_on_one_process(
    folders: tuple[Path, Path], trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = load_file(trained / "runs" / "ring" / "model.safetensors")
    divided = load_file(folders[1] / "runs" / "fsdp" / "model.safetensors")
    assert whole.keys() == divided.keys()
    for name, values in whole.items():  # sums over processes are in another order
        assert torch.allclose(divided[name], values, rtol=1e-3, atol=1e-5), name
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    shutil.copytree(folders[1] / "runs" / "fsdp", "fsdp")
    main(["train", "run=fsdp", "training.steps=12", "progress=false"])
    one = load_file("fsdp/model.safetensors")
    # Two processes with divided weights have gone on from the checkpoint of one.
    two = load_file(folders[1] / "more" / "model.safetensors")
    for name, values in one.items():
        assert torch.allclose(two[name], values, rtol=1e-3, atol=1e-5), name


def test_a_process_that_dies_ends_the_other_which_resumes_alone(
    trained: Path,
    folders: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    shutil.copytree(trained / "runs" / "ring", tmp_path / "run")
    command = commands("run")[0][0]
    first, second = processes([(command, {})], tmp_path, "killed")
    assert (first[0], second[0]) == (1, 9)
    said = [line for line in first[2].splitlines() if line.startswith("scoresde: ")]
    assert said == ["scoresde: process 1 of 2 has ended, so the others end, too: what was finished is kept"]
    monkeypatch.chdir(tmp_path)
    assert (tmp_path / "run/samples/n200-seed0/00000.npz").is_file()
    main(command)
    assert "96 of 200 samples are there already" in caplog.messages
    one, two = (stored_samples(folder / "run/samples/n200-seed0.npz") for folder in (folders[0], tmp_path))
    assert one is not None
    assert two is not None
    assert torch.equal(one.read(), two.read())
