"""Files that `torch.save` or a plain pickle wrote, read without running anything: tensors and plain values, or nothing.

Three containers occur: a zip archive with a pickle and a member for each storage; the older container, a row of pickles
with the storages behind them; and a plain pickle, which holds its storages as bytes of the older container. In all of
them a tensor is a view of a storage by offset, shape and strides. The tensors here are views as well, of memory that
may be shared and may not be written to: copy what is kept.

`torch.load(weights_only=True)` reads less, such as no scalars of numpy, and in PyTorch 2.5 it could be made to run code
(CVE-2025-32434).
"""

import io
import math
import zipfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scoresde.storage.bounded import CheckpointError, DamagedFile, check_regular
from scoresde.storage.limits import check_unpacked
from scoresde.storage.pickles import Copy, Machine, Record, Refused, run_pickle

__all__ = ["read_torch_file"]

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of the older container
_READS = "only tensors and plain values are read, and nothing in it was run"
_MOST_AXES = 8
_DTYPES = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
}
_STORAGES = {f"torch.{name}Storage": dtype for name, dtype in _DTYPES.items()}


@dataclass(eq=False)
class _Storage(Copy):
    """Numbers in a row, which the older container holds behind the pickle that names them."""

    dtype: torch.dtype
    count: int
    values: Tensor | None = None

    @property
    def size(self) -> int:  # type: ignore[override]
        return self.count * self.dtype.itemsize

    def fill(self, content: bytes | memoryview) -> None:
        if len(content) != self.size:
            raise Refused("a storage of another size than its tensors'")
        # A copy of bytes that cannot be written to would cost as much memory again.
        self.values = (
            torch.frombuffer(bytearray(content), dtype=self.dtype) if self.count else torch.empty(0, dtype=self.dtype)
        )


