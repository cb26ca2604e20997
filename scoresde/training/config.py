"""From configuration to objects, and no further than an allow-list.

A configuration names classes by `_target_`. A run directory may come from a stranger, so only the classes and
functions that experiments are made of can be named: nothing else is imported, let alone called.
"""

import importlib
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate as hydra_instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from scoresde.training.signatures import problems

__all__ = ["ConfigError", "check_targets", "instantiate"]

ALLOWED = (
    "scoresde.data",
    "scoresde.divergence",
    "scoresde.likelihood.dequantisation",
    "scoresde.metrics",
    "scoresde.networks",
    "scoresde.objectives",
    "scoresde.preconditioning",
    "scoresde.sampling",
    "scoresde.sde",
    "scoresde.training.ema",
    "scoresde.training.loggers",
    "scoresde.training.loop",
    "torch.optim",
)


class ConfigError(ValueError):
    """A configuration that cannot be used."""


def _within(module: str, packages: Sequence[str]) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def _check_target(target: Any, allow: Sequence[str]) -> None:
    refusal = ConfigError(
        f"_target_ {target!r} is not allowed: a configuration may name classes of {', '.join(ALLOWED)}"
        " (your own package: allow=[package] on the command line)"
    )
    if not isinstance(target, str) or "." not in target:
        raise refusal
    if _within(target, allow):
        return
    if not _within(target, ALLOWED):
        raise refusal
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"_target_ {target!r} does not exist") from error
    ours = (inspect.isclass(found) or inspect.isfunction(found)) and _within(found.__module__, ALLOWED[:-1])
    optimiser = inspect.isclass(found) and issubclass(found, torch.optim.Optimizer)
    if name.startswith("_") or not (ours or optimiser):
        raise refusal


def check_targets(node: Any, allow: Sequence[str] = ()) -> None:
    """Refuse any `_target_` in plain containers that is not in the allow-list.

    Args:
        node: dicts and lists.
        allow: further packages, trusted by the user.

    Raises:
        ConfigError: naming the target.
    """
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "_target_":
                _check_target(value, allow)
            else:
                check_targets(value, allow)
    elif isinstance(node, list):
        for value in node:
            check_targets(value, allow)


def instantiate(config: DictConfig, key: str, allow: Sequence[str] = (), **arguments: Any) -> Any:
    """The object that `config.key` describes; `arguments` are added to its own.

    Raises:
        ConfigError: no such key, a `_target_` outside the allow-list, or arguments that its class does not take.
    """
    node = OmegaConf.select(config, key)
    if node is None:
        raise ConfigError(f"the configuration has no {key}")
    try:
        plain = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{key}: {' '.join(str(error).split())}") from error
    check_targets(plain, allow)
    for problem in problems(plain, key, tuple(arguments)):
        raise ConfigError(problem)
    try:
        return hydra_instantiate(plain, **arguments, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__ or error
        if isinstance(cause, (ValueError, TypeError, ArithmeticError, OSError, ImportError)):
            text = " ".join(str(cause).split())
        else:
            text = f"{type(cause).__name__}: {' '.join(str(cause).split())}"
        raise ConfigError(f"{key}: {text}") from error
