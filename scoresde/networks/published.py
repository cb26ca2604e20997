"""The U-Nets of the literature by their papers' names: `UNet` with their options, at any size.

The sizes by default are those for CIFAR-10, or ImageNet at 64 pixels for ADM. `conf/network` has a choice of each.
"""

from collections.abc import Sequence
from typing import Any, Literal

from torch import nn

from scoresde.arguments import checked
from scoresde.networks.conditions import Dropout, Size
from scoresde.networks.embedding import GaussianFourierFeatures, PositionalFeatures
from scoresde.networks.unet import UNet

__all__ = ["adm", "ddpm", "ddpmpp", "ncsnpp", "song_ddpmpp", "song_ncsnpp"]

_DDPM: dict[str, Any] = {
    "resample": "conv",
    "conv_padding": "end",
    "skip_scale": 1.0,
    "modulation": "shift",
    "decoder_attention": "last",
    "middle_attention": "between",
    "heads": 1,
    "groups": 32,
    "norm_eps": 1e-6,
    "initialisation": "xavier",
}
_DDPMPP: dict[str, Any] = {
    key: value for key, value in _DDPM.items() if key not in ("conv_padding", "skip_scale", "groups")
} | {"resample": "block", "resampled_skip": True}
_SONG: dict[str, Any] = {"label_place": "features", "label_bias": True, "no_label": "zeros"}
_ADM: dict[str, Any] = {
    "resample": "block",
    "resampled_skip": False,
    "skip_scale": 1.0,
    "modulation": "normed_scale_shift",
    "middle_attention": "between",
    "label_place": "output",
    "no_label": "zeros",
}


@checked
def ddpm(
    shape: Sequence[int],
    channels: int = 128,
    multipliers: Sequence[float] = (1, 2, 2, 2),
    blocks: int = 2,
    attention_resolutions: Sequence[int] = (16,),
    dropout: float = 0.1,
    embedding: nn.Module | None = None,
    num_classes: int | None = None,
    label_dropout: float = 0.0,
    learn_variance: bool = False,
    checkpointing: bool = False,
    vector_size: Size = None,
    image_channels: Size = None,
    token_size: Size = None,
    condition_dropout: Dropout = 0.0,
) -> UNet:
    """The network of DDPM as score_sde has it, 35.2 million parameters for CIFAR-10 (Ho et al. 2020, appendix B).

    Args:
        shape: Shape of one sample; sizes are multiples of 2^(levels − 1).
        channels: Feature channels at the finest level. Those of every level are multiples of 32.
        multipliers: Channels of each level, finest first, as multiples of `channels`.
        blocks: Residual blocks at each level of the encoder; one less than at each of the decoder.
        attention_resolutions: Sizes of the last dimension at whose levels there is attention.
        dropout: Rate in the blocks.
        embedding: Noise-level features; `PositionalFeatures(channels)` if not given, for steps from 0 to 999.
        num_classes: Number of classes, or None.
        label_dropout: Rate at which labels are dropped in training; see `Conditioning`.
        learn_variance: Twice the channels; see `UNet`.
        checkpointing: Less memory in training; see `UNet`.
        vector_size: Number of values of a vector to condition on, or None.
        image_channels: Channels of an image to condition on, or None; see `UNet`.
        token_size: Length of tokens to condition on, or None; see `UNet`.
        condition_dropout: Rate at which these are dropped in training; see `UNet`.

    Raises:
        ValueError: As of `UNet`.
    """
    return UNet(
        shape, channels, multipliers, blocks, dropout=dropout, embedding=embedding or PositionalFeatures(channels),
        num_classes=num_classes, label_dropout=label_dropout, learn_variance=learn_variance,
        attention_resolutions=attention_resolutions, checkpointing=checkpointing,
        vector_size=vector_size, image_channels=image_channels, token_size=token_size,
        condition_dropout=condition_dropout, **_DDPM,
    )  # fmt: skip


