"""Data of runs of older versions, which keep nothing of them in their directory."""

from typing import Any

from omegaconf import DictConfig, OmegaConf

from scoresde.data import Data

__all__ = ["former_arguments", "former_classes"]


def former_arguments(node: dict[str, Any]) -> dict[str, Any]:
    """Arguments that the data of an older run were read with, before there were others.

    Args:
        node: Plain configuration of the data.
    """
    then: dict[str, dict[str, Any]] = {
        # Levels, of any number, were mapped to [-1, 1], and continuous values had one scale.
        "scoresde.data.npz": {"standardise": "all" if node.get("levels") is None else "none", "channels_last": False},
        "scoresde.data.image_folder": {"split_folders": False},
    }
    return {key: value for key, value in then.get(str(node.get("_target_")), {}).items() if key not in node}


def former_classes(config: DictConfig, data: Data) -> tuple[str, ...] | None:
    """The order in which an older run counted the classes of its data: integers as they were, folders as text."""
    names, classes = data.class_names, OmegaConf.select(config, "network.num_classes")
    if names is None or classes is None:
        return names
    if OmegaConf.select(config, "data._target_") == "scoresde.data.image_folder":
        return tuple(sorted(names))
    numbers = tuple(map(str, range(classes)))
    return numbers if len(names) < classes and set(names) <= set(numbers) else names
