"""The magnitude-preserving U-Net of EDM2, without normalisation of features and without biases."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from scoresde.arguments import checked
from scoresde.networks.attention import softmax_attention
from scoresde.networks.conditioning import check_inputs
from scoresde.networks.conditions import (
    Draws,
    Dropout,
    Size,
    VectorInput,
    check_superfluous,
    condition_rates,
    condition_shapes,
    has_unconditional,
    settled,
)
from scoresde.networks.dropout import dropout
from scoresde.networks.labels import check_dropped, check_label_options, check_labels, without_label
from scoresde.networks.magnitude import (
    MagnitudeConv,
    MagnitudeFourier,
    MagnitudeLabels,
    MagnitudeLinear,
    magnitude_cat,
    magnitude_silu,
    magnitude_sum,
    unit_magnitude,
)
from scoresde.networks.resampling import Resample
from scoresde.networks.sizes import check_divisible
from scoresde.numerics.values import at_least, fraction, positive

__all__ = ["EDM2UNet", "LogVariance"]


class LogVariance(nn.Module):
    """The learned logarithm u(c) `(B,)` of the loss at noise levels c `(B,)` (Karras et al. 2024, eq. 21).

    Args:
        channels: Number of Fourier features.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.embedding = MagnitudeFourier(channels)
        self.linear = MagnitudeLinear(channels, 1)

    def forward(self, c_noise: Tensor) -> Tensor:
        features = self.embedding(c_noise).to(self.linear.weight.dtype)
        out: Tensor = self.linear(features)[:, 0]
        return out


