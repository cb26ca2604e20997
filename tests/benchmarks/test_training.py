"""The benchmark of training steps, with contenders that are made up."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import training
import training_clock

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

SERVES = """
import json, sys
print(json.dumps({"parameters": 2_500_000}), flush=True)
times = iter([9.0, 1.0, 3.0, 2.0])
for line in sys.stdin:
    if line.strip() == "tensors":
        print(json.dumps({"tensors": 3 * 2**20}), flush=True)
        continue
    print(json.dumps({"processor": next(times), "seconds": 0.5, "memory": 2**20}), flush=True)
"""


def test_turns_are_counted_but_for_the_first() -> None:
    one, other = (training.Contender([sys.executable, "-c", SERVES]) for _ in range(2))
    training.measure({"a": one, "b": other}, 3, "processor")
    for each in (one, other):
        each.close()
        assert each.times == [1.0, 3.0, 2.0]
    base = cast(Any, SimpleNamespace(times=[4.0], memory=2**21, tensors=2**22, parameters=1))
    row = training.row("net", "a", one, base)
    assert row == ["net", "a", "2.50M", "2.000", "2.00", "3", "0.75", "1", "0.50"]


def test_the_memory_of_tensors_is_what_is_held_and_the_most_of_a_step() -> None:
    held = torch.zeros(2**18)

    def step() -> None:
        large = torch.ones(2**19)
        del large
        small = torch.ones(2**17)
        del small

    before = training_clock.most_of_tensors(lambda: None, "cpu")
    assert training_clock.most_of_tensors(step, "cpu") - before == 4 * 2**19
    assert before >= held.nbytes


def test_a_contender_that_fails_says_why() -> None:
    failure = json.dumps({"error": "ImportError: no module"})
    with pytest.raises(RuntimeError, match="ImportError: no module"):
        training.Contender([sys.executable, "-c", f"print({failure!r})"])
    with pytest.raises(RuntimeError, match="status 3"):
        training.Contender([sys.executable, "-c", "raise SystemExit(3)"])


def test_checkouts_are_found_by_their_files(tmp_path: Path) -> None:
    for file in ("edm/training/networks.py", "song/models/ncsnpp.py"):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).touch()
    given = [tmp_path / "edm", tmp_path / "song"]
    assert training.checkout_of("ncsnpp", given) == tmp_path / "song"
    assert training.checkout_of("edm_ncsnpp", given) == tmp_path / "edm"
    assert training.checkout_of("ddpmpp", [tmp_path / "edm"]) is None


def test_the_reference_imports_nothing_of_this_package() -> None:
    for name in ("training_reference.py", "training_clock.py"):
        assert "scoresde." not in (BENCHMARKS / name).read_text(encoding="utf-8")
