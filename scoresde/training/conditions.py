"""Conditions beside labels in training: those of the data that a model takes, and their scale."""

from typing import Any

from scoresde.chains import DiscreteChainModel
from scoresde.data import Data
from scoresde.data.cascades import condition_scales
from scoresde.data.conditions import condition_infos, scales_of
from scoresde.networks.conditions import set_scales
from scoresde.score import NetworkScore, NoisyClassifier, ScoreModel

__all__ = ["check_conditions", "scale_conditions", "taken_conditions"]


def taken_conditions(model: Any, data: Data) -> tuple[str, ...]:
    """Names of the data's conditions beside labels that a model takes."""
    return tuple(name for name in data.train_conditions or () if model.takes_condition(name))


def check_conditions(model: ScoreModel | DiscreteChainModel | NoisyClassifier, data: Data) -> None:
    """Reject data without the conditions that a model takes, or with those of another size.

    Raises:
        ValueError: Such data.
    """
    wanted, given = model.condition_shapes, data.condition_shapes
    if (low := data.low_resolution) is not None:
        option = {"image": "image_channels", "vector": "vector_size"}
        for name in ("image", "vector") if low.augmentation else ("image",):
            if not model.takes_condition(name):
                raise ValueError(
                    f"{data.name} is for super-resolution, and the network takes no {name}: build it with "
                    f"{option[name]}={given[name][0]}"
                )
    for name, shape in wanted.items():
        if name not in given:
            raise ValueError(
                f"the network takes {name} {_text(shape)}, and {data.name} has {', '.join(given) or 'no conditions'}: "
                f"give data with {name}, or make the network without"
            )
        check_size(name, shape, given[name], data.name)


def check_size(name: str, shape: tuple[int | None, ...], found: tuple[int, ...], where: str) -> None:
    """Reject a condition of another size than that which a network takes.

    Args:
        name: Name of the condition.
        shape: The shape that the network takes, of one sample.
        found: The shape that is given, of one sample.
        where: What it belongs to, for the message.

    Raises:
        ValueError: Another size.
    """
    # The channels of an image come first, the length of a token comes last.
    place = -1 if name == "tokens" else 0
    if found[place] != shape[place]:
        raise ValueError(f"the network takes {name} {_text(shape)}, and {where} has {name} {found}")


def _text(shape: tuple[int | None, ...]) -> str:
    return f"({', '.join('...' if size is None else str(size) for size in shape)}{',' if len(shape) == 1 else ''})"


def scale_conditions(model: NetworkScore | DiscreteChainModel | NoisyClassifier, data: Data) -> None:
    """Let a new model standardise the conditions of the data by the moments of the training part."""
    low = data.low_resolution
    scales = scales_of(condition_infos(data.train_conditions or {})) if low is None else condition_scales(data, low)
    set_scales(model.network, scales)
