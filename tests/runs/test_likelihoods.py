"""Likelihoods of a run, and the file that an interrupted command goes on from."""

import csv
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from scoresde.cli import conf_dir
from scoresde.likelihood import CellFlow, bits_per_dim
from scoresde.numerics.means import shared_error
from scoresde.options.errors import ConfigError
from scoresde.runs import likelihood_table
from scoresde.runs.dequantise import FILE
from scoresde.runs.directory import Run
from scoresde.runs.likelihood import likelihood
from scoresde.runs.results import Filing
from scoresde.runs.summary import LikelihoodEntry
from scoresde.runs.train import train
from scoresde.storage.tensors import save_tensors
from tests.problems import Once

pytestmark = pytest.mark.slow  # trains runs

SMALL = [
    "network=mlp",
    "network.width=16",
    "network.blocks=1",
    "network.embedding.dim=8",
    "training.steps=20",
    "training.batch_size=32",
    "evaluation.samples=0",
    "evaluation.likelihood=0",
]


@pytest.fixture(scope="module")
def trained(once: Once) -> SimpleNamespace:
    run = Run.open(once("unlabelled", make))
    return SimpleNamespace(directory=run.directory, data=run.data())


def make(directory: Path) -> None:
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        whole = OmegaConf.to_container(compose(config_name="train", overrides=SMALL), resolve=True)
    assert isinstance(whole, dict)
    free = ("run", "resume", "runs", "name", "allow", "progress")
    run = Run(directory, OmegaConf.create({k: v for k, v in whole.items() if k not in free}))
    train(run, None, progress=False)


@pytest.fixture
def run(trained: SimpleNamespace, tmp_path: Path) -> Run:
    return Run.open(shutil.copytree(trained.directory, tmp_path / "run"))


def options(**changes: Any) -> DictConfig:
    return OmegaConf.create(
        {
            "tol": 0.5,
            "draws": 1,
            "bound": "average",
            "decoder": "rounding",
            "seed": 0,
            "batch_size": 2,
            "elbo_draws": 0,
            **changes,
        }
    )


def content(run: Run) -> dict[str, bytes]:
    """The tables and their notes."""
    return {path.name: path.read_bytes() for path in run.directory.glob("likelihood*")}


def table(run: Run) -> list[list[str]]:
    with (run.directory / "likelihood-test.csv").open(newline="") as file:
        return list(csv.reader(file))[1:]


