import collections
import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from scoresde.storage.bounded import CheckpointError
from scoresde.storage.torch_files import read_torch_file

KINDS = ["zip", "old", "pickle"]


def written(path: Path, content: Any, kind: str, protocol: int = 2) -> Path:
    if kind == "pickle":
        path.write_bytes(pickle.dumps(content, max(protocol, 2)))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip", pickle_protocol=protocol)
    return path


def same(found: Any, expected: Any) -> bool:
    if isinstance(expected, Tensor):
        return isinstance(found, Tensor) and found.dtype == expected.dtype and torch.equal(found, expected)
    if isinstance(expected, dict):
        return type(found) is dict and list(found) == list(expected) and all(same(found[k], expected[k]) for k in found)
    if isinstance(expected, list | tuple):
        return type(found) is type(expected) and len(found) == len(expected) and all(map(same, found, expected))
    return type(found) is type(expected) and found == expected


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_tensors_and_plain_values_of_every_container(tmp_path: Path, kind: str, protocol: int) -> None:
    base = torch.arange(24.0).reshape(2, 3, 4)
    content = {
        "types": [torch.tensor([1, 0, 3]).to(d) for d in (torch.float16, torch.bfloat16, torch.float64, torch.int64,
                                                        torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)],
        "view": base[:, 1:, ::2],
        "turned": base.mT,
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "parameter": nn.Parameter(torch.ones(2)).detach(),
        "shared": [base, base],
        "plain": (1, 2.5, None, True, "é", b"\xff", {"a": {1, 2}}, 2**70),
        "step": 3,
    }  # fmt: skip
    found = read_torch_file(written(tmp_path / "f", content, kind, protocol))
    assert same(found, content)
    assert found["shared"][0].data_ptr() == found["shared"][1].data_ptr()


@pytest.mark.parametrize("kind", KINDS)
def test_state_dicts_parameters_and_numbers_of_numpy(tmp_path: Path, kind: str) -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    network(torch.ones(4, 2)).sum().backward()
    optimizer.step()
    optimizer.param_groups[0]["lr"] = np.float64(1e-3)
    content = {"model": network.state_dict(), "optimizer": optimizer.state_dict(), "own": nn.Parameter(torch.ones(2))}
    path = written(tmp_path / "f", content, kind)
    found = read_torch_file(path)
    assert same(found["model"], dict(network.state_dict()))
    assert found["optimizer"]["param_groups"][0]["lr"] == 1e-3
    assert same(found["optimizer"]["state"], optimizer.state_dict()["state"])
    assert torch.equal(found["own"], torch.ones(2))


@pytest.mark.parametrize("name", [b"numpy.core", b"numpy._core"])
def test_numbers_of_both_numpys(tmp_path: Path, name: bytes) -> None:
    """The module of the numbers has had two names."""
    content = pickle.dumps({"lr": np.float64(0.1), "n": np.int64(3)}, 2)
    path = tmp_path / "f"
    path.write_bytes(content.replace(b"numpy._core", name).replace(b"numpy.core", name))
    assert read_torch_file(path) == {"lr": 0.1, "n": 3}