@checked
def ddpmpp(
    shape: Sequence[int],
    channels: int = 128,
    multipliers: Sequence[float] = (1, 2, 2, 2),
    blocks: int = 4,
    attention_resolutions: Sequence[int] = (16,),
    dropout: float = 0.1,
    embedding: nn.Module | None = None,
    num_classes: int | None = None,
    label_dropout: float = 0.0,
    learn_variance: bool = False,
    checkpointing: bool = False,
    vector_size: Size = None,
    image_channels: Size = None,
    token_size: Size = None,
    condition_dropout: Dropout = 0.0,
) -> UNet:
    """DDPM++, 61.8 million parameters for CIFAR-10, and 106.6 with 8 blocks, "deep" (Song et al. 2021, appendix H).

    Args:
        shape: Shape of one sample; sizes are multiples of 2^(levels − 1).
        channels: Feature channels at the finest level.
        multipliers: Channels of each level, finest first, as multiples of `channels`.
        blocks: Residual blocks at each level of the encoder; one less than at each of the decoder.
        attention_resolutions: Sizes of the last dimension at whose levels there is attention.
        dropout: Rate in the blocks.
        embedding: Noise-level features; `PositionalFeatures(channels)` if not given, for 999 t.
        num_classes: Number of classes, or None.
        label_dropout: Rate at which labels are dropped in training; see `Conditioning`.
        learn_variance: Twice the channels; see `UNet`.
        checkpointing: Less memory in training; see `UNet`.
        vector_size: Number of values of a vector to condition on, or None.
        image_channels: Channels of an image to condition on, or None; see `UNet`.
        token_size: Length of tokens to condition on, or None; see `UNet`.
        condition_dropout: Rate at which these are dropped in training; see `UNet`.

    Raises:
        ValueError: As of `UNet`.
    """
    return UNet(
        shape, channels, multipliers, blocks, dropout=dropout, embedding=embedding or PositionalFeatures(channels),
        num_classes=num_classes, label_dropout=label_dropout, learn_variance=learn_variance,
        attention_resolutions=attention_resolutions, checkpointing=checkpointing,
        vector_size=vector_size, image_channels=image_channels, token_size=token_size,
        condition_dropout=condition_dropout, **_DDPMPP,
    )  # fmt: skip


@checked
def ncsnpp(
    shape: Sequence[int],
    channels: int = 128,
    multipliers: Sequence[float] = (1, 2, 2, 2),
    blocks: int = 4,
    attention_resolutions: Sequence[int] = (16,),
    dropout: float = 0.1,
    input_pyramid: Literal["none", "skip", "residual"] = "residual",
    output_pyramid: Literal["none", "skip"] = "none",
    embedding: nn.Module | None = None,
    num_classes: int | None = None,
    label_dropout: float = 0.0,
    learn_variance: bool = False,
    checkpointing: bool = False,
    vector_size: Size = None,
    image_channels: Size = None,
    token_size: Size = None,
    condition_dropout: Dropout = 0.0,
) -> UNet:
    """NCSN++, 62.8 million parameters for CIFAR-10, and 107.6 with 8 blocks, "deep" (Song et al. 2021, appendix H).

    For images from 256 pixels it has `input_pyramid="skip"`, `output_pyramid="skip"`, two blocks, and the multipliers
    1, 1, 2, 2, 2, 2, 2.

    Args:
        shape: Shape of one sample; sizes are multiples of 2^(levels − 1).
        channels: Feature channels at the finest level.
        multipliers: Channels of each level, finest first, as multiples of `channels`.
        blocks: Residual blocks at each level of the encoder; one less than at each of the decoder.
        attention_resolutions: Sizes of the last dimension at whose levels there is attention.
        dropout: Rate in the blocks.
        input_pyramid: The halved input beside the encoder; see `UNet`.
        output_pyramid: The output as a sum over levels; see `UNet`.
        embedding: Noise-level features; `GaussianFourierFeatures(2 * channels)` if not given, for log σ.
        num_classes: Number of classes, or None.
        label_dropout: Rate at which labels are dropped in training; see `Conditioning`.
        learn_variance: Twice the channels; see `UNet`.
        checkpointing: Less memory in training; see `UNet`.
        vector_size: Number of values of a vector to condition on, or None.
        image_channels: Channels of an image to condition on, or None; see `UNet`.
        token_size: Length of tokens to condition on, or None; see `UNet`.
        condition_dropout: Rate at which these are dropped in training; see `UNet`.

    Raises:
        ValueError: As of `UNet`.
    """
    return UNet(
        shape, channels, multipliers, blocks, dropout=dropout,
        embedding=embedding or GaussianFourierFeatures(2 * channels),
        num_classes=num_classes, label_dropout=label_dropout, learn_variance=learn_variance, taps=(1, 3, 3, 1),
        input_pyramid=input_pyramid, output_pyramid=output_pyramid,
        attention_resolutions=attention_resolutions, checkpointing=checkpointing,
        vector_size=vector_size, image_channels=image_channels, token_size=token_size,
        condition_dropout=condition_dropout, **_DDPMPP,
    )  # fmt: skip


