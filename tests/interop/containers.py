"""Files in the containers of other projects, written here: small, and without code of anybody."""

import contextlib
import io
import os
import pickle
import sys
import types
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

SOURCES = Path(os.environ.get("SCORESDE_CHECKPOINTS") or Path(__file__).parents[3] / "shared" / "checkpoints")
"""Checkpoints that the projects' own code wrote, where a checkout has them beside it, or where a variable says."""


class Persistent:
    """A module as the project's `torch_utils.persistence` writes it: one call with everything about it."""

    def __init__(self, class_name: str, state: dict[str, Any]) -> None:
        self.meta = {
            "type": "class", "version": 6, "module_src": "raise SystemExit", "class_name": class_name, "state": state
        }  # fmt: skip

    def __reduce__(self) -> Any:
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (self.meta,)


class EasyDict(dict):
    """The dictionary that these files are of."""


def module(
    class_name: str,
    tensors: dict[str, Tensor] | None = None,
    buffers: dict[str, Tensor] | None = None,
    parts: dict[str, Any] | None = None,
    made_with: dict[str, Any] | None = None,
    passing: tuple[str, ...] = (),
    **attributes: Any,
) -> Persistent:
    """A module of these parameters, buffers and parts."""
    state = {
        "_init_args": (),
        "_init_kwargs": made_with or {},
        "_parameters": OrderedDict((k, nn.Parameter(v)) for k, v in (tensors or {}).items()),
        "_buffers": buffers or {},
        "_non_persistent_buffers_set": set(passing),
        "_modules": OrderedDict(parts or {}),
        "training": False,
        **attributes,
    }
    return Persistent(class_name, state)


def nested(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Modules for tensors by dotted names, as parts of one; what is below `enc` and `dec` is in a `ModuleDict`."""
    inner: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        head, _, rest = name.partition(".")
        inner.setdefault(head, {})[rest] = value
    found: dict[str, Any] = {}
    for head, within in inner.items():
        own = {name: value for name, value in within.items() if "." not in name}
        deeper = nested({name: value for name, value in within.items() if "." in name})
        if head in ("enc", "dec"):
            found[head] = nn.ModuleDict()
            found[head].__dict__["_modules"] = OrderedDict(deeper)
        else:
            found[head] = module("Layer", own, parts=deeper)
    return found


@contextlib.contextmanager
def stand_ins() -> Iterator[None]:
    """Within, pickles may name what the projects' do."""
    made = {
        name: types.ModuleType(name) for name in ("torch_utils", "torch_utils.persistence", "dnnlib", "dnnlib.util")
    }

    def reconstruct(meta: Any) -> None:
        raise AssertionError("genuine code was called")

    reconstruct.__module__, reconstruct.__qualname__ = "torch_utils.persistence", "_reconstruct_persistent_obj"
    made["torch_utils.persistence"].__dict__["_reconstruct_persistent_obj"] = reconstruct
    made["dnnlib.util"].__dict__["EasyDict"] = EasyDict
    before = EasyDict.__module__
    EasyDict.__module__ = "dnnlib.util"
    sys.modules.update(made)
    try:
        yield
    finally:
        EasyDict.__module__ = before
        for name in made:
            del sys.modules[name]


def write_pickle(path: Path, content: Any, protocol: int = 4) -> Path:
    """A plain pickle, as EDM and EDM2 write them."""
    with stand_ins(), path.open("wb") as file:
        pickle.dump(content, file, protocol)
    return path


def write_torch(path: Path, content: Any, old: bool = False) -> Path:
    """A file of `torch.save`, in the zip container or in the older one."""
    with stand_ins():
        torch.save(content, path, _use_new_zipfile_serialization=not old)
    return path


def old_bytes(content: Any) -> bytes:
    """The bytes of the older container."""
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()