def test_an_interrupted_command_goes_on(run: Run, trained: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls = run.model(), 0
    whole = likelihood(run, model, trained.data, "test", 6, options(), progress=False)
    reference = table(run)
    assert whole["reused"] == 0
    (run.directory / "likelihood-test.csv").unlink()
    real = bits_per_dim

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(likelihood_table, "bits_per_dim", interrupted)
    with pytest.raises(KeyboardInterrupt):
        likelihood(run, model, trained.data, "test", 6, options(), progress=False)
    assert table(run) == reference[:2]
    # As if it had been stopped while it wrote a line.
    with (run.directory / "likelihood-test.csv").open("a") as file:
        file.write("2,3.1")
    again = likelihood(run, model, trained.data, "test", 6, options(), progress=False)
    assert calls == 4  # two batches of two more
    assert table(run) == reference
    assert again["reused"] == 2
    assert again["bits_per_dim"] == whole["bits_per_dim"]
    # More of them, and fewer.
    assert likelihood(run, model, trained.data, "test", 7, options(), progress=False)["reused"] == 6
    assert likelihood(run, model, trained.data, "test", 3, options(), progress=False)["n"] == 3
    assert len(table(run)) == 7


def test_fewer_samples_leave_the_entry_of_more(run: Run, trained: SimpleNamespace) -> None:
    likelihood(run, run.model(), trained.data, "test", 4, options(), progress=False)
    before, files = run.summary(), content(run)
    few = likelihood(run, run.model(), trained.data, "test", 2, options(), progress=False)
    assert (few["n"], few["reused"], few["file"]) == (2, 2, "likelihood-test.csv")
    assert run.summary() == before
    assert content(run) == files
    assert likelihood(run, run.model(), trained.data, "test", 5, options(), progress=False)["reused"] == 4
    assert run.summary()["likelihood"]["n"] == 5
    likelihood(run, run.model(), trained.data, "test", 2, options(), progress=False, filing=Filing(overwrite=True))
    assert run.summary()["likelihood"]["n"] == 2
    assert len(table(run)) == 5


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"seed": 1}, "seed1"),
        ({"tol": 0.4}, "tol0.4"),
        ({"corrected": True}, "correctedTrue"),
        ({"draws": 2, "bound": "importance"}, "draws2-importance"),
        ({"divergence": {"_target_": "scoresde.likelihood.Exact"}}, "Exact_mode_auto_chunk_None"),
    ],
)
def test_other_settings_have_a_file_of_their_own(
    run: Run, trained: SimpleNamespace, changes: dict[str, Any], name: str
) -> None:
    likelihood(run, run.model(), trained.data, "test", 2, options(), progress=False)
    before, summary = content(run), run.summary()
    entry = likelihood(run, run.model(), trained.data, "test", 2, options(**changes), progress=False)
    assert (entry["reused"], entry["file"]) == (0, f"likelihood-test-{name}.csv")
    assert before.items() <= content(run).items()
    assert run.summary() == {**summary, f"likelihood-test-{name}": entry}
    again = likelihood(run, run.model(), trained.data, "test", 3, options(**changes), progress=False)
    assert (again["reused"], again["file"]) == (2, entry["file"])
    # Unless the user says so.
    last = likelihood(
        run, run.model(), trained.data, "test", 2, options(**changes), progress=False, filing=Filing(overwrite=True)
    )
    assert last["file"] == "likelihood-test.csv"
    assert run.summary()["likelihood"] == last
    assert table(run)[:2] != [line.split(",") for line in before["likelihood-test.csv"].decode().splitlines()[1:]]


def test_a_given_name_is_not_given_twice(run: Run, trained: SimpleNamespace) -> None:
    def found(name: str, **changes: Any) -> LikelihoodEntry:
        filing = Filing(name=name, overwrite=changes.pop("overwrite", False))
        return likelihood(run, run.model(), trained.data, "test", 2, options(**changes), False, filing=filing)

    assert found("mine")["file"] == "likelihood-test-mine.csv"
    before = content(run)
    message = "likelihood-test-mine is there already, with seed 0 instead of 1: give another name, or overwrite=true"
    with pytest.raises(ConfigError, match=message):
        found("mine", seed=1)
    with pytest.raises(ConfigError, match=r"name is '\.\./mine', expected a name without slashes"):
        found("../mine")
    assert content(run) == before
    assert found("mine")["reused"] == 2
    assert found("mine", seed=1, overwrite=True)["reused"] == 0
    assert run.summary()["likelihood-test-mine"]["seed"] == 1


def test_the_runs_own_settings_are_its_own_again(run: Run, trained: SimpleNamespace) -> None:
    """Training with other options of its evaluation keeps what was there under a further name."""
    first = likelihood(run, run.model(), trained.data, "test", 2, options(), progress=False, filing=Filing(own=True))
    rows = table(run)
    second = likelihood(
        run, run.model(), trained.data, "test", 2, options(tol=0.4), progress=False, filing=Filing(own=True)
    )
    assert second["file"] == "likelihood-test.csv"
    summary = run.summary()
    assert summary["likelihood"] == second
    assert summary["likelihood-test-tol0.5"] == {**first, "file": "likelihood-test-tol0.5.csv"}
    with (run.directory / "likelihood-test-tol0.5.csv").open(newline="") as file:
        assert list(csv.reader(file))[1:] == rows
    assert likelihood(run, run.model(), trained.data, "test", 2, options(), progress=False)["reused"] == 2


