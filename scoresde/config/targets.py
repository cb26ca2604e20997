"""From configuration to objects, and no further than an allow-list.

A configuration names classes by `_target_`, as Hydra's do, and a run directory may come from a stranger. So only the
classes and functions that experiments are made of can be named, and what was checked is what is called: names are
looked up here, part by part, and an object that a module merely has imported is refused. Nothing that is not allowed
is imported, let alone called.
"""

import functools
import importlib
import inspect
import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from scoresde.config.modules import folders_for, packages, top_level
from scoresde.config.start import DATA_PATHS, from_start
from scoresde.data import Data
from scoresde.options.errors import ConfigError
from scoresde.options.moved import current_name
from scoresde.options.signatures import problems
from scoresde.storage.limits import check_steps

__all__ = ["check_arguments", "check_local", "check_plain", "check_targets", "find_own", "instantiate"]

# Packages of which a configuration may name classes, and functions that make data sets.
ALLOWED = (
    "scoresde.data",
    "scoresde.guidance",
    "scoresde.inverse",
    "scoresde.likelihood",
    "scoresde.metrics",
    "scoresde.networks",
    "scoresde.objectives",
    "scoresde.preconditioning",
    "scoresde.sampling",
    "scoresde.sde",
    "scoresde.training",
    "torch.optim",
)
# Modules in which those classes are defined; what a package merely has imported, or is no part of experiments, is not.
HOMES = (
    "scoresde.data",
    "scoresde.guidance.choices",
    "scoresde.inverse",
    "scoresde.likelihood.dequantisation",
    "scoresde.metrics",
    "scoresde.networks",
    "scoresde.numerics.trace",
    "scoresde.objectives",
    "scoresde.sampling",
    "scoresde.score.noise_inputs",
    "scoresde.score.preconditioning",
    "scoresde.score.step_rules",
    "scoresde.sde",
    "scoresde.training.compact_adam",
    "scoresde.training.ema",
    "scoresde.training.loggers",
    "scoresde.training.options",
    "scoresde.training.services",
    "torch.optim",
)

# Modules whose functions make networks, or tables that a part of an experiment takes.
_MAKERS = ("scoresde.networks.published", "scoresde.sde.betas")

# Whose integers are numbers of steps, repeats, layers and the like.
_COUNTED = ("scoresde.numerics.trace", "scoresde.networks", "scoresde.objectives", "scoresde.sampling", "scoresde.sde")


def _within(module: str, packages: Sequence[str]) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def _find_target(target: Any, allow: Sequence[str]) -> Any:
    """The class or function of a name.

    Raises:
        ConfigError: Outside the allow-list and the packages of `allow`, in one of these but from elsewhere, or not
            there.
    """
    refusal = ConfigError(
        f"_target_ {target!r} is not allowed: a configuration may name classes of {', '.join(ALLOWED)}"
        f" (your own package: allow=[{_proposed(target)}], which is kept with the run)"
    )
    if not isinstance(target, str) or "." not in target or not all(map(str.isidentifier, target.split("."))):
        raise refusal
    target = current_name(target)
    package = next((p for p in (*allow, *ALLOWED) if target.startswith(f"{p}.")), None)
    if package is None:
        raise refusal
    found = _look_up(target, package, refusal)
    own = package in allow
    if not own and target.rpartition(".")[2].startswith("_"):
        raise refusal
    if inspect.isclass(found):
        fits = own or not _within(found.__module__, ["torch.optim"]) or issubclass(found, torch.optim.Optimizer)
    else:
        # Functions of the package are no parts of experiments, but for those that make data sets, networks or tables.
        fits = inspect.isfunction(found) and found.__name__ != "<lambda>"
        fits = fits and (own or inspect.signature(found).return_annotation is Data or found.__module__ in _MAKERS)
    if not fits or not _within(str(found.__module__), [package] if own else HOMES):
        raise refusal
    return found


def find_own(name: str, allow: Sequence[str]) -> Any:
    """The function or class of a dotted name that a command takes as such.

    Args:
        name: The dotted name.
        allow: The packages of the user's own that it may be in.

    Raises:
        ConfigError: Outside these packages, or not there.
    """
    package = next((p for p in allow if name.startswith(f"{p}.")), None)
    if package is None:
        raise ConfigError(
            f"{name!r} is not allowed: name its package, allow=[{_proposed(name)}], if you trust it to be run"
        )
    return _find_target(name, [package])


