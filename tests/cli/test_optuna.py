from pathlib import Path

import pytest

from scoresde.cli.command_line import CommandLine
from scoresde.cli.console import UsageError
from scoresde.cli.optuna import with_study

pytest.importorskip("optuna")


@pytest.mark.parametrize(
    "content", [b"not a database, whatever its name says" * 50, b"SQLite format 3\x00" + bytes(5000)]
)
def test_a_damaged_study_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    Path("runs/optuna.db").write_bytes(content)
    arguments = ["--multirun", "hydra/sweeper=optuna", "optimizer.lr=interval(1e-4,1e-2)"]
    with pytest.raises(
        UsageError, match=r"sqlite:///runs/optuna.db cannot be read as a study \(.*\): move it away"
    ) as error:
        with_study(CommandLine.of("train", arguments))
    assert "\n" not in str(error.value)
    assert Path("runs/optuna.db").read_bytes() == content
