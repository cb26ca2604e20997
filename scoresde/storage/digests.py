"""Digests of tensors, which identify a model and show that a file has changed since it was written."""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["DIGEST", "digest", "is_intact"]

DIGEST = "digest"  # key in the metadata of a safetensors file
_ELEMENTS = 2**24  # elements copied at once
_HEXADECIMAL = re.compile("[0-9a-f]{64}")


def digest(tensors: Mapping[str, Any]) -> str:
    """Hexadecimal SHA-256 of the names, dtypes, shapes and bytes of tensors, in the order of their names.

    A hash of the file would depend on more: safetensors writes its metadata in a random order.

    Args:
        tensors: Tensors, or objects with the `dtype`, the `shape` and the method `split` of one, by name.
    """
    total = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name]
        total.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode() + b"\n")
        for part in _parts(value):
            total.update(part.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def _parts(value: Any) -> Iterable[Tensor]:
    """A tensor on the CPU in parts, since a view of a file that is not contiguous would be copied as a whole."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        if value.is_contiguous() or value.ndim == 0:
            return (value,)
    size = max(1, _ELEMENTS // max(1, math.prod(value.shape[1:])))
    parts: Iterable[Tensor] = value.split(size)
    return parts


def is_intact(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None) -> bool:
    """True if tensors are those that `metadata` was written with; True without a digest, as in older files."""
    known = metadata or {}
    if DIGEST in known:
        return known[DIGEST] == digest(tensors)
    # A digest under another name: the name itself is damaged.
    return not any(_HEXADECIMAL.fullmatch(value) for value in known.values())