def _proposed(target: Any) -> str:
    names = packages([target]) if isinstance(target, str) else []
    return top_level(names[0]) if names and top_level(names[0]) not in ("scoresde", "torch") else "package"


def _look_up(target: str, package: str, refusal: ConfigError) -> Any:
    """The object of a dotted name: its parts are modules of the package, then a class or function, or one of a class.

    A module outside the package is not gone through, so that none of its attributes can be named.
    """
    found: Any = _import(package, target)
    for part in target.removeprefix(f"{package}.").split("."):
        if isinstance(found, ModuleType):
            if part in vars(found):
                found = vars(found)[part]
            elif _hands_on(found, part):
                found = getattr(found, part)
            elif hasattr(found, "__path__"):
                found = _import(f"{found.__name__}.{part}", target)
            else:
                raise ConfigError(f"_target_ {target!r} does not exist")
            if isinstance(found, ModuleType) and not _within(found.__name__, [package]):
                raise refusal
        elif inspect.isclass(found) and _within(str(found.__module__), [package]):
            if part not in vars(found):
                raise ConfigError(f"_target_ {target!r} does not exist")
            found = vars(found)[part]
        else:
            raise refusal
    return found


def _hands_on(module: ModuleType, name: str) -> bool:
    """True if a module of this package has a public name, which it may import lazily."""
    return _within(module.__name__, ["scoresde"]) and name in getattr(module, "__all__", ())


