"""Tensors in safetensors files, and their checks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from scoresde import shell
from scoresde.storage.bounded import CheckpointError, DamagedFile
from scoresde.storage.bounded_tensors import read_tensor_header
from scoresde.storage.digests import DIGEST, digest, is_intact
from scoresde.storage.files import write_bytes

__all__ = ["check_tensor", "check_tensors", "load_header", "load_metadata", "load_tensors", "save_tensors"]


def check_tensors(found: Any, wanted: Mapping[str, Tensor], what: str) -> None:
    """Compare tensors of a file with those that they are to replace, before any is used.

    Raises:
        ValueError: Other names, another shape or dtype, or values that are not finite; the message calls them `what`.
    """
    if not isinstance(found, dict):
        raise ValueError(f"{what} tensors are missing")
    if found.keys() != wanted.keys():
        one = min((str(name) for name in found.keys() ^ wanted.keys()), key=len)
        raise ValueError(f"{what} {one} is {'missing' if one in wanted else 'unknown'}")
    for name, target in wanted.items():
        check_tensor(found[name], target, f"{what} {name}")


def check_tensor(found: Any, wanted: Tensor, what: str) -> None:
    """Compare one tensor of a file with the one that it is to replace, which may be on the meta device.

    Raises:
        ValueError: Another shape or dtype, or values that are not finite; the message calls it `what`.
    """
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
    write_bytes(path, data)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        CheckpointError: No such file, a truncated or foreign one, or tensors that are not those that were written.
    """
    load_header(path)  # its declared sizes are checked before any tensor is read
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
    """The metadata of a safetensors file; empty without metadata or without a file."""
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError):
        return {}


def load_header(path: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """Shapes of the tensors of a safetensors file by name, and its metadata; nothing else of the file is read.

    Raises:
        CheckpointError: No such file, a truncated or foreign one, or one of more memory than is allowed.
    """
    try:
        tensors, metadata = read_tensor_header(path)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path} is missing: the run has no trained model yet; "
            f"`{shell.command('train', shell.override('run', path.parent))}`"
        ) from error
    return {name: shape for name, (_, shape) in tensors.items()}, metadata
