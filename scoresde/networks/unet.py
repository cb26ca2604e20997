"""A convolutional U-Net for signals, images and volumes, whose options give those of the literature."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scoresde.arguments import checked
from scoresde.networks import sizes
from scoresde.networks.blocks import BlockOptions, ResidualBlock
from scoresde.networks.conditioning import Conditioning, check_inputs
from scoresde.networks.conditions import (
    Draws,
    Dropout,
    ImageInput,
    Size,
    TokenInput,
    check_attends_to_tokens,
    check_superfluous,
    condition_rates,
    condition_shapes,
    has_unconditional,
    settled,
)
from scoresde.networks.layers import convolution, group_norm, largest_divisor, xavier, zeroed
from scoresde.networks.pyramids import InputResidual, InputSkip, OutputSkip
from scoresde.networks.recomputing import called, recomputed, recomputes
from scoresde.networks.resampling import ConvDown, ConvUp, Pool, Repeat, Resample

__all__ = ["UNet"]


@checked
class UNet(nn.Module):
    """U-Net of residual blocks (Ronneberger et al. 2015; Ho et al. 2020; Dhariwal & Nichol 2021).

    The encoder runs `blocks` residual blocks at each level and halves between levels. Two blocks follow at the coarsest
    level. The decoder doubles between levels, and each of its blocks reads one output of the encoder, latest first. The
    last layer starts at zero: a new network returns exactly zero.

    With `resample="pool"`, the default, the decoder mirrors the encoder block by block and any size will do: an odd one
    is halved to the next larger integer, its last row or column being averaged alone. The published networks
    ("conv", "block") have one more block in each level of the decoder, which read the first layer and what was halved
    as well, and need sizes that are multiples of 2^(levels − 1).

    `scoresde.networks` has the published networks as functions, which give these options:

        option                  ncsnpp       ddpmpp   ddpm     song_ddpmpp  song_ncsnpp  adm          default
        resample                block        block    conv     block        block        block        pool
        taps                    1 3 3 1      1 1      -        1 1          1 3 3 1      1 1          -
        resampled_skip          yes          yes      -        yes          yes          no           -
        conv_padding            -            -        end      -            -            -            -
        skip_scale              √½           √½       1        √½           √½           1            √½
        modulation              shift        shift    shift    shift        shift        normed_s._s. scale_shift
        input_pyramid           residual     -        -        -            residual     -            -
        output_pyramid          -            -        -        -            -            -            -
        middle_attention        between      between  between  between      between      between      level
        decoder_attention       last         last     last     last         last         all          all
        heads                   1            1        1        1            1            C/64         C/32
        groups                  min(32,C/4)  same     32       min(32,C/4)  same         same         same
        norm_eps                1e-6         1e-6     1e-6     1e-6         1e-6         1e-5         1e-5
        features of c           Gaussian     position position position     Gaussian     position     cosines
        label_place             -            -        -        features     features     output       hidden
        no_label                -            -        -        zeros        zeros        zeros        learned
        initialisation          xavier       xavier   xavier   xavier       xavier       torch        torch

    NCSN++ for images from 256 pixels has `input_pyramid="skip"` and `output_pyramid="skip"`.

    With attention, forward-mode differentiation and second derivatives need the call to run inside
    `torch.nn.attention.sdpa_kernel(SDPBackend.MATH)`; torch's fused attention kernels have neither.

    Args:
        shape: Shape of one sample: a signal `(C, L)`, an image `(C, H, W)` or a volume `(C, D, H, W)`.
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
        resample: How sizes are halved and doubled: by means and nearest neighbours between the blocks ("pool"), by
            convolutions ("conv"), or inside residual blocks of their own by the filter `taps` ("block").
        taps: Filter along each dimension of `resample="block"` and of the pyramids, an even number.
        conv_padding: Where the halving convolution adds zeros: after the last value, or at both ends.
        resampled_skip: Whether blocks that halve or double have a convolution of size 1 on their skip path.
        skip_scale: Factor of the sums of blocks and attention.
        middle_skip_scale: The same for the two blocks in the middle; None for the same value.
        modulation: How noise level and label act within a block: by scale and shift of normalised features without
            ("scale_shift") or with learned weights of the normalisation ("normed_scale_shift"), or by a shift before it
            ("shift").
        input_pyramid: The halved input beside the encoder: none, mapped to features and added ("skip"), or halved by
            convolutions and added ("residual").
        output_pyramid: Sum of images from every level of the decoder ("skip"), or the output of the finest alone.
        attention_resolutions: Sizes of the last dimension at whose levels there is attention, in place of `attention`.
        decoder_attention: Attention after every block of a level of the decoder, or after the last.
        decoder_levels: Levels of the decoder with attention; None for those of the encoder.
        middle_attention: Attention after both middle blocks if the coarsest level has it ("level"), always after the
            first ("between"), or never ("none").
        heads: Number of attention heads, in place of `head_channels`.
        decoder_heads: The same in the decoder; None for the same number.
        groups: Groups of the normalisations; None for min(32, channels/4), or the next smaller divisor of the channels.
        attention_groups: Groups of the attention's normalisation in the levels; None for as in `groups`.
        middle_attention_groups: The same in the middle; 0 for no normalisation.
        joined_groups: Groups of the first normalisation of blocks in the decoder's levels with attention, for features
            of a + b channels: those of a + b channels, or min(32, a + b/4) as in diffusers' `AttnSkipUpBlock2D`.
        norm_eps: What is added to the variances of normalisations.
        stem_channels: Channels of the first layer; None for `channels`.
        condition_width: Length of the conditioning vector; None for 4 × `channels`.
        label_place: Where the class acts; see `Conditioning`.
        label_scale: Factor of the vector of the class; see `Conditioning`.
        label_bias: One more learned vector beside it; see `Conditioning`.
        no_label: What a sample without a label has; see `Conditioning`.
        augmentations: Number of augmentation labels; see `Conditioning`.
        center_input: The network sees 2x − 1, for data in [0, 1].
        any_size: Take samples of other sizes than those of `shape`, too. Their multiple of 2^(levels − 1) is checked.
        initialisation: Weights as torch draws them, or uniform with variance 2/(fan in + fan out) and without biases
            ("xavier", Song et al. 2021). Last layers start at zero in both.
        checkpointing: Compute normalisations, non-linearities, dropout and attention again in the backward pass of
            training, but no convolution: the same numbers in 0.44 of the memory of a step's tensors and 1.2 to 1.3
            times the time. Not inside transforms of `torch.func`.
        vector_size: Number of values of a vector that samples are conditioned on, or None.
        image_channels: Channels of an image that samples are conditioned on, or None. They are further channels of the
            input, at the size of the samples; see `ImageInput`.
        token_size: Length of tokens that samples are conditioned on, or None. The blocks with attention attend to them,
            too; one token more is learned.
        condition_dropout: Rate at which these conditions are dropped in training, in [0, 1): one for all, which are
            then dropped together, and labels with them at their own rate; or one for each, as `{"image": 0.1}`.

    Raises:
        ValueError: A shape of another kind, or that cannot be halved so often; a level of attention that does not
            exist, a size below 1, a rate outside [0, 1), groups or heads that do not divide channels, or options that
            exclude each other.

    References:
        Ho et al. 2020, Denoising diffusion probabilistic models, https://arxiv.org/abs/2006.11239
        Song et al. 2021, Score-based generative modeling through stochastic differential equations,
            https://arxiv.org/abs/2011.13456
        Dhariwal & Nichol 2021, Diffusion models beat GANs on image synthesis, https://arxiv.org/abs/2105.05233
        Karras et al. 2022, Elucidating the design space of diffusion-based generative models,
            https://arxiv.org/abs/2206.00364
    """

    def __init__(
        self,
        shape: Sequence[int],
        channels: int = 32,
        multipliers: Sequence[float] = (1, 2),
        blocks: int = 2,
        attention: Sequence[int] = (),
        head_channels: int = 32,
        dropout: float = 0.0,
        embedding: nn.Module | None = None,
        num_classes: int | None = None,
        label_dropout: float = 0.0,
        learn_variance: bool = False,
        *,
        resample: Literal["pool", "conv", "block"] = "pool",
        taps: Sequence[float] = (1, 1),
        conv_padding: Literal["end", "both"] = "end",
        resampled_skip: bool = True,
        skip_scale: float = math.sqrt(0.5),
        middle_skip_scale: float | None = None,
        modulation: Literal["scale_shift", "normed_scale_shift", "shift"] = "scale_shift",
        input_pyramid: Literal["none", "skip", "residual"] = "none",
        output_pyramid: Literal["none", "skip"] = "none",
        attention_resolutions: Sequence[int] | None = None,
        decoder_attention: Literal["all", "last"] = "all",
        decoder_levels: Sequence[int] | None = None,
        middle_attention: Literal["level", "between", "none"] = "level",
        heads: int | None = None,
        decoder_heads: int | None = None,
        groups: int | None = None,
        attention_groups: int | None = None,
        middle_attention_groups: int | None = None,
        joined_groups: Literal["sum", "first"] = "sum",
        norm_eps: float = 1e-5,
        stem_channels: int | None = None,
        condition_width: int | None = None,
        label_place: Literal["features", "hidden", "output"] = "hidden",
        label_scale: float = 1.0,
        label_bias: bool = False,
        no_label: Literal["learned", "zeros"] = "learned",
        augmentations: int = 0,
        center_input: bool = False,
        any_size: bool = False,
        initialisation: Literal["torch", "xavier"] = "torch",
        checkpointing: bool = False,
        vector_size: Size = None,
        image_channels: Size = None,
        token_size: Size = None,
        condition_dropout: Dropout = 0.0,
    ) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.num_classes = num_classes
        self.learn_variance = learn_variance
        self.blocks = blocks
        self.levels = len(multipliers)
        self.mirrored = resample == "pool"
        self.center_input = center_input
        self.augmentations = augmentations
        self.any_size = any_size
        self.checkpointing = checkpointing
        sizes.check_sizes(self.shape, self.levels, exact=not self.mirrored)
        dims = len(self.shape) - 1
        _check_options(channels, blocks, head_channels, multipliers, dropout, taps)
        if self.mirrored and (input_pyramid, output_pyramid) != ("none", "none"):
            raise ValueError("input_pyramid and output_pyramid need resample='block' or 'conv', got resample='pool'")
        widths = [max(1, round(channels * multiplier)) for multiplier in multipliers]
        encoding = self._attending("attention", attention)
        if attention_resolutions is not None:
            encoding = self._at_resolutions(attention_resolutions)
        decoding = encoding if decoder_levels is None else self._attending("decoder_levels", decoder_levels)
        width = condition_width or 4 * channels
        if attention_groups is None:
            attention_groups = groups
        vector_size = settled("vector", vector_size)
        image_channels = settled("image", image_channels)
        token_size = settled("tokens", token_size)
        options = BlockOptions(
            dims,
            width,
            dropout,
            modulation,
            skip_scale,
            resampled_skip,
            taps,
            groups,
            attention_groups,
            norm_eps,
            token_size,
        )
        self.condition_dropout = condition_dropout
        self.condition_shapes = condition_shapes(vector_size, image_channels, token_size)
        kinds = {"vector": vector_size, "image": image_channels, "tokens": token_size}
        rates = condition_rates(condition_dropout, kinds)
        self.has_unconditional = has_unconditional(num_classes, label_dropout, rates)
        """Whether all conditions are dropped in training, so that the network was trained for samples without."""

        def heads_of(features: int, fixed: int | None) -> int:
            return fixed or largest_divisor(features, features // head_channels)

        def between(features: int, direction: Literal["up", "down"]) -> nn.Module:
            if resample == "pool":
                return Pool() if direction == "down" else Repeat()
            if resample == "conv":
                down = direction == "down"
                return ConvDown(dims, features, conv_padding) if down else ConvUp(dims, features)
            return ResidualBlock(features, features, options, resample=direction)

        image, stem = self.shape[0], stem_channels or channels
        outputs = (1 + learn_variance) * image
        self.conditioning = Conditioning(
            width,
            embedding,
            num_classes,
            label_dropout,
            label_place,
            label_scale,
            label_bias,
            no_label,
            augmentations,
            vector_size,
            rates.get("vector", 0.0),
        )
        self.image = None if image_channels is None else ImageInput(image_channels, rates["image"])
        self.tokens = None if token_size is None else TokenInput(token_size, rates["tokens"])
        self.input = convolution(dims, image + (image_channels or 0), stem)
        self.encoder, self.downs, self.input_pyramid = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        current, kept = stem, [] if self.mirrored else [stem]
        pyramid = image
        for level, features in enumerate(widths):
            if level > 0:
                self.downs.append(between(current, "down"))
                if not self.mirrored:
                    kept.append(current)
                if input_pyramid == "skip":
                    self.input_pyramid.append(InputSkip(dims, image, current, taps))
                if input_pyramid == "residual":
                    self.input_pyramid.append(InputResidual(dims, pyramid, current, taps, skip_scale))
                    pyramid = current
            for _ in range(blocks):
                number = heads_of(features, heads) if level in encoding else 0
                self.encoder.append(ResidualBlock(current, features, options, number))
                current = features
                kept.append(current)
        self.middle = nn.ModuleList()
        central = replace(
            options,
            skip_scale=skip_scale if middle_skip_scale is None else middle_skip_scale,
            attention_groups=groups if middle_attention_groups is None else middle_attention_groups,
        )
        for i in range(2):
            attends = self.levels - 1 in encoding if middle_attention == "level" else i == 0
            number = heads_of(current, heads) if attends and middle_attention != "none" else 0
            self.middle.append(ResidualBlock(current, current, central, number))
        self.decoder, self.ups, self.output_pyramid = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        ups, images = [], []
        for level in reversed(range(self.levels)):
            count = blocks if self.mirrored else blocks + 1
            for i in range(count):
                attends = level in decoding and (decoder_attention == "all" or i == count - 1)
                number = heads_of(widths[level], decoder_heads or heads) if attends else 0
                skip = kept.pop()
                joined = min(32, current + skip // 4) if joined_groups == "first" and level in decoding else None
                self.decoder.append(ResidualBlock(current + skip, widths[level], options, number, groups=joined))
                current = widths[level]
            if level > 0:
                if output_pyramid == "skip":
                    images.append(OutputSkip(dims, current, outputs, taps, groups, norm_eps))
                ups.append(between(current, "up"))
        # By level, as those of the encoder.
        self.ups.extend(reversed(ups))
        self.output_pyramid.extend(reversed(images))
        check_attends_to_tokens(self, token_size, "set attention, say to (-1,)")
        self.norm = group_norm(current, groups, norm_eps)
        self.output = zeroed(convolution(dims, current, outputs))
        self.enlarge = Resample(dims, taps, "up") if output_pyramid == "skip" else None
        if initialisation == "xavier":
            xavier(self)

    @staticmethod
    def fits(shape: Sequence[int]) -> bool:
        """Whether a U-Net suits samples of a shape: images and volumes, and signals much longer than wide."""
        return sizes.fits(shape)

    @staticmethod
    def default_multipliers(shape: Sequence[int]) -> tuple[int, ...]:
        """Multipliers for samples of a shape: at least two, and so many that the coarsest level is small.

        Its longest side is up to 64 for signals, 32 for images and 8 for volumes.
        """
        return sizes.default_multipliers(shape)

    def _attending(self, name: str, chosen: Sequence[int]) -> set[int]:
        """Levels, counted from the finest, that an argument lists."""
        if not all(-self.levels <= level < self.levels for level in chosen):
            raise ValueError(f"{name} must list levels from 0 (finest) to {self.levels - 1}, got {tuple(chosen)}")
        return {level % self.levels for level in chosen}

    def _at_resolutions(self, chosen: Sequence[int]) -> set[int]:
        return {level for level in range(self.levels) if self.shape[-1] >> level in chosen}

    def forward(
        self,
        x: Tensor,
        c_noise: Tensor,
        labels: Tensor | None = None,
        augment_labels: Tensor | None = None,
        dropped: Tensor | None = None,
        vector: Tensor | None = None,
        image: Tensor | None = None,
        tokens: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Raw output of the network, of the shape of `x`, or with twice its channels if it learns variances.

        Args:
            x: Scaled samples, `(B, *shape)`.
            c_noise: Noise levels, `(B,)`.
            labels: Classes, `(B,)` int64; see `Conditioning`.
            augment_labels: How samples were augmented, `(B, augmentations)`; see `Conditioning`.
            dropped: True for samples that are to be without their conditions, `(B,)` boolean; none if not given.
            vector: Vectors that samples are conditioned on, `(B, vector_size)`, in their own units.
            image: Images that samples are conditioned on, `(B, image_channels, ...)`, of any size, in their own units.
            tokens: Tokens that samples are conditioned on, `(B, L, token_size)`.
            mask: True for tokens that count, `(B, L)` boolean; all if not given.

        Raises:
            TypeError: Conditions of another dtype, or `dropped` that is not boolean.
            ValueError: A shape that does not fit, or conditions that are missing, superfluous or out of range.
        """
        self._check(x, c_noise)
        given = {"vector": vector, "image": image, "tokens": tokens, "mask": mask}
        check_superfluous(given, self.condition_shapes)
        draws = Draws.of(c_noise, dropped, self.condition_dropout, self.training)
        condition = self.conditioning(c_noise, labels, augment_labels, draws, vector)
        context = () if self.tokens is None else self.tokens(tokens, mask, c_noise, draws, x.dtype)
        recompute = self.checkpointing and recomputes(self)
        x = 2 * x - 1 if self.center_input else x
        h = self.input(x if self.image is None else self.image(image, x, c_noise, draws))
        h, skips = self._encode(h, x, condition, context, recompute)
        for block in self.middle:
            h = block(h, condition, *context, recompute=recompute)
        return self._decode(h, skips, condition, context, recompute)

    def _check(self, x: Tensor, c_noise: Tensor) -> None:
        shape = self.shape
        if self.any_size and x.ndim == 1 + len(shape) and x.shape[1] == shape[0]:
            shape = tuple(x.shape[1:])
            sizes.check_sizes(shape, self.levels, exact=not self.mirrored)
        check_inputs(x, c_noise, shape)

    def _encode(
        self, h: Tensor, x: Tensor, condition: Tensor, context: tuple[Tensor | None, ...], recompute: bool
    ) -> tuple[Tensor, list[Tensor]]:
        """The features at the coarsest level, and those that the decoder reads, finest first, from the first ones."""
        blocks = iter(self.encoder)
        run = recomputed if recompute else called
        pyramid, skips = x, [] if self.mirrored else [h]
        for level in range(self.levels):
            if level > 0:
                h = _resampled(self.downs[level - 1], h, condition, recompute)
                if self.input_pyramid:
                    h, pyramid = run(self.input_pyramid[level - 1], h, pyramid)
                if not self.mirrored:
                    skips.append(h)
            for block in itertools.islice(blocks, self.blocks):
                h = block(h, condition, *context, recompute=recompute)
                skips.append(h)
        return h, skips

    def _decode(
        self,
        h: Tensor,
        skips: list[Tensor],
        condition: Tensor,
        context: tuple[Tensor | None, ...],
        recompute: bool,
    ) -> Tensor:
        """The output from the features of the middle and of the encoder."""
        blocks: Iterator[nn.Module] = iter(self.decoder)
        run = recomputed if recompute else called
        image = None
        for level in reversed(range(self.levels)):
            for block in itertools.islice(blocks, self.blocks + (not self.mirrored)):
                h = block(h, condition, *context, joined=skips.pop(), recompute=recompute)
            if level > 0:
                if self.output_pyramid:
                    image = run(self.output_pyramid[level - 1], h, image)
                h = _resampled(self.ups[level - 1], h, condition, recompute)
                if self.mirrored:
                    h = _cropped(h, skips[-1].shape[2:])
        out: Tensor = run(self._finished, h)
        return out if image is None or self.enlarge is None else out + self.enlarge(image)

    def _finished(self, h: Tensor) -> Tensor:
        out: Tensor = self.output(F.silu(self.norm(h)))
        return out


def _check_options(
    channels: int, blocks: int, head_channels: int, multipliers: Sequence[float], dropout: float, taps: Sequence[float]
) -> None:
    if min(channels, blocks, head_channels) < 1 or min(multipliers) <= 0:
        raise ValueError(
            f"channels, blocks and head_channels must be at least 1 and multipliers above 0, "
            f"got {channels}, {blocks}, {head_channels} and {tuple(multipliers)}"
        )
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be in [0, 1), got {dropout}")
    if len(taps) < 2 or len(taps) % 2 or list(taps) != list(reversed(taps)) or not sum(taps):
        raise ValueError(f"taps must be an even number of symmetric values with a sum, got {tuple(taps)}")


def _resampled(module: nn.Module, h: Tensor, condition: Tensor, recompute: bool) -> Tensor:
    if isinstance(module, ResidualBlock):
        return module(h, condition, recompute=recompute)  # type: ignore[no-any-return]
    out: Tensor = (recomputed if recompute else called)(module, h, condition)
    return out


def _cropped(h: Tensor, shape: torch.Size) -> Tensor:
    """The features without what doubling an odd size has added."""
    for dim, size in enumerate(shape, start=2):
        if h.shape[dim] != size:
            h = h.narrow(dim, 0, size)
    return h
