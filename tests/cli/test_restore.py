"""`scoresde restore`: posterior samples of what was measured, and bad input in one line."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

import scoresde
from scoresde.cli import main
from scoresde.cli.completion import complete
from scoresde.data import digits
from scoresde.inverse import DPS, Inpainting, restore
from scoresde.report.run_page import run_page
from scoresde.runs import restorer as module
from scoresde.runs.directory import Run
from scoresde.runs.restore import FIGURES
from scoresde.training.moments import data_statistics

pytestmark = pytest.mark.slow

CONFIG = """
data: {_target_: scoresde.data.digits}
sde: {_target_: scoresde.sde.VPSDE}
network: {_target_: scoresde.networks.MLP, width: 16, blocks: 1, num_classes: null}
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
QUICK = ["problem=inpaint", "method=dps", "steps=3", "n=2", "-q"]
NAME = "inpaint-dps-steps3-n2-seed0"


def made(directory: Path, **changes: Any) -> None:
    config = OmegaConf.create(CONFIG)
    for key, value in changes.items():
        OmegaConf.update(config, key.replace("__", "."), value)
    run = Run(directory, config)
    torch.manual_seed(0)
    data = run.data()
    run.write_info(scoresde.data.DataInfo.of(data))
    run.write_config()
    run.save_model(run.new_model(data.shape, data_statistics(data, dequantise=True)), step=5)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path / "one")
    monkeypatch.chdir(tmp_path)


def arrays(name: str = NAME) -> dict[str, np.ndarray]:
    with np.load(f"one/restored/{name}.npz") as file:
        return dict(file)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    before = sorted(Path().rglob("*"))
    capsys.readouterr()
    given = {argument.partition("=")[0] for argument in arguments}
    with pytest.raises(SystemExit) as stop:
        main(["restore", *arguments, *(word for word in QUICK if word.partition("=")[0] not in given)])
    said = capsys.readouterr().err
    assert stop.value.code in (1, 2)
    assert said.startswith("scoresde: ")
    assert said.count("\n") == 1
    assert sorted(Path().rglob("*")) == before
    return said


def test_held_out_images_are_measured_and_restored(capsys: pytest.CaptureFixture[str]) -> None:
    main(["restore", "run=one", "count=3", *QUICK])
    said = capsys.readouterr().out
    assert said.startswith("3 measurements of held-out data, 2 samples each, 4 evaluations a sample")
    found = arrays()
    assert {name: array.shape for name, array in found.items() if name != "note"} == {
        "x": (3, 1, 8, 8), "y": (3, 48), "samples": (3, 2, 1, 8, 8), "mean": (3, 1, 8, 8), "std": (3, 1, 8, 8),
        "figures": (3, len(FIGURES)),
    }  # fmt: skip
    data, model = digits(), scoresde.load("one")
    assert np.array_equal(found["x"], data.test[:3].numpy())
    problem = Inpainting().for_shape(data.shape)
    measurement = problem.measure(data.transform.encode(data.test[:3]))
    np.testing.assert_allclose(found["y"], measurement.y.numpy())
    out = restore(model, measurement, DPS(), samples=2, steps=3)
    assert np.array_equal(found["samples"], data.transform.decode(out.x).numpy())
    np.testing.assert_allclose(found["mean"], (out.mean + 1).numpy() * 17 / 2 - 0.5, rtol=1e-3, atol=1e-3)
    rows = list(csv.reader(Path(f"one/restored/{NAME}.csv").read_text().splitlines()))
    assert rows[0] == ["index", *FIGURES]
    assert len(rows) == 4
    assert Path(f"one/restored/{NAME}.png").is_file()
    entry = json.loads(Path("one/summary.json").read_text())[f"restored-{NAME}"]
    assert entry["problem"] == "Inpainting(std=0.1, share=0.5)"
    assert entry["method"] == repr(DPS())
    assert {"psnr", "psnr_of_mean", "coverage", "residual"} < entry.keys()


