"""Images at a lower resolution: as data of their own, and as conditions of the images that they were made of.

The two models of a cascade learn from these: the first the images at low resolution, the second those at full
resolution, given the others.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from scoresde.arguments import checked
from scoresde.data.affine import Standardise
from scoresde.data.conditions import condition_infos, scales_of
from scoresde.data.transforms import Discrete, Transform, moments
from scoresde.numerics.random import SampleNoise, Stream

if TYPE_CHECKING:  # which has one of these
    from scoresde.data.base import Data

__all__ = ["LowResolution"]


@checked
@dataclass(frozen=True)
class LowResolution:
    """Images by means over cells, with Gaussian noise (Ho et al. 2022b, section 3.3).

    A super-resolution model is trained on y + s ε, where y is the image at low resolution, ε standard normal noise and
    s a level that is drawn anew for each sample of a batch, uniformly from 0 to `augmentation`, and told to the
    network. It is then prepared for images that are not quite those of the data, such as a base model's. The noise is
    that of the paper's augmentation by the forward process, but for the factor α.

    In training on `conditioned(data)`, y + s ε is the condition `image`, at its own size. If `augmentation` is above 0,
    s is the condition `vector`, `(1,)`, behind the numbers of a vector that the data have. The base model is trained on
    `smaller(data)`.

    >>> from scoresde.data import digits
    >>> low = LowResolution(2, augmentation=0.5)
    >>> low.smaller(digits()).shape, low.conditioned(digits()).shape
    ((1, 4, 4), (1, 8, 8))
    >>> x = torch.arange(16.0).reshape(1, 1, 4, 4)
    >>> low(x).tolist()
    [[[[2.5, 4.5], [10.5, 12.5]]]]

    Args:
        factor: The side of a cell.
        augmentation: The largest level s, in the units of the images as a sampler gives them: those of continuous data,
            and model space for discrete data such as pixels.

    Raises:
        ValueError: A factor below 2, or a level that is negative or not finite.

    References:
        Ho et al. 2022b, Cascaded diffusion models for high fidelity image generation, https://arxiv.org/abs/2106.15282
    """

    factor: int
    augmentation: float = 0.0

    def __post_init__(self) -> None:
        if self.factor < 2:
            raise ValueError(f"factor is {self.factor}, expected at least 2")
        if not 0 <= self.augmentation < math.inf:
            raise ValueError(f"augmentation is {self.augmentation}, expected a level from 0")

    def check(self, shape: Sequence[int]) -> None:
        """Check the shape of an image.

        Raises:
            ValueError: One that is no signal, image or volume, or whose sides are no multiples of the factor.
        """
        if not 2 <= len(shape) <= 4 or any(size % self.factor for size in shape[1:]):
            raise ValueError(
                f"samples have shape {tuple(shape)}, expected (C, ...) with sides that are multiples of {self.factor}"
            )

    def __call__(self, x: Tensor) -> Tensor:
        """The images `(B, C, ...)` at low resolution, without noise.

        Raises:
            ValueError: A shape that cannot be divided into cells.
        """
        self.check(x.shape[1:])
        pool = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}[x.ndim - 2]
        return pool(x, self.factor)

    def conditions(self, x: Tensor, transform: Transform, seed: int, indices: Tensor) -> dict[str, Tensor]:
        """The conditions of a training batch.

        Args:
            x: Images in model space, `(B, C, ...)`.
            transform: The transform into model space.
            seed: The noise and the level of sample i are functions of the seed and of `indices[i]`.
            indices: `(B,)` int64.
        """
        low = self(x if transform.levels is not None else transform.decode(x))
        if self.augmentation == 0:
            return {"image": low}
        noise = SampleNoise(
            seed, indices, (1 + low[0].numel(),), low.dtype, low.device, stream=Stream.BATCH_AUGMENTATION
        )
        level = self.augmentation * noise.uniform()[:, :1]
        return {"image": low + level.view(-1, *[1] * (low.ndim - 1)) * noise()[:, 1:].view_as(low), "vector": level}

    def joined(
        self, given: Mapping[str, Tensor], x: Tensor, transform: Transform, seed: int, indices: Tensor
    ) -> dict[str, Tensor]:
        """The conditions of a training batch beside others that the data have; s is behind the numbers of a vector."""
        made = self.conditions(x, transform, seed, indices)
        if "vector" in given and "vector" in made:
            made["vector"] = torch.cat((given["vector"], made["vector"].to(given["vector"])), 1)
        return {**given, **made}

    def shapes(self, data: "Data") -> dict[str, tuple[int, ...]]:
        """The shapes of all conditions of a sample in training, by name."""
        found = {name: tuple(values.shape[1:]) for name, values in (data.train_conditions or {}).items()}
        found["image"] = (data.shape[0], *(size // self.factor for size in data.shape[1:]))
        if self.augmentation:
            found["vector"] = (1 + sum(found.get("vector", ())),)
        return found

    def conditioned(self, data: "Data") -> "Data":
        """The data, with these conditions in training.

        Raises:
            ValueError: Shapes that cannot be divided into cells, or data with an image as a condition already.
        """
        self.check(data.shape)
        if "image" in (data.train_conditions or {}):
            raise ValueError(f"{data.name} has an image as a condition already, expected data without")
        return replace(data, low_resolution=self)

    def scales(self, data: "Data") -> dict[str, tuple[tuple[float, ...], tuple[float, ...]]]:
        """Means and standard deviations over the training data of all conditions that have them, by name."""
        found = scales_of(condition_infos(data.train_conditions or {}))
        low = self.smaller(data)
        # As `conditions` has them: model space is where discrete data are continuous.
        values = low.train.double() if low.transform.levels is None else low.transform.encode(low.train)
        mean, std = (scale.flatten() for scale in moments(values, keep=1))
        std = (std.square() + self.augmentation**2 / 3).sqrt()
        std = torch.where(std > 0, std, torch.ones_like(std))
        found["image"] = (tuple(mean.tolist()), tuple(std.tolist()))
        if self.augmentation:
            means, stds = found.get("vector", ((), ()))
            found["vector"] = ((*means, self.augmentation / 2), (*stds, self.augmentation / math.sqrt(12)))
        return found

    def smaller(self, data: "Data") -> "Data":
        """The same data at low resolution, for a model of their own, whose samples are conditions of the other's.

        Levels become so many more that every mean is one, on a range on which their centres in model space are the
        means of those of the pixels.

        Raises:
            ValueError: Shapes that cannot be divided into cells.
        """
        self.check(data.shape)
        cells = self.factor ** (len(data.shape) - 1)
        whole = data.transform.levels is not None
        parts = [self(values.double()) for values in (data.train, data.test)]
        if whole:
            parts = [(cells * values).round().to(torch.int32) for values in parts]
        train, test = (p if whole else p.to(data.train.dtype) for p in parts)
        transform: Transform
        if isinstance(data.transform, Discrete):
            levels, low, high = data.transform.levels, data.transform.low, data.transform.high
            width, count = (high - low) / (levels * cells), (levels - 1) * cells + 1
            start = low + (cells - 1) / 2 * width
            transform = Discrete(count, start, start + count * width)
        else:
            transform = Standardise.fit(train)
        sizes = "×".join(str(n // self.factor) for n in data.shape[1:])
        return replace(
            data,
            name=f"{data.name} at {sizes}",
            train=train,
            test=test,
            transform=transform,
            mixture=None,
            low_resolution=None,
        )
