"""Digests of tensors: what identifies a model, and shows that a file has changed since it was written."""

import hashlib
import json
import re
from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["DIGEST", "digest", "is_intact"]

DIGEST = "digest"  # key of the metadata of a safetensors file
_VALUES = 2**24  # copied at once
_HEXADECIMAL = re.compile("[0-9a-f]{64}")


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Hexadecimal SHA-256 of the names, dtypes, shapes and bytes of tensors, in the order of their names.

    Unlike a hash of a file it depends on nothing else: safetensors writes its metadata in a random order.
    """
    total = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu()
        total.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode() + b"\n")
        # In parts, as a view of a file that is not in order would be copied into memory as a whole.
        whole = value.is_contiguous() or value.ndim == 0
        for part in (value,) if whole else value.split(max(1, _VALUES // max(1, value[:1].numel()))):
            total.update(part.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def is_intact(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None) -> bool:
    """Whether tensors are those that `metadata` was written with; True where it has no digest (older files)."""
    known = metadata or {}
    if DIGEST in known:
        return known[DIGEST] == digest(tensors)
    # Its name may be what is damaged.
    return not any(_HEXADECIMAL.fullmatch(value) for value in known.values())
