"""Training on samples that are read when they are asked for: the numbers of the same data in memory, to the bit."""

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from scoresde.data import Data, arrays
from scoresde.data.rows import Rows, UnreadableData, is_lazy
from scoresde.networks import UNet
from scoresde.preconditioning import EDMPreconditioning
from scoresde.score import NetworkScore
from scoresde.sde import VPSDE
from scoresde.training import fit, make_trainer
from scoresde.training.prefetch import Ahead

RNG = np.random.default_rng(0)


def _model(classes: int | None = 3) -> NetworkScore:
    torch.manual_seed(0)
    network = UNet((1, 8, 8), channels=8, blocks=1, multipliers=(1, 2), attention=(), num_classes=classes)
    return NetworkScore(network, VPSDE(), EDMPreconditioning())


def _weights(model: NetworkScore) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "data"
    place.mkdir()
    np.save(place / "x.npy", RNG.integers(0, 256, (300, 8, 8)).astype(np.uint8))
    np.save(place / "y.npy", RNG.integers(0, 3, 300))
    return place


def _data(folder: Path, in_memory: bool) -> Data:
    data = arrays(str(folder), in_memory=in_memory, test_size=50)
    assert is_lazy(data.train) is not in_memory
    return data


def _reading() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("scoresde-read")]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_weights_are_those_of_data_in_memory(folder: Path, workers: int) -> None:
    options: dict[str, Any] = {"batch_size": 16, "flip": True, "seed": 3, "progress": False}
    whole, lazy = _model(), _model()
    fit(whole, _data(folder, True), 12, **options)
    fit(lazy, _data(folder, False), 12, workers=workers, **options)
    assert torch.equal(_weights(whole), _weights(lazy))
    assert whole.statistics is not None
    assert lazy.statistics is not None
    assert torch.equal(whole.statistics.mean, lazy.statistics.mean)
    assert not _reading()


def test_an_interrupted_training_resumes_to_the_bit_with_other_workers(folder: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"batch_size": 16, "checkpoint_every": 5}
    straight = _model()
    fit(straight, _data(folder, True), 20, progress=False, **options)
    first = make_trainer(_model(), _data(folder, False), 20, run_dir=tmp_path / "run", workers=2, **options)
    for step in first.steps():
        if step.step == 7:
            first.save()
            break
    first.batches.close()
    assert not _reading()
    second = make_trainer(model := _model(), _data(folder, False), 20, run_dir=tmp_path / "run", workers=3, **options)
    second.fit(progress=False)
    assert torch.equal(_weights(straight), _weights(model))


def test_a_file_cut_off_under_training_leaves_a_checkpoint(folder: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"batch_size": 16, "run_dir": tmp_path / "run", "checkpoint_every": None}
    content = (folder / "x.npy").read_bytes()
    trainer = make_trainer(_model(), _data(folder, False), 15, workers=1, **options)
    threads = {thread.name for thread in threading.enumerate()}
    steps = trainer._advance

    def advance() -> Any:
        if trainer.step == 6:
            os.truncate(folder / "x.npy", 128 + 64 * 20)
        return steps()

    trainer._advance = advance  # type: ignore[method-assign]
    message = r"is cut off: .*x.npy has 1408 bytes and the whole of 20 of 300 samples.*stopped after step [67]"
    with pytest.raises(UnreadableData, match=message):
        trainer.fit(progress=False)
    assert {thread.name for thread in threading.enumerate()} <= threads
    saved = [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()]
    assert any("6" in name or "7" in name for name in saved)
    (folder / "x.npy").write_bytes(content)
    again = make_trainer(resumed := _model(), _data(folder, False), 15, **options)
    again.fit(progress=False)
    straight = _model()
    fit(straight, _data(folder, True), 15, batch_size=16, progress=False)
    assert torch.equal(_weights(resumed), _weights(straight))


def test_threads_end_with_an_interruption(folder: Path) -> None:
    trainer = make_trainer(_model(), _data(folder, False), 50, batch_size=8, workers=2)
    count = 0

    def interrupt(_: Any) -> Any:
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt
        return original(_)

    original = trainer._loss
    trainer._loss = interrupt  # type: ignore[method-assign, assignment]
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(progress=False)
    assert not _reading()


class Slow(Rows):
    """Rows that say which of them were read."""

    def __init__(self) -> None:
        super().__init__((10, 2), torch.float32, "slow rows")
        self.read_so_far: list[int] = []

    def read(self, indices: np.ndarray) -> Tensor:
        self.read_so_far += indices.tolist()
        return torch.from_numpy(indices)[:, None].expand(-1, 2).float()


def test_what_is_read_ahead_is_bounded_and_never_beyond_the_end() -> None:
    rows = Slow()
    ahead = Ahead(rows, lambda step: torch.tensor([step]), steps=6, workers=2)
    assert ahead(0).tolist() == [[0, 0]]
    ahead.close()
    assert set(rows.read_so_far) <= {0, 1, 2}
    assert [int(ahead(step)[0, 0]) for step in (1, 2, 5, 4, 3, 5)] == [1, 2, 5, 4, 3, 5]
    ahead.close()
    assert max(rows.read_so_far) == 5
    assert not _reading()