@checked
class EDM2UNet(nn.Module):
    """The U-Net of EDM2 (configuration G of Karras et al. 2024): every layer preserves the magnitude of its input.

    The encoder runs `blocks` residual blocks at each level and halves the image between levels. Two blocks follow at
    the coarsest level, the first with attention. The decoder has one block more at each level, and each of its blocks
    reads the output of the part of the encoder that it mirrors. The input has a channel of ones in the place of biases.
    Weights are normalised at every use, and in training mode in place, so that the optimiser needs no weight decay.
    The output and the modulation by noise level and label have gains that start at zero: a new network returns exactly
    zero.

    The networks of the paper have four levels, attention at the two coarsest ones, and these numbers of channels for
    latents `(4, 64, 64)` and 1,000 classes:

        XS 128 (125 M parameters), S 192 (280 M), M 256 (498 M), L 320 (777 M), XL 384 (1.1 B), XXL 448 (1.5 B)

    With attention, forward-mode differentiation and second derivatives need the call to run inside
    `torch.nn.attention.sdpa_kernel(SDPBackend.MATH)`; torch's fused attention kernels have neither.

    Args:
        shape: Shape of one image, `(C, H, W)`; height and width are multiples of 2 to the number of levels but one.
        channels: Feature channels at the finest level.
        multipliers: Channels of each level, finest first, as multiples of `channels`.
        blocks: Residual blocks at each level of the encoder; the decoder has one more.
        attention: Levels, as indices into `multipliers`, whose blocks have self-attention.
        head_channels: Channels of an attention head. A block with fewer channels has no attention.
        noise_channels: Number of Fourier features of the noise level; the channels of the finest level if not given.
        embedding_channels: Length of the vector of noise level and label; the channels of the widest level if not
            given.
        dropout: Rate of dropout in each block, in [0, 1).
        num_classes: Number of classes, or None.
        label_dropout: Rate at which labels are dropped in training, in [0, 1); then labels that are None are "no
            label", whose vector is zero.
        unlabelled: Take labels that are None as "no label" though none are dropped in training, as the original does.
        learn_variance: Return twice the channels, `(B, 2C, ...)`; the second half is for the variances of the reverse
            steps (Nichol & Dhariwal 2021), as `NetworkScore` takes it.
        log_variance: Number of Fourier features of the learned logarithm u(σ) of the loss, which the network then
            holds; None for a network without. `objective.learned_weight=true` trains it, and sampling does not use it.
        label_share: Share t of the label in its sum with the noise level.
        skip_share: Share t of the encoder's features in the decoder's concatenations.
        residual_share: Share t of the residual branch in the sum of a block.
        attention_share: Share t of attention in its sum.
        clip: Largest magnitude of a feature, or None.
        taps: Filter of resampling, of even length; `(1, 1)` averages and repeats.
        vector_size: Number of values of a vector that samples are conditioned on, or None. It is added as the label is,
            with the same share.
        condition_dropout: Rate at which the vector is dropped in training, in [0, 1); a label is then dropped together
            with it, at its own rate.

    Raises:
        ValueError: A shape that is not that of an image, or does not halve often enough; a level of attention that does
            not exist; a size, rate or share that is out of range.

    References:
        Karras et al. 2024, Analyzing and improving the training dynamics of diffusion models,
            https://arxiv.org/abs/2312.02696
    """

    def __init__(
        self,
        shape: Sequence[int],
        channels: int = 192,
        multipliers: Sequence[int] = (1, 2, 3, 4),
        blocks: int = 3,
        attention: Sequence[int] = (-2, -1),
        head_channels: int = 64,
        noise_channels: int | None = None,
        embedding_channels: int | None = None,
        dropout: float = 0.0,
        num_classes: int | None = None,
        label_dropout: float = 0.0,
        unlabelled: bool = False,
        learn_variance: bool = False,
        log_variance: int | None = None,
        label_share: float = 0.5,
        skip_share: float = 0.5,
        residual_share: float = 0.3,
        attention_share: float = 0.3,
        clip: float | None = 256.0,
        taps: Sequence[float] = (1.0, 1.0),
        vector_size: Size = None,
        condition_dropout: Dropout = 0.0,
    ) -> None:
        super().__init__()
        self.shape = tuple(shape)
        levels = len(multipliers)
        if levels < 1:
            raise ValueError("multipliers must give at least one level, got none")
        if min(channels, blocks, head_channels, *multipliers) < 1:
            raise ValueError(
                f"channels, blocks, head_channels and multipliers must be at least 1, "
                f"got {channels}, {blocks}, {head_channels} and {tuple(multipliers)}"
            )
        check_divisible("EDM2UNet", self.shape, 2 ** (levels - 1), f"{levels} multipliers, each but the first halving")
        check_label_options(num_classes, label_dropout)
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")
        if not all(-levels <= level < levels for level in attention):
            raise ValueError(f"attention must list levels from 0 (finest) to {levels - 1}, got {tuple(attention)}")
        if clip is not None:
            positive("clip", clip)
        if len(taps) < 2 or len(taps) % 2 or not sum(taps) > 0:
            raise ValueError(f"taps must be an even number of numbers with a positive sum, got {tuple(taps)}")
        shares = {"label_share": label_share, "skip_share": skip_share}
        for name, share in {**shares, "residual_share": residual_share, "attention_share": attention_share}.items():
            fraction(name, share)
        self.num_classes = num_classes
        self.label_dropout = label_dropout
        self.unlabelled = unlabelled or label_dropout > 0
        vector_size = settled("vector", vector_size)
        self.condition_dropout = condition_dropout
        self.condition_shapes = condition_shapes(vector_size)
        rates = condition_rates(condition_dropout, {"vector": vector_size})
        self.has_unconditional = has_unconditional(num_classes, label_dropout, rates)
        """Whether all conditions are dropped in training, so that the network was trained for samples without."""
        self.learn_variance = learn_variance
        self.label_share, self.skip_share = label_share, skip_share
        attending = {level % levels for level in attention}
        widths = [channels * multiplier for multiplier in multipliers]
        width = max(widths) if embedding_channels is None else embedding_channels
        self.embedding = MagnitudeFourier(widths[0] if noise_channels is None else noise_channels)
        self.noise = MagnitudeLinear(self.embedding.dim, width)
        self.labels = None if num_classes is None else MagnitudeLabels(num_classes, width)
        style = _Style(width, head_channels, dropout, residual_share, attention_share, clip)

        self.input = MagnitudeConv(self.shape[0] + 1, widths[0], 3)
        self.encoder = nn.ModuleList()
        current, skips = widths[0], [widths[0]]
        for level in range(levels):
            if level > 0:
                self.encoder.append(_EncoderBlock(current, current, style, down=Resample(2, taps, "down")))
                skips.append(current)
            for _ in range(blocks):
                self.encoder.append(_EncoderBlock(current, widths[level], style, attends=level in attending))
                current = widths[level]
                skips.append(current)
        self.decoder = nn.ModuleList()
        for level in reversed(range(levels)):
            if level == levels - 1:
                self.decoder.append(_DecoderBlock(current, current, style, attends=True))
                self.decoder.append(_DecoderBlock(current, current, style))
            else:
                self.decoder.append(_DecoderBlock(current, current, style, up=Resample(2, taps, "up")))
            for _ in range(blocks + 1):
                sources = current + skips.pop()
                self.decoder.append(_DecoderBlock(sources, widths[level], style, level in attending, reads=True))
                current = widths[level]
        self.output = MagnitudeConv(current, (1 + learn_variance) * self.shape[0], 3)
        self.output_gain = nn.Parameter(torch.zeros(()))
        self.log_variance = None if log_variance is None else LogVariance(log_variance)
        self.vector = None if vector_size is None else _MagnitudeVector(vector_size, width, rates["vector"])

    def forward(
        self,
        x: Tensor,
        c_noise: Tensor,
        labels: Tensor | None = None,
        dropped: Tensor | None = None,
        vector: Tensor | None = None,
    ) -> Tensor:
        """Raw output of the network, of the shape of `x`, or with twice its channels if it learns variances.

        Args:
            x: Scaled images, `(B, C, H, W)`.
            c_noise: Noise levels, `(B,)`.
            labels: Classes, `(B,)` int64; or None, see `unlabelled`.
            dropped: True for samples that are to be without their conditions, `(B,)` boolean; none if not given.
            vector: Vectors that samples are conditioned on, `(B, vector_size)`, in their own units.

        Raises:
            TypeError: Conditions of another dtype, or `dropped` that is not boolean.
            ValueError: A shape that does not fit, or conditions that are missing, superfluous or out of range.
        """
        check_inputs(x, c_noise, self.shape)
        check_superfluous({"vector": vector}, self.condition_shapes)
        draws = Draws.of(c_noise, dropped, self.condition_dropout, self.training)
        condition = self._condition(c_noise, labels, vector, draws)
        h = self.input(torch.cat((x, torch.ones_like(x[:, :1])), dim=1))
        skips = [h]
        for block in self.encoder:
            h = block(h, condition)
            skips.append(h)
        for block in self.decoder:
            if block.reads:
                h = magnitude_cat(h, skips.pop(), self.skip_share)
            h = block(h, condition)
        out: Tensor = self.output(h, self.output_gain)
        return out

    def _condition(self, c_noise: Tensor, labels: Tensor | None, given_vector: Tensor | None, draws: Draws) -> Tensor:
        """The vector `(B, width)` of noise level, label and vector."""
        # `c_noise` may be float64 or float32 whatever the dtype of the weights.
        vector: Tensor = self.noise(self.embedding(c_noise).to(self.noise.weight.dtype))
        given = check_labels(labels, c_noise, self.num_classes, self.unlabelled)
        check_dropped(draws.dropped, c_noise, self.unlabelled or self.num_classes is None)
        if self.labels is not None:
            label = torch.zeros_like(vector)
            if given and labels is not None:
                label = self._label_vectors(labels, draws)
            vector = magnitude_sum(vector, label.to(vector.dtype), self.label_share)
        if self.vector is not None:
            addend = self.vector(given_vector, c_noise, draws)
            vector = magnitude_sum(vector, addend.to(vector.dtype), self.label_share)
        return magnitude_silu(vector)

    def _label_vectors(self, labels: Tensor, draws: Draws) -> Tensor:
        assert self.labels is not None
        try:
            # The look-up on the CPU checks the range itself.
            vectors: Tensor = self.labels(labels)
        except IndexError as error:
            raise ValueError(
                f"labels must be in [0, {self.num_classes}), got one outside: number the classes from 0"
            ) from error
        without = without_label(labels, self.label_dropout if self.training else 0.0, *draws)
        return vectors if without is None else vectors.masked_fill(without, 0)


