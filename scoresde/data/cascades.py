"""The data of the models of a cascade: at low resolution, and at full resolution given the others."""

import math
from dataclasses import replace

import torch

from scoresde.data.affine import Standardise
from scoresde.data.base import Data
from scoresde.data.conditions import condition_infos, scales_of
from scoresde.data.low_resolution import LowResolution
from scoresde.data.transforms import Discrete, Transform, moments

__all__ = ["base_data", "condition_scales", "condition_shapes", "super_resolution_data"]


def base_data(data: Data, low: LowResolution) -> Data:
    """The same data at low resolution, for a base model, whose samples are conditions of the other model.

    >>> from scoresde.data import digits
    >>> base_data(digits(), LowResolution(2)).shape
    (1, 4, 4)

    Levels become so many more that every mean is one, on a range on which their centres in model space are the
    means of those of the pixels.

    Raises:
        ValueError: Shapes that cannot be divided into cells.
    """
    low.check(data.shape)
    cells = low.factor ** (len(data.shape) - 1)
    whole = data.transform.levels is not None
    parts = [low(values.double()) for values in (data.train, data.test)]
    if whole:
        parts = [(cells * values).round().to(torch.int32) for values in parts]
    train, test = (p if whole else p.to(data.train.dtype) for p in parts)
    transform: Transform
    if isinstance(data.transform, Discrete):
        levels, bottom, top = data.transform.levels, data.transform.low, data.transform.high
        width, count = (top - bottom) / (levels * cells), (levels - 1) * cells + 1
        start = bottom + (cells - 1) / 2 * width
        transform = Discrete(count, start, start + count * width)
    else:
        transform = Standardise.fit(train)
    sizes = "×".join(str(n // low.factor) for n in data.shape[1:])
    return replace(
        data,
        name=f"{data.name} at {sizes}",
        train=train,
        test=test,
        transform=transform,
        mixture=None,
        low_resolution=None,
    )


def super_resolution_data(data: Data, low: LowResolution) -> Data:
    """The data for a super-resolution model, which in training is given the images at low resolution.

    Raises:
        ValueError: Shapes that cannot be divided into cells, or data with an image as a condition already.
    """
    low.check(data.shape)
    if "image" in (data.train_conditions or {}):
        raise ValueError(f"{data.name} has an image as a condition already, expected data without")
    return replace(data, low_resolution=low)


def condition_shapes(data: Data, low: LowResolution) -> dict[str, tuple[int, ...]]:
    """The shapes of all conditions of a sample in training, by name."""
    found = {name: tuple(values.shape[1:]) for name, values in (data.train_conditions or {}).items()}
    found["image"] = (data.shape[0], *(size // low.factor for size in data.shape[1:]))
    if low.augmentation:
        found["vector"] = (1 + sum(found.get("vector", ())),)
    return found


def condition_scales(data: Data, low: LowResolution) -> dict[str, tuple[tuple[float, ...], tuple[float, ...]]]:
    """Means and standard deviations over the training data of all conditions that have them, by name."""
    found = scales_of(condition_infos(data.train_conditions or {}))
    small = base_data(data, low)
    # As `conditions` has them: model space is where discrete data are continuous.
    values = small.train.double() if small.transform.levels is None else small.transform.encode(small.train)
    mean, std = (scale.flatten() for scale in moments(values, keep=1))
    std = (std.square() + low.augmentation**2 / 3).sqrt()
    std = torch.where(std > 0, std, torch.ones_like(std))
    found["image"] = (tuple(mean.tolist()), tuple(std.tolist()))
    if low.augmentation:
        means, stds = found.get("vector", ((), ()))
        found["vector"] = ((*means, low.augmentation / 2), (*stds, low.augmentation / math.sqrt(12)))
    return found
