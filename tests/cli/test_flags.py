"""Hydra's flags."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from scoresde.cli import main
from scoresde.cli.console import UsageError
from scoresde.cli.flags import split_flags


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("sde=ve -m data=digits,two_moons", "--multirun sde=ve data=digits,two_moons"),
        ("sde=ve --multi", "--multirun sde=ve"),
        ("--cfg job sde=ve -p sde n=3", "--cfg job --package sde sde=ve n=3"),
        ("-c job --resolve", "--resolve --cfg job"),
        ("--info sde=ve", "--info all sde=ve"),
        ("sde=ve -i searchpath", "--info searchpath sde=ve"),
        ("-cd=/tmp -cn mine", "--config-name mine --config-dir /tmp"),
        ("-- seed=-5", "seed=-5"),
        ("--hydra-help", "--hydra-help"),
    ],
)
def test_flags_come_first_and_are_written_out(given: str, expected: str) -> None:
    flags, overrides = split_flags("train", given.split())
    assert [*flags, *overrides] == expected.split()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("--foo", "there is no flag --foo; see scoresde train --help"),
        ("--cfg", "--cfg/-c: expected one argument"),
        ("--config-dir nowhere", "--config-dir nowhere: there is no such folder"),
        ("--package sde", "--package is for --cfg job"),
        ("--resolve", "--resolve is for --cfg job"),
        ("--experimental-rerun x", "--experimental-rerun reads a pickle"),
        ("--shell-completion", 'is not needed: eval "$(scoresde completion bash)"'),
        ("--run --multirun", "--run and --multirun exclude each other"),
        ("--info --cfg job", "--cfg and --info exclude each other"),
    ],
)
def test_flags_that_do_nothing_are_refused_in_one_line(
    given: str, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as error:
        split_flags("train", given.split())
    assert message in str(error.value)
    with pytest.raises(SystemExit) as stop:
        main(["train", *given.split()])
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"scoresde: {error.value}\n"
    assert not list(tmp_path.iterdir())


def test_folders_of_flags_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my conf").mkdir()
    for text in ("my conf", "./my conf", str(tmp_path / "my conf")):
        assert split_flags("train", ["--config-dir", text]) == (["--config-dir", str(tmp_path / "my conf")], [])
    monkeypatch.setenv("HOME", str(tmp_path))
    assert split_flags("train", ["-cd", "~/my conf"]) == (["--config-dir", str(tmp_path / "my conf")], [])


@pytest.fixture
def _logging() -> Iterator[None]:
    """Leave logging as it was, though Hydra logs to the standard output of the test."""
    root, hydra = logging.getLogger(), logging.getLogger("hydra")
    handlers, levels = list(root.handlers), (root.level, hydra.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    hydra.setLevel(levels[1])


@pytest.mark.usefixtures("_logging")
@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ("searchpath", "command-line"),
        ("defaults", "network/mine"),
        ("defaults-tree", "network: mine"),
        ("config", "width: 16"),
        ("plugins", "BasicSweeper"),
        ("all", "network/mine"),
    ],
)
def test_info_prints_what_hydra_prints(
    info: str, expected: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "network").mkdir()
    (tmp_path / "network" / "mine.yaml").write_text("_target_: scoresde.networks.MLP\nwidth: 16\n")
    main(["train", "--config-dir", str(tmp_path), "network=mine", "--info", info])
    assert expected in capsys.readouterr().out