class _MagnitudeVector(VectorInput):
    """A vector `(B, size)` as an addend of unit magnitude, or zeros in its place; ones are in the place of biases."""

    def __init__(self, size: int, width: int, rate: float) -> None:
        super().__init__(size, width, rate)
        self.first = MagnitudeLinear(size + 1, width)
        self.second = MagnitudeLinear(width, width)

    def mapped(self, standard: Tensor) -> Tensor:
        with_one = torch.cat((standard, torch.ones_like(standard[:, :1])), dim=1)
        out: Tensor = self.second(magnitude_silu(self.first(with_one)))
        return out


class _Style:
    """What all blocks of a network have in common; the arguments are those of `EDM2UNet`."""

    def __init__(
        self,
        width: int,
        head_channels: int,
        dropout: float,
        residual_share: float,
        attention_share: float,
        clip: float | None,
    ) -> None:
        at_least("embedding_channels", width, 1)
        self.width, self.head_channels, self.dropout, self.clip = width, head_channels, dropout, clip
        self.residual_share, self.attention_share = residual_share, attention_share


class _Block(nn.Module):
    """A residual branch that is modulated by the condition, and attention."""

    reads = False  # whether the block's input has features of the encoder beside the decoder's

    def __init__(self, inputs: int, outputs: int, start: int, style: _Style, attends: bool) -> None:
        super().__init__()
        self.style = style
        self.gain = nn.Parameter(torch.zeros(()))
        self.first = MagnitudeConv(start, outputs, 3)
        self.modulation = MagnitudeLinear(style.width, outputs)
        self.second = MagnitudeConv(outputs, outputs, 3)
        self.skip = MagnitudeConv(inputs, outputs, 1) if inputs != outputs else None
        heads = outputs // style.head_channels if attends else 0
        self.attention = _Attention(outputs, heads) if heads else None

    def _residual(self, x: Tensor, condition: Tensor) -> Tensor:
        h = self.first(magnitude_silu(x))
        scale = self.modulation(condition, self.gain) + 1
        h = magnitude_silu(h * scale[:, :, None, None].to(h.dtype))
        if self.training and self.style.dropout > 0:
            h = dropout(h, self.style.dropout)
        out: Tensor = self.second(h)
        return out

    def _finished(self, x: Tensor) -> Tensor:
        if self.attention is not None:
            x = magnitude_sum(x, self.attention(x), self.style.attention_share)
        return x if self.style.clip is None else x.clamp(-self.style.clip, self.style.clip)


