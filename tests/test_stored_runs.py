"""Run directories that version 0.1.0 wrote, in `tests/stored_runs`: they load and give the figures they gave then.

`tests/stored_runs/README.md` tells how they and the expected figures were made.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import scoresde
from scoresde.cli import main
from scoresde.options.moved import MOVED
from scoresde.report.reading import read_run
from scoresde.runs.directory import Run, config_hash
from tests.stored_runs.figures import FIGURES, STORED

pytestmark = pytest.mark.slow  # commands on trained runs

EXPECTED: dict[str, Any] = json.loads((STORED / "expected.json").read_text())
# Of a figure's largest value. Other instruction sets, libraries' paths and numbers of threads moved figures by at most
# 1.5e-6 of it; relative noise of 1e-6 on all weights moves them by 1.5e-5, and another draw or step by far more.
TOLERANCE = 1e-5
# As training chose it, where the configuration does not say.
EXACT = ("divergence=exact", "divergence.mode=auto")
QUIET = ("logger=local", "progress=false", "evaluation.samples=0", "evaluation.likelihood=0")


@pytest.fixture(scope="module", autouse=True)
def _surroundings() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "true")
        patch.setenv("WANDB_MODE", "offline")
        yield


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the runs, and the working directory."""
    copy = shutil.copytree(STORED, tmp_path / "stored")
    monkeypatch.chdir(copy)
    return copy


@pytest.mark.parametrize(("run", "name"), [(run, name) for run in FIGURES for name in EXPECTED.get(run, ())])
def test_a_stored_run_gives_the_figures_that_it_gave(run: str, name: str) -> None:
    expected = torch.tensor(EXPECTED[run][name], dtype=torch.float64)
    found = FIGURES[run](STORED)[name]().detach().double()
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE * float(expected.abs().max()))


def test_every_figure_is_expected() -> None:
    assert {run: list(figures(STORED)) for run, figures in FIGURES.items()} == {
        run: list(EXPECTED[run]) for run in FIGURES
    }


@pytest.mark.parametrize("run", list(FIGURES))
def test_a_stored_run_needs_nothing_to_be_allowed(run: str, folder: Path) -> None:
    assert not list(folder.glob("**/allow.json"))
    assert scoresde.load(folder / run).info is not None


@pytest.mark.parametrize(
    "arguments",
    [
        ["likelihood", "run=digits", "n=24"],
        ["likelihood", "run=digits", "n=24", "split=train"],
        ["likelihood", "run=toy", "n=32", "dequantisation=variational", "divergence=exact"],
        ["likelihood", "run=toy", "n=64", "dequantisation=truncated_normal", "dequantisation.std=1.0", *EXACT],
    ],
    ids=" ".join,
)
def test_likelihoods_of_the_same_settings_are_there_already(
    arguments: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = {path: path.read_bytes() for path in folder.glob("*/likelihood*.csv")}
    main([*arguments, "progress=false"])
    assert f"{arguments[2].removeprefix('n=')} of them there already" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in folder.glob("*/likelihood*.csv")} == tables


@pytest.mark.parametrize(
    ("run", "n", "name"), [("digits", 64, "samples"), ("toy", 100, "samples"), ("toy", 16, "tuned-steps5-n16-seed0")]
)
def test_samples_drawn_again_are_those_that_were_drawn(run: str, n: int, name: str, folder: Path) -> None:
    tuned = ["sampler=tuned", "sampler.grid.steps=5"] if name.startswith("tuned") else []
    main(["sample", f"run={run}", f"n={n}", "name=again", "progress=false", *tuned])
    with np.load(folder / run / "samples" / f"{name}.npz") as then, np.load(f"{run}/samples/again.npz") as now:
        # Levels of discrete data, so that round-off does not show.
        assert (now["x"] == then["x"]).all()
        noted = [{k: v for k, v in json.loads(str(f["note"])).items() if k != "seconds"} for f in (then, now)]
    assert noted[0] == noted[1]


@pytest.mark.parametrize(("run", "n"), [("digits", 64), ("toy", 100)])
def test_an_evaluation_of_the_same_settings_is_there_already(
    run: str, n: int, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["evaluate", f"run={run}", f"n={n}", "progress=false"])
    assert "samples in " in (out := capsys.readouterr().out)
    assert "there already" in out


def test_other_settings_stand_beside_the_stored(folder: Path) -> None:
    before = json.loads(Path("toy/summary.json").read_text())
    main(["likelihood", "run=toy", "n=8", "seed=1", "progress=false"])
    main(["evaluate", "run=toy", "n=100", "seed=1", "sampler.grid.steps=4", "progress=false"])
    after = json.loads(Path("toy/summary.json").read_text())
    assert {key: after[key] for key in before} == before
    assert [key.partition("-")[0] for key in after if key not in before] == ["likelihood", "samples"]


