"""A device that is not the CPU, as far as a program can tell, and that notices when the program waits for it.

Its tensors say that they are on torch's device "meta", compute on the CPU, and count what brings a value to the host:
`item` and what asks for it (`float`, `bool`), copies to the CPU, and operations whose shape depends on values.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import optimizer as optimizers
from torch.utils import _foreach_utils as foreach
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

__all__ = ["DEVICE", "elsewhere"]

DEVICE = torch.device("meta")
_WAITS = ("_local_scalar_dense", "is_nonzero", "nonzero", "equal", "masked_select", "_unique2", "unique_dim")


class _Remote(Tensor):
    """A tensor on the device."""

    value: Tensor

    @staticmethod
    def __new__(cls, value: Tensor) -> "_Remote":
        out: _Remote = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, value.shape, strides=value.stride(), storage_offset=value.storage_offset(), dtype=value.dtype,
            layout=value.layout, device=DEVICE, requires_grad=False,
        )  # fmt: skip
        out.value = value
        return out

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def tolist(self) -> Any:
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} outside of the mode")


class _Generator(torch.Generator):
    def __new__(cls, device: object = "cpu") -> torch.Generator:  # type: ignore[misc]
        return super().__new__(cls, "cpu")  # type: ignore[call-arg]


class Elsewhere(TorchDispatchMode):
    """Runs operations of the device, and lists the names of those that wait."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        flat, _ = tree_flatten((args, kwargs))
        remote = any(isinstance(value, _Remote) for value in flat)
        wanted = kwargs.get("device")
        name = func.overloadpacket.__name__
        if remote and (name in _WAITS or (name == "_to_copy" and wanted is not None and wanted.type == "cpu")):
            self.waits.append(name)
        if name == "index" and remote and any(map(_is_mask, args[1])):
            self.waits.append("index by a mask")
        if name == "copy_" and isinstance(args[1], _Remote) and not isinstance(args[0], _Remote):
            self.waits.append("copy_")
        if wanted is not None and torch.device(wanted) == DEVICE:
            kwargs["device"] = torch.device("cpu")
        here_args, here_kwargs = tree_map(_local, (args, kwargs))
        out = func(*here_args, **here_kwargs)
        if func._schema.is_mutable:
            return kwargs.get("out", args[0] if out is not None else None)
        there = remote if wanted is None else torch.device(wanted) == DEVICE
        return tree_map(_remote, out) if there else out


def _local(value: Any) -> Any:
    return value.value if isinstance(value, _Remote) else value


def _remote(value: Any) -> Any:
    return _Remote(value) if isinstance(value, Tensor) else value


def _is_mask(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype in (torch.bool, torch.uint8)


@contextmanager
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A context in which `DEVICE` computes; yields the names of operations that waited for it so far."""
    fused = foreach._get_fused_kernels_supported_devices
    monkeypatch.setattr(torch, "Generator", _Generator)
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: nullcontext())
    monkeypatch.setattr(optimizers, "_get_fused_kernels_supported_devices", lambda: [*fused(), DEVICE.type])
    with Elsewhere() as mode:
        yield mode.waits
