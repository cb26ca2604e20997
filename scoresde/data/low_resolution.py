"""Images at a lower resolution, as conditions of the images that they were made of."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from scoresde.arguments import checked
from scoresde.data.transforms import Transform
from scoresde.numerics.random import SampleNoise, Stream

__all__ = ["LowResolution"]


@checked
@dataclass(frozen=True)
class LowResolution:
    """Images by means over cells, with Gaussian noise (Ho et al. 2022b, section 3.3).

    A super-resolution model is trained on y + s ε, where y is the image at low resolution, ε standard normal noise and
    s a level that is drawn anew for each sample of a batch, uniformly from 0 to `augmentation`, and told to the
    network. It is then prepared for images that are not quite those of the data, such as a base model's. The noise is
    that of the paper's augmentation by the forward process, but for the factor α.

    In training on `super_resolution_data(data, low)`, y + s ε is the condition `image`, at its own size. If
    `augmentation` is above 0, s is the condition `vector`, `(1,)`, behind the numbers of a vector that the data have.
    The base model is trained on `base_data(data, low)`.

    >>> low = LowResolution(2, augmentation=0.5)
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
        return self._beside(given, self.conditions(x, transform, seed, indices))

    def clean(self, given: Mapping[str, Tensor], raw: Tensor, transform: Transform) -> dict[str, Tensor]:
        """The conditions of samples `(B, C, ...)` in raw units without noise, beside others that the data have."""
        made = {"image": self(raw if transform.levels is None else transform.encode(raw))}
        if self.augmentation:
            made["vector"] = made["image"].new_zeros(len(raw), 1)
        return self._beside(given, made)

    def shapes(self, given: Mapping[str, tuple[int, ...]], shape: Sequence[int]) -> dict[str, tuple[int, ...]]:
        """The shapes of the conditions of a sample of a shape, beside those of others that the data have."""
        found = {**given, "image": (shape[0], *(size // self.factor for size in shape[1:]))}
        if self.augmentation:
            found["vector"] = (1 + sum(given.get("vector", ())),)
        return found

    def _beside(self, given: Mapping[str, Tensor], made: Mapping[str, Tensor]) -> dict[str, Tensor]:
        both = {**given, **made}
        if "vector" in given and "vector" in made:
            both["vector"] = torch.cat((given["vector"], made["vector"].to(given["vector"])), 1)
        return both