def test_further_measurements_are_added_and_those_that_are_there_are_kept(capsys: pytest.CaptureFixture[str]) -> None:
    main(["restore", "run=one", "count=2", *QUICK])
    first = arrays()
    main(["restore", "run=one", "count=5", *QUICK])
    assert "5 measurements of held-out data, 2 of them there already" in capsys.readouterr().out
    assert np.array_equal(arrays()["samples"][:2], first["samples"])
    Path("one/restored").rename("before")
    main(["restore", "run=one", "count=5", "batch_size=3", *QUICK])
    with np.load(f"before/{NAME}.npz") as file:
        assert np.array_equal(file["samples"], arrays()["samples"])
    main(["restore", "run=one", "count=1", *QUICK])
    assert len(arrays()["samples"]) == 5


def test_other_settings_have_files_of_their_own() -> None:
    for further in ([], ["problem.std=0.2"], ["input=mine.npz"]):
        np.savez("mine.npz", x=digits().test[5:7])
        main(["restore", "run=one", "count=1", *further, *QUICK])
    assert len(list(Path("one/restored").glob("*.npz"))) == 3
    with pytest.raises(SystemExit):
        main(["restore", "run=one", "count=1", f"name={NAME}", "seed=1", *QUICK])
    main(["restore", "run=one", "count=1", f"name={NAME}", "seed=1", "overwrite=true", *QUICK])


def test_measurements_are_taken_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    y = np.linspace(-1, 1, 96).reshape(2, 48).astype(np.float32)
    np.savez("mine.npz", y=y)
    main(["restore", "run=one", "input=mine.npz", "name=mine", *QUICK])
    assert "coverage" not in capsys.readouterr().out
    assert np.array_equal(arrays("mine")["y"], y)
    assert "x" not in arrays("mine")
    np.savez("both.npz", y=y, x=digits().test[:2])
    main(["restore", "run=one", "input=both.npz", "name=both", *QUICK])
    assert "coverage" in capsys.readouterr().out
    assert np.array_equal(arrays("both")["samples"], arrays("mine")["samples"])


