"""Files that are whole or not there: atomic writes, checkpoints and model files."""

import contextlib
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from scoresde.bounded import CheckpointError, DamagedFile, check_regular
from scoresde.digests import DIGEST, digest, is_intact

__all__ = [
    "CheckpointError",
    "DamagedFile",
    "latest_checkpoint",
    "load_checkpoint",
    "load_metadata",
    "load_tensors",
    "save_checkpoint",
    "save_tensors",
    "set_aside",
    "write_atomically",
]

_NAME = re.compile(r"step-(\d+)\.pt")
_FORMAT = "scoresde-checkpoint-1"


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


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], keep: int) -> Path:
    """Write `state` as the checkpoint of `step`, then remove all but the newest `keep`."""
    path = folder / f"step-{step:09d}.pt"

    def write(file: BinaryIO) -> None:
        try:
            torch.save({"format": _FORMAT, "step": step, **state}, file)
        except RuntimeError as error:
            # torch closes its archive after a failed write and reports that, not the full disk.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise

    write_atomically(path, write)
    for old in sorted(_checkpoints(folder), key=_step_of)[:-keep]:
        old.unlink()
    return path


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint in `folder`, or None."""
    return max(_checkpoints(folder), key=_step_of, default=None)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The state in a checkpoint. Only tensors and plain values are read; no code in the file is run.

    Raises:
        CheckpointError: no such file, or a truncated or foreign one.
    """
    check_regular(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing") from error
    except Exception as error:  # torch raises whatever the damage runs into
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint (truncated, or not written by scoresde): "
            "remove it to go on from the one before"
        ) from error
    if not isinstance(state, dict) or state.get("format") != _FORMAT:
        raise CheckpointError(f"{path} is no checkpoint of scoresde: expected a file written by `scoresde train`")
    return state


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
    check_regular(path)
    if not path.exists():
        raise CheckpointError(
            f"{path} is missing: the run has no trained model yet; `scoresde train run={path.parent}`"
        )
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


def _checkpoints(folder: Path) -> list[Path]:
    """Those that this module named; other files in the folder are the user's."""
    return [path for path in folder.glob("step-*.pt") if _NAME.fullmatch(path.name)]


def _step_of(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))
