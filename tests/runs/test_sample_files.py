"""Samples that are written as they are drawn, in files of a fixed number, and gone on with after an interruption."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from scoresde.options.errors import ConfigError
from scoresde.runs import sample as drawing
from scoresde.runs.blocks import block_size, blocks
from scoresde.runs.directory import Run
from scoresde.runs.sample import Draw, draw_samples, sample
from scoresde.runs.sample_files import SampleWriter, per_file, stored_samples
from tests.runs.test_comparison import untrained


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    return untrained(tmp_path_factory.mktemp("files") / "run")


@pytest.fixture
def run(made: SimpleNamespace) -> Iterator[Run]:
    """The run without samples."""
    folder = made.directory / "samples"
    yield Run.open(made.directory)
    for path in sorted(folder.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()


def drawn(run: Run, made: SimpleNamespace, n: int = 100, batch_size: int = 8, **options: Any) -> Any:
    draw = Draw(run.make("sampler"), n, batch_size=batch_size)
    return draw_samples(run, made.model, made.data, draw, name="drawn", progress=False, **options)


def test_files_together_are_the_samples_of_one_file(run: Run, made: SimpleNamespace) -> None:
    whole, _ = drawn(run, made)
    assert whole.path.name == "drawn.npz"
    x = whole.read()
    whole.path.unlink()
    parts, cost = drawn(run, made, shard=30)
    assert parts.path == run.directory / "samples" / "drawn"
    # Whole blocks of 8 samples in a file
    assert [len(part) for part in parts.parts()] == [24, 24, 24, 24, 4]
    assert sorted(path.name for path in parts.path.iterdir()) == [*(f"0000{k}.npz" for k in range(5)), "index.json"]
    assert torch.equal(parts.read(), x)
    assert cost["n"] == 100
    again, known = drawn(run, made, shard=30)
    assert known["reused"]
    assert again.shape == tuple(x.shape)


def interrupt_after(count: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Interrupt drawing after some blocks; the first samples of the blocks that are drawn."""
    firsts: list[int] = []

    def each(function: Callable[[Any], Any], items: Any) -> Iterator[Any]:
        for item in items:
            if len(firsts) == count:
                raise KeyboardInterrupt
            firsts.append(item.first)
            yield function(item)

    monkeypatch.setattr(drawing, "each", each)
    return firsts


@pytest.mark.parametrize(("after", "shard"), [(2, 10240), (5, 24), (6, 24), (1, 24)])
def test_an_interrupted_command_goes_on(
    after: int, shard: int, run: Run, made: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = drawn(run, made)[0]
    x = whole.read()
    whole.path.unlink()
    with monkeypatch.context() as patch:
        firsts = interrupt_after(after, patch)
        with pytest.raises(KeyboardInterrupt):
            drawn(run, made, shard=shard)
    assert firsts == [8 * k for k in range(after)]
    assert stored_samples(run.directory / "samples" / "drawn.npz") is None  # not complete
    with monkeypatch.context() as patch:
        firsts = interrupt_after(1000, patch)
        stored, _ = drawn(run, made, shard=shard)
    assert firsts == list(range(8 * after, 100, 8))
    assert torch.equal(stored.read(), x)
    assert not list((run.directory / "samples").rglob("unfinished.npz"))


def test_a_killed_command_keeps_complete_files(
    run: Run, made: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt_after(5, patch)
        patch.setattr(SampleWriter, "keep", lambda self: None)
        with pytest.raises(KeyboardInterrupt):
            drawn(run, made, shard=24)
    firsts = interrupt_after(1000, monkeypatch)
    drawn(run, made, shard=24)
    assert firsts[0] == 24


def test_samples_of_other_settings_are_not_gone_on_with(
    run: Run, made: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt_after(4, patch)
        with pytest.raises(KeyboardInterrupt):
            drawn(run, made, shard=24)
    firsts = interrupt_after(1000, monkeypatch)
    stored, _ = drawn(run, made, n=90, shard=24)
    assert firsts[0] == 0
    assert stored.shape[0] == 90


def test_a_lost_or_damaged_file_is_named_and_drawn_again(run: Run, made: SimpleNamespace) -> None:
    stored, _ = drawn(run, made, shard=24)
    x = stored.read()
    third = stored.path / "00002.npz"
    third.write_bytes(third.read_bytes()[:100])
    draw = Draw(run.make("sampler"), 100, batch_size=8)
    with pytest.raises(ConfigError, match=r"00002\.npz is damaged; 48 of 100 samples were read before it: draw the "):
        sample(run, made.model, made.data, draw, name="drawn", progress=False)
    third.unlink()
    with pytest.raises(ConfigError, match=r"00002\.npz is missing; 48 of 100"):
        stored.read()
    again, _ = drawn(run, made, shard=24, overwrite=True)
    assert torch.equal(again.read(), x)


def test_an_index_names_no_other_files(run: Run, made: SimpleNamespace, tmp_path: Path) -> None:
    stored, _ = drawn(run, made, shard=24)
    index = json.loads((stored.path / "index.json").read_text())
    index["files"][0] = "../../elsewhere.npz"
    (stored.path / "index.json").write_text(json.dumps(index))
    found = stored_samples(stored.path.with_suffix(".npz"))
    assert found is not None
    assert found.note is None
    assert found.files == ()
    with pytest.raises(ConfigError, match="is there already, with settings that are not known"):
        drawn(run, made, shard=24)


def test_one_file_and_several_take_each_others_place(run: Run, made: SimpleNamespace) -> None:
    drawn(run, made, n=20)
    several, _ = drawn(run, made, shard=24, overwrite=True)
    assert sorted(path.name for path in (run.directory / "samples").glob("drawn*")) == ["drawn", "drawn.png"]
    assert len(several.files) == 5
    drawn(run, made, n=20, overwrite=True)
    assert sorted(path.name for path in (run.directory / "samples").glob("drawn*")) == ["drawn.npz", "drawn.png"]


def test_blocks_depend_on_the_number_of_samples_alone() -> None:
    assert [block_size(n, 1024) for n in (1, 64, 65, 512, 1000, 50000)] == [64, 64, 64, 64, 125, 1024]
    assert block_size(1000, 10) == 10
    parts = list(blocks(10, 4, {"labels": torch.arange(10)}, torch.arange(10.0), done=4))
    assert [(part.first, part.count) for part in parts] == [(4, 4), (8, 2)]
    assert parts[1].cond["labels"].tolist() == [8, 9]
    assert parts[0].start is not None
    assert parts[0].start.tolist() == [4.0, 5.0, 6.0, 7.0]


def test_files_are_of_whole_blocks_and_not_too_large() -> None:
    assert per_file((1, 8, 8), 10240, 1024) == 10240
    assert per_file((1, 8, 8), 1000, 300) == 900
    assert per_file((1, 8, 8), 10, 300) == 300
    assert per_file((3, 256, 256), 10240, 64) == 2**27 // (4 * 3 * 256 * 256) // 64 * 64


def test_arrays_of_a_file_are_as_long_as_its_samples(run: Run, made: SimpleNamespace) -> None:
    stored, _ = drawn(run, made, shard=24)
    with np.load(stored.path / "00001.npz") as file:
        assert {len(file[key]) for key in file.files if key != "note"} == {24}
        assert json.loads(str(file["note"]))["first"] == 24