def test_what_an_interruption_leaves_is_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = 0

    def stops(*arguments: Any, **options: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked == 3:
            raise KeyboardInterrupt
        return restore(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(module, "restore", stops)
        with pytest.raises(SystemExit) as stop:
            main(["restore", "run=one", "count=5", "batch_size=2", *QUICK])
    assert stop.value.code == 130
    assert "finished parts are kept, and the same command resumes" in capsys.readouterr().err
    assert len(arrays()["samples"]) == 2
    main(["restore", "run=one", "count=5", "batch_size=2", *QUICK])
    resumed = arrays()
    main(["restore", "run=one", "count=5", "overwrite=true", *QUICK])
    assert np.array_equal(resumed["samples"], arrays()["samples"])


def test_the_page_of_a_run_shows_restorations() -> None:
    main(["restore", "run=one", "count=2", *QUICK])
    page = run_page(Path("one"))
    assert "Restorations" in page
    assert "Inpainting(std=0.1, share=0.5)" in page
    assert "Restored from measurements" in page


def test_images_of_a_model_with_classes_have_their_own_labels() -> None:
    made(Path("labelled"), network__num_classes=10)
    main(["restore", "run=labelled", "count=3", *QUICK])
    with np.load(f"labelled/restored/{NAME}.npz") as file:
        assert np.array_equal(file["labels"], digits().test_labels[:3])
    main(["restore", "run=labelled", "count=3", "label=7", "name=sevens", *QUICK])
    with np.load("labelled/restored/sevens.npz") as file:
        assert np.array_equal(file["x"], digits().test[digits().test_labels == 7][:3])
    np.savez("given.npz", x=digits().test[:2], labels=[4, 2])
    main(["restore", "run=labelled", "input=given.npz", "name=given", *QUICK])
    with np.load("labelled/restored/given.npz") as file:
        assert file["labels"].tolist() == [4, 2]


def test_points_in_the_plane_are_restored() -> None:
    made(Path("moons"), data={"_target_": "scoresde.data.two_moons", "n_train": 60, "n_test": 40})
    main(["restore", "run=moons", "count=3", *QUICK])
    assert Path(f"moons/restored/{NAME}.png").is_file()


X, Y = np.zeros((2, 1, 8, 8)), np.zeros((2, 48))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"z": X}, "has no array x of samples and no y of measurements; available: z"),
        ({"x": X[..., 1:]}, "has x of shape (2, 1, 8, 7), expected that of samples of the run, (N, 1, 8, 8)"),
        ({"x": X + 0.5}, "x of input=mine.npz: raw values must be integers 0..16 (17 levels), the worst value is 0.5"),
        ({"x": X + 17}, "x of input=mine.npz: raw values must be integers 0..16 (17 levels), the worst value is 17"),
        ({"x": X.astype(str)}, "x of input=mine.npz has dtype <U32, expected numbers, all of them finite"),
        ({"x": X + np.nan}, "x of input=mine.npz has dtype float64, expected numbers, all of them finite"),
        ({"y": Y[:, 1:]}, "measurements of mine.npz: y has shape (2, 47), expected (B, 48), as Mask"),
        ({"y": Y + np.inf}, "y of input=mine.npz has dtype float64, expected numbers, all of them finite"),
        ({"x": X, "y": Y[:1]}, "has arrays of different lengths, expected a row for each: x has 2, y has 1"),
        ({"x": X[:0]}, "input=mine.npz is empty: it has no samples"),
    ],
)
def test_an_input_that_is_none_is_refused(
    given: dict[str, np.ndarray], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez("mine.npz", **given)  # type: ignore[arg-type]
    assert message in refusal(capsys, "run=one", "input=mine.npz")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["input=nowhere.npz"], "input=nowhere.npz does not exist; give test, or an npz file with an array x or y"),
        (["problem=none"], "problem measures nothing, so that nothing is restored: `scoresde sample` draws samples"),
        (["problem=grey_scale"], "problem: samples have shape (1, 8, 8), expected images of several channels"),
        (["problem.std=-1"], "problem: std is -1, expected 0, for measurements without noise, or more"),
        (["label=3"], "this model was trained without labels: leave out label"),
        (["count=0"], "count is 0, expected an integer of at least 1 or null"),
        (["condition=nowhere.npz"], "condition=nowhere.npz does not exist; give an npz file with arrays vector"),
        (["method=mpms"], "method has no choice 'mpms', did you mean 'mmps'?; expected one of"),
        (["step=3"], "restore has no 'step', did you mean steps=3?"),
    ],
)
def test_a_mistake_is_answered_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refusal(capsys, "run=one", *arguments)


def test_an_operator_with_another_adjoint_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("wrong_adjoint.py").write_text(
        "from dataclasses import dataclass\n"
        "from scoresde.inverse import GaussianNoise, LinearOperator, Problem\n"
        "class Doubled(LinearOperator):\n"
        "    def measure(self, x):\n        return 2 * x\n"
        "    def back(self, y):\n        return y\n"
        "@dataclass(frozen=True)\nclass Choice:\n"
        "    def for_shape(self, shape):\n        return Problem(Doubled(shape, shape), GaussianNoise(0.1))\n"
    )
    Path("conf/problem").mkdir(parents=True)
    Path("conf/problem/mine.yaml").write_text("# Mine\n_target_: wrong_adjoint.Choice\n")
    with pytest.raises(SystemExit):
        main(["restore", "run=one", "--config-dir", "conf", "problem=mine", "allow=[wrong_adjoint]", *QUICK[1:]])
    assert "the adjoint of Doubled(1×8×8 to 1×8×8) fails the dot-product test" in capsys.readouterr().err
    assert not Path("one/restored").exists()


def test_completion_knows_problems_and_methods() -> None:
    assert "problem=inpaint" in complete(["restore", "problem=inp"])
    assert complete(["restore", "method=dp"]) == ["method=dps"]
    assert complete(["resto"]) == ["restore"]
