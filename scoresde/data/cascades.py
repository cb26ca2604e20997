"""The data of the models of a cascade: at low resolution, and at full resolution given the others."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from scoresde.arguments import checked
from scoresde.data.affine import Standardise
from scoresde.data.base import Data
from scoresde.data.conditions import condition_infos, scales_of
from scoresde.data.low_resolution import LowResolution
from scoresde.data.transforms import Discrete, Transform, moments

__all__ = ["CascadePart", "base_data", "condition_scales", "super_resolution_data"]


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
    parts = [low(values.double()) for values in (data.train[:], data.test[:])]
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


def condition_scales(data: Data, low: LowResolution) -> dict[str, tuple[tuple[float, ...], tuple[float, ...]]]:
    """Means and standard deviations over the training data of all conditions that have them, by name."""
    found = scales_of(condition_infos(data.train_conditions or {}))
    small = base_data(data, low)
    # As `conditions` has them: model space is where discrete data are continuous.
    raw = small.train[:]
    values = raw.double() if small.transform.levels is None else small.transform.encode(raw)
    mean, std = (scale.flatten() for scale in moments(values, keep=1))
    std = (std.square() + low.augmentation**2 / 3).sqrt()
    std = torch.where(std > 0, std, torch.ones_like(std))
    found["image"] = (tuple(mean.tolist()), tuple(std.tolist()))
    if low.augmentation:
        means, stds = found.get("vector", ((), ()))
        found["vector"] = ((*means, low.augmentation / 2), (*stds, low.augmentation / math.sqrt(12)))
    return found


@checked
@dataclass(frozen=True)
class CascadePart:
    """The data of one model of a cascade, made of the data at full resolution; a run's configuration names it.

    >>> from scoresde.data import digits
    >>> CascadePart(reduced=2).of(digits()).shape
    (1, 4, 4)
    >>> CascadePart(reduced=2, factor=2).of(digits()).condition_shapes
    {'image': (1, 2, 2)}

    Args:
        reduced: The side of the cells whose means are the samples; 1 for samples at full resolution.
        factor: The side of the cells of these samples whose means are the model's condition; None for a base model.
        augmentation: The largest level of the noise in the condition; see `LowResolution`.

    Raises:
        ValueError: A side below 1, neither of the two, or noise without a condition.
    """

    reduced: int = 1
    factor: int | None = None
    augmentation: float = 0.0

    def __post_init__(self) -> None:
        if self.reduced < 1:
            raise ValueError(f"reduced is {self.reduced}, expected at least 1, with which samples stay as they are")
        if self.reduced == 1 and self.factor is None:
            raise ValueError("reduced is 1 and factor is None, which is no part of a cascade: give one of them")
        if self.factor is not None:
            LowResolution(self.factor, self.augmentation)
        elif self.augmentation:
            raise ValueError(f"augmentation is {self.augmentation:g} without a condition to add noise to: give factor")

    def whole_levels(self, levels: int, shape: Sequence[int]) -> int:
        """The number of levels at full resolution of data whose part, of a shape, has so many."""
        cells: int = self.reduced ** (len(shape) - 1)
        return (levels - 1) // cells + 1

    def of(self, data: Data) -> Data:
        """The data of this model.

        Raises:
            ValueError: Shapes that cannot be divided into cells, or data with an image as a condition already.
        """
        if self.reduced > 1:
            data = base_data(data, LowResolution(self.reduced))
        return (
            data if self.factor is None else super_resolution_data(data, LowResolution(self.factor, self.augmentation))
        )
