"""Networks that classify noised samples: `forward(x, c_noise)` gives a logit for each class.

Their attribute `classifies` says that the model around them is a `scoresde.score.NoisyClassifier` and no score model.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from scoresde.arguments import checked
from scoresde.networks import sizes
from scoresde.networks.blocks import BlockOptions, ResidualBlock
from scoresde.networks.conditioning import Conditioning, check_inputs
from scoresde.networks.layers import convolution, group_norm, largest_divisor, mean_pool, zeroed
from scoresde.networks.mlp import MLPBlock

__all__ = ["MLPClassifier", "UNetClassifier"]

Classes = int | Literal["auto"]
"""A number of classes; "auto" is settled by `scoresde train`, which knows the data."""


def _checked_classes(classes: Classes) -> int:
    """The number of classes.

    Raises:
        ValueError: "auto", or less than two.
    """
    if isinstance(classes, str):
        raise ValueError(f"num_classes is {classes!r}, which scoresde train settles by the data: give a number")
    if classes < 2:
        raise ValueError(f"num_classes must be at least 2, to tell one from another, got {classes}")
    return classes


def _check_sizes(dropout: float, **least: int) -> None:
    for name, size in least.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be in [0, 1), got {dropout}")


@checked
class UNetClassifier(nn.Module):
    """The encoder of a U-Net, whose features are averaged over positions (Dhariwal & Nichol 2021, section 4.1).

    A new network returns exactly zero, that is equal probabilities.

    Args:
        shape: Shape of one sample: a signal `(C, L)`, an image `(C, H, W)` or a volume `(C, D, H, W)`.
        num_classes: Number of classes, at least two.
        channels: Feature channels at the finest level.
        multipliers: Channels of each level, finest first, as multiples of `channels`.
        blocks: Residual blocks at each level.
        attention: Levels whose blocks are followed by self-attention; `(-1,)` is the coarsest.
        head_channels: Smallest number of channels of an attention head.
        dropout: Rate of dropout of the hidden features of each block, in [0, 1).
        embedding: Noise-level features; see `Conditioning`.

    Raises:
        ValueError: A shape of another kind, or that cannot be halved so often, a level of attention that does not
            exist, a size below 1, a rate outside [0, 1), or less than two classes.

    References:
        Dhariwal & Nichol 2021, Diffusion models beat GANs on image synthesis, https://arxiv.org/abs/2105.05233
    """

    classifies = True

    def __init__(
        self,
        shape: Sequence[int],
        num_classes: Classes,
        channels: int = 32,
        multipliers: Sequence[float] = (1, 2),
        blocks: int = 2,
        attention: Sequence[int] = (-1,),
        head_channels: int = 32,
        dropout: float = 0.0,
        embedding: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.num_classes = _checked_classes(num_classes)
        _check_sizes(dropout, channels=channels, blocks=blocks, head_channels=head_channels)
        levels = len(multipliers)
        sizes.check_sizes(self.shape, levels, exact=False)
        if min(multipliers) <= 0:
            raise ValueError(f"multipliers must be above 0, got {tuple(multipliers)}")
        if not all(-levels <= level < levels for level in attention):
            raise ValueError(f"attention must list levels from 0 (finest) to {levels - 1}, got {tuple(attention)}")
        attending = {level % levels for level in attention}
        dims, width = len(self.shape) - 1, 4 * channels
        options = BlockOptions(dims, width, dropout, "scale_shift", math.sqrt(0.5), True, (1, 1), None, None, 1e-5)
        self.conditioning = Conditioning(width, embedding)
        current = channels
        self.input = convolution(dims, self.shape[0], current)
        self.levels = nn.ModuleList()
        for level, multiplier in enumerate(multipliers):
            features = max(1, round(channels * multiplier))
            heads = largest_divisor(features, features // head_channels) if level in attending else 0
            made = nn.ModuleList()
            for _ in range(blocks):
                made.append(ResidualBlock(current, features, options, heads))
                current = features
            self.levels.append(made)
        self.norm = group_norm(current)
        self.output = zeroed(nn.Linear(current, self.num_classes))

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        """Logits of the classes, `(B, num_classes)`.

        Args:
            x: Scaled samples, `(B, *shape)`.
            c_noise: Noise levels, `(B,)`.

        Raises:
            ValueError: A shape that does not fit.
        """
        check_inputs(x, c_noise, self.shape)
        condition = self.conditioning(c_noise)
        h = self.input(x)
        for level, blocks in enumerate(self.levels):
            h = h if level == 0 else mean_pool(h)
            for block in blocks:  # type: ignore[attr-defined]
                h = block(h, condition)
        out: Tensor = self.output(F.silu(self.norm(h)).flatten(2).mean(2))
        return out


@checked
class MLPClassifier(nn.Module):
    """A residual perceptron for events of any shape, flattened inside, with the blocks of `MLP`.

    A new network returns exactly zero, that is equal probabilities.

    Args:
        shape: Shape of one event, without the batch.
        num_classes: Number of classes, at least two.
        width: Width of the residual path, the blocks and the conditioning vector.
        blocks: Number of residual blocks.
        dropout: Rate of dropout of the hidden features of each block, in [0, 1).
        embedding: Noise-level features; see `Conditioning`.

    Raises:
        ValueError: A size below 1, a rate outside [0, 1), or less than two classes.
    """

    classifies = True

    def __init__(
        self,
        shape: Sequence[int],
        num_classes: Classes,
        width: int = 256,
        blocks: int = 4,
        dropout: float = 0.0,
        embedding: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.shape = tuple(shape)
        if not self.shape or min(self.shape) < 1:
            raise ValueError(f"shape must be one or more positive sizes, for example (2,), got {self.shape}")
        self.num_classes = _checked_classes(num_classes)
        _check_sizes(dropout, width=width, blocks=blocks)
        self.conditioning = Conditioning(width, embedding)
        self.input = nn.Linear(math.prod(self.shape), width)
        self.blocks = nn.ModuleList(MLPBlock(width, dropout) for _ in range(blocks))
        self.output = zeroed(nn.Linear(width, self.num_classes))

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        """Logits of the classes, `(B, num_classes)`.

        Args:
            x: Scaled states, `(B, *shape)`.
            c_noise: Noise levels, `(B,)`.

        Raises:
            ValueError: A shape that does not fit.
        """
        check_inputs(x, c_noise, self.shape)
        condition = self.conditioning(c_noise)
        h = self.input(x.flatten(1))
        for block in self.blocks:
            h = block(h, condition)
        out: Tensor = self.output(F.silu(h))
        return out