def test_other_data_under_the_same_name_are_computed(run: Run, trained: SimpleNamespace) -> None:
    first = likelihood(run, run.model(), trained.data, "test", 2, options(), progress=False)
    before = content(run)
    changed = replace(trained.data, test=16 - trained.data.test)
    entry = likelihood(run, run.model(), changed, "test", 2, options(), progress=False)
    assert entry["reused"] == 0
    assert entry["file"] == f"likelihood-test-digits-{changed.fingerprint()[:8]}.csv"
    assert entry["bits_per_dim"] != first["bits_per_dim"]
    assert before.items() <= content(run).items()


def test_a_note_of_an_older_version_is_of_other_settings(run: Run, trained: SimpleNamespace) -> None:
    likelihood(run, run.model(), trained.data, "test", 2, options(), progress=False)
    note = run.directory / "likelihood-test.json"
    settings = json.loads(note.read_text())["settings"]
    older = {k: v for k, v in settings.items() if k not in ("data", "data_hash", "conditional")}
    note.write_text(json.dumps(older, indent=1))
    before = content(run)
    entry = likelihood(run, run.model(), trained.data, "test", 2, options(), progress=False)
    assert entry["reused"] == 0
    assert entry["file"] == f"likelihood-test-digits-{trained.data.fingerprint()[:8]}.csv"
    assert before.items() <= content(run).items()
    # Nor are rows without a note lost.
    note.unlink()
    entry = likelihood(
        run, run.model(), trained.data, "test", 2, options(seed=1), progress=False, filing=Filing(own=True)
    )
    assert (run.directory / "likelihood-test-earlier.csv").read_bytes() == before["likelihood-test.csv"]
    assert entry["file"] == "likelihood-test.csv"


def test_the_same_weights_saved_again_are_the_same_model(run: Run, trained: SimpleNamespace) -> None:
    model = run.model()
    likelihood(run, model, trained.data, "test", 2, options(), progress=False)
    for step in range(5):  # safetensors writes its metadata in a random order
        run.save_model(model, 12345 + step)
        assert likelihood(run, model, trained.data, "test", 2, options(), progress=False)["reused"] == 2


def test_another_model_begins_anew(run: Run, trained: SimpleNamespace) -> None:
    model = run.model()
    likelihood(run, model, trained.data, "test", 2, options(), progress=False)
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1e-3
    run.save_model(model, 20)
    assert likelihood(run, model, trained.data, "test", 2, options(), progress=False)["reused"] == 0


def test_a_trained_dequantisation_is_the_runs_own(run: Run, trained: SimpleNamespace) -> None:
    """Another one begins anew, the same does not; none, or one of other data, is said in one line."""
    chosen = options(dequantisation=OmegaConf.load(conf_dir() / "dequantisation" / "variational.yaml"))
    model, path = run.model(), run.directory / FILE

    def found() -> LikelihoodEntry:
        return likelihood(run, model, trained.data, "test", 2, chosen, progress=False)

    with pytest.raises(ConfigError, match=rf"there is no file {path}: make it by `scoresde dequantise run="):
        found()
    for seed in (0, 1):
        torch.manual_seed(seed)
        flow = CellFlow((1, 8, 8), 17, couplings=0, width=4, blocks=0, bins=2)
        torch.nn.init.normal_(flow.first.bias)
        save_tensors(path, flow.state_dict(), flow.metadata())
        entry = found()
        assert (entry["dequantisation"], entry["reused"]) == ("variational", 0)
        assert found() == {**entry, "reused": 2, "seconds": pytest.approx(0, abs=10)}
    before = table(run)
    flow = CellFlow((1, 8, 8), 256, couplings=0, width=4)
    save_tensors(path, flow.state_dict(), flow.metadata())
    with pytest.raises(ValueError, match=r"is for shape \(1, 8, 8\) and 256 levels, the data have shape .* 17 levels"):
        found()
    assert table(run) == before