def _import(name: str, target: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:  # whatever the code of a user's own package raises
        if isinstance(error, ModuleNotFoundError) and error.name is not None and _within(name, [error.name]):
            places = "".join(f", nor in {folder}" for folder in folders_for(top_level(name)))
            raise ConfigError(
                f"_target_ {target!r} does not exist: there is no module {error.name} among the installed{places}"
            ) from error
        raise ConfigError(
            f"_target_ {target!r}: importing {name} fails: {type(error).__name__}: {' '.join(str(error).split())}"
            f"{_beside(name, error)}"
        ) from error


def _beside(name: str, error: Exception) -> str:
    """The way out if a module needs another that lies in its folder."""
    needed = top_level(error.name or "") if isinstance(error, ModuleNotFoundError) else ""
    folders = map(Path, folders_for(top_level(name)))
    if needed and any((folder / f"{needed}.py").is_file() or (folder / needed).is_dir() for folder in folders):
        return f"; {needed} lies beside it: allow=[{top_level(name)},{needed}]"
    return ""


def check_targets(node: Any, allow: Sequence[str] = ()) -> None:
    """Refuse any `_target_` in plain containers that is not in the allow-list.

    Args:
        node: Dicts and lists.
        allow: Further packages, trusted by the user.

    Raises:
        ConfigError: The message names the target, or a special key with a value that it does not take.
    """
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "_target_":
                _find_target(value, allow)
            else:
                check_targets(value, allow)
        if "_target_" in node:
            _check_special(node)
    elif isinstance(node, list):
        for value in node:
            check_targets(value, allow)


def check_arguments(node: Any, key: str, allow: Sequence[str] = (), given: Sequence[str] | None = None) -> None:
    """Refuse targets that are not allowed, and arguments that they do not take.

    Args:
        node: Plain containers.
        key: Dotted name of the node.
        allow: Further packages, trusted by the user.
        given: Parameters of the node's own target that the program adds; None if they are not known.

    Raises:
        ConfigError: The message names the target, or the key with what is expected.
    """
    check_targets(node, allow)
    for problem in problems(node, key, lambda target: _find_target(target, allow), given):
        raise ConfigError(problem)


# Types of Hydra's special keys: by position, partial, recursive, conversion of containers.
_SPECIAL = {"_target_": str, "_args_": list, "_partial_": bool, "_recursive_": bool, "_convert_": str}


def _check_special(node: dict[Any, Any]) -> None:
    for key, value in node.items():
        if not (isinstance(key, str) and key.startswith("_") and key.endswith("_")):
            continue
        if not isinstance(value, _SPECIAL.get(key, ())) or (key == "_convert_" and value != "all"):
            raise ConfigError(
                f"{key} of {node['_target_']} is {value!r}, expected one of _args_: [...], _partial_: true or false, "
                "_recursive_: true or false, _convert_: all"
            )


def check_plain(node: Any, file: Any) -> None:
    """Refuse interpolations anywhere in plain containers, in keys as in values.

    Configurations are written resolved. An interpolation in one of a stranger could read the environment of whoever
    opens it.

    Raises:
        ConfigError: The message names `file`.
    """
    for value in _leaves(node):
        if isinstance(value, str) and "${" in value:
            raise ConfigError(f"{file} has an interpolation (${{...}}), which no run directory needs: write its value")


def check_local(node: Any, file: Any, allow: Sequence[str] = ()) -> None:
    """Refuse addresses of other machines in the data of a run directory: nothing is fetched because a file says so.

    Args:
        node: The configuration of the data.
        file: Its file, for the message.
        allow: What such addresses may begin with; from the user.

    Raises:
        ConfigError: The message names the address.
    """
    for value in _leaves(node):
        if not isinstance(value, str) or not ("://" in value or "::" in value or value.startswith(("\\\\", "//"))):
            continue
        allowed = any("://" in prefix and value.startswith(prefix) for prefix in allow)
        if not allowed or value.count("://") > 1:
            start = value.partition("://")[0] + "://"
            raise ConfigError(
                f"the data of {file} are at {value[:200]!r}, on another machine: only local files and names on the "
                f"hub are read for a run directory; if you trust it, allow=['{start}...'] with the address's beginning"
            )


def _leaves(node: Any) -> list[Any]:
    """Plain values and keys of plain containers."""
    found, rest = [], [node]
    while rest:
        each = rest.pop()
        if isinstance(each, dict):
            rest += [*each.keys(), *each.values()]
        elif isinstance(each, list):
            rest += each
        else:
            found.append(each)
    return found


def _check_counts(target: Any, arguments: dict[str, Any]) -> None:
    """Refuse numbers of steps, repeats, layers and the like with which a command would not end."""
    if _within(target.__module__, _COUNTED):
        for name, parameter in inspect.signature(target).parameters.items():
            value = arguments.get(name)
            counted = name != "seed" and parameter.annotation in (int, int | None)
            if counted and isinstance(value, int) and not isinstance(value, bool):
                check_steps(value, name)


def instantiate(config: DictConfig, key: str, allow: Sequence[str] = (), **arguments: Any) -> Any:
    """The object that `config.key` describes; `arguments` are added to its own.

    As Hydra's `instantiate` with plain containers, and with its `_args_`, `_partial_` and `_recursive_`.

    Raises:
        ConfigError: No such key, a `_target_` outside the allow-list, or arguments that its class does not take.
    """
    node = OmegaConf.select(config, key)
    if node is None:
        raise ConfigError(f"the configuration has no {key}")
    try:
        plain = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    except (OmegaConfBaseException, ValueError) as error:  # the latter: a plain value in place of a mapping
        raise ConfigError(f"{key}: {' '.join(str(error).split())}") from error
    if not isinstance(plain, dict) or "_target_" not in plain:
        raise ConfigError(f"{key} has no _target_: expected the class that makes it, and its arguments")
    check_arguments(plain, key, allow, tuple(arguments))
    try:
        return _build(plain, allow, arguments)
    except Exception as error:
        text = " ".join(str(error).split())
        # torch says it by a RuntimeError on the CPU.
        if isinstance(error, MemoryError) or "allocate memory" in text:
            raise ConfigError(f"{key}: there is not enough memory for its sizes: give smaller ones") from error
        if not isinstance(error, (ValueError, TypeError, ArithmeticError, OSError, ImportError)):
            text = f"{type(error).__name__}: {text}"
        raise ConfigError(f"{key}: {text}") from error


def _build(node: Any, allow: Sequence[str], arguments: dict[str, Any] | None = None) -> Any:
    if isinstance(node, list):
        return [_build(value, allow) for value in node]
    if not isinstance(node, dict):
        return node
    if "_target_" not in node:
        return {key: _build(value, allow) for key, value in node.items()}
    target = _find_target(node["_target_"], allow)
    named = {key: _placed(key, value) for key, value in node.items() if key not in _SPECIAL}
    given = node.get("_args_", [])
    if node.get("_recursive_", True):
        named, given = {key: _build(value, allow) for key, value in named.items()}, _build(given, allow)
    named |= arguments or {}
    _check_counts(target, named)
    return functools.partial(target, *given, **named) if node.get("_partial_") else target(*given, **named)


def _placed(key: str, value: Any) -> Any:
    """The value of an argument; the path of a file that exists, as it is from where the command was started."""
    if key in DATA_PATHS:
        if isinstance(value, str):
            place = from_start(value)
            return place if os.path.exists(place) else value  # also names on a hub are paths of data
        if isinstance(value, list):
            return [_placed(key, each) for each in value]
        if isinstance(value, dict):
            return {name: _placed(key, each) for name, each in value.items()}
    return value
