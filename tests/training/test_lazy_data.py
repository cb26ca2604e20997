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
from scoresde.networks import MLP, UNet
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


class Pictures(torch.utils.data.Dataset[Any]):
    """Items (x, label) as a data set of the user's own has them."""

    def __init__(self, count: int = 60) -> None:
        self.values = np.random.default_rng(1).integers(0, 256, (count, 8, 8)).astype(np.uint8)

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        if index >= len(self):
            raise IndexError(index)
        return self.values[index], int(self.values[index].sum()) % 3


@pytest.mark.parametrize("loader", [False, True])
def test_items_of_a_data_set_of_torch_are_read_when_needed(loader: bool) -> None:
    given: Any = torch.utils.data.DataLoader(Pictures(), 16, shuffle=True) if loader else Pictures()
    whole, lazy = _model(), _model()
    fit(whole, given, 6, batch_size=16, progress=False)
    trainer = make_trainer(lazy, given, 6, batch_size=16, in_memory=False)
    assert is_lazy(trainer.data.train)
    trainer.fit(progress=False)
    assert torch.equal(_weights(whole), _weights(lazy))
    values = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    found = []
    for in_memory in (True, False):
        torch.manual_seed(0)
        plane = NetworkScore(MLP((2,), width=8, blocks=1), VPSDE(), EDMPreconditioning())
        fit(plane, torch.utils.data.TensorDataset(values), 4, in_memory=in_memory, progress=False)
        found.append(_weights(plane))
    assert torch.equal(*found)


def test_what_a_data_set_cannot_do_is_one_line() -> None:
    class Broken(Pictures):
        def __getitem__(self, index: int) -> Any:
            if index == 40:
                raise OSError("the disk is gone")
            return super().__getitem__(index)

    with pytest.raises(UnreadableData, match="item 40 of 60 of data cannot be read: OSError: the disk is gone"):
        fit(_model(None), Broken(), 20, in_memory=False, progress=False)

    class Uneven(Pictures):
        def __getitem__(self, index: int) -> Any:
            return super().__getitem__(index) if index < 30 else (np.zeros((4, 4), np.uint8), 0)

    with pytest.raises(UnreadableData, match="samples of data have the shapes"):
        fit(_model(None), Uneven(), 20, in_memory=False, progress=False)
    own = torch.utils.data.DataLoader(Pictures(), 16, collate_fn=list)
    for given in (own, torch.randn(10, 1, 8, 8)):
        with pytest.raises(ValueError, match="in_memory=False is for a torch data set with a length, or a loader"):
            fit(_model(None), given, 2, in_memory=False, progress=False)