def test_errors_have_their_parts(run: Run, trained: SimpleNamespace) -> None:
    entry = likelihood(run, run.model(), trained.data, "test", 6, options(draws=3, elbo_draws=16), progress=False)
    assert entry["elbo"] == pytest.approx(entry["bits_per_dim"], abs=1)
    assert entry["stderr_elbo"] > 0
    assert entry["stderr"] >= entry["stderr_probes"] > 0
    assert entry["stderr_dequantisation"] >= 0
    parts = sum(dict(entry)[f"stderr_{name}"] ** 2 for name in ("data", "probes", "dequantisation", "solver"))
    assert parts >= entry["stderr"] ** 2 * (1 - 1e-9)
    assert 0 < entry["stderr_solver"] < 0.1
    assert (run.directory / "samples" / "likelihood-test.png").stat().st_size > 1000
    pictures = json.loads((run.directory / "pictures.json").read_text())
    caption = next(p["caption"] for p in pictures if p["file"] == "samples/likelihood-test.png")
    assert caption == "Of 6 held-out images, the 3 most likely (above) and the 3 least likely, in bits/dim."


def test_rows_of_an_earlier_version_go_on_without_the_error_of_their_solver(run: Run, trained: SimpleNamespace) -> None:
    def found(n: int) -> LikelihoodEntry:
        return likelihood(run, run.model(), trained.data, "test", n, options(), progress=False)

    whole = found(4)
    path = run.directory / "likelihood-test.csv"
    head, *rows = (line.split(",") for line in path.read_text().splitlines())
    # Version 0.1.0 had the measured error of the first samples instead.
    older = [[*head[:-2], "solver_error"], *([*row[:-2], "nan"] for row in rows[:2])]
    path.write_text("".join(",".join(row) + "\n" for row in older))
    before = path.read_bytes()
    (run.directory / "summary.json").unlink()
    entry = found(2)
    assert (entry["reused"], entry["stderr_solver"]) == (2, None)
    assert path.read_bytes() == before
    entry = found(4)
    assert (entry["reused"], entry["bits_per_dim"]) == (2, pytest.approx(whole["bits_per_dim"], rel=1e-12))
    errors = [float(row[-2]) for row in rows[2:]]
    assert entry["stderr_solver"] == pytest.approx(shared_error(torch.tensor(errors, dtype=torch.float64)))
    again = [line.split(",") for line in path.read_text().splitlines()]
    assert again[0] == head
    assert [row[:-2] for row in again[1:]] == [row[:-2] for row in rows]
    assert [row[-2] for row in again[1:3]] == ["nan", "nan"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tol": 0}, "tol is 0, expected a positive number or null"),
        ({"draws": 0}, "draws is 0, expected an integer"),
        ({"batch_size": 0}, "batch_size is 0, expected an integer"),
        ({"elbo_draws": -1}, "elbo_draws is -1, expected an integer"),
        ({"bound": "elbo"}, "bound is 'elbo', expected 'average' or 'importance'"),
        ({"decoder": "sharp"}, "decoder is 'sharp', expected 'rounding' or 'gaussian'"),
    ],
)
def test_what_is_refused_loses_nothing(
    run: Run, trained: SimpleNamespace, changes: dict[str, Any], message: str
) -> None:
    likelihood(run, run.model(), trained.data, "test", 2, options(), progress=False)
    before = table(run)
    with pytest.raises(ValueError, match=message):
        likelihood(run, run.model(), trained.data, "test", 2, options(**changes), progress=False)
    assert table(run) == before


@pytest.mark.slow
def test_two_processes_write_what_one_does(run: Run, trained: SimpleNamespace) -> None:
    likelihood(run, run.model(), trained.data, "test", 5, options(), progress=False)
    one = table(run)
    for path in run.directory.glob("likelihood-test.*"):
        path.unlink()
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        "-m",
        "scoresde.cli",
    ]
    arguments = ["likelihood", f"run={run.directory}", "n=5", "tol=0.5", "batch_size=2", "progress=false"]
    result = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.count("per sample: ") == 1
    assert table(run) == one
