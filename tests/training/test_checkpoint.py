import errno
import os
import pickle
import random
import stat
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch
from safetensors.torch import save_file

from scoresde.storage.bounded import CheckpointError, DamagedFile
from scoresde.storage.files import remove_leftovers, write_atomically
from scoresde.storage.tensors import load_tensors, save_tensors
from scoresde.training.checkpoint import (
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
)


class FullDisk:
    """A file that takes so many bytes and no more."""

    def __init__(self, file: BinaryIO, room: int) -> None:
        self.file, self.room = file, room

    def write(self, data: Any) -> int:
        self.room -= len(memoryview(data).cast("B"))
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.file.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> "FullDisk":
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Call with a number of bytes: every file from then on takes no more."""
    make = os.fdopen

    def limit(room: int) -> None:
        monkeypatch.setattr(os, "fdopen", lambda *a, **k: FullDisk(make(*a, **k), room))

    return limit


def state(value: float = 1.0) -> dict[str, Any]:
    return {"network": {"w": torch.full((1000,), value)}, "seconds": 1.5}


def one_line(error: pytest.ExceptionInfo[CheckpointError], path: Path) -> None:
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


def test_write_atomically(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file.bin"
    write_atomically(path, lambda file: file.write(b"one"))
    write_atomically(path, lambda file: file.write(b"two"))
    assert path.read_bytes() == b"two"
    assert os.listdir(path.parent) == ["file.bin"]


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt(), OSError(errno.ENOSPC, "full")])
def test_what_stops_a_write_leaves_the_old_file(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")

    def write(file: BinaryIO) -> None:
        file.write(b"half of the new")
        raise error

    with pytest.raises(type(error)):
        write_atomically(path, write)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file.bin"]


def test_a_failed_first_write_leaves_no_folder(tmp_path: Path) -> None:
    def write(file: BinaryIO) -> None:
        raise OSError(errno.ENOSPC, "full")

    with pytest.raises(OSError, match="full"):
        write_atomically(tmp_path / "runs" / "new" / "config.yaml", write)
    assert os.listdir(tmp_path) == []


def test_a_failed_sync_counts_as_a_failed_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")

    def fsync(handle: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="full"):
        write_atomically(path, lambda file: file.write(b"new"))
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file.bin"]


@pytest.mark.parametrize("room", [0, 100, 1500, 4000])
def test_a_disk_that_fills_up_is_an_os_error_and_keeps_the_old_files(tmp_path: Path, full_disk: Any, room: int) -> None:
    save_checkpoint(tmp_path, 10, state(1.0), keep=1)
    save_tensors(tmp_path / "model.safetensors", {"w": torch.ones(2000)}, {})
    full_disk(room)
    # An OSError, whatever torch's writer makes of it: the command answers that in one line.
    with pytest.raises(OSError, match="No space left") as error:
        save_checkpoint(tmp_path, 20, state(2.0), keep=1)
    assert error.value.errno == errno.ENOSPC
    with pytest.raises(OSError, match="No space left"):
        save_tensors(tmp_path / "model.safetensors", {"w": torch.zeros(2000)}, {})
    assert sorted(os.listdir(tmp_path)) == ["model.safetensors", "step-000000010.pt"]
    latest = latest_checkpoint(tmp_path)
    assert latest is not None
    assert torch.equal(load_checkpoint(latest)["network"]["w"], torch.ones(1000))
    assert torch.equal(load_tensors(tmp_path / "model.safetensors")["w"], torch.ones(2000))


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_permissions_follow_the_umask(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        write_atomically(tmp_path / "file", lambda file: file.write(b"x"))
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~mask


def test_checkpoint_round_trip(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path / "checkpoints", 12, state(3.0), keep=2)
    assert path.name == "step-000000012.pt"
    loaded = load_checkpoint(path)
    assert (loaded["step"], loaded["seconds"]) == (12, 1.5)
    assert torch.equal(loaded["network"]["w"], torch.full((1000,), 3.0))


def test_the_newest_are_kept(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path / "nothing") is None
    for step in (5, 10, 999_999_999, 1_000_000_000):  # more digits than the name is padded to
        save_checkpoint(tmp_path, step, state(), keep=2)
    assert sorted(os.listdir(tmp_path)) == ["step-1000000000.pt", "step-999999999.pt"]
    latest = latest_checkpoint(tmp_path)
    assert latest is not None
    assert latest.name == "step-1000000000.pt"


def test_files_of_other_names_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "step-best.pt").write_bytes(b"the user's own copy")
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, state(), keep=1)
    assert sorted(os.listdir(tmp_path)) == ["step-000000003.pt", "step-best.pt"]
    latest = latest_checkpoint(tmp_path)
    assert latest is not None
    assert latest.name == "step-000000003.pt"


def test_an_old_checkpoint_is_removed_only_after_the_new_one_is_there(tmp_path: Path, full_disk: Any) -> None:
    save_checkpoint(tmp_path, 1, state(), keep=1)
    full_disk(0)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path, 2, state(), keep=1)
    assert os.listdir(tmp_path) == ["step-000000001.pt"]


# -- damaged and foreign files --------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_checkpoints_are_one_line(tmp_path: Path) -> None:
    good = save_checkpoint(tmp_path, 1, state(), keep=1).read_bytes()
    path = tmp_path / "step-000000002.pt"
    generator = random.Random(0)
    damaged = [b"", b"\x80", b"hello", good[:1], good[: len(good) // 2], good[:-1]]
    damaged += [good[: generator.randrange(len(good))] for _ in range(30)]
    damaged += [generator.randbytes(generator.randrange(200)) for _ in range(60)]
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="cannot be read as a checkpoint") as error:
            load_checkpoint(path)
        one_line(error, path)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("flips", [1, 20])
def test_what_a_flipped_byte_changes_is_never_taken(tmp_path: Path, flips: int) -> None:
    good = save_checkpoint(tmp_path, 1, state(), keep=1).read_bytes()
    path = tmp_path / "step-000000002.pt"
    generator = random.Random(1)
    refused = 0
    for _ in range(60):
        content = bytearray(good)
        for _ in range(flips):
            content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        path.write_bytes(content)
        try:
            loaded = load_checkpoint(path)
        except CheckpointError as error:
            refused += 1
            assert "\n" not in str(error)  # noqa: PT017
        else:  # in what nothing reads, such as the padding of the archive
            assert (loaded["step"], loaded["seconds"]) == (1, 1.5)
            assert torch.equal(loaded["network"]["w"], torch.ones(1000))
    assert refused > 40


def test_every_value_of_a_checkpoint_is_in_its_digest(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 1, state(), keep=1)
    whole = torch.load(path, weights_only=True)
    for key, value in (("step", 2), ("seconds", 1.25), ("network", {"w": torch.zeros(1000)}), ("more", None)):
        torch.save({**whole, key: value}, path)
        with pytest.raises(DamagedFile, match="its values are not those that were written"):
            load_checkpoint(path)
    del whole["digest"]
    torch.save(whole, path)
    with pytest.raises(DamagedFile):
        load_checkpoint(path)
    torch.save({**whole, "format": "scoresde-checkpoint-1"}, path)  # as older versions wrote them
    assert load_checkpoint(path)["seconds"] == 1.5


@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_a_pipe_or_a_folder_in_place_of_a_file_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "step-000000001.pt"
    os.mkfifo(path) if kind == "pipe" else path.mkdir()
    for load in (load_checkpoint, load_tensors):
        with pytest.raises(CheckpointError, match="expected a file"):
            load(path)


def test_leftovers_of_killed_writes_are_removed_and_nothing_else(tmp_path: Path) -> None:
    kept = [
        "step-000000001.pt", ".step-000000001.pt", ".step-000000001.pt.backup", ".step-best.txt.abcd1234",
        ".step-000000001.pt.ABCD1234", ".other.pt.abcd1234", "step-000000001.pt.abcd1234",
    ]  # fmt: skip
    for name in [*kept, ".step-000000001.pt.abcd1234", ".step-000000002.pt.x_y_z_12"]:
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / ".step-000000003.pt.folder12").mkdir()
    (tmp_path / ".step-000000003.pt.linked12").symlink_to(tmp_path / "step-000000001.pt")
    remove_leftovers(tmp_path, "step-*.pt")
    assert sorted(os.listdir(tmp_path)) == sorted([*kept, ".step-000000003.pt.folder12", ".step-000000003.pt.linked12"])
    remove_leftovers(tmp_path / "missing", "step-*.pt")


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    pickle.loads(pickle.dumps(Evil(mark)))
    assert mark.is_dir()  # the attack works on pickle
    mark.rmdir()
    path = tmp_path / "step-000000001.pt"
    archives = [pickle.dumps(Evil(mark))]
    torch.save({"format": "scoresde-checkpoint-1", "step": 1, "network": Evil(mark)}, path)
    archives.append(path.read_bytes())
    torch.save({"format": "scoresde-checkpoint-1", "network": Evil(mark)}, path, _use_new_zipfile_serialization=False)
    archives.append(path.read_bytes())
    for content in archives:
        path.write_bytes(content)
        with pytest.raises(CheckpointError) as error:
            load_checkpoint(path)
        one_line(error, path)
        assert not mark.exists()


def test_a_checkpoint_above_the_limit_of_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_checkpoint(tmp_path, 1, {"x": torch.zeros(300_000)}, keep=1)
    monkeypatch.setenv("SCORESDE_MEMORY", "0.001")
    with pytest.raises(CheckpointError, match=r"would take .* the limit is 0.001 GiB: .*SCORESDE_MEMORY=1") as error:
        load_checkpoint(path)
    assert "\n" not in str(error.value)
    monkeypatch.setenv("SCORESDE_MEMORY", "1")
    assert load_checkpoint(path)["x"].shape == (300_000,)


def test_a_tensor_that_repeats_its_elements_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "step-000000001.pt"
    for repeated in (torch.zeros(1).expand(1000), torch.zeros(3, device="meta"), torch.zeros(3).to_sparse()):
        torch.save({"format": "scoresde-checkpoint-1", "step": 1, "x": repeated}, path)
        with pytest.raises(DamagedFile, match="the elements of tensor /'x' are not stored one by one"):
            load_checkpoint(path)


def test_foreign_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "step-000000001.pt"
    for content in ({"state_dict": {"w": torch.ones(2)}}, torch.ones(3), [1, 2], {"format": "other"}):
        torch.save(content, path)
        with pytest.raises(CheckpointError, match="is no checkpoint of scoresde") as error:
            load_checkpoint(path)
        one_line(error, path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", "x")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(path)


def test_tensor_files(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    tensors = {"a": torch.arange(6.0).reshape(2, 3).T, "b": torch.tensor(2, dtype=torch.float64)}
    save_tensors(path, tensors, {"format": "x"})
    loaded = load_tensors(path)
    assert sorted(loaded) == ["a", "b"]
    assert all(torch.equal(loaded[k], v) and loaded[k].dtype == v.dtype for k, v in tensors.items())


def test_missing_damaged_and_foreign_tensor_files(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with pytest.raises(CheckpointError, match="no trained model yet; `scoresde train run="):
        load_tensors(path)
    save_file({"w": torch.ones(100)}, path)
    good = path.read_bytes()
    generator = random.Random(0)
    damaged = [b"", b"x", good[:4], good[:-1], good[: len(good) // 2], pickle.dumps({"w": 1})]
    damaged += [generator.randbytes(100) for _ in range(20)]
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="cannot be read as a safetensors file") as error:
            load_tensors(path)
        one_line(error, path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.bool])
def test_a_flipped_bit_of_a_tensor_is_seen(tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "model.safetensors"
    save_tensors(path, {"w": torch.ones(7, 3, dtype=dtype), "b": torch.zeros((), dtype=dtype)}, {"format": "x"})
    good = path.read_bytes()
    assert sorted(load_tensors(path)) == ["b", "w"]
    start = 8 + int.from_bytes(good[:8], "little")
    generator = random.Random(0)
    for _ in range(20):
        content = bytearray(good)
        content[generator.randrange(start, len(good))] ^= 1 << generator.randrange(8)
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="is damaged") as error:
            load_tensors(path)
        one_line(error, path)


def test_files_without_a_digest_are_taken(tmp_path: Path) -> None:
    save_file({"w": torch.ones(3)}, tmp_path / "old.safetensors", {"format": "scoresde-model-1"})
    assert torch.equal(load_tensors(tmp_path / "old.safetensors")["w"], torch.ones(3))
