"""The `scoresde` command, in this process where a real one is not the point."""

import errno
import json
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from omegaconf import OmegaConf
from PIL import Image

import scoresde
from scoresde.cli import conf_dir, main
from scoresde.cli.console import format_warning
from scoresde.config import modules
from scoresde.data import eight_gaussians, two_moons
from scoresde.runs import stages
from scoresde.runs import train as training
from scoresde.runs.likelihood_table import LikelihoodTable
from scoresde.runs.stages import Fit, Report, Save, Stage
from scoresde.sampling import AutoAdams, measure_steps
from scoresde.sampling.plain_rule import plain_rule
from scoresde.score import StepRules
from scoresde.training.checkpoint import latest_checkpoint, load_checkpoint
from scoresde.training.loop import Trainer
from tests.problems import Once

pytestmark = pytest.mark.slow

TOY = [
    "data=two_moons",
    "+data.n_train=200",
    "+data.n_test=40",
    "network=mlp",
    "network.width=16",
    "network.blocks=1",
    "network.embedding.dim=8",
    "training.steps=20",
    "training.batch_size=32",
    "training.warmup=5",
    "training.log_every=5",
    "training.checkpoint_every=10",
    "sampler.grid.steps=4",
    "evaluation.samples=20",
    "evaluation.likelihood=8",
    "evaluation.tol=0.5",
    "progress=false",
]
RUN = "runs/moons"


@pytest.fixture(scope="module", autouse=True)
def _surroundings() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "true")
        patch.setenv("WANDB_MODE", "offline")
        patch.delenv("SCORESDE_TRACEBACK", raising=False)
        yield


