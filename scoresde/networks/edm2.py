"""The magnitude-preserving U-Net of EDM2, without normalisation of features and without biases."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from scoresde.arguments import checked
from scoresde.networks.conditioning import check_inputs
from scoresde.networks.conditions import (
    Draws,
    Dropout,
    ImageInput,
    Size,
    TokenInput,
    VectorInput,
    check_attends_to_tokens,
    check_superfluous,
    condition_rates,
    condition_shapes,
    has_unconditional,
    settled,
)
from scoresde.networks.edm2_blocks import BlockStyle, MagnitudeDecoderBlock, MagnitudeEncoderBlock
from scoresde.networks.labels import check_dropped, check_label_options, check_labels, without_label
from scoresde.networks.magnitude import (
    MagnitudeConv,
    MagnitudeFourier,
    MagnitudeLabels,
    MagnitudeLinear,
    magnitude_cat,
    magnitude_silu,
    magnitude_sum,
)
from scoresde.networks.resampling import Resample
from scoresde.networks.sizes import check_divisible
from scoresde.numerics.values import fraction, positive

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
        image_channels: Channels of an image that samples are conditioned on, or None. They are further channels of the
            input, at the size of the samples; see `ImageInput`.
        token_size: Length of tokens that samples are conditioned on, or None. The blocks with attention attend to them,
            too, by the cosines of queries and keys and with the same share; one token more is learned.
        condition_dropout: Rate at which these conditions are dropped in training, in [0, 1): one for all, which are
            then dropped together, and labels with them at their own rate; or one for each, as `{"image": 0.1}`.

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
        image_channels: Size = None,
        token_size: Size = None,
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
        image_channels = settled("image", image_channels)
        token_size = settled("tokens", token_size)
        self.condition_dropout = condition_dropout
        self.condition_shapes = condition_shapes(vector_size, image_channels, token_size)
        kinds = {"vector": vector_size, "image": image_channels, "tokens": token_size}
        rates = condition_rates(condition_dropout, kinds)
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
        style = BlockStyle(width, head_channels, dropout, residual_share, attention_share, clip, token_size)

        self.input = MagnitudeConv(self.shape[0] + (image_channels or 0) + 1, widths[0], 3)
        self.encoder = nn.ModuleList()
        current, skips = widths[0], [widths[0]]
        for level in range(levels):
            if level > 0:
                self.encoder.append(MagnitudeEncoderBlock(current, current, style, down=Resample(2, taps, "down")))
                skips.append(current)
            for _ in range(blocks):
                self.encoder.append(MagnitudeEncoderBlock(current, widths[level], style, attends=level in attending))
                current = widths[level]
                skips.append(current)
        self.decoder = nn.ModuleList()
        for level in reversed(range(levels)):
            if level == levels - 1:
                self.decoder.append(MagnitudeDecoderBlock(current, current, style, attends=True))
                self.decoder.append(MagnitudeDecoderBlock(current, current, style))
            else:
                self.decoder.append(MagnitudeDecoderBlock(current, current, style, up=Resample(2, taps, "up")))
            for _ in range(blocks + 1):
                sources = current + skips.pop()
                self.decoder.append(
                    MagnitudeDecoderBlock(sources, widths[level], style, level in attending, reads=True)
                )
                current = widths[level]
        self.output = MagnitudeConv(current, (1 + learn_variance) * self.shape[0], 3)
        self.output_gain = nn.Parameter(torch.zeros(()))
        self.log_variance = None if log_variance is None else LogVariance(log_variance)
        self.vector = None if vector_size is None else _MagnitudeVector(vector_size, width, rates["vector"])
        self.image = None if image_channels is None else ImageInput(image_channels, rates["image"])
        self.tokens = None if token_size is None else TokenInput(token_size, rates["tokens"])
        mend = "set attention, say to (-1,), and head_channels to at most that level's channels"
        check_attends_to_tokens(self, token_size, mend)

    def forward(
        self,
        x: Tensor,
        c_noise: Tensor,
        labels: Tensor | None = None,
        dropped: Tensor | None = None,
        vector: Tensor | None = None,
        image: Tensor | None = None,
        tokens: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Raw output of the network, of the shape of `x`, or with twice its channels if it learns variances.

        Args:
            x: Scaled images, `(B, C, H, W)`.
            c_noise: Noise levels, `(B,)`.
            labels: Classes, `(B,)` int64; or None, see `unlabelled`.
            dropped: True for samples that are to be without their conditions, `(B,)` boolean; none if not given.
            vector: Vectors that samples are conditioned on, `(B, vector_size)`, in their own units.
            image: Images that samples are conditioned on, `(B, image_channels, H', W')`, in their own units.
            tokens: Tokens that samples are conditioned on, `(B, L, token_size)`.
            mask: True for tokens that count, `(B, L)` boolean; all if not given.

        Raises:
            TypeError: Conditions of another dtype, or `dropped` that is not boolean.
            ValueError: A shape that does not fit, or conditions that are missing, superfluous or out of range.
        """
        check_inputs(x, c_noise, self.shape)
        given = {"vector": vector, "image": image, "tokens": tokens, "mask": mask}
        check_superfluous(given, self.condition_shapes)
        draws = Draws.of(c_noise, dropped, self.condition_dropout, self.training)
        condition = self._condition(c_noise, labels, vector, draws)
        dtype = self.noise.weight.dtype
        context = () if self.tokens is None else self.tokens(tokens, mask, c_noise, draws, dtype)
        if self.image is not None:
            x = self.image(image, x, c_noise, draws)
        h = self.input(torch.cat((x, torch.ones_like(x[:, :1])), dim=1))
        skips = [h]
        for block in self.encoder:
            h = block(h, condition, *context)
            skips.append(h)
        for block in self.decoder:
            if block.reads:
                h = magnitude_cat(h, skips.pop(), self.skip_share)
            h = block(h, condition, *context)
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
