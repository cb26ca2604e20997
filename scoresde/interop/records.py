"""The modules of EDM and EDM2 files as plain records: their tensors, their attributes and how they were made.

Each module is written as one call of the project's `torch_utils.persistence`, whose argument holds the source text of
the class; the genuine reader runs that text. Here the text is not looked at.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from scoresde.storage.bounded import CheckpointError
from scoresde.storage.pickles import Record, Refused
from scoresde.storage.torch_files import read_torch_file

__all__ = ["attributes", "module_state", "read_modules", "recorded_arguments"]

_VERSION = 6  # of the project's records
_CONTAINERS = tuple(f"torch.nn.modules.container.{name}" for name in ("ModuleDict", "ModuleList", "Sequential"))


def read_modules(path: Path) -> dict[str, Any]:
    """The content of a file of EDM or EDM2, with a `Record` for each module, whose name is that of its class.

    Raises:
        FileNotFoundError: No such file.
        CheckpointError: As for `read_torch_file`, or a file that holds no modules by name.
    """
    calls: dict[str, Callable[..., Any]] = {
        "torch_utils.persistence._reconstruct_persistent_obj": _persistent,
        "dnnlib.EasyDict": _easy,
        "dnnlib.util.EasyDict": _easy,
    }
    found = read_torch_file(path, calls, _CONTAINERS)
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds no dictionary, as the checkpoints that are known do")
    return found


def _easy(items: Any = None) -> dict[Any, Any]:
    items = {} if items is None else items
    if not isinstance(items, dict):
        raise Refused("a dictionary of another kind")
    return dict(items)


def _persistent(meta: Any) -> Record:
    if not isinstance(meta, dict) or meta.get("type") != "class" or not isinstance(meta.get("class_name"), str):
        raise Refused("a module of another kind than a class")
    if meta.get("version") != _VERSION:
        raise Refused(f"a module of version {str(meta.get('version'))[:20]}, where {_VERSION} is known")
    if not isinstance(meta.get("state"), dict):
        raise Refused("a module without attributes")
    return Record(meta["class_name"], meta["state"])


def attributes(module: Record) -> dict[str, Any]:
    """The attributes of a module, its tensors and parts among them."""
    return module.state if isinstance(module.state, dict) else {}


def module_state(module: Record, prefix: str = "") -> dict[str, Tensor]:
    """The state dict of a module: its parameters, its buffers that are kept, then those of its parts.

    Args:
        module: The module.
        prefix: Put before the names.

    Raises:
        CheckpointError: A parameter that is no tensor, or a part that is no module.
    """
    state = attributes(module)
    found: dict[str, Tensor] = {}
    passing = state.get("_non_persistent_buffers_set") or set()
    for group in ("_parameters", "_buffers"):
        for name, value in _named(state, group):
            if value is None or (group == "_buffers" and name in passing):
                continue
            if not isinstance(value, Tensor):
                raise CheckpointError(f"{prefix}{name} is no tensor in the file, but a {type(value).__name__}")
            found[f"{prefix}{name}"] = value
    for name, part in _named(state, "_modules"):
        if part is not None:
            if not isinstance(part, Record):
                raise CheckpointError(f"{prefix}{name} is no module in the file, but a {type(part).__name__}")
            found |= module_state(part, f"{prefix}{name}.")
    return found


def _named(state: Mapping[str, Any], group: str) -> list[tuple[str, Any]]:
    entries = state.get(group) or {}
    if not isinstance(entries, dict):
        raise CheckpointError(f"the modules of the file have no {group} by name")
    return [(str(name), value) for name, value in entries.items()]


def recorded_arguments(module: Record, positional: tuple[str, ...]) -> dict[str, Any]:
    """The arguments that a module was made with; those that were left at their defaults are not recorded.

    Args:
        module: The module.
        positional: Names of its arguments in order.

    Raises:
        CheckpointError: Arguments that are not recorded, or more than there are names.
    """
    state = attributes(module)
    args, kwargs = state.get("_init_args"), state.get("_init_kwargs")
    if not isinstance(args, list | tuple) or not isinstance(kwargs, dict) or len(args) > len(positional):
        raise CheckpointError(f"the file does not record how its {module.name} was made, and cannot be built from")
    return {**dict(zip(positional, args, strict=False)), **kwargs}
