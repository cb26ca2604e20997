"""Every experiment of `conf/experiment` trains: ten steps at its own settings, on its own data."""

import json
import math
from pathlib import Path

import pytest

from scoresde.cli import main
from scoresde.cli.catalogue import options

QUICK = ["training.steps=10", "training.log_every=5", "evaluation.samples=0", "evaluation.likelihood=0",
         "evaluation.pictures=false", "progress=false", "name=made", "-q"]  # fmt: skip


@pytest.mark.parametrize("name", options("experiment"))
def test_ten_steps(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    main(["train", f"experiment={name}", *QUICK])
    summary = json.loads((tmp_path / "runs/made/summary.json").read_text())
    assert summary["training"]["steps"] == 10
    assert summary["training"]["skipped"] == 0
    entries = [json.loads(line) for line in (tmp_path / "runs/made/metrics.jsonl").read_text().splitlines()]
    losses = [entry["loss"] for entry in entries if "loss" in entry]
    assert len(losses) == 2
    assert all(math.isfinite(loss) for loss in losses)
