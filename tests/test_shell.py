"""Printed commands: a shell and Hydra give back exactly what was put in."""

import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from scoresde import shell

PARTS = ["a", "5", "=", "[", ")", "~", " ", ",", "{", "${", "}", "'", '"', "\\", "#", "-", "ü", ":", "null"]


def taken(command: str) -> str:
    """The value that the command's job is given."""
    _, _, argument = shlex.split(command)
    (override,) = OverridesParser.create().parse_overrides([argument])
    assert not override.is_sweep_override()
    return OmegaConf.create({"value": override.value()}).value


@pytest.mark.slow
@pytest.mark.parametrize("first", PARTS)
def test_any_name_survives_a_shell_and_hydra(first: str) -> None:
    for second in ["", *PARTS]:
        names = [first + second + third for third in ["", *PARTS]]
        for name in names:
            assert taken(shell.command("train", shell.override("run", name))) == name
        assert list(taken(shell.command("train", shell.override("allow", names)))) == names


@pytest.mark.parametrize("text", ["", " ", "007", "1e5", "1_000", "null", "True", "nan", "-inf", ".5"])
def test_text_that_looks_like_another_type_stays_text(text: str) -> None:
    assert taken(shell.command("train", shell.override("name", text))) == text


@pytest.mark.parametrize("text", ["runs/digits-1a2b3c4d", "/home/me/a.npz", "../x", "2026-11-28_10-00-00", "a@b+c"])
def test_plain_names_are_not_quoted(text: str) -> None:
    assert shell.command("sample", shell.override("run", text)) == f"scoresde sample run={text}"