@dataclass(eq=False)
class _View:
    """A tensor whose storage is not filled yet."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def tensor(self) -> Tensor:
        assert self.storage.values is not None
        return torch.as_strided(self.storage.values, self.shape, self.strides, self.offset)


def read_torch_file(
    path: Path, calls: Mapping[str, Callable[..., Any]] | None = None, objects: Collection[str] = ()
) -> Any:
    """The tensors and plain values of a file of any of the three containers; dictionaries of any kind are plain ones.

    Args:
        path: The file.
        calls: Functions that stand for further names that its pickle may call.
        objects: Names of classes of which it may have objects, each of which becomes a `Record`.

    Raises:
        FileNotFoundError: No such file.
        CheckpointError: A folder or the like, a file that is damaged, truncated or of another format, one that would
            take more memory than is allowed, or one with anything else in it, which the message names.
    """
    check_regular(path)
    if not path.exists():
        raise FileNotFoundError(2, "no such file", str(path))
    try:
        check_unpacked(path, str(path))
        if zipfile.is_zipfile(path):
            return _read_zip(path, calls or {}, objects)
        content = path.read_bytes()
        if not content.startswith(b"\x80"):
            raise DamagedFile(f"{path} is no file of torch.save and no pickle: give the checkpoint as it was published")
        return _read_stream(io.BytesIO(content), str(path), calls or {}, objects)
    except ValueError as error:
        raise error if isinstance(error, CheckpointError) else CheckpointError(str(error)) from error


# -- the machine ------------------------------------------------------------------------------------------


def _machine(
    room: int,
    calls: Mapping[str, Callable[..., Any]],
    objects: Collection[str],
    persistent: Callable[[Any], Any] | None,
) -> Machine:
    own: dict[str, Callable[..., Any]] = {
        "collections.OrderedDict": _ordered,
        "torch.Size": lambda sizes=(): tuple(sizes),
        "torch._utils._rebuild_tensor": _view,
        "torch._utils._rebuild_tensor_v2": _view,
        "torch._utils._rebuild_parameter": lambda data, *_: data,
        "torch.storage._load_from_bytes": _load_from_bytes,
        # A storage is named, and is never called.
        **dict.fromkeys(_STORAGES, _never),
        "torch.storage.UntypedStorage": _never,
    }
    return Machine(room, {**own, **calls}, objects or ("",), persistent)


def _never(*_: Any) -> None:
    raise Refused("a storage of no tensor")


def _ordered(items: Any = ()) -> dict[Any, Any]:
    made: dict[Any, Any] = {}
    for key, value in items:
        if not isinstance(key, str | bytes | int | float | None):
            raise Refused("a key that is neither text nor a number")
        made[key] = value
    return made


def _view(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Any:
    """A tensor of a storage; the rest is whether it requires a gradient, and its hooks."""
    numbers = (offset, *shape, *strides)
    whole = all(type(n) is int and 0 <= n < 2**62 for n in numbers) and len(shape) == len(strides) <= _MOST_AXES
    if not isinstance(storage, _Storage) or not whole:
        raise Refused("a tensor of no storage")
    size = math.prod(shape)
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True)) if size else 0
    # A view that repeats its numbers could ask for any amount of memory once it is copied.
    if size > storage.count or (size and last >= storage.count):
        raise Refused("a tensor that is larger than its storage")
    made = _View(storage, offset, tuple(shape), tuple(strides))
    return made if storage.values is None else made.tensor()


def _named_storage(pid: Any) -> tuple[torch.dtype, str, int]:
    """The type, the key and the number of elements of a storage that is kept outside the pickle."""
    if not (isinstance(pid, tuple) and len(pid) >= 5 and pid[0] in ("storage", b"storage")):
        raise Refused("a part that is no storage")
    dtype, key, count = _STORAGES.get(getattr(pid[1], "text", "")), pid[2], pid[4]
    if dtype is None:
        raise Refused(f"a storage of type {getattr(pid[1], 'text', '')[:40]!r}")
    if not isinstance(key, str) or type(count) is not int or not 0 <= count < 2**48:
        raise Refused("a storage without a name or a size")
    return dtype, key, count


# -- the containers ---------------------------------------------------------------------------------------


def _read_zip(path: Path, calls: Mapping[str, Callable[..., Any]], objects: Collection[str]) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
            pickle = next((n for n in names if n.count("/") == 1 and n.endswith("/data.pkl")), None)
            if pickle is None:
                raise DamagedFile(f"{path} is a zip archive, but none of torch.save: it has no data.pkl")
            head = pickle.removesuffix("data.pkl")
            if f"{head}constants.pkl" in names:
                raise CheckpointError(f"{path} is a TorchScript archive, which holds code: give the weights alone")
            if f"{head}byteorder" in names and archive.read(f"{head}byteorder").strip() != b"little":
                raise CheckpointError(f"{path} was written on a machine of another byte order: save it on this one")
            storages: dict[str, _Storage] = {}

            def persistent(pid: Any) -> _Storage:
                dtype, key, count = _named_storage(pid)
                if key not in storages:
                    member = f"{head}data/{key}"
                    if member not in names:
                        raise Refused(f"a storage {key[:40]!r} that the archive lacks")
                    storages[key] = _Storage(dtype, count)
                    storages[key].fill(archive.read(member))
                if (storages[key].dtype, storages[key].count) != (dtype, count):
                    raise Refused("a storage of two types")
                return storages[key]

            content = archive.read(pickle)
            machine = _machine(len(content), calls, objects, persistent)
            return run_pickle(io.BytesIO(content), machine, str(path), _READS)
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        raise DamagedFile(f"{path} is damaged: its zip archive cannot be read") from error


def _read_stream(
    stream: io.BytesIO, where: str, calls: Mapping[str, Callable[..., Any]], objects: Collection[str]
) -> Any:
    """The value of an older container, or of a plain pickle."""
    room = len(stream.getbuffer())
    first = run_pickle(stream, _machine(room, calls, objects, None), where, _READS)
    if first != _MAGIC or isinstance(first, Tensor):
        return first
    plain = [run_pickle(stream, Machine(room), where, _READS) for _ in range(2)]
    if plain[0] != _PROTOCOL or not isinstance(plain[1], dict) or plain[1].get("little_endian") is not True:
        raise DamagedFile(f"{where} was written by torch.save in another way than is known")
    storages: dict[str, _Storage] = {}

    def persistent(pid: Any) -> _Storage:
        dtype, key, count = _named_storage(pid)
        found = storages.setdefault(key, _Storage(dtype, count))
        if len(pid) > 5 and pid[5] is not None:
            raise Refused("a view of a storage")
        if (found.dtype, found.count) != (dtype, count):
            raise Refused("a storage of two types")
        return found

    value = run_pickle(stream, _machine(room, calls, objects, persistent), where, _READS)
    keys = run_pickle(stream, Machine(room), where, _READS)
    if not isinstance(keys, list) or set(map(str, keys)) != set(storages) or len(keys) != len(storages):
        raise DamagedFile(f"{where} is damaged: its storages are not those of its tensors")
    whole = stream.getbuffer()
    for key in keys:
        storage = storages[str(key)]
        start = stream.tell() + 8
        size = storage.size
        if int.from_bytes(stream.read(8), "little") != storage.count or start + size > len(whole):
            raise DamagedFile(f"{where} is damaged: it ends within a tensor")
        try:
            storage.fill(whole[start : start + size])
        except Refused as error:
            raise DamagedFile(f"{where} is damaged: {error}") from error
        stream.seek(start + size)
    return _with_tensors(value, {})


def _load_from_bytes(content: Any) -> Any:
    """The storage, or tensor, that a pickle holds as the bytes of an older container."""
    if not isinstance(content, bytes):
        raise Refused("a storage that is no bytes")
    try:
        return _read_stream(io.BytesIO(content), "a storage", {}, ())
    except ValueError as error:
        raise Refused(f"a storage that cannot be read ({error})") from error


def _with_tensors(value: Any, done: dict[int, Any]) -> Any:
    """The value with tensors in place of the views whose storages have been filled since."""
    if isinstance(value, _View):
        return value.tensor()
    if not isinstance(value, dict | list | tuple | Record):
        return value
    if id(value) not in done:
        made: Any
        if isinstance(value, Record):
            made = Record(value.name, _with_tensors(value.state, done))
        elif isinstance(value, dict):
            made = {key: _with_tensors(each, done) for key, each in value.items()}
        else:
            made = type(value)(_with_tensors(each, done) for each in value)
        done[id(value)] = made
    return done[id(value)]
