"""`scoresde import`: a run directory that every command takes, or nothing."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

import scoresde
from scoresde.cli import main
from scoresde.cli.completion import complete
from scoresde.interop import load_edm2
from scoresde.runs.directory import Run
from tests.interop.containers import write_pickle
from tests.interop.test_edm2 import LABELS, SIGMA, X, content

RNG = np.random.default_rng(0)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_pickle(tmp_path / "model.pkl", content())
    pixels = RNG.integers(0, 256, (20, 3, 8, 8), dtype=np.uint8)
    np.savez("pixels.npz", x=pixels, y=np.arange(20) % 5)
    return tmp_path


def test_a_checkpoint_becomes_a_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["import", "model.pkl"])
    out = capsys.readouterr().out
    assert out.startswith("EDM2: ")
    assert out.endswith("EMA weights, shape (3, 8, 8)\nwritten to runs/model; next: scoresde sample run=runs/model\n")
    assert sorted(path.name for path in (folder / "runs").iterdir()) == ["model"]
    model, own = scoresde.load("runs/model"), load_edm2("model.pkl")
    with torch.no_grad():
        assert torch.equal(model.score(X, SIGMA, labels=LABELS), own.score(X, SIGMA, labels=LABELS))
    assert model.info == own.info
    assert model.statistics is None
    summary = json.loads(Path("runs/model/summary.json").read_text())
    assert summary["imported"] == {"file": "model.pkl", "family": "EDM2", "weights": "EMA weights"}
    assert "model.pkl" in Path("runs/model/report.html").read_text()


def test_the_commands_take_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["import", "model.pkl", "run=one"])
    main(["sample", "run=one", "n=4", "sampler=euler", "sampler.grid.steps=2", "name=a", "-q"])
    assert np.load("one/samples/a.npz")["x"].shape == (4, 3, 8, 8)
    given = ["data=npz", "data.path=pixels.npz"]
    main(["likelihood", "run=one", "n=1", "tol=1", "divergence.probes=1", "-q", *given])
    main(["report", "one", "-q"])
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["compare", "run=one"])
    assert "one was imported without data: give them, as by data=file data.path=FILE" in capsys.readouterr().err


def test_data_at_the_import_are_the_runs_own(folder: Path) -> None:
    main(["import", "model.pkl", "run=one", "data=npz", "data.path=pixels.npz", "data.test_size=8"])
    model = scoresde.load("one")
    assert model.statistics is not None
    pixels = np.load("pixels.npz")["x"]
    assert abs(float(model.statistics.mean.mean()) - (pixels.mean() / 127.5 - 1)) < 0.02
    assert model.info is not None
    assert (model.info.name, model.info.num_classes) == ("pixels", 5)
    assert model.info.fingerprint is not None
    main(["evaluate", "run=one", "n=8", "sampler=euler", "sampler.grid.steps=2", "-q"])


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "import takes one file or folder, got none"),
        (["a", "b"], 2, "import takes one file or folder, got a b"),
        (["model.pkl", "--odd"], 2, "import has no option --odd"),
        (["model.pkl", "cnofig=x"], 2, "import has no 'cnofig', did you mean 'config'"),
        (["model.pkl", "weights=best"], 2, "weights is 'best', expected ema or raw"),
        (["model.pkl", "run=there"], 2, "there is there already, and is not replaced: give run=DIR"),
        (["model.pkl", "config=none.json"], 2, "none.json does not exist"),
        (["model.pkl", "data.path=x"], 2, "data.path is given without data=NAME"),
        (["model.pkl", "data=nzp"], 2, "data has no choice 'nzp', did you mean 'npz'"),
        (["model.pkl", "data=npz", "data.odd=1"], 2, "data=npz has no 'odd'"),
        (["model.pkl", "config=64x64_diffusion"], 1, "model.pkl holds its own configuration: leave config out"),
        (["model.pkl", "weights=raw"], 1, "model.pkl has one set of weights, and only files of score_sde_pytorch both"),
        (["model.pkl", "run="], 2, "run is empty, expected the directory to write"),
        (["model.pkl", "run=flat.npz/run"], 1, "expected a folder, and it is a file (flat.npz)"),
        (["gone.pkl"], 1, "no such file (gone.pkl)"),
        (["cut.pkl"], 1, "cut.pkl is damaged"),
        (["text.pkl"], 1, "text.pkl is no file of torch.save and no pickle"),
        (["tensors.pt"], 1, "tensors.pt has the tensors of a network alone, as files of guided-diffusion do: give"),
        (["song.pth"], 1, "song.pth is a checkpoint of score_sde_pytorch, which does not hold its configuration"),
        (["song.pth", "config=vp/cifar10_ddmpp"], 1, "is no published configuration: did you mean vp/cifar10_ddpmpp"),
        (["model.pkl", "data=npz", "data.path=flat.npz"], 1, "the data flat have shape (4,), but the run was"),
    ],
)  # fmt: skip
def test_refusals_leave_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, message: str
) -> None:
    (folder / "there").mkdir()
    (folder / "cut.pkl").write_bytes((folder / "model.pkl").read_bytes()[:3000])
    (folder / "text.pkl").write_text("text")
    np.savez("flat.npz", x=RNG.normal(size=(9, 4)))
    torch.save({"a": torch.ones(1)}, "tensors.pt")
    torch.save({"model": {"module.a": torch.ones(1)}, "ema": {}, "step": 1}, "song.pth")
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(SystemExit) as stop:
        main(["import", *arguments])
    error = capsys.readouterr().err
    assert stop.value.code == status
    assert message in error
    assert error.count("\n") == 1
    assert [name for name in sorted(path.name for path in folder.iterdir()) if name != "runs"] == before
    assert not (folder / "runs").exists() or not list((folder / "runs").iterdir())


def test_what_a_signal_ends_leaves_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Run, "write_info", lambda *a: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit) as stop:
        main(["import", "model.pkl"])
    assert stop.value.code == 128 + signal.SIGTERM
    assert capsys.readouterr().err == "scoresde: interrupted by SIGTERM\n"
    assert not (folder / "runs").exists()


def test_help_and_completion(capsys: pytest.CaptureFixture[str]) -> None:
    main(["import", "--help"])
    out = capsys.readouterr().out
    assert "usage: scoresde import FILE" in out
    assert "vp/cifar10_ddpmpp_continuous" in out
    assert complete(["imp"]) == ["import"]
    assert complete(["import", "f.pth", "c"]) == ["config="]
    assert complete(["import", "f.pth", "config=256"]) == [
        "config=256x256_diffusion",
        "config=256x256_diffusion_uncond",
    ]
    assert complete(["import", "f.pth", "weights="]) == ["weights=ema", "weights=raw"]
    assert complete(["import", "f.pth", "data=np"]) == ["data=npy", "data=npz"]
