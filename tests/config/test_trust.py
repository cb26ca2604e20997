"""Packages allowed for a run are kept for the user who allowed them, and for nobody else."""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from scoresde.config import modules
from scoresde.config.trust import FILE, keep, kept
from scoresde.options.errors import ConfigError
from scoresde.runs.directory import Run

NAME = "test_trust_own"


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    yield tmp_path / "state" / "scoresde" / "key"
    forget()


def forget() -> None:
    """As in another process."""
    sys.modules.pop(NAME, None)
    modules._finder.folders.pop(NAME, None)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of a module of its own, made in the folder of that, and opened from another one."""
    place = tmp_path / "place"
    place.mkdir()
    (place / f"{NAME}.py").write_text("class Net:\n    pass\n")
    monkeypatch.chdir(place)
    made = Run(tmp_path / "run", OmegaConf.create({"part": {"_target_": f"{NAME}.Net"}}), [NAME])
    modules.find_in(place, [NAME])
    made.write_config()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    forget()
    return made.directory


def refusal(run: Path) -> str:
    with pytest.raises(ConfigError) as error:
        Run.open(run)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_is_allowed_is_kept(run: Path, tmp_path: Path) -> None:
    assert Run.open(run).allow == (NAME,)
    assert modules.folder_of(NAME) == tmp_path / "place"
    forget()
    moved = shutil.move(run, tmp_path / "moved and renamed")
    assert type(Run.open(moved).make("part")).__module__ == NAME
    # Written again as a training that is continued does.
    forget()
    again = Run.open(moved)
    again.config.more = 3
    again.write_config()
    assert Run.open(moved).allow == (NAME,)


def test_the_key_is_of_the_user_alone(run: Path, state: Path) -> None:
    assert os.listdir(state.parent) == ["key"]
    assert state.stat().st_mode & 0o777 == 0o600
    assert len(state.read_bytes()) == 32
    assert state.read_bytes() not in (run / FILE).read_bytes()


def test_a_file_of_somebody_else_is_not_believed(run: Path, state: Path) -> None:
    state.write_bytes(b"k" * 32)
    assert "is not allowed" in refusal(run)
    assert f"{run / FILE} is not by you on this machine, or config.yaml was changed since" in refusal(run)
    state.unlink()
    assert "is not allowed" in refusal(run)
    assert not state.exists()  # reading makes none
    assert NAME not in sys.modules


@pytest.mark.parametrize(
    "change",
    [
        {"allow": [NAME, "os"]}, {"allow": []}, {"allow": NAME}, {"allow": [3]}, {"folders": {}}, {"folders": []},
        {"folders": {NAME: "/elsewhere"}}, {"hmac": "0" * 64}, {"hmac": ""}, {"hmac": None}, {"hmac": "ü"},
        {"format": "another"},
    ],
)  # fmt: skip
def test_a_file_that_was_changed_is_not_believed(run: Path, change: dict[str, Any]) -> None:
    content = json.loads((run / FILE).read_text())
    (run / FILE).write_text(json.dumps(content | change))
    assert kept(run) is None
    assert "is not allowed" in refusal(run)
    assert NAME not in sys.modules


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"{}"])
def test_a_damaged_file_is_as_none(run: Path, content: bytes) -> None:
    (run / FILE).write_bytes(content)
    assert kept(run) is None


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_what_is_no_regular_file_is_as_none(run: Path, make: Any) -> None:
    (run / FILE).unlink()
    make(run / FILE)
    assert kept(run) is None
    assert "is not allowed" in refusal(run)


def test_another_configuration_is_not_trusted(run: Path) -> None:
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace(".Net", ".Other"))
    assert "config.yaml was changed since" in refusal(run)
    assert NAME not in sys.modules


def test_a_file_that_is_copied_to_another_run_is_not_believed(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "theirs"
    other.mkdir()
    (other / "config.yaml").write_text(f"network: {{_target_: {NAME}.Net, a: 1}}\n")
    shutil.copy(run / FILE, other)
    assert "is not allowed" in refusal(other)


def test_a_module_that_is_gone_or_another(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.move(tmp_path / "place" / f"{NAME}.py", tmp_path / "elsewhere")
    assert refusal(run) == (
        f"{run} needs the module {NAME}, which is no more in {tmp_path / 'place'}: put it back, or give allow=[{NAME}] "
        "in the folder where it is now"
    )
    # Which is what it is told to.
    opened = Run.open(run, [NAME])
    opened.keep_allowed()
    forget()
    monkeypatch.chdir(tmp_path)
    assert Run.open(run).allow == (NAME,)
    forget()
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / f"{NAME}.py").write_text("class Net:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path / "first")
    assert f"but Python finds that of {tmp_path / 'first'}: rename" in refusal(run)


def test_given_now_the_current_folder_counts_and_then_the_kept_one(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Run.open(run, [NAME]).make("part").__class__.__name__ == "Net"
    forget()
    (tmp_path / "elsewhere" / f"{NAME}.py").write_text("class Net:\n    here = True\n")
    assert Run.open(run, [NAME]).make("part").here


@pytest.mark.parametrize("state_is", ["a file", "open to others", "damaged"])
def test_without_a_state_folder_nothing_is_kept_and_it_is_said(
    state_is: str, run: Path, state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    if state_is == "a file":
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    elif state_is == "open to others":
        state.chmod(0o644)
    else:
        state.write_bytes(b"short")
    assert kept(run) is None
    Run(run, OmegaConf.create({"part": {"_target_": f"{NAME}.Net"}}), [NAME]).write_config()
    (record,) = caplog.records
    assert record.getMessage().startswith(f"allow=[{NAME}] is not kept with the run (")
    assert record.getMessage().endswith("): give it again with every command")


def test_a_state_folder_that_is_relative_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "state")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "config.yaml").write_text("a: 1\n")
    assert keep(tmp_path, ["json"]) is None
    assert (tmp_path / ".local" / "state" / "scoresde" / "key").is_file()
    trust = kept(tmp_path)
    assert trust is not None
    assert trust.allow == ("json",)
    assert trust.folders == {}


def test_a_run_of_the_packages_own_classes_has_no_such_file(tmp_path: Path, state: Path) -> None:
    Run(tmp_path / "run", OmegaConf.create({"sde": {"_target_": "scoresde.sde.VPSDE"}})).write_config()
    assert os.listdir(tmp_path / "run") == ["config.yaml"]
    assert not state.exists()
