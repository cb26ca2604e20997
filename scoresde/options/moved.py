"""Classes that configurations of earlier versions name otherwise than this one does, and arguments that are no more.

A run directory keeps the names of the version that wrote it: in `config.yaml`, and in what its weights and checkpoints
say that they were trained with. They are replaced wherever such a text is read, before anything is looked up, so that
the old names need no modules behind them. Version 0.1.0 named the modules of classes; configurations have named
packages since, so that a class can change its module without an entry here. Arguments that classes took once are left
out where their value did nothing, which is what happens without them.
"""

from collections.abc import Callable
from typing import Any

__all__ = ["MOVED", "current_name", "with_current_names", "with_first_names"]

MOVED = {
    "scoresde.divergence.Auto": "scoresde.likelihood.Auto",
    "scoresde.divergence.Exact": "scoresde.likelihood.Exact",
    "scoresde.divergence.Hutchinson": "scoresde.likelihood.Hutchinson",
    "scoresde.divergence.Probing": "scoresde.likelihood.Probing",
    "scoresde.likelihood.dequantisation.Posterior": "scoresde.likelihood.Posterior",
    "scoresde.likelihood.dequantisation.TruncatedNormal": "scoresde.likelihood.TruncatedNormal",
    "scoresde.likelihood.dequantisation.Uniform": "scoresde.likelihood.Uniform",
    "scoresde.likelihood.dequantisation.Variational": "scoresde.likelihood.Variational",
    "scoresde.training.ema.HalfLife": "scoresde.training.HalfLife",
    "scoresde.training.ema.PowerFunction": "scoresde.training.PowerFunction",
    "scoresde.training.loggers.LocalLogger": "scoresde.training.LocalLogger",
    "scoresde.training.loggers.TensorBoardLogger": "scoresde.training.TensorBoardLogger",
    "scoresde.training.loggers.WandbLogger": "scoresde.training.WandbLogger",
    "scoresde.training.loop.Training": "scoresde.training.Training",
}
"""The name today by each name that configuration files of earlier versions gave, the first version's names first."""

_GONE: dict[str, dict[str, Any]] = {"scoresde.data.digits": {"low_resolution": None}}
"""Arguments that classes of today's names took once, with the value that did nothing."""

_FIRST = {new: old for old, new in reversed(MOVED.items())}


def current_name(target: str) -> str:
    """The name of a class today."""
    return MOVED.get(target, target)


def with_current_names(node: Any) -> Any:
    """Plain containers with every `_target_` by its name today, without arguments that are no more and did nothing."""
    return _without_gone(_renamed(node, current_name))


def with_first_names(node: Any) -> Any:
    """Plain containers with every `_target_` by its first name, which stays the same whatever version wrote them."""
    return _renamed(node, lambda target: _FIRST.get(current_name(target), target))


def _renamed(node: Any, rename: Callable[[str], str]) -> Any:
    if isinstance(node, list):
        return [_renamed(value, rename) for value in node]
    if not isinstance(node, dict):
        return node
    return {
        key: rename(value) if key == "_target_" and isinstance(value, str) else _renamed(value, rename)
        for key, value in node.items()
    }


def _without_gone(node: Any) -> Any:
    if isinstance(node, list):
        return [_without_gone(value) for value in node]
    if not isinstance(node, dict):
        return node
    target = node.get("_target_")
    gone = _GONE.get(target, {}) if isinstance(target, str) else {}
    return {key: _without_gone(value) for key, value in node.items() if not (key in gone and value == gone[key])}
