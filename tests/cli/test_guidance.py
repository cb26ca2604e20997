"""Guidance on the command line: samples, comparisons and figures of guided models, and bad input in one line."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf

import scoresde
from scoresde.cli import main
from scoresde.guidance import ClassifierFree
from scoresde.runs.directory import Run
from scoresde.training.moments import data_statistics

CONFIG = """
data: {_target_: scoresde.data.two_moons, n_train: 60, n_test: 40}
sde: {_target_: scoresde.sde.VPSDE}
network: {_target_: scoresde.networks.MLP, width: 16, blocks: 1, num_classes: 2, label_dropout: 0.1}
preconditioning: {_target_: scoresde.preconditioning.EDMPreconditioning}
objective: {_target_: scoresde.objectives.DenoisingScoreMatching}
optimizer: {_target_: torch.optim.AdamW, _partial_: true, lr: 0.001}
training: {_target_: scoresde.training.Training, steps: 5, seed: 0}
sampler:
  _target_: scoresde.sampling.Sampler
  solver: {_target_: scoresde.sampling.DPMSolverPP, order: 2}
  grid: {_target_: scoresde.sampling.UniformLogSNR, steps: 6}
evaluation: {samples: 10}
"""


def made(directory: Path, seed: int, label_dropout: float = 0.1) -> None:
    config = OmegaConf.create(CONFIG)
    config.network.label_dropout = label_dropout
    run = Run(directory, config)
    torch.manual_seed(seed)
    model = run.new_model((2,), data_statistics(run.data(), dequantise=True))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    run.write_config()
    run.save_model(model, step=5)


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of random weights: one, a weaker one, and one that was trained without dropped labels."""
    parent = tmp_path_factory.mktemp("runs")
    for seed, name in enumerate(("one", "weak")):
        made(parent / name, seed)
    made(parent / "kept", 2, label_dropout=0.0)
    np.savez(parent / "text.npz", x=[["a", "b"]])
    np.savez(parent / "infinite.npz", x=[[0.0, np.inf]])
    np.savez(parent / "other.npz", y=[[0.0, 1.0]])
    return parent


@pytest.fixture(autouse=True)
def inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def test_samples_are_those_of_the_guided_model_and_are_noted(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["sample", "run=one", "n=8", "guidance=cfg", "guidance.scale=3", "guidance.interval=[0.2,5]", "-q"]
    main([*command, "name=guided"])
    with np.load("one/samples/guided.npz") as file:
        x, labels, note = torch.from_numpy(file["x"]), torch.from_numpy(file["labels"]), json.loads(str(file["note"]))
    assert note["guidance"].startswith("CFG(scale=3.0, interval=(0.2, 5.0)")
    model = ClassifierFree(scoresde.load("one"), 3.0, interval=(0.2, 5.0))
    out = Run.open("one").make("sampler")(model, 8, seed=0, labels=labels)
    torch.testing.assert_close(out.x, x)
    # The same again is read; another guidance of that name is refused, and none has other samples.
    main([*command, "name=guided"])
    assert "there already" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["sample", "run=one", "n=8", "guidance=cfg", "guidance.scale=2", "name=guided", "-q"])
    assert "guided.npz is there already, with guidance" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["sample", "run=one", "n=8", "name=guided", "-q"])
    main(["sample", "run=one", "n=8", "name=plain", "-q"])
    plain = np.load("one/samples/plain.npz")["x"]
    for choice in ("density", "autoguidance"):
        weaker = ["guidance.weaker=weak"] * (choice == "autoguidance")
        main(["sample", "run=one", "n=8", f"guidance={choice}", *weaker, "name=" + choice, "-q"])
        with np.load(f"one/samples/{choice}.npz") as file:
            same = choice == "density"  # whose default is the model itself
            assert np.allclose(file["x"], plain, atol=1e-4) == same


