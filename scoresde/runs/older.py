"""Runs of older versions: their data, of which they keep nothing in their directory, and samplers that were others."""

from typing import Any

from omegaconf import DictConfig, OmegaConf

from scoresde.data import Data
from scoresde.options.errors import ConfigError
from scoresde.sampling import Langevin, Multistep, PredictorCorrector, Sampler, TorchSDE

__all__ = ["differed", "former_arguments", "former_classes", "refuse_former_conditions"]

_SHORT = 15  # steps, below which the order of an Adams method falls at the end, if it does


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


def refuse_former_conditions(node: dict[str, Any]) -> None:
    """Reject digits whose condition is a smaller picture of each in units of pixels, as no data have it any more.

    Args:
        node: Plain configuration of the data.

    Raises:
        ConfigError: Such data.
    """
    side = node.get("low_resolution")
    if node.get("_target_") == "scoresde.data.digits" and side is not None:
        raise ConfigError(
            f"data.low_resolution is {side!r}, whose condition images were in other units than those of cascade=super: "
            "train a new run with experiment=digits_super"
        )


def former_classes(config: DictConfig, data: Data) -> tuple[str, ...] | None:
    """The order in which an older run counted the classes of its data: integers as they were, folders as text."""
    names, classes = data.class_names, OmegaConf.select(config, "network.num_classes")
    if names is None or classes is None:
        return names
    if OmegaConf.select(config, "data._target_") == "scoresde.data.image_folder":
        return tuple(sorted(names))
    numbers = tuple(map(str, range(classes)))
    return numbers if len(names) < classes and set(names) <= set(numbers) else names


def differed(sampler: Sampler) -> bool:
    """True if version 0.1.0 drew other samples by a sampler of the same settings.

    Its Langevin steps depended on the state, its noise for torchsde on the batch. Of Adams methods it extrapolated over
    long steps with noise, made nothing of the first steps good, and lowered the order at the end of grids of any
    length.
    """
    solver = sampler.solver.general()
    if isinstance(solver, PredictorCorrector):
        return isinstance(solver.corrector, Langevin)
    if not isinstance(solver, Multistep):
        return isinstance(solver, TorchSDE)
    if solver.stochastic:
        return max(solver.order, solver.corrector + 1) > 2
    order = min(solver.order, solver.corrector) + 1 if solver.corrector else solver.order
    lowered = solver.lower_order_final and max(solver.order, order) > 1
    return sampler.grid.steps >= _SHORT and (order > 2 or lowered)