@pytest.mark.parametrize(("run", "identity"), [("digits", "aee2d283"), ("toy", "d9cc7a7c")])
def test_a_stored_configuration_has_the_identity_that_it_had(run: str, identity: str) -> None:
    # By which `resume=true` and sweeps find the run.
    assert config_hash(Run.open(STORED / run).config) == identity


def test_a_stored_configuration_is_read_in_the_words_of_today() -> None:
    digits_words, toy_words = read_run(STORED / "digits").words, read_run(STORED / "toy").words
    assert digits_words["training"] == "default"
    assert digits_words["sampler"] == "unipc"
    assert digits_words["sampler.grid.steps"] == 10
    assert digits_words["evaluation.divergence"] == "hutchinson"
    assert digits_words["evaluation.dequantisation"] == "uniform"
    assert digits_words["logger.wandb._target_"] == "scoresde.training.WandbLogger"
    assert toy_words["sampler"] == "edm_heun"
    assert toy_words["evaluation.divergence"] == "exact"
    assert toy_words["evaluation.dequantisation"] == "truncated_normal"
    assert toy_words["logger"] == "local"


def test_a_report_of_old_and_new_runs_takes_moved_classes_for_the_same(folder: Path) -> None:
    shutil.copytree("toy", "both/old")
    shutil.copytree("toy", "both/new")
    Path("both/new/config.yaml").unlink()
    Run(Path("both/new"), Run.open("toy").config).write_config()
    assert Path("both/new/config.yaml").read_text() != Path("both/old/config.yaml").read_text()
    assert read_run(Path("both/new")).config == read_run(Path("both/old")).config


def test_weights_of_a_class_that_has_moved_load_and_are_trained_further(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = Path("toy/config.yaml")
    file.write_text(file.read_text().replace("scoresde.networks.MLP", "scoresde.networks.Former"))
    with pytest.raises(ValueError, match="scoresde.networks.Former"):
        scoresde.load("toy")
    monkeypatch.setitem(MOVED, "scoresde.networks.Former", "scoresde.networks.MLP")
    before = scoresde.load("toy").state_dict()
    main(["train", "run=toy", "training.steps=2010", *QUIET])
    assert scoresde.load("toy").state_dict().keys() == before.keys()
    assert "scoresde.networks.MLP" in file.read_text()  # written anew with the names of today


def test_a_new_run_keeps_the_names_of_today_whatever_names_it_was_given(folder: Path) -> None:
    ema = ("training.ema._target_=scoresde.training.ema.HalfLife", "~training.ema.relative_std")
    small = ("data=npz", "data.path=points.npz", "data.levels=16", "network=mlp", "network.width=8", "training.steps=1")
    main(["train", "name=new", "runs=.", *small, *ema, *QUIET, "evaluation.pictures=false"])
    written = Path("new/config.yaml").read_text()
    assert "scoresde.training.HalfLife" in written
    assert "scoresde.training.ema" not in written


def test_reports_name_the_choices(folder: Path) -> None:
    main(["report", "run=digits"])
    main(["report", "run=toy"])
    digits_page, toy_page = Path("digits/report.html").read_text(), Path("toy/report.html").read_text()
    assert "unipc" in digits_page
    assert "edm_heun" in toy_page
    assert "likelihood-test-Exact_mode_reverse" in toy_page


@pytest.mark.parametrize(
    ("run", "entry"),
    [
        ("digits", {"step": 310, "loss": 10.77750473, "held_out_loss": 8.042299271, "grad_norm": 43.53323}),
        ("toy", {"step": 2010, "loss": 0.1539413929, "held_out_loss": 0.1267235428, "grad_norm": 0.1308844}),
    ],
)
def test_training_goes_on_from_a_stored_checkpoint(
    run: str, entry: dict[str, float], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scoresde.networks.dropout.dropout", F.dropout)  # that of version 0.1.0
    before = scoresde.load(run).state_dict()
    main(["train", f"run={run}", f"training.steps={entry['step']}", "training.log_every=10", *QUIET])
    summary = json.loads(Path(run, "summary.json").read_text())
    assert summary["training"]["steps"] == entry["step"]
    assert summary["finished"] is True
    assert f"likelihood-test-step{entry['step'] - 10}" in summary  # the figures of the weights before
    # Of the batches, noises and dropout that the ten steps have had in version 0.1.0.
    lines = [json.loads(line) for line in Path(run, "metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if "event" not in line][-1]
    assert {key: last[key] for key in entry} == pytest.approx(entry, rel=1e-5)
    after = scoresde.load(run).state_dict()
    assert any((after[key] != value).any() for key, value in before.items() if key.startswith("network."))
