"""Files that are whole or not there: atomic writes, checkpoints and model files."""

import contextlib
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from scoresde import shell
from scoresde.bounded import CheckpointError, DamagedFile, check_regular, read_tensor_header
from scoresde.digests import DIGEST, digest, is_intact
from scoresde.limits import check_unpacked

__all__ = [
    "CheckpointError",
    "DamagedFile",
    "check_tensor",
    "check_tensors",
    "checkpoints",
    "latest_checkpoint",
    "load_checkpoint",
    "load_header",
    "load_metadata",
    "load_tensors",
    "remove_leftovers",
    "save_checkpoint",
    "save_tensors",
    "set_aside",
    "write_atomically",
]

_NAME = re.compile(r"step-(\d+)\.pt")
_FORMAT = "scoresde-checkpoint-2"
_WITHOUT_DIGEST = "scoresde-checkpoint-1"
_TEMPORARY = re.compile(r"\.[a-z0-9_]{8}")  # the end of a name of mkstemp


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill `path`: under a temporary name, synced, then renamed.

    Whatever stops it (a full disk, an interrupt), `path` is what it was before or complete.
    """
    made = [parent for parent in path.parents if not parent.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files private; give this one the permissions that any other new file gets.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        with contextlib.suppress(OSError):  # somebody else may use them by now
            for parent in made:
                parent.rmdir()
        raise
    with contextlib.suppress(OSError):  # some file systems do not sync folders
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def set_aside(path: Path) -> Path:
    """Rename a damaged file, so that a new one can take its place; the new name."""
    aside = path.with_name(f"{path.name}.damaged")
    number = 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.damaged-{number}")
    path.rename(aside)
    return aside


def remove_leftovers(folder: Path, *names: str) -> None:
    """Remove the temporary files that killed processes left of writes of these files (patterns, as of `Path.glob`).

    Only whoever holds the lock of the files may: other processes may be writing them.
    """
    for name in names:
        for path in folder.glob(f".{name}.*"):
            if _TEMPORARY.fullmatch(path.suffix) and path.is_file() and not path.is_symlink():
                path.unlink(missing_ok=True)


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], keep: int) -> Path:
    """Write `state` with its digest as the checkpoint of `step`, then remove all but the newest `keep`."""
    path = folder / f"step-{step:09d}.pt"
    content = {"format": _FORMAT, "step": step, **state}
    content[DIGEST] = _digest_of_state(content)

    def write(file: BinaryIO) -> None:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            # torch closes its archive after a failed write and reports that, not the full disk.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise

    write_atomically(path, write)
    for old in checkpoints(folder)[keep:]:
        old.unlink()
    return path


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, the newest first; other files there are the user's."""
    named = [path for path in folder.glob("step-*.pt") if _NAME.fullmatch(path.name)]
    return sorted(named, key=lambda path: int(path.stem.removeprefix("step-")), reverse=True)


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint in `folder`, or None."""
    return next(iter(checkpoints(folder)), None)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The state in a checkpoint. Only tensors and plain values are read; no code in the file is run.

    Raises:
        DamagedFile: a truncated file, or values that are not those that were written.
        CheckpointError: no such file, a foreign one, or one above the limit of memory.
    """
    check_regular(path)
    _check_declared(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing") from error
    except Exception as error:  # torch raises whatever the damage runs into
        raise DamagedFile(f"{path} cannot be read as a checkpoint: truncated, or not written by scoresde") from error
    if not isinstance(state, dict) or state.get("format") not in (_FORMAT, _WITHOUT_DIGEST):
        raise CheckpointError(f"{path} is no checkpoint of scoresde: expected a file written by `scoresde train`")
    known = state.pop(DIGEST, None)
    try:
        found = _digest_of_state(state)
    except ValueError as error:
        raise DamagedFile(f"{path} is damaged: {error}") from error
    if state["format"] == _FORMAT and known != found:
        raise DamagedFile(f"{path} is damaged: its values are not those that were written")
    return state


def _check_declared(path: Path) -> None:
    """Hold what an archive says that it unpacks to, to the limit of memory, before any of it is unpacked."""
    try:
        check_unpacked(path, f"checkpoint {path}")
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    except OSError:
        return  # torch says what is wrong with it


def _digest_of_state(state: dict[str, Any]) -> str:
    """Digest of the tensors and plain values in nested containers.

    Raises:
        ValueError: a tensor of which not every element is stored.
    """
    tensors: dict[str, Tensor] = {}
    others: list[tuple[str, str]] = []

    def walk(node: Any, name: str) -> None:
        if isinstance(node, Tensor):
            # One that repeats its elements, or has none, could be of any size.
            stored = node.layout is torch.strided and node.device.type != "meta"
            if not stored or node.numel() * node.element_size() > node.untyped_storage().nbytes():
                raise ValueError(f"the elements of tensor {name} are not stored one by one")
            tensors[name] = node
        elif isinstance(node, dict):
            for key, value in node.items():
                walk(value, f"{name}/{key!r}")
        elif isinstance(node, list | tuple):
            for index, value in enumerate(node):
                walk(value, f"{name}/{index}")
        else:
            others.append((name, repr(node)))

    walk(state, "")
    return hashlib.sha256(json.dumps([digest(tensors), sorted(others)]).encode()).hexdigest()


def check_tensors(found: Any, wanted: Mapping[str, Tensor], what: str) -> None:
    """Compare tensors of a file with those that they are to replace, before any is used.

    Raises:
        ValueError: other names, another shape or dtype, or values that are not finite; `what` says whose.
    """
    if not isinstance(found, dict):
        raise ValueError(f"{what} tensors are missing")
    if found.keys() != wanted.keys():
        one = min((str(name) for name in found.keys() ^ wanted.keys()), key=len)
        raise ValueError(f"{what} {one} is {'missing' if one in wanted else 'unknown'}")
    for name, target in wanted.items():
        check_tensor(found[name], target, f"{what} {name}")


def check_tensor(found: Any, wanted: Tensor, what: str) -> None:
    """As `check_tensors`, of one; `wanted` may be on the meta device."""
    if not isinstance(found, Tensor) or found.layout is not torch.strided:
        raise ValueError(f"{what} is no tensor")
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        one, other = (f"{str(x.dtype).removeprefix('torch.')} {tuple(x.shape)}" for x in (found, wanted))
        raise ValueError(f"{what} is {one}, expected {other}")
    if not bool(found.isfinite().all()):
        raise ValueError(f"{what} has values that are not finite")


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write tensors as a safetensors file, with their digest among the metadata."""
    plain = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    data = safetensors_bytes(plain, {**metadata, DIGEST: digest(plain)})
    write_atomically(path, lambda file: file.write(data))


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        CheckpointError: no such file, a truncated or foreign one, or tensors that are not those that were written.
    """
    load_header(path)  # what it declares is checked before any of it is read
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            metadata = file.metadata()
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} cannot be read as a safetensors file: truncated, or of another format"
        ) from error
    if not is_intact(tensors, metadata):
        raise DamagedFile(f"{path} is damaged: its tensors are not those that were written; restore it from a copy")
    return tensors


def load_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file; empty if there are none, or no such file."""
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError):
        return {}


def load_header(path: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """Shapes of the tensors of a safetensors file by name, and its metadata; nothing else of the file is read.

    Raises:
        CheckpointError: no such file, a truncated or foreign one, or one of more memory than is allowed.
    """
    try:
        tensors, metadata = read_tensor_header(path)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path} is missing: the run has no trained model yet; "
            f"`{shell.command('train', shell.override('run', path.parent))}`"
        ) from error
    return {name: shape for name, (_, shape) in tensors.items()}, metadata
