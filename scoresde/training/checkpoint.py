"""Checkpoint files: written whole or not at all, with a digest of their values."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from scoresde.storage.bounded import CheckpointError, DamagedFile, check_regular
from scoresde.storage.digests import DIGEST, digest
from scoresde.storage.files import write_atomically
from scoresde.storage.limits import check_unpacked

__all__ = ["checkpoints", "latest_checkpoint", "load_checkpoint", "save_checkpoint"]

_NAME = re.compile(r"step-(\d+)\.pt")

_FORMAT = "scoresde-checkpoint-2"

_WITHOUT_DIGEST = "scoresde-checkpoint-1"


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], keep: int) -> Path:
    """Write a checkpoint, then remove all but the newest.

    Args:
        folder: Folder of the checkpoints.
        step: Step of the checkpoint, which names it.
        state: Tensors and plain values in nested containers.
        keep: Number of checkpoints that are kept.

    Returns:
        The file.
    """
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
        DamagedFile: A truncated file, or values that are not those that were written.
        CheckpointError: No such file, a foreign one, or one above the limit of memory.
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
    """Reject an archive that would unpack to more than the limit of memory, before any of it is unpacked."""
    try:
        check_unpacked(path, f"checkpoint {path}")
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    except OSError:
        return  # torch says what is wrong with it


def _digest_of_state(state: dict[str, Any]) -> str:
    """Digest of the tensors and plain values in nested containers.

    Raises:
        ValueError: A tensor whose elements are not all stored.
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