class _EncoderBlock(_Block):
    """A block that halves the image, if at all, before everything else, and normalises each pixel."""

    def __init__(
        self, inputs: int, outputs: int, style: _Style, attends: bool = False, down: Resample | None = None
    ) -> None:
        super().__init__(inputs, outputs, outputs, style, attends)
        self.down = down

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        x = x if self.down is None else self.down(x)
        x = x if self.skip is None else self.skip(x)
        x = unit_magnitude(x, dim=1)
        return self._finished(magnitude_sum(x, self._residual(x, condition), self.style.residual_share))


class _DecoderBlock(_Block):
    """A block that doubles the image, if at all, before everything else."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        style: _Style,
        attends: bool = False,
        up: Resample | None = None,
        reads: bool = False,
    ) -> None:
        super().__init__(inputs, outputs, inputs, style, attends)
        self.up = up
        self.reads = reads

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        x = x if self.up is None else self.up(x)
        residual = self._residual(x, condition)
        x = x if self.skip is None else self.skip(x)
        return self._finished(magnitude_sum(x, residual, self.style.residual_share))


class _Attention(nn.Module):
    """Self-attention over the pixels by the cosines of queries and keys (Karras et al. 2024, section 2.3)."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(
                f"{channels} channels do not divide into {heads} heads of attention: choose channels, multipliers and "
                "head_channels so that they do"
            )
        self.heads = heads
        self.qkv = MagnitudeConv(channels, 3 * channels, 1)
        self.project = MagnitudeConv(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        # Channels in the order head, channel of the head, (q, k, v).
        parts = self.qkv(x).flatten(2).unflatten(1, (self.heads, -1, 3))
        q, k, v = unit_magnitude(parts, dim=2).permute(3, 0, 1, 4, 2).unbind(0)
        attended = softmax_attention(q, k, v)
        out: Tensor = self.project(attended.mT.reshape(x.shape))
        return out