@checked
def song_ddpmpp(
    shape: Sequence[int],
    channels: int = 128,
    multipliers: Sequence[float] = (2, 2, 2),
    blocks: int = 4,
    attention_resolutions: Sequence[int] = (16,),
    dropout: float = 0.13,
    embedding: nn.Module | None = None,
    num_classes: int | None = None,
    label_dropout: float = 0.0,
    augmentations: int = 0,
    learn_variance: bool = False,
    checkpointing: bool = False,
    vector_size: Size = None,
    image_channels: Size = None,
    token_size: Size = None,
    condition_dropout: Dropout = 0.0,
) -> UNet:
    """DDPM++ as EDM has it, 55.7 million parameters for CIFAR-10 (Karras et al. 2022, appendix F).

    Args:
        shape: Shape of one sample; sizes are multiples of 2^(levels − 1).
        channels: The unit of widths, and the channels of the first layer.
        multipliers: Channels of each level, finest first, as multiples of `channels`.
        blocks: Residual blocks at each level of the encoder; one less than at each of the decoder.
        attention_resolutions: Sizes of the last dimension at whose levels there is attention.
        dropout: Rate in the blocks.
        embedding: Noise-level features; `PositionalFeatures(channels)` if not given, for log(σ/α)/4.
        num_classes: Number of classes, or None.
        label_dropout: Rate at which labels are dropped in training; a sample without one has a class of zeros.
        augmentations: Number of augmentation labels; 9 in the paper.
        learn_variance: Twice the channels; see `UNet`.
        checkpointing: Less memory in training; see `UNet`.
        vector_size: Number of values of a vector to condition on, or None.
        image_channels: Channels of an image to condition on, or None; see `UNet`.
        token_size: Length of tokens to condition on, or None; see `UNet`.
        condition_dropout: Rate at which these are dropped in training; see `UNet`.

    Raises:
        ValueError: As of `UNet`.
    """
    return UNet(
        shape, channels, multipliers, blocks, dropout=dropout, embedding=embedding or PositionalFeatures(channels),
        num_classes=num_classes, label_dropout=label_dropout, learn_variance=learn_variance,
        label_scale=(num_classes or 1) ** 0.5, augmentations=augmentations,
        attention_resolutions=attention_resolutions, checkpointing=checkpointing,
        vector_size=vector_size, image_channels=image_channels, token_size=token_size,
        condition_dropout=condition_dropout, **_DDPMPP, **_SONG,
    )  # fmt: skip


