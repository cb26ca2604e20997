"""`scoresde suggest`: what it prints can be pasted, and what it refuses."""

import re
from pathlib import Path

import pytest

from scoresde.cli import main
from scoresde.cli.command_line import CommandLine
from scoresde.cli.overrides import check_overrides
from scoresde.data import two_moons
from scoresde.training import suggest

SMALL = ["data=two_moons", "+data.n_train=300", "+data.n_test=10"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_what_is_printed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    main(["suggest", *SMALL, "steps=3", "nats=0.1", "-q"])
    out = capsys.readouterr().out
    found = suggest(two_moons(300, 10), steps=3, nats=0.1)
    assert out.startswith("two_moons\n")
    for name, value, reason in found.rows():
        assert re.search(rf"^{name} +{re.escape(value)} +{re.escape(reason)}$", out, re.M), name
    assert list(tmp_path.iterdir()) == []
    # Every line of overrides is one that `train` takes.
    lines = dict(re.findall(r"^  (\w+) +(sde=.*)$", out, re.M))
    assert lines == found.overrides
    for overrides in lines.values():
        check_overrides(CommandLine.of("train", [*SMALL, "network=mlp", *overrides.split()]))


def test_data_of_ones_own(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.csv").write_text("a,b\n" + "".join(f"{k % 7},{k % 11}.5\n" for k in range(60)))
    main(["suggest", "data=file", "data.path=mine.csv", "data.test_size=10"])
    assert "sigma_max" in capsys.readouterr().out


def test_a_sweep_over_data(capsys: pytest.CaptureFixture[str]) -> None:
    main(["suggest", "--multirun", "data=two_moons,eight_gaussians", "samples=100", "-q"])
    out = capsys.readouterr().out
    assert out.index("two_moons\n") < out.index("eight_gaussians\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["steps=0"], "steps is 0, expected an integer of at least 1"),
        (["overlap=1.5"], "overlap is 1.5, expected a number"),
        (["overlap=1"], "overlap is 1, expected a share between 0 and 0.9973"),
        (["samples=1"], "samples is 1, expected an integer of at least 2 or null"),
        (["sigma_min=-1"], "sigma_min is -1, expected a positive number or null"),
        (["sigma_min=50"], "sigma_min is 50, and the largest distance between samples"),
        (["run=somewhere"], "suggest has no 'run'"),
        (["data=nothing"], "data has no choice 'nothing'"),
        (["sde=ve"], "suggest has no 'sde'"),
    ],
)
def test_refusals(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["suggest", *SMALL, *arguments])
    assert stop.value.code in (1, 2)
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
