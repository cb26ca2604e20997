"""`scoresde export`: a folder that is the run, or nothing."""

import json
from pathlib import Path

import pytest
import torch

import scoresde
from scoresde.cli import main
from scoresde.cli.completion import complete
from scoresde.interop import export_diffusers, load_diffusers
from scoresde.preconditioning import NoisePreconditioning, TableIndex
from scoresde.score import NetworkScore
from scoresde.sde import DDPMSDE
from tests.interop.test_diffusers_export import small


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A run that was imported from a folder of diffusers."""
    monkeypatch.chdir(tmp_path)
    export_diffusers(NetworkScore(small(), DDPMSDE(100), NoisePreconditioning(TableIndex(100))), "folder")
    main(["import", "folder", "run=one"])
    return "run=one"


def test_a_run_becomes_a_folder(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["export", run, "format=diffusers"])
    assert capsys.readouterr().out.endswith(
        'written to one/diffusers; next: diffusers.DiffusionPipeline.from_pretrained("one/diffusers")\n'
    )
    main(["export", run, "folder=some/where"])
    model, back = scoresde.load("one"), load_diffusers("some/where")
    x, t = torch.randn(2, 3, 8, 8), torch.tensor(0.37)
    with torch.no_grad():
        assert torch.equal(model.noise(x, t), back.noise(x, t))
    assert json.loads(Path("one/diffusers/model_index.json").read_text())["_class_name"] == "DDPMPipeline"


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ("export", 2, "run is missing: give run=DIR, a directory that `scoresde train` wrote"),
        ("export nowhere", 2, "run=nowhere does not exist; give a directory that `scoresde train` wrote"),
        ("export one format=onnx", 2, "format is 'onnx', expected 'diffusers'"),
        ("export one steps=1", 2, "steps is 1, expected an integer of at least 2 or null"),
        ("export one steps=50", 1, "steps is 50, and the run's SDE is a chain of 100 steps: leave steps out"),
        (
            "export one folder=folder",
            1,
            "folder is there already, and is not replaced: give folder=DIR with another name",
        ),
        ("export one name=x", 2, "export has no 'name'; it takes run, format, folder, steps, allow, accept, fail_fast"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    run: str, arguments: str, status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(str(path) for path in Path().rglob("*"))
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(arguments.split())
    assert (stop.value.code, capsys.readouterr().err) == (status, f"scoresde: {message}\n")
    assert sorted(str(path) for path in Path().rglob("*")) == before


def test_it_is_completed(run: str) -> None:
    assert complete(["expo"]) == ["export"]
    assert complete(["export", "fo"]) == ["folder=", "format="]
