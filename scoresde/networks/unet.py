"""A convolutional U-Net for images, with the residual blocks of ADM and EDM."""

import math
from collections.abc import Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scoresde.arguments import checked
from scoresde.networks.conditioning import Conditioning, Modulation, check_inputs

__all__ = ["UNet"]

Layer = TypeVar("Layer", bound=nn.Module)


@checked
class UNet(nn.Module):
    """U-Net of residual blocks (Dhariwal & Nichol 2021, as in Karras et al. 2022).

    The encoder runs `blocks` residual blocks at each level and halves the image between levels by averaging. Two blocks
    follow at the coarsest level. The decoder mirrors the encoder, doubles by nearest neighbours, and each of its blocks
    reads the output of the encoder block that it mirrors. Images may have any size: an odd one is halved to the next
    larger integer, its last row or column being averaged alone. The output convolution starts at zero: a new network
    returns exactly zero.

    With attention, forward-mode differentiation and second derivatives need the call to run inside
    `torch.nn.attention.sdpa_kernel(SDPBackend.MATH)`; torch's fused attention kernels have neither.

    Args:
        shape: Shape of one image, `(C, H, W)`.
        channels: Feature channels at the finest level; any number.
        multipliers: Channels of each level, finest first, as multiples of `channels`.
        blocks: Residual blocks at each level of the encoder, and of the decoder.
        attention: Levels, as indices into `multipliers`, whose blocks are followed by self-attention; `(-1,)` is the
            coarsest only, which includes the middle.
        head_channels: Smallest number of channels of an attention head.
        dropout: Rate of dropout of the hidden features of each block, in [0, 1).
        embedding: Noise-level features; see `Conditioning`.
        num_classes: Number of classes, or None.
        label_dropout: Rate at which labels are dropped in training; see `Conditioning`.
        learn_variance: Return twice the channels, `(B, 2C, ...)`; the second half is for the variances of the reverse
            steps (Nichol & Dhariwal 2021), as `NetworkScore` takes it.

    Raises:
        ValueError: A shape that is not that of an image, a level that halves a single pixel, a level of attention that
            does not exist, a size below 1, or a rate outside [0, 1).

    References:
        Dhariwal & Nichol 2021, Diffusion models beat GANs on image synthesis, https://arxiv.org/abs/2105.05233
        Karras et al. 2022, Elucidating the design space of diffusion-based generative models,
            https://arxiv.org/abs/2206.00364
    """

    def __init__(
        self,
        shape: Sequence[int],
        channels: int = 32,
        multipliers: Sequence[int] = (1, 2),
        blocks: int = 2,
        attention: Sequence[int] = (),
        head_channels: int = 32,
        dropout: float = 0.0,
        embedding: nn.Module | None = None,
        num_classes: int | None = None,
        label_dropout: float = 0.0,
        learn_variance: bool = False,
    ) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.num_classes = num_classes
        self.learn_variance = learn_variance
        self.blocks = blocks
        levels = len(multipliers)
        _check_shape(self.shape, levels)
        if min(channels, blocks, head_channels, *multipliers) < 1:
            raise ValueError(
                f"channels, blocks, head_channels and multipliers must be at least 1, "
                f"got {channels}, {blocks}, {head_channels} and {tuple(multipliers)}"
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")
        if not all(-levels <= level < levels for level in attention):
            raise ValueError(f"attention must list levels from 0 (finest) to {levels - 1}, got {tuple(attention)}")
        attending = {level % levels for level in attention}
        widths = [channels * multiplier for multiplier in multipliers]
        width = 4 * channels

        def block(inputs: int, level: int) -> _Block:
            heads = _largest_divisor(widths[level], widths[level] // head_channels) if level in attending else 0
            return _Block(inputs, widths[level], width, heads, dropout)

        self.conditioning = Conditioning(width, embedding, num_classes, label_dropout)
        self.input = nn.Conv2d(self.shape[0], channels, 3, padding=1)
        self.encoder = nn.ModuleList()
        current = channels
        for level in range(levels):
            sources = [current] + [widths[level]] * (blocks - 1)
            self.encoder.extend(block(source, level) for source in sources)
            current = widths[level]
        self.middle = nn.ModuleList(block(current, levels - 1) for _ in range(2))
        self.decoder = nn.ModuleList()
        for level in reversed(range(levels)):
            sources = [current] + [widths[level]] * (blocks - 1)
            self.decoder.extend(block(source + widths[level], level) for source in sources)
            current = widths[level]
        self.norm = _group_norm(current)
        self.output = _zero(nn.Conv2d(current, (1 + learn_variance) * self.shape[0], 3, padding=1))

    @staticmethod
    def fits(shape: Sequence[int]) -> bool:
        """True if samples of a shape are images with something to convolve: three sizes, and more than one pixel."""
        return len(shape) == 3 and min(shape) >= 1 and max(shape[1:]) > 1

    @staticmethod
    def default_multipliers(shape: Sequence[int]) -> tuple[int, ...]:
        """Multipliers for images of a shape: at least two, and so many that the coarsest level has sides up to 32."""
        return (1,) + (2,) * max(1, math.ceil(math.log2(max(shape[1:]) / 32)))

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """Raw output of the network, of the shape of `x`, or with twice its channels if it learns variances.

        Args:
            x: Scaled images, `(B, C, H, W)`.
            c_noise: Noise levels, `(B,)`.
            labels: Classes, `(B,)` int64; see `Conditioning`.

        Raises:
            TypeError: Labels that are not int64.
            ValueError: A shape that does not fit, or labels that are missing, superfluous or out of range.
        """
        check_inputs(x, c_noise, self.shape)
        condition = self.conditioning(c_noise, labels)
        h = self.input(x)
        skips = []
        for i, block in enumerate(self.encoder):
            if i > 0 and i % self.blocks == 0:
                h = F.avg_pool2d(h, 2, ceil_mode=True)
            h = block(h, condition)
            skips.append(h)
        for block in self.middle:
            h = block(h, condition)
        for i, block in enumerate(self.decoder):
            if i > 0 and i % self.blocks == 0:
                height, width = skips[-1].shape[2:]
                h = F.interpolate(h, scale_factor=2.0, mode="nearest")[:, :, :height, :width]
            h = block(torch.cat((h, skips.pop()), dim=1), condition)
        out: Tensor = self.output(F.silu(self.norm(h)))
        return out


class _Block(nn.Module):
    """A residual block, then residual self-attention if `heads` is not 0; each sum is scaled by 1/√2."""

    def __init__(self, inputs: int, outputs: int, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = _group_norm(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2 = _group_norm(outputs, affine=False)
        self.modulation = Modulation(width, outputs)
        self.dropout = nn.Dropout(dropout) if dropout > 0 else nn.Identity()
        self.conv2 = _zero(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.attention = _Attention(outputs, heads) if heads else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = F.silu(self.modulation(self.norm2(h), condition))
        h = self.conv2(self.dropout(h))
        out: Tensor = self.attention((self.skip(x) + h) * math.sqrt(0.5))
        return out


class _Attention(nn.Module):
    """Residual self-attention over the pixels; the sum is scaled by 1/√2."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = _group_norm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.project = _zero(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        tokens = self.norm(x).flatten(2).mT
        q, k, v = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        out: Tensor = (x + self.project(attended).mT.unflatten(2, (height, width))) * math.sqrt(0.5)
        return out


def _zero(module: Layer) -> Layer:
    """The module with parameters of 0."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def _largest_divisor(number: int, limit: int) -> int:
    """The largest divisor of a number that is at most the limit, or 1."""
    return max(divisor for divisor in range(1, max(limit, 1) + 1) if number % divisor == 0)


def _group_norm(channels: int, affine: bool = True) -> nn.GroupNorm:
    """Group normalisation with at most 32 groups of, if possible, at least 4 channels."""
    return nn.GroupNorm(_largest_divisor(channels, min(32, channels // 4)), channels, affine=affine)


def _check_shape(shape: tuple[int, ...], levels: int) -> None:
    if len(shape) != 3 or min(shape) < 1:
        # The most common reason, with the key of data=npz that mends it.
        hint = ", and data.channels_last=true (N, H, W) as images of one channel" if len(shape) == 2 else ""
        raise ValueError(
            "UNet takes images, whose shape is (channels, height, width), three positive sizes, and the data's is "
            f"{shape}: MLP (network=mlp) takes any shape{hint}"
        )
    if levels < 1:
        raise ValueError("multipliers must give at least one level, got none")
    height, width = shape[1:]
    most = _most_levels(height, width)
    if levels > most:
        raise ValueError(
            f"{levels} multipliers are {levels} levels, and images of {height}x{width} are a single pixel after "
            f"{most - 1} halvings: give at most {most} multipliers"
        )


def _most_levels(height: int, width: int) -> int:
    """Largest number of levels; after it there is nothing left to halve."""
    return 1 + math.ceil(math.log2(max(height, width)))