class Loud:
    """An object whose pickle asks for a call, a harmless one: a file that is made."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("value", "name"),
    [
        (None, r"(io|_io)\.open"),
        (nn.Linear(2, 2), r"torch\.nn\.modules\.linear\.Linear"),
        (collections.Counter("a"), "collections.Counter"),
        (np.array([{}], dtype=object), "an array of type 'O8'"),
        (Path("x"), r"pathlib[\w.]*\.PosixPath"),
        (torch.zeros(2).to_sparse(), r"_rebuild_sparse_tensor"),
    ],
)
def test_anything_else_is_refused_by_name_and_not_run(tmp_path: Path, value: Any, name: str, kind: str) -> None:
    marker = tmp_path / "marker"
    value = Loud(marker) if value is None else value
    path = written(tmp_path / "f", {"tensor": torch.ones(1), "other": value}, kind)
    with pytest.raises(CheckpointError, match=f"^{path} is a pickle with .*{name}.*: only tensors and plain") as caught:
        read_torch_file(path)
    assert "\n" not in str(caught.value)
    assert not marker.exists()


def test_a_storage_within_a_pickle_is_read_by_the_same_rules(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    inner = io.BytesIO()
    torch.save(Loud(marker), inner, _use_new_zipfile_serialization=False)

    class Nested:
        def __reduce__(self) -> Any:
            return torch.storage._load_from_bytes, (inner.getvalue(),)

    path = written(tmp_path / "f", Nested(), "pickle")
    with pytest.raises(CheckpointError, match=r"a storage that cannot be read .*open"):
        read_torch_file(path)
    assert not marker.exists()


@pytest.mark.parametrize("kind", KINDS)
def test_truncated_files(tmp_path: Path, kind: str) -> None:
    path = written(tmp_path / "f", {"x": torch.rand(100), "y": torch.rand(3)}, kind)
    content = path.read_bytes()
    for part in (0.0, 0.3, 0.9, 0.999):
        path.write_bytes(content[: int(part * len(content))])
        with pytest.raises(CheckpointError, match=f"^{path} ") as caught:
            read_torch_file(path)
        assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_foreign_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f"
    with pytest.raises(FileNotFoundError):
        read_torch_file(path)
    with pytest.raises(CheckpointError, match="is a directory"):
        read_torch_file(tmp_path)
    path.write_text("a text")
    with pytest.raises(CheckpointError, match="no file of torch.save and no pickle"):
        read_torch_file(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/b.txt", "text")
    with pytest.raises(CheckpointError, match="none of torch.save"):
        read_torch_file(path)
    torch.jit.save(torch.jit.script(nn.Identity()), path)
    with pytest.raises(CheckpointError, match="TorchScript"):
        read_torch_file(path)
    monkeypatch.setenv("SCORESDE_MEMORY", "1e-6")
    written(path, torch.zeros(10_000), "zip")
    with pytest.raises(CheckpointError, match="SCORESDE_MEMORY"):
        read_torch_file(path)


def test_a_tensor_is_no_larger_than_its_storage(tmp_path: Path) -> None:
    """A view that repeats its numbers, or reaches beyond them, could ask for any amount of memory."""
    for wrong in (torch.zeros(1).expand(10**9), torch.zeros(2).expand(3, 2)):
        path = written(tmp_path / "f", wrong, "zip")
        with pytest.raises(CheckpointError, match="a tensor that is larger than its storage"):
            read_torch_file(path)
    storage = torch.zeros(4).untyped_storage()

    class Beyond:
        def __reduce__(self) -> Any:
            typed = torch.storage.TypedStorage(wrap_storage=storage, dtype=torch.float32, _internal=True)
            return torch._utils._rebuild_tensor_v2, (typed, 2, (3,), (1,), False, collections.OrderedDict())

    with pytest.raises(CheckpointError, match="a tensor that is larger than its storage"):
        read_torch_file(written(tmp_path / "f", Beyond(), "old"))


def test_bytes_are_not_copied_again_and_again(tmp_path: Path) -> None:
    """A few instructions for one more copy of a storage would make much of little."""
    content = io.BytesIO()
    storage = torch.storage.TypedStorage(
        wrap_storage=torch.zeros(1000).untyped_storage(), dtype=torch.float32, _internal=True
    )
    torch.save(storage, content, _use_new_zipfile_serialization=False)
    inner = content.getvalue()
    size = len(inner).to_bytes(4, "little")
    path = tmp_path / "f"
    start = b"\x80\x02]q\x00cTORCH\n_load_from_bytes\nq\x01B".replace(b"TORCH", b"torch.storage") + size + inner
    path.write_bytes(start + b"q\x020" + 4 * b"h\x01h\x02\x85R" + b"0000.")
    with pytest.raises(CheckpointError, match="more text than it holds"):
        read_torch_file(path)
