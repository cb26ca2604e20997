"""Tensors that PyTorch has saved (.pt, .pth), read without running anything, and those of safetensors files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scoresde.data.array_files import ArrayFile, Header, one_line
from scoresde.storage.bounded import CheckpointError
from scoresde.storage.bounded_tensors import read_tensor_header
from scoresde.storage.limits import check_unpacked

__all__ = ["SafetensorsFile", "TorchFile"]


class _Tensors(ArrayFile):
    """Tensors that are kept in a mapping."""

    _tensors: Mapping[str, Any]

    def names(self) -> list[str]:
        """Names of the tensors."""
        return list(self._tensors)

    def header(self, name: str) -> Header:
        """Shape and type of one tensor; a list of words, such as names of classes, counts as an array of text."""
        value = self._tensors[name]
        if not isinstance(value, Tensor):
            return Header(value.shape, value.dtype)
        return Header(tuple(value.shape), np.dtype(_numpy_type(value.dtype)))

    def read(self, name: str) -> np.ndarray:
        """One tensor; bfloat16, which numpy lacks, as float32."""
        value = self._tensors[name]
        if not isinstance(value, Tensor):
            array: np.ndarray = value
            return array
        return value.detach().to(getattr(torch, _numpy_type(value.dtype), value.dtype)).contiguous().numpy()


def _numpy_type(dtype: torch.dtype) -> str:
    name = str(dtype).removeprefix("torch.")
    known = {"bfloat16": "float32", "bool": "bool"}.get(name, name)
    return known if hasattr(np, known) else "object"


class TorchFile(_Tensors):
    """A file that `torch.save` wrote: a tensor, a tuple `(x, y)` of two, or a dictionary of tensors; nothing is run.

    Raises:
        ValueError: Anything else, a damaged file, or one above the limit of memory.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        check_unpacked(path, str(path))
        try:
            found = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # of objects that are no tensors, or of damage
            raise ValueError(
                f"{path} holds objects or is damaged; save tensors alone: torch.save({{'x': x, 'y': y}}, path)"
            ) from error
        if isinstance(found, Tensor):
            self.single, found = True, {path.stem: found}
        elif isinstance(found, list | tuple) and len(found) == 2:  # as torchvision's MNIST was saved
            found = dict(zip(("x", "y"), found, strict=True))
        if not isinstance(found, dict):
            raise ValueError(
                f"{path} holds a {type(found).__name__}, expected a tensor, a pair (x, y) or a dictionary of tensors"
            )
        self._tensors = {str(k): v if isinstance(v, Tensor) else _words(v) for k, v in found.items()}


def _words(value: Any) -> np.ndarray:
    """A list of strings or integers as an array; one of objects, which is refused later, for anything else."""
    plain = isinstance(value, list | tuple) and len({type(v) for v in value}) == 1 and type(value[0]) in (str, int)
    return np.array(value) if plain else np.array(None)


class SafetensorsFile(_Tensors):
    """A safetensors file.

    Raises:
        ValueError: A damaged file, or one above the limit of memory.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            read_tensor_header(path)
        except CheckpointError as error:
            raise ValueError(str(error)) from error
        from safetensors.torch import load_file

        try:
            self._tensors = load_file(path)
        except Exception as error:
            raise ValueError(f"{path} is damaged: {one_line(error)}") from error