def test_samples_near_those_of_a_file() -> None:
    main(["sample", "run=one", "n=4", "name=first", "-q"])
    near = ["sample", "run=one", "n=8", "start=one/samples/first.npz", "sampler=heun", "-q"]
    for strength in (0.05, 1.0):
        main([*near, f"strength={strength}", f"name=near{strength}"])
    x, *ends = (np.load(f"one/samples/{name}.npz") for name in ("first", "near0.05", "near1.0"))
    assert json.loads(str(ends[0]["note"]))["strength"] == 0.05
    distances = [np.abs(end["x"] - np.tile(x["x"], (2, 1))).mean() for end in ends]
    assert distances[0] < distances[1] / 5
    assert not np.allclose(ends[0]["x"][:4], ends[0]["x"][4:], atol=1e-5)  # of other noise


@pytest.mark.slow
def test_comparisons_and_figures_stand_beside_those_without(capsys: pytest.CaptureFixture[str]) -> None:
    common = ["run=one", "n=20", "-q"]
    swept = ["guidance=cfg", "guidance.scale=1,3", "--multirun"]
    main(["compare", *common, "samplers=[heun]", "steps=4", "tol=1e-3", *swept])
    main(["compare", *common, "samplers=[heun]", "steps=4", "tol=1e-3"])
    tables = {path.stem: pd.read_csv(path) for path in Path("one").glob("comparison*.csv")}
    assert tables.keys() == {"comparison", *(guided := [f"comparison-n20-tolerance0.001-cfg-scale{k}" for k in (1, 3)])}
    error = {name: float(table["error"].iloc[0]) for name, table in tables.items()}
    assert error[guided[0]] == pytest.approx(error["comparison"], rel=1e-4)
    assert error[guided[1]] != pytest.approx(error["comparison"], rel=1e-2)
    main(["evaluate", *common, "guidance=cfg", "guidance.scale=3"])
    main(["evaluate", *common])
    main(["evaluate", *common])
    assert "samples in one/summary.json, there already" in capsys.readouterr().out
    summary = json.loads(Path("one/summary.json").read_text())
    noted = {key: entry for key, entry in summary.items() if key.startswith("samples-")}
    assert [entry["guidance"][:14] for entry in noted.values()] == ["CFG(scale=3.0,"]
    assert summary["samples"]["guidance"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("run=kept guidance=cfg", "for which this model was not trained: train with network.label_dropout=0.1"),
        ("run=one guidance=cfg label=7", "label is 7, expected 0 to 1"),
        ("run=one guidance=cfg guidance.scale=big", "guidance.scale is 'big', expected a number"),
        ("run=one guidance=cfg guidance.interval=[500,600]", "no noise level σ/α of this model lies in it"),
        ("run=one guidance=cfg guidance.interval=[5,1]", "interval is [5, 1], expected two noise levels σ/α"),
        ("run=one guidance=autoguidance", "guidance.weaker is missing: give guidance.weaker=VALUE"),
        ("run=one guidance=autoguidance guidance.weaker=gone", "scoresde: guidance.weaker=gone does not exist"),
        ("run=one start=gone.npz", "start=gone.npz does not exist; give an npz file with an array x"),
        ("run=one start=one/config.yaml", "start=one/config.yaml has no array x that can be read"),
        ("run=one start=text.npz", "text.npz has x of dtype <U1, expected numbers, all of them finite"),
        ("run=one start=infinite.npz", "infinite.npz has x of dtype float64, expected numbers, all of them finite"),
        ("run=one start=other.npz", "has no array x that can be read: other.npz has no array 'x'; available: y"),
        ("run=one condition=gone.npz", "condition=gone.npz does not exist; give an npz file with arrays vector,"),
        ("run=one strength=0", "strength is 0, expected a number above 0 and at most 1"),
        ("run=one strength=0.5", "strength=0.5 is without effect: give start=FILE.npz"),
        ("run=one guidance=cgf", "guidance has no choice 'cgf', did you mean 'cfg'?"),
        ("run=one guidance.scale=3", "NoGuidance has no 'scale'; it takes no arguments; guidance=apg,"),
    ],
)
def test_bad_input_is_one_line(arguments: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["sample", *arguments.split(), "n=4", "-q"])
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