@pytest.fixture(scope="module")
def trained(once: Once) -> Path:
    """Where `scoresde train name=moons` was run, once."""

    def make(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            main(["train", *TOY, "name=moons"])

    return once("moons", make)


@pytest.fixture
def work(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, and the working directory."""
    folder = shutil.copytree(trained, tmp_path / "work")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def training_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """No samples, likelihoods and pictures after training, where a test is not about them."""
    kept = tuple(stage for stage in training.STAGES if isinstance(stage, Fit | Save | Report))
    monkeypatch.setattr(training, "STAGES", kept)


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake that is not seen must not train the default model."""

    def fit(self: Any, progress: bool = True) -> None:
        raise AssertionError("training began")

    monkeypatch.setattr(Trainer, "fit", fit)


def files() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(Path().rglob("*")) if path.is_file()}


def everything() -> list[str]:
    return sorted(str(path) for path in Path().rglob("*"))


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command that must fail says: one line on stderr, and nothing is written."""
    before, content = everything(), files()
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    error = capsys.readouterr().err
    assert stop.value.code in (1, 2), error
    assert "Traceback" not in error
    assert error.startswith("scoresde: "), error
    assert error.count("\n") == 1, error
    assert error.endswith("\n")
    assert everything() == before
    assert files() == content
    return error


def summary(directory: str | Path = RUN) -> dict[str, Any]:
    return json.loads((Path(directory) / "summary.json").read_text())


def weights(directory: str | Path) -> dict[str, torch.Tensor]:
    return scoresde.load(directory).state_dict()


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


# -- the commands ---------------------------------------------------------------------------------------


def test_train_writes_a_run_directory(trained: Path) -> None:
    run = trained / RUN
    for file in (
        "config.yaml",
        "model.safetensors",
        "metrics.jsonl",
        "summary.json",
        "report.html",
        "likelihood-test.csv",
        "likelihood-train.csv",
        "checkpoints/step-000000010.pt",
        "checkpoints/step-000000020.pt",
        "samples/samples.npz",
        "samples/samples.png",
        "samples/filmstrip.png",
    ):
        assert (run / file).is_file(), file
    assert [str(path) for path in trained.iterdir()] == [str(trained / "runs")]
    assert not list(run.rglob(".*"))
    values = summary(run)
    text = json.dumps(values, allow_nan=False)
    assert values["training"]["steps"] == 20
    assert values["likelihood"]["bits_per_dim"] is None
    assert math.isfinite(values["likelihood"]["nats"])
    assert "NaN" not in text
    assert np.load(run / "samples" / "samples.npz")["x"].shape == (20, 2)
    assert "moons" in (run / "report.html").read_text()
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["network"]["width"] == 16
    assert not {"run", "resume", "runs", "name", "allow", "progress", "repeats", "metric", "fail_fast"} & set(config)


def test_train_says_what_came_out(empty: Path, training_only: None, capsys: pytest.CaptureFixture[str]) -> None:
    main(["train", *TOY])
    out = capsys.readouterr().out
    (directory,) = (empty / "runs").iterdir()
    # Named by what was chosen and a hash of it.
    assert re.fullmatch(r"two_moons-mlp-[0-9a-f]{8}", directory.name)
    assert f"runs/{directory.name}" in out
    assert "20 steps" in out
    assert "report.html" in out
    assert not (directory / "samples").exists()
    assert "pictures" not in out


@pytest.mark.parametrize(
    ("chosen", "name"),
    [
        (["experiment=ring"], "ring"),
        (["experiment=ring", "data=swiss_roll"], "ring-swiss_roll"),
        (["--config-dir", "my", "experiment=theirs/own"], "own"),
        (["data=swiss_roll", "sde=ve", "network=mlp"], "swiss_roll-mlp-ve"),
    ],
)
def test_names_of_runs_tell_the_data(
    empty: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], chosen: list[str], name: str
) -> None:
    (empty / "my/experiment/theirs").mkdir(parents=True)
    (empty / "my/experiment/theirs/own.yaml").write_text("# @package _global_\ntraining:\n  steps: 7\n")
    monkeypatch.setattr(training, "train", lambda run, *a, **k: (run.directory / "samples").mkdir())
    main(["train", *chosen])
    (made,) = (empty / "runs").iterdir()
    assert re.fullmatch(rf"{name}-[0-9a-f]{{8}}", made.name)
    assert capsys.readouterr().out == ""


def test_a_second_train_makes_a_run_of_its_own_and_resume_does_not(work: Path, training_only: None) -> None:
    before = files()
    main(["train", *TOY, "name=moons"])
    assert sorted(os.listdir("runs")) == ["moons", "moons-2"]
    assert before.items() <= files().items()
    assert_same(weights("runs/moons"), weights("runs/moons-2"))
    # As if it had been stopped at step 10.
    for file in ("model.safetensors", "summary.json", "report.html", "checkpoints/step-000000020.pt"):
        Path("runs/moons-2", file).unlink()
    main(["train", *TOY, "name=moons", "resume=true"])
    assert sorted(os.listdir("runs")) == ["moons", "moons-2"]
    assert before.items() <= files().items()
    assert summary("runs/moons-2")["training"]["steps"] == 20
    assert_same(weights("runs/moons"), weights("runs/moons-2"))


def test_resume_is_for_the_very_configuration(work: Path, training_only: None) -> None:
    before = files()
    main(["train", *TOY, "name=moons", "resume=true", "sde=ve"])
    assert sorted(os.listdir("runs")) == ["moons", "moons-2"]
    assert before.items() <= files().items()
    # What neither weights nor figures depend on may change.
    (work / RUN / "summary.json").write_text(json.dumps({**summary(), "finished": False}))
    main(["train", *TOY, "name=moons", "resume=true", "training.log_every=7"])
    assert sorted(os.listdir("runs")) == ["moons", "moons-2"]
    assert "log_every: 7" in Path("runs/moons/config.yaml").read_text()
    main(["train", *TOY, "name=moons", "resume=true", "sampler.grid.steps=5"])
    assert sorted(os.listdir("runs")) == ["moons", "moons-2", "moons-3"]
    assert "VESDE" in Path("runs/moons-2/config.yaml").read_text()


def test_the_name_of_an_experiment_does_not_make_a_run_another_one(
    empty: Path, training_only: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same configuration by one name, by another, and by overrides is the same run."""
    (empty / "my" / "experiment").mkdir(parents=True)
    head, *body = (conf_dir() / "experiment" / "ring.yaml").read_text().splitlines(keepends=True)
    for name in ("one", "two"):
        (empty / "my" / "experiment" / f"{name}.yaml").write_text(head + "".join(body))
    quick = ["--config-dir", "my", "training.steps=2", "network.width=16", "progress=false", "resume=true"]
    main(["train", *quick, "experiment=one"])
    (run,) = Path("runs").iterdir()
    assert run.name.startswith("one-")
    (run / "summary.json").write_text(json.dumps({"finished": True}))
    parts = ["data=eight_gaussians", "network=mlp", "network.blocks=3", "training.batch_size=512",
             "evaluation.samples=1000", "evaluation.likelihood=1000"]  # fmt: skip
    for same in (["experiment=two"], ["experiment=ring"], parts):
        capsys.readouterr()
        main(["train", *quick, *same])
        assert f"{run} is finished: nothing to do" in capsys.readouterr().out
    assert len(list(Path("runs").iterdir())) == 1


def test_a_finished_run_is_not_trained_again(work: Path, no_training: None, capsys: pytest.CaptureFixture[str]) -> None:
    before = files()
    main(["train", *TOY, "name=moons", "resume=true"])
    assert "runs/moons is finished: nothing to do" in capsys.readouterr().out
    assert files() == before


def test_quiet_says_results_alone(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["sample", RUN, "n=3", "-q"])
    out, error = capsys.readouterr()
    assert out.startswith("3 samples")
    assert error == ""


def test_going_on_with_more_steps(work: Path, training_only: None, capsys: pytest.CaptureFixture[str]) -> None:
    main(["train", f"run={RUN}", "training.steps=25", "sampler=euler", "evaluation.samples=10", "progress=false"])
    assert os.listdir("runs") == ["moons"]
    assert summary()["training"]["steps"] == 25
    config = yaml.safe_load((work / RUN / "config.yaml").read_text())
    assert config["training"]["steps"] == 25
    assert config["sampler"]["solver"]["_target_"] == "scoresde.sampling.Euler"
    assert config["sde"]["_target_"] == "scoresde.sde.VPSDE"
    latest = latest_checkpoint(work / RUN / "checkpoints")
    assert latest is not None
    assert latest.name == "step-000000025.pt"
    steps = [json.loads(line)["step"] for line in (work / RUN / "metrics.jsonl").read_text().splitlines()]
    assert steps == [5, 10, 15, 20, 20, 25]


@pytest.mark.parametrize("change", ["sde=ve", "experiment=ring", "optimizer.lr=1e-3"])
@pytest.mark.usefixtures("no_training")
def test_a_run_that_goes_on_keeps_what_it_is(work: Path, capsys: pytest.CaptureFixture[str], change: str) -> None:
    key = re.escape(change.split("=")[0])
    assert re.search(
        rf"{change}: a run that is continued keeps its {key}", refusal(capsys, "train", f"run={RUN}", change)
    )


def test_sample(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["sample", f"run={RUN}", "n=30", "seed=3", "sampler=euler", "sampler.grid.steps=5", "progress=false"])
    out = capsys.readouterr().out
    assert "30 samples" in out
    assert f"{RUN}/samples/euler-steps5-n30-seed3.npz" in out
    first = np.load(f"{RUN}/samples/euler-steps5-n30-seed3.npz")["x"]
    assert first.shape == (30, 2)
    Image.open(f"{RUN}/samples/euler-steps5-n30-seed3.png").verify()
    main(["sample", f"run={RUN}", "n=30", "seed=3", "sampler=euler", "sampler.grid.steps=5", "name=7", "batch_size=11",
          "progress=false"])  # fmt: skip
    np.testing.assert_allclose(np.load(f"{RUN}/samples/7.npz")["x"], first, rtol=1e-4, atol=1e-5)
    # The samples of the evaluation are kept apart.
    assert np.load(f"{RUN}/samples/samples.npz")["x"].shape == (20, 2)


def test_keys_of_the_runs_own_sampler(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["sample", RUN, "n=5", "sampler.grid.steps=7", "progress=false"])
    assert "5 samples, 7 evaluations each" in capsys.readouterr().out
    assert Path(f"{RUN}/samples/steps7-n5-seed0.npz").is_file()
    main(["sample", RUN, "n=5", "-m", "sampler.grid.steps=2,3", "+sampler.grid.t_max=0.9", "progress=false"])
    out = capsys.readouterr().out
    assert "5 samples, 2 evaluations each" in out
    assert "5 samples, 3 evaluations each" in out
    own = yaml.safe_load((work / RUN / "config.yaml").read_text())["sampler"]
    assert own["grid"]["steps"] == 4


SWEEP = ["sampler=heun,dpmpp_3m,er_sde", "sampler.grid.steps=2,6"]


@pytest.mark.parametrize("fixed", [[], ["+sampler.grid.t_max=0.9"]], ids=["plain", "with a value for all"])
def test_a_sweep_over_samplers_keeps_every_result(
    work: Path, capsys: pytest.CaptureFixture[str], fixed: list[str]
) -> None:
    more = "-t_max0.9" if fixed else ""
    with pytest.warns(UserWarning, match="order 3 needs at least 3 steps, the grid has 2: the order is lowered"):
        main(["sample", f"run={RUN}", "n=12", "--multirun", *SWEEP, *fixed, "progress=false"])
    out, error = capsys.readouterr()
    assert error == ""
    assert out.count("12 samples") == 6
    found = {}
    for name in ("heun", "dpmpp_3m", "er_sde"):
        for steps in (2, 6):
            file = f"{RUN}/samples/{name}-steps{steps}{more}-n12-seed0"
            assert f"{file}.npz" in out
            assert Path(f"{file}.png").is_file()
            found[name, steps] = np.load(f"{file}.npz")["x"]
    values = list(found.values())
    assert all(x.shape == (12, 2) for x in values)
    assert all(np.abs(x - y).max() > 1e-4 for i, x in enumerate(values) for y in values[:i])


def test_tune_and_sample_by_it(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for steps in (3, 4):
        main(["tune", f"run={RUN}", f"steps={steps}", "starts=100", "iterations=2", "progress=false"])
        assert re.search(f"{steps} evaluations: error .* on held-out starts, .* of `default` ", capsys.readouterr().out)
        assert Path(f"{RUN}/tuned-{steps}.json").is_file()
    swept = "sampler.grid.steps=3,4"
    main(["sample", f"run={RUN}", "n=9", "sampler=tuned", swept, "--multirun", "progress=false"])
    out = capsys.readouterr().out
    assert "9 samples, 3 evaluations each" in out
    assert "9 samples, 4 evaluations each" in out
    # A file may be used by any run of the same SDE.
    file = f"sampler.grid.path={RUN}/tuned-3.json"
    main(["sample", f"run={RUN}", "n=9", "name=x", "sampler=tuned", "sampler.grid.steps=3", file, "progress=false"])
    first, second = (np.load(f"{RUN}/samples/{n}.npz")["x"] for n in ("tuned-steps3-n9-seed0", "x"))
    np.testing.assert_array_equal(first, second)


def test_measured_steps_are_what_the_default_sampler_follows(
    work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scoresde.runs.tune.measure_steps", partial(measure_steps, steps=(3, 4)))
    path = Path(f"{RUN}/steps.json")
    path.write_text("{")
    drawn = ["sample", f"run={RUN}", "n=9", "sampler=default", "sampler.grid.steps=4", "progress=false"]
    with pytest.raises(SystemExit):
        main(drawn)
    assert "steps.json is not a file of step rules: make it anew, by `scoresde tune" in capsys.readouterr().err
    # What the message says to do works although the file is damaged.
    main(["tune", f"run={RUN}", "steps=all", "starts=8", "progress=false"])
    shown = capsys.readouterr().out
    assert "the default solver at 3 to 4 steps: " in shown
    own = [str(steps) for steps, rule in StepRules.load(path).rules.items() if rule != plain_rule(steps)]
    assert (f"were found for {', '.join(own)} steps" if own else "which are kept") in shown
    main(drawn)
    (samples,) = Path(f"{RUN}/samples").glob("default*.npz")
    rule = StepRules.load(path).at(4)
    with np.load(samples) as file:
        assert repr(AutoAdams(rule=rule)) in json.loads(str(file["note"]))["sampler"]
    assert f"seed 0, in {samples.name}." in Path(f"{RUN}/pictures.json").read_text()


def test_a_value_of_a_sampler_that_is_swept_over_alone(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Hydra composes once without the samplers, where sampler.grid would not exist."""
    main(["sample", f"run={RUN}", "n=5", "-m", "sampler=euler,heun", "sampler.grid.steps=3", "progress=false"])
    assert capsys.readouterr().out.count("5 samples") == 2
    made = sorted(path.name for path in Path(f"{RUN}/samples").glob("*n5*.npz"))
    assert made == ["euler-steps3-n5-seed0.npz", "heun-steps3-n5-seed0.npz"]


def test_names_of_samples_tell_choices_apart(work: Path) -> None:
    times = "sampler.grid.times=[{}]"
    explicit = ["sampler=euler", "sampler.grid._target_=scoresde.sampling.ExplicitTimes", "~sampler.grid.steps"]
    for given in ("1.0,0.5,0.1", "1.0,0.5,0.01"):
        main(["sample", f"run={RUN}", "n=5", *explicit, "+" + times.format(given), "progress=false"])
    main(["sample", f"run={RUN}", "n=5", "sampler=euler", "name=mine", "progress=false"])
    main(["sample", f"run={RUN}", "n=5", "progress=false"])
    made = sorted(path.name for path in Path(f"{RUN}/samples").glob("*.npz"))
    assert [name for name in made if name in ("mine.npz", "n5-seed0.npz", "samples.npz")] == [
        "mine.npz",
        "n5-seed0.npz",
        "samples.npz",
    ]
    assert len(made) == 5
    assert all(len(name) < 120 and re.fullmatch(r"[\w.+-]+", name) for name in made)


def test_a_warning_is_one_line() -> None:
    assert format_warning("order\n 3", UserWarning, scoresde.__file__, 3) == "scoresde: order 3\n"
    assert format_warning("x", UserWarning, "/other.py", 3) == "/other.py:3: UserWarning: x\n"


def test_a_run_of_an_older_version_goes_on(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(f"{RUN}/config.yaml")
    older = yaml.safe_load(path.read_text())
    for key in ("tol", "dequantisation", "bound"):
        del older["evaluation"][key]
    path.write_text(yaml.safe_dump({**older, "evaluation": {**older["evaluation"], "tolerance": 1e-4}}))
    main(["train", f"run={RUN}", "evaluation.samples=0", "evaluation.likelihood=2", "progress=false"])
    assert "test: " in capsys.readouterr().out
    assert summary()["likelihood"]["n"] == 2


def test_likelihood(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["likelihood", f"run={RUN}", "n=8", "tol=0.5", "progress=false"])
    out = capsys.readouterr().out
    assert re.search(r"test: -?\d+\.\d+ ± \d\.\d+ nats, n = 8", out)
    assert re.search(r"tol 0\.5 nats \(error of the solver \d[.\de-]* nats\)", out)
    assert "likelihood-test.csv" in out
    table = Path(f"{RUN}/likelihood-test.csv").read_text().splitlines()
    head = "index,nats,stderr,stderr_dequantisation,nfe,divergences,elbo,stderr_elbo,solver_stderr,total_stderr"
    assert table[0] == head
    values = [float(line.split(",")[1]) for line in table[1:]]
    assert len(values) == 8
    assert summary()["likelihood"]["nats"] == pytest.approx(sum(values) / 8)
    assert summary()["likelihood"]["n"] == 8
    assert os.listdir("runs") == ["moons"]


def test_evaluate(work: Path, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["evaluate", f"run={RUN}", "n=20", "progress=false"])
    out = capsys.readouterr().out
    assert "frechet_distance" in out
    assert "against 20 held-out" in out
    assert f"samples in {RUN}/summary.json, there already" in out
    assert summary() == summary(trained / RUN)
    main(["evaluate", f"run={RUN}", "n=30", "sampler=heun", "sampler.grid.steps=3", "progress=false"])
    out = capsys.readouterr().out
    assert f"samples-heun-steps3-n30 in {RUN}/summary.json\n" in out
    after = summary()
    assert after.pop("samples-heun-steps3-n30")["n"] == 30
    assert after == summary(trained / RUN)
    assert np.load(f"{RUN}/samples/samples-heun-steps3-n30.npz")["x"].shape == (30, 2)
    main(["evaluate", f"run={RUN}", "n=30", "overwrite=true", "progress=false"])
    assert summary()["samples"]["n"] == 30


def test_a_likelihood_with_other_settings_loses_nothing(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, own = files(), summary()
    main(["likelihood", RUN, "n=5", "tol=0.5", "seed=3", "progress=false"])
    assert f"per sample: {RUN}/likelihood-test-seed3.csv" in capsys.readouterr().out
    after = summary()
    assert after.pop("likelihood-test-seed3")["n"] == 5
    assert after == own
    assert {k: v for k, v in before.items() if not k.endswith("summary.json")}.items() <= files().items()
    main(["likelihood", RUN, "n=5", "tol=0.5", "progress=false"])
    assert "n = 5, 5 of them there already" in capsys.readouterr().out
    assert summary()["likelihood"] == own["likelihood"]
    main(["report", RUN])
    assert "likelihood-test-seed3" in Path(f"{RUN}/report.html").read_text()


def test_a_finished_run_that_is_named_is_left_alone(
    work: Path, no_training: None, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files()
    for more in ([], ["training.steps=20"], ["training.steps=15"], ["evaluation.samples=20"]):
        main(["train", f"run={RUN}", *more, "progress=false"])
        out = capsys.readouterr().out
        assert f"{RUN} is finished: nothing to do\n" in out
        assert "training.steps=N" in out
        assert files() == before


def test_a_finished_run_with_other_figures(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, own = files(), summary()
    main(["train", f"run={RUN}", "evaluation.likelihood=9", "progress=false"])
    assert "n = 9, 8 of them there already" in capsys.readouterr().out
    after = summary()
    assert {key for key in after if after[key] != own[key]} == {"likelihood", "likelihood_train"}
    kept = ("samples.npz", "samples.png", "filmstrip.png")
    assert all(content == files()[path] for path, content in before.items() if path.endswith(kept))


# -- data of the user's own -----------------------------------------------------------------------------


def save_points(name: str, x: np.ndarray, **more: Any) -> str:
    np.savez(name, x=x, **more)
    return f"data.path={name}"


def test_likelihoods_of_ones_own_data(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own, points = summary(), two_moons(200, 40).test.numpy()
    path = save_points("mine.npz", points[::-1][:12].copy())
    main(["likelihood", RUN, "data=npz", path, "tol=0.5", "progress=false"])
    out = capsys.readouterr().out
    assert out.startswith("all of mine.npz: ")
    (name,) = (name for name in summary() if name.startswith("likelihood-all-mine-"))
    after = summary()
    entry = after.pop(name)
    assert (entry["n"], entry["source"], entry["data"]) == (12, "mine.npz", "mine")
    assert after == own
    # In the order of the file, encoded by the run's own transform: as the run's own held-out data are.
    main(["likelihood", RUN, "tol=0.5", "progress=false"])
    mine, held_out = (
        [float(line.split(",")[1]) for line in Path(f"{RUN}/{file}.csv").read_text().splitlines()[1:]]
        for file in (name, "likelihood-test")
    )
    # A sample's probes depend on its place.
    assert mine == pytest.approx(held_out[::-1][:12], abs=0.2)
    # Another file of that name is another result.
    path = save_points("mine.npz", points[:12])
    main(["likelihood", RUN, "data=npz", path, "tol=0.5", "progress=false"])
    assert len([key for key in summary() if key.startswith("likelihood-all-mine-")]) == 2
    # The run's own data are not needed.
    config = yaml.safe_load(Path(f"{RUN}/config.yaml").read_text())
    config["data"] = {"_target_": "scoresde.data.npz", "path": "gone.npz"}
    Path(f"{RUN}/config.yaml").write_text(yaml.safe_dump(config))
    main(["likelihood", RUN, "data=npz", path, "split=train", "tol=0.5", "progress=false"])
    assert capsys.readouterr().out.splitlines()[-2].startswith("train of mine.npz: ")


def test_evaluation_and_comparison_on_ones_own_data(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = summary()
    path = save_points("mine.npz", two_moons(200, 40).test.numpy())
    main(["evaluate", RUN, "data=npz", path, "n=20", "progress=false"])
    assert "against 20 of mine.npz" in capsys.readouterr().out
    (name,) = (name for name in summary() if name.startswith("samples-mine-"))
    assert summary()[name]["source"] == "mine.npz"
    assert {key: value for key, value in summary().items() if key != name} == own
    main(["compare", RUN, "data=npz", path, "samplers=heun", "steps=3", "n=20", "progress=false"])
    (table,) = Path(RUN).glob("comparison-mine-*.csv")
    main(["compare", RUN, "samplers=heun", "steps=3", "n=20", "progress=false"])
    main(["compare", RUN, "samplers=heun", "steps=3", "n=21", "progress=false"])
    assert {path.name for path in Path(RUN).glob("comparison*.csv")} == {
        table.name,
        "comparison.csv",
        "comparison-n21.csv",
    }


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.random.default_rng(0).normal(size=(12, 3)), r"have shape \(3,\), expected that of the run's, \(2,\)"),
        (
            np.random.default_rng(0).integers(0, 255, (12, 2), dtype=np.uint8),
            "has integers of 256 levels, the run's data are continuous values",
        ),
        (np.random.default_rng(0).normal(size=(12, 2)) * 300, "values of mine.npz are .* same units"),
        (np.random.default_rng(0).normal(size=(12, 2)) / 1000, "values of mine.npz are .* same units"),
    ],
)
@pytest.mark.parametrize("command", ["likelihood", "evaluate", "compare"])
def test_data_that_do_not_fit_the_run(
    work: Path, capsys: pytest.CaptureFixture[str], command: str, x: np.ndarray, message: str
) -> None:
    path = save_points("mine.npz", x)
    assert re.search(message, refusal(capsys, command, f"run={RUN}", "data=npz", path))


@pytest.mark.parametrize("directory", [RUN, "runs"])
def test_report(work: Path, capsys: pytest.CaptureFixture[str], directory: str) -> None:
    Path(f"{RUN}/report.html").unlink()
    main(["report", directory])
    assert capsys.readouterr().out == f"{directory}/report.html\n"
    assert Path(f"{directory}/report.html").stat().st_size > 10_000


def test_compare(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["compare", RUN, "samplers=[heun,ddim]", "steps=[3,5]", "n=20", "progress=false"])
    out = capsys.readouterr().out
    assert "heun" in out
    table = Path(f"{RUN}/comparison.csv").read_text().splitlines()
    assert table[0].startswith("sampler,steps,seed,n,nfe,seconds,error,error_stderr")
    assert len(table) == 5
    assert Path(f"{RUN}/comparison.parquet").is_file()
    Image.open(f"{RUN}/samples/comparison.png").verify()
    main(["compare", RUN, "samplers=[heun,dopri5]", "steps=[3]", "max_nfe=10", "n=20", "progress=false"])
    assert "1 of more evaluations are left out: raise max_nfe" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        main(["compare", RUN, "samplers=[heun,tuned]", "steps=[3]", "n=20", "progress=false"])
    assert stop.value.code == 1
    out, error = capsys.readouterr()
    assert "heun" in out
    assert re.search("cells failed, the first tuned at 3 steps: .*make it by `scoresde tune", error)
    assert "unknown sampler 'huen', did you mean 'heun'" in refusal(capsys, "compare", RUN, "samplers=[huen]")
    assert "n is 1000 but there are 40 held-out samples" in refusal(capsys, "compare", RUN, "n=1000")


def test_multirun(empty: Path, training_only: None) -> None:
    main(["train", "--multirun", *TOY, "sde=vp,ve"])
    runs = sorted(path for path in (empty / "runs").iterdir() if path.name != "sweeps")
    assert [run.name[:17] for run in runs] == ["two_moons-mlp-ve-", "two_moons-mlp-vp-"]
    for run, name in zip(runs, ("VESDE", "VPSDE"), strict=True):
        assert yaml.safe_load((run / "config.yaml").read_text())["sde"]["_target_"] == f"scoresde.sde.{name}"
        assert summary(run)["training"]["steps"] == 20
        assert (run / "report.html").is_file()


def test_a_sweep_goes_on_after_a_run_that_failed(
    empty: Path, training_only: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["train", "--multirun", *TOY, "training.steps=2", "network.num_classes=5,null"])
    assert stop.value.code == 1
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert "network.num_classes is 5" in error
    made = [path for path in (empty / "runs").iterdir() if path.name != "sweeps"]
    assert len(made) == 1
    assert (made[0] / "model.safetensors").is_file()


def test_cfg_job_prints_the_configuration_and_does_nothing(empty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["train", "--cfg", "job", "sde=ve", "training.steps=7"])
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["sde"]["_target_"] == "scoresde.sde.VESDE"
    assert config["training"]["steps"] == 7
    assert everything() == []


@pytest.mark.parametrize("arguments", [["--help"], ["help"], ["-h"]])
def test_help(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert all(f"\n  {command} " in out for command in ("train", "sample", "likelihood", "evaluate", "report"))


def test_no_command_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == scoresde.__version__ + "\n"


def test_classes_end_to_end(empty: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "pictures", lambda run, *a, **k: run.add_picture("samples/samples.png", "a", "b"))
    main(["train", *TOY, "data=eight_gaussians", "network.num_classes=8", "evaluation.likelihood=0", "name=classes"])
    run = "run=runs/classes"
    main(["sample", run, "n=5", "label=3", "progress=false"])
    assert np.load("runs/classes/samples/label3-n5-seed0.npz")["labels"].tolist() == [3] * 5
    assert "label is 8, expected 0 to 7" in refusal(capsys, "sample", run, "n=5", "label=8")
    assert "label is -1, expected 0 to 7" in refusal(capsys, "sample", run, "n=5", "label=-1")
    capsys.readouterr()
    main(["likelihood", run, "n=4", "tol=0.5", "progress=false"])
    entry = summary("runs/classes")["likelihood"]
    assert (entry["n"], entry["conditional"]) == (4, True)
    assert re.search(r"test: .* nats given the label, n = 4", capsys.readouterr().out)
    # Labels of one's own data.
    points = eight_gaussians(100, 10)
    path = save_points("mine.npz", points.train.numpy(), kind=points.train_labels)
    mine = ["likelihood", run, "data=npz", path, "n=4", "tol=0.5", "progress=false"]
    assert "conditional on labels, and mine.npz has none: data.label_key names them" in refusal(capsys, *mine)
    main([*mine, "data.label_key=kind"])
    assert capsys.readouterr().out.startswith("all of mine.npz: ")
    assert points.train_labels is not None
    save_points("mine.npz", points.train.numpy(), kind=points.train_labels + (points.train_labels == 7))
    assert "mine has the classes 8, expected those of 0, 1, 2" in refusal(capsys, *mine, "data.label_key=kind")


# -- mistakes -------------------------------------------------------------------------------------------

MISTAKES = [
    (["trian"], "unknown command 'trian', did you mean 'train'"),
    (["samples"], "unknown command 'samples', did you mean 'sample'.*expected one of train"),
    (["report"], "run is missing: give a run directory, or a folder of runs"),
    (["compare"], "run is missing: give run=DIR"),
    (["train", "repeats=0"], "repeats is 0, expected an integer of at least 1"),
    (["train", "metric=bits"], "metric is 'bits'.*expected one of likelihood, frechet_distance"),
    (
        ["train", "metric=authenticity"],
        "metric is 'authenticity', of which neither higher nor lower is better; expected",
    ),
    (["train", "sde=vpp"], "sde has no choice 'vpp', did you mean 'vp'.*cosine, cosine_ddpm, ddpm, edm, erasure"),
    (["train", "experiment=rign"], "experiment has no choice 'rign', did you mean 'ring'"),
    (["train", "trainig.steps=3"], "train has no 'trainig', did you mean training.steps=3"),
    (["train", "training.stesp=3"], "training.stesp: Training has no 'stesp', did you mean training.steps"),
    (["train", "training.steps=[1,"], r"\[1,"),
    (["train", "foo"], "foo"),
    (["train", "~nothing"], "nothing"),
    (["train", "network=null"], "network"),
    (["train", "sde=vp,ve"], "'sde=vp,ve' is a list of choices: add --multirun"),
    (["train", "--multirun", "sde=vp,vee"], "sde has no choice 'vee', did you mean 've'"),
    (["train", "name=a/b"], "name is 'a/b', expected a name without slashes"),
    (["train", "run=nowhere"], "run=nowhere does not exist; give a directory that `scoresde train` wrote"),
    (["train", "run=5"], "run=5 does not exist"),
    (["train", "training.steps=0"], "training.steps is 0, expected"),
    (["train", "training.batch_size=0"], "training.batch_size is 0, expected"),
    (["train", "sampler.grid.steps=0"], "sampler: steps is 0, expected"),
    (["train", "+sampler.grid.t_min=1e-9"], "t_min of .* is 1e-09, outside"),
    (["train", "network.num_classes=3"], "network.num_classes is 3 but the data set two_moons has 2 classes"),
    (["train", "data=swiss_roll", "network.num_classes=3"], "data set swiss_roll has no labels"),
    (["train", "data._target_=os.getcwd"], "'os.getcwd' is not allowed"),
    (["train", "data=npz", "data.path=nowhere.npz"], "data: there is no file nowhere.npz"),
    (["train", "runs=/proc/nothing"], "/proc/nothing"),
    (["sample"], "run is missing: give run=DIR"),
    (["sample", "run=."], "run=. is no run directory: it has no config.yaml"),
    (["evaluate", "run=nowhere"], "does not exist"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=[" ".join(a) for a, _ in MISTAKES])
@pytest.mark.usefixtures("no_training")
def test_a_mistake_is_answered_in_one_line(
    empty: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    if arguments[0] == "train" and any(m in message for m in ("name is", "steps is", "batch", "ema", "runs from",
                                                              "classes", "labels", "/proc", "metric")):  # fmt: skip
        # They are found when the parts are made: small ones.
        toy = [
            o for o in TOY if not (o.startswith(("data=", "+data")) and any(a.startswith("data=") for a in arguments))
        ]
        arguments = ["train", *toy, *arguments[1:]]
    assert re.search(message, refusal(capsys, *arguments))


EXPLICIT = [
    "sample",
    "sampler=heun",
    "sampler.grid._target_=scoresde.sampling.ExplicitTimes",
    "~sampler.grid.steps",
]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sample", "n=0"], "n is 0, expected"),
        (["sample", "n=abc"], "n is 'abc', expected"),
        (["sample", "label=1"], "this model was trained without labels"),
        (["sample", "sampler=tuned", "sampler.grid.steps=11"], "tuned-11.json: make it by `scoresde tune"),
        (["tune", "steps=1"], "steps is 1, expected an integer of at least 2"),
        (["tune", "starts=5"], "starts is 5, expected an integer of at least 8"),
        (["tune", "seconds=0"], "seconds is 0, expected a positive number"),
        (["tune", "label=1"], "trained without labels"),
        (["sample", "sampler=huen"], "sampler has no choice 'huen', did you mean 'heun'"),
        (["sample", "sampler=heun", "sampler.grid.steps=0"], "sampler: steps is 0, expected"),
        (["sample", "sampler=heun", "+sampler.grid.t_min=1e-9"], "is 1e-09, outside"),
        (["sample", "nn=3"], "sample has no 'nn', did you mean n=3"),
        (["sample", "samples=3"], "sample has no 'samples'; it takes run, n, seed"),  # and 3 is no sampler
        (["sample", "samplr=heum"], "sample has no 'samplr', did you mean sampler=heum"),
        (["sample", "sampler=heun", "sampler.grid.stesp=5"], "has no 'stesp', did you mean sampler.grid.steps"),
        (
            ["sample", "-m", "sampler=heun,rk4", "~sampler.denoise"],
            "nothing can be taken out of a group that is swe",
        ),
        ([*EXPLICIT, "+sampler.grid.times=[1,0.5,0.6]"], "do not decrease: time 1 is 0.5, time 2 is 0.6"),
        ([*EXPLICIT, "+sampler.grid.times=[1,1]"], "do not decrease: t_max is 1, t_min is 1"),
        ([*EXPLICIT, "+sampler.grid.times=[2,0.5,0.1]"], r"t_max of Exp.* is 2, outside \[1e-05, 1\] of VPSDE"),
        ([*EXPLICIT, "+sampler.grid.times=[1]"], "got 1 times, expected at least two"),
        (["sample", "sampler=heun", "+sampler.grid.t_max=2"], r"t_max of KarrasGrid.* is 2, outside \[1e-05, 1\]"),
        (
            ["sample", "sampler=heun", "+sampler.grid.t_min=0.5", "+sampler.grid.t_max=0.4"],
            "t_max is 0.4, t_min is 0.5",
        ),
        (
            ["sample", "sampler=angle", "sampler.grid.steps=2", "+sampler.solver.strict=true"],
            "order 3 needs at least 3 steps, the grid has 2: take more steps or a lower order",
        ),
        (["sample", "sampler=dpmpp_1m_sde", "sampler.solver.tau=-1"], "sampler: tau is -1, expected"),
        (["sample", "sampler=sa_solver", "sampler.solver.tau.tau=-1"], "sampler: tau is -1, expected"),
        (["sample", "sampler=ddim", "sampler.solver.eta=-1"], "sampler: eta is -1, expected"),
        (["sample", "sampler=rk4", "sampler.solver.tableau=rk5"], "sampler: tableau is 'rk5', expected one of euler"),
        (["sample", "sampler=dopri5", "sampler.solver.method=dopri8"], "method is 'dopri8', expected one of bosh3"),
        (["sample", "sampler=scipy", "sampler.solver.method=RK46"], "method is 'RK46', expected one of RK45"),
        (["sample", "sampler=torchsde", "sampler.solver.method=srkk"], "method is 'srkk', expected one of euler"),
        (["sample", "sampler=heun", "+sampler.noise=pink"], "sampler.noise is 'pink', expected 'white' or 'brownian'"),
        (
            ["sample", "sampler=unipc", "sampler.solver.variant=bh3"],
            "sampler.solver.variant is 'bh3', expected",
        ),
        (["sample", "sampler=edm_churn", "sampler.solver.churn.amount=-1"], "the amount of churn is -1, expected"),
        (["sample", "sampler=res2s", "sampler.solver.order=7"], "order is 7, expected 2 or 3"),
        (["sample", "device=warp"], "device is 'warp'"),
        (["likelihood", "n=0"], "n is 0, expected"),
        (["likelihood", "split=valid"], "split is 'valid', expected 'test' or 'train'"),
        (["likelihood", "tol=0"], "tol is 0, expected a positive number or null"),
        (["likelihood", "divergence.probes=0"], "probes is 0, expected at least 1"),
        (["likelihood", "divergence._target_=os.getcwd"], "'os.getcwd' is not allowed"),
        (["evaluate", "n=1000"], "n is 1000 but there are 40 held-out samples: give n=40 or less"),
        (["evaluate", "n=3"], "at least 7"),
        (["evaluate", "pca=3"], "pca is 3.*at most 2"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_about_a_run_changes_nothing_in_it(
    work: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert re.search(message, refusal(capsys, arguments[0], f"run={RUN}", "progress=false", *arguments[1:]))


@pytest.mark.usefixtures("no_training")
def test_networks_that_cannot_take_the_data(empty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = refusal(capsys, "train", "data=two_moons", "network=unet")
    assert re.search(r"network: .*shape.*\(2,\)", error)
    error = refusal(capsys, "train", "data=digits", "network.multipliers=[1,1,1,1,1]")
    assert re.search(r"network: .*8", error)


def cut_model(run: Path) -> None:
    path = run / "model.safetensors"
    path.write_bytes(path.read_bytes()[:300])


def no_model(run: Path) -> None:
    (run / "model.safetensors").unlink()


def foreign_model(run: Path) -> None:
    torch.save({"w": torch.ones(3)}, run / "model.safetensors")


def foreign_target(run: Path) -> None:
    path = run / "config.yaml"
    path.write_text(path.read_text().replace("scoresde.sde.VPSDE", "os.mkdir").replace("beta_min: 0.1", "path: ran"))


def broken_yaml(run: Path) -> None:
    (run / "config.yaml").write_text("sde: [1, 2\n")


def other_width(run: Path) -> None:
    path = run / "config.yaml"
    path.write_text(path.read_text().replace("width: 16", "width: 17"))


def part_missing(run: Path) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    del config["network"]
    (run / "config.yaml").write_text(yaml.safe_dump(config))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_model, "model.safetensors cannot be read as a safetensors file: truncated"),
        (no_model, "no trained model yet; `scoresde train run=runs/moons`"),
        (foreign_model, "model.safetensors cannot be read as a safetensors file"),
        (foreign_target, "_target_ 'os.mkdir' is not allowed"),
        (broken_yaml, "config.yaml cannot be read as YAML"),
        (other_width, r"network.width is 17, but .* was trained with 16"),
        (part_missing, "the configuration has no network"),
    ],
)
def test_a_damaged_run(
    work: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None], message: str
) -> None:
    damage(work / RUN)
    assert re.search(message, refusal(capsys, "sample", f"run={RUN}"))


@pytest.mark.parametrize("command", ["likelihood", "evaluate", "report"])
def test_other_commands_on_a_strangers_run(work: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    foreign_target(work / RUN)
    assert "_target_ 'os.mkdir' is not allowed" in refusal(capsys, command, f"run={RUN}")


def test_training_does_not_go_on_from_a_damaged_run(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = work / RUN / "checkpoints" / "step-000000020.pt"
    content = path.read_bytes()
    for each in path.parent.iterdir():
        each.write_bytes(content[:1000])
    more = ["train", f"run={RUN}", "training.steps=30", "progress=false"]
    assert "step-000000020.pt cannot be read as a checkpoint" in refusal(capsys, *more)
    torch.save({"format": "another"}, path)
    assert "step-000000020.pt is no checkpoint of scoresde" in refusal(capsys, *more)
    path.write_bytes(content)
    foreign_target(work / RUN)
    assert "'os.mkdir' is not allowed" in refusal(capsys, *more)


GOOD = np.random.default_rng(0).normal(size=(50, 3))


@pytest.mark.parametrize(
    ("array", "options", "message"),
    [
        (np.where(GOOD > 2, np.nan, GOOD), [], "NaN or infinite"),
        (np.full((50, 3), 2.5), [], "constant"),
        (np.arange(150).reshape(50, 3) % 17, ["data.levels=10"], "10"),
        (np.array([{"a": 1}] * 5), [], "holds objects, which are not read"),
        (GOOD[:1], [], "test_size"),
    ],
)
@pytest.mark.usefixtures("no_training")
def test_data_that_cannot_be_trained_on(
    empty: Path, capsys: pytest.CaptureFixture[str], array: Any, options: list[str], message: str
) -> None:
    np.savez("data.npz", x=array)
    network = [o for o in TOY if o.startswith(("network", "training", "sampler", "evaluation.samples", "progress"))]
    error = refusal(capsys, "train", "data=npz", "data.path=data.npz", *network, *options)
    assert re.search(message, error)
    assert re.search("^scoresde: data: ", error)


def test_errors_show_a_traceback_to_those_who_ask(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCORESDE_TRACEBACK", "1")
    (empty / "damaged.npz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match="damaged"):
        main(["train", "data=npz", "data.path=damaged.npz"])


# -- a disk that fills up -------------------------------------------------------------------------------


def at_sync(monkeypatch: pytest.MonkeyPatch, after: str) -> None:
    """No file can be synced any more once one of that name is there."""
    sync = os.fsync

    def full(handle: int) -> None:
        if list(Path().rglob(after)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(handle)

    monkeypatch.setattr(os, "fsync", full)


def at_write(monkeypatch: pytest.MonkeyPatch, after: str) -> None:
    """No file takes more than 1000 bytes once one of that name is there."""
    make = os.fdopen

    class Full:
        def __init__(self, file: Any) -> None:
            self.file, self.room = file, 1000

        def write(self, data: Any) -> int:
            self.room -= len(memoryview(data).cast("B"))
            if self.room < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return self.file.write(data)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def __enter__(self) -> "Full":
            return self

        def __exit__(self, *error: object) -> None:
            self.file.close()

    def fdopen(*a: Any, **k: Any) -> Any:
        return Full(make(*a, **k)) if list(Path().rglob(after)) else make(*a, **k)

    monkeypatch.setattr(os, "fdopen", fdopen)


@pytest.mark.parametrize("full", [at_sync, at_write])
def test_a_full_disk_keeps_the_last_good_checkpoint(
    trained: Path,
    empty: Path,
    training_only: None,
    capsys: pytest.CaptureFixture[str],
    full: Callable[[pytest.MonkeyPatch, str], None],
) -> None:
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        full(patch, "runs/**/step-000000010.pt")
        with pytest.raises(SystemExit) as stop:
            main(["train", *TOY, "name=run"])
    error = capsys.readouterr().err
    assert stop.value.code == 1
    assert error.startswith("scoresde: No space left on device")
    assert error.count("\n") == 1
    assert sorted(os.listdir("runs/run")) == ["checkpoints", "config.yaml", "data.json", "metrics.jsonl"]
    assert os.listdir("runs/run/checkpoints") == ["step-000000010.pt"]
    latest = latest_checkpoint(Path("runs/run/checkpoints"))
    assert latest is not None
    assert load_checkpoint(latest)["step"] == 10
    # With room again it goes on, to the same weights.
    main(["train", "run=runs/run", "progress=false"])
    assert_same(weights("runs/run"), weights(trained / RUN))


def test_a_disk_that_is_full_from_the_start(
    empty: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (empty / "something").touch()
    at_sync(monkeypatch, "something")
    assert "No space left on device" in refusal(capsys, "train", *TOY)


# -- real processes -------------------------------------------------------------------------------------

SLOW = """
import time
from pathlib import Path
from typing import Any

from scoresde.training.loggers import LocalLogger, Logger


class Slow(Logger):
    def start(self, run_dir: Path, config: dict[str, Any]) -> None:
        pass

    def numbers(self, step: int, values: dict[str, Any]) -> None:
        time.sleep(0.2)
"""


def command(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path]), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "scoresde", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_interrupt_and_go_on(trained: Path, empty: Path, training_only: None) -> None:
    (empty / "slow_logger.py").write_text(SLOW)
    run = "runs/it's a=b, [c]"  # for a shell and for Hydra
    often = ["training.log_every=1", "training.checkpoint_every=null"]
    process = command(
        empty,
        "train",
        *TOY,
        *often,
        'name="it\'s a=b, [c]"',
        "+logger.own._target_=slow_logger.Slow",
        "allow=[slow_logger]",
    )
    log = empty / run / "metrics.jsonl"
    give_up = time.monotonic() + 90
    while not (log.is_file() and log.read_text().count("\n") >= 3):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < give_up
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _out, error = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT, error
    assert "Traceback" not in error
    (line,) = error.split("\n")[-2:-1]
    found = re.fullmatch(r"stopped at step (\d+) with a checkpoint written; to resume: scoresde (train .*)", line)
    assert found, error
    step = int(found[1])
    assert 3 <= step < 20
    assert sorted(os.listdir(run)) == ["allow.json", "checkpoints", "config.yaml", "data.json", "metrics.jsonl"]
    assert os.listdir(f"{run}/checkpoints") == [f"step-{step:09d}.pt"]
    # As the message has it, but with the local logger; it ends where a run without an interruption does.
    assert shlex.split(found[2]) == ["train", f'run="{run}"', "allow=[slow_logger]"]
    main([*shlex.split(found[2]), "logger=local", "progress=false"])
    assert summary(run)["training"]["steps"] == 20
    assert_same(weights(run), weights(trained / RUN))
    one, other = (load_checkpoint(path / "checkpoints" / "step-000000020.pt")
                  for path in (empty / run, trained / RUN))  # fmt: skip
    assert_same(one["network"], other["network"])
    assert_same(one["ema"], other["ema"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_a_likelihood_of_which_rows_are_kept(
    number: signal.Signals, work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table, calls = LikelihoodTable, []
    add = table.add

    def then_stop(self: Any, rows: Any) -> None:
        add(self, rows)
        calls.append(len(rows))
        if len(calls) == 2:
            os.kill(os.getpid(), number)

    again = ["likelihood", f"run={RUN}", "n=5", "batch_size=2", "tol=2", "progress=false"]
    with monkeypatch.context() as patch:
        patch.setattr(table, "add", then_stop)
        with pytest.raises(SystemExit) as stop:
            main(again)
    assert stop.value.code == 128 + number
    name = "" if number == signal.SIGINT else f" by {number.name}"
    line = f"scoresde: interrupted{name}; finished parts are kept, and the same command resumes"
    assert capsys.readouterr().err.splitlines()[-1] == line
    main(again)
    assert "n = 5, 4 of them there already" in capsys.readouterr().out


@pytest.mark.parametrize(("steps", "searched"), [("all", "measure_steps"), ("3", "tune")])
def test_an_interrupted_search_says_that_nothing_is_kept(
    steps: str, searched: str, work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(Path(RUN).iterdir())
    monkeypatch.setattr(f"scoresde.runs.tune.{searched}", lambda *_, **__: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(SystemExit) as stop:
        main(["tune", f"run={RUN}", f"steps={steps}", "progress=false"])
    assert stop.value.code == 130
    line = "scoresde: interrupted; its file is written at the end, so that nothing is kept"
    assert capsys.readouterr().err.splitlines()[-1] == line
    assert sorted(Path(RUN).iterdir()) == before


def test_a_signal_after_training_keeps_the_model(
    empty: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Stopped(Stage):
        def run(self, context: Any) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(training, "STAGES", (*training.STAGES[:2], Stopped()))
        with pytest.raises(SystemExit) as stop:
            main(["train", *TOY, "name=stopped"])
    assert stop.value.code == 128 + signal.SIGTERM
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("scoresde: interrupted by SIGTERM; to resume: scoresde train ")
    monkeypatch.setattr(Trainer, "_advance", lambda self: pytest.fail("it is trained again"))
    main(shlex.split(line.partition("to resume: scoresde ")[2]))
    assert summary("runs/stopped")["finished"]


def test_a_mistake_in_a_real_process(tmp_path: Path) -> None:
    process = command(tmp_path, "train", *TOY, "training.steps=0")
    out, error = process.communicate(timeout=60)
    assert process.returncode == 2
    assert out == ""
    assert error == "scoresde: training.steps is 0, expected an integer of at least 1\n"
    assert os.listdir(tmp_path) == []


# -- modules of the current folder ----------------------------------------------------------------------


@pytest.fixture
def own_network(empty: Path) -> Iterator[Path]:
    """A folder with a network in a module and a configuration that names it."""
    (empty / "place" / "conf" / "network").mkdir(parents=True)
    (empty / "place" / "commands_own_net.py").write_text("from scoresde.networks import MLP\nclass Net(MLP): pass\n")
    text = OmegaConf.to_yaml(OmegaConf.load(conf_dir() / "network" / "mlp.yaml"))
    text = text.replace("scoresde.networks.MLP", "commands_own_net.Net")
    (empty / "place" / "conf" / "network" / "own.yaml").write_text(text)
    yield empty
    forget_own_network()


def forget_own_network() -> None:
    """As in another process."""
    sys.modules.pop("commands_own_net", None)
    modules._finder.folders.pop("commands_own_net", None)


def test_a_network_of_the_current_folder_is_allowed_once(
    own_network: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is given for training; then the run is used from any folder, moved, by every command and in Python."""
    monkeypatch.chdir(own_network / "place")
    mine = ["--config-dir", "conf", *(a for a in TOY if a != "network=mlp"), "network=own", "evaluation.pictures=false"]
    said = refusal(capsys, "train", *mine, "name=own")
    assert "allow=[commands_own_net], which is kept with the run" in said
    main(["train", *mine, "name=own", "allow=[commands_own_net]"])
    page = (Path("runs") / "own" / "report.html").read_text()
    assert "scoresde sample run=runs/own n=64 seed=1 &#39;allow=[commands_own_net]&#39;" in page
    shutil.move("runs/own", own_network / "my run, moved")
    monkeypatch.chdir(own_network)
    run = 'run="my run, moved"'
    for command in (["sample", "n=4"], ["likelihood", "n=4", "tol=0.5"], ["evaluate", "n=8"], ["report"]):
        forget_own_network()
        main([command[0], run, *command[1:], *(["progress=false"] if command != ["report"] else [])])
    forget_own_network()
    main(["train", run, "training.steps=22", "progress=false"])
    assert summary("my run, moved")["training"]["steps"] == 22
    forget_own_network()
    assert type(scoresde.load("my run, moved").network).__name__ == "Net"
    # Of somebody else it is as it was.
    forget_own_network()
    monkeypatch.setenv("XDG_STATE_HOME", str(own_network / "another"))
    assert "'commands_own_net.Net' is not allowed" in refusal(capsys, "sample", run)
    assert "commands_own_net" not in sys.modules


@pytest.mark.parametrize("how", [[], ["hydra.job.chdir=true"]], ids=["here", "chdir"])
def test_a_network_of_the_current_folder_in_a_sweep(
    own_network: Path, monkeypatch: pytest.MonkeyPatch, training_only: None, how: list[str]
) -> None:
    monkeypatch.chdir(own_network / "place")
    mine = ["--config-dir", "conf", *(a for a in TOY if a != "network=mlp"), "network=own", *how]
    main(["train", *mine, "allow=[commands_own_net]", "training.seed=0,1", "training.steps=2", "--multirun"])
    runs = sorted(Path("runs").glob("*/allow.json"))
    assert len(runs) == 2
    assert all(json.loads(run.read_text())["folders"]["commands_own_net"] == str(Path.cwd()) for run in runs)