@checked
def song_ncsnpp(
    shape: Sequence[int],
    channels: int = 128,
    multipliers: Sequence[float] = (2, 2, 2),
    blocks: int = 4,
    attention_resolutions: Sequence[int] = (16,),
    dropout: float = 0.13,
    embedding: nn.Module | None = None,
    num_classes: int | None = None,
    label_dropout: float = 0.0,
    augmentations: int = 0,
    learn_variance: bool = False,
    checkpointing: bool = False,
    vector_size: Size = None,
    image_channels: Size = None,
    token_size: Size = None,
    condition_dropout: Dropout = 0.0,
) -> UNet:
    """NCSN++ as EDM has it, 56.4 million parameters for CIFAR-10 (Karras et al. 2022, appendix F).

    Args:
        shape: Shape of one sample; sizes are multiples of 2^(levels − 1).
        channels: The unit of widths, and the channels of the first layer.
        multipliers: Channels of each level, finest first, as multiples of `channels`.
        blocks: Residual blocks at each level of the encoder; one less than at each of the decoder.
        attention_resolutions: Sizes of the last dimension at whose levels there is attention.
        dropout: Rate in the blocks.
        embedding: Noise-level features; `GaussianFourierFeatures(2 * channels)` if not given, for log(σ/α)/4.
        num_classes: Number of classes, or None.
        label_dropout: Rate at which labels are dropped in training; a sample without one has a class of zeros.
        augmentations: Number of augmentation labels; 9 in the paper.
        learn_variance: Twice the channels; see `UNet`.
        checkpointing: Less memory in training; see `UNet`.
        vector_size: Number of values of a vector to condition on, or None.
        image_channels: Channels of an image to condition on, or None; see `UNet`.
        token_size: Length of tokens to condition on, or None; see `UNet`.
        condition_dropout: Rate at which these are dropped in training; see `UNet`.

    Raises:
        ValueError: As of `UNet`.
    """
    return UNet(
        shape, channels, multipliers, blocks, dropout=dropout,
        embedding=embedding or GaussianFourierFeatures(2 * channels),
        num_classes=num_classes, label_dropout=label_dropout, learn_variance=learn_variance, taps=(1, 3, 3, 1),
        input_pyramid="residual", label_scale=(num_classes or 1) ** 0.5, augmentations=augmentations,
        attention_resolutions=attention_resolutions, checkpointing=checkpointing,
        vector_size=vector_size, image_channels=image_channels, token_size=token_size,
        condition_dropout=condition_dropout, **_DDPMPP, **_SONG,
    )  # fmt: skip


@checked
def adm(
    shape: Sequence[int],
    channels: int = 192,
    multipliers: Sequence[float] = (1, 2, 3, 4),
    blocks: int = 3,
    attention_resolutions: Sequence[int] = (32, 16, 8),
    head_channels: int = 64,
    dropout: float = 0.1,
    embedding: nn.Module | None = None,
    num_classes: int | None = None,
    label_dropout: float = 0.0,
    augmentations: int = 0,
    learn_variance: bool = False,
    checkpointing: bool = False,
    vector_size: Size = None,
    image_channels: Size = None,
    token_size: Size = None,
    condition_dropout: Dropout = 0.0,
) -> UNet:
    """ADM as EDM has it, 296 million parameters for ImageNet at 64 pixels with labels (Dhariwal & Nichol 2021).

    Args:
        shape: Shape of one sample; sizes are multiples of 2^(levels − 1).
        channels: The unit of widths.
        multipliers: Channels of each level, finest first, as multiples of `channels`.
        blocks: Residual blocks at each level of the encoder; one less than at each of the decoder.
        attention_resolutions: Sizes of the last dimension at whose levels there is attention.
        head_channels: Channels of an attention head.
        dropout: Rate in the blocks.
        embedding: Noise-level features; those of the paper, cosines first, if not given.
        num_classes: Number of classes, or None.
        label_dropout: Rate at which labels are dropped in training; a sample without one has a class of zeros.
        augmentations: Number of augmentation labels.
        learn_variance: Twice the channels; see `UNet`.
        checkpointing: Less memory in training; see `UNet`.
        vector_size: Number of values of a vector to condition on, or None.
        image_channels: Channels of an image to condition on, or None; see `UNet`.
        token_size: Length of tokens to condition on, or None; see `UNet`.
        condition_dropout: Rate at which these are dropped in training; see `UNet`.

    Raises:
        ValueError: As of `UNet`.
    """
    return UNet(
        shape, channels, multipliers, blocks, head_channels=head_channels, dropout=dropout,
        embedding=embedding or PositionalFeatures(channels, cosine_first=True, endpoint=False),
        num_classes=num_classes, label_dropout=label_dropout, learn_variance=learn_variance,
        stem_channels=round(channels * multipliers[0]), augmentations=augmentations,
        attention_resolutions=attention_resolutions, checkpointing=checkpointing,
        vector_size=vector_size, image_channels=image_channels, token_size=token_size,
        condition_dropout=condition_dropout, **_ADM,
    )  # fmt: skip
