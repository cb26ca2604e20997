"""The configuration of diffusers' `UNet2DModel` for a `UNet`, the reverse of `diffusers_names.network_options`."""

import math
from typing import Any

import torch
from torch import nn

from scoresde.interop.diffusers_names import network_options
from scoresde.networks import UNet
from scoresde.networks.attention import SelfAttention
from scoresde.networks.blocks import ResidualBlock
from scoresde.networks.pyramids import InputResidual, InputSkip
from scoresde.networks.resampling import ConvDown

__all__ = ["config_of"]

# Attributes of modules that say what they compute.
_COMPARED = (
    "blocks", "center_input", "direction", "ends", "eps", "heads", "in_channels", "in_features", "kernel_size",
    "learn_variance", "levels", "mirrored", "num_groups", "out_channels", "out_features", "padding", "shifts", "size",
    "skip_scale", "stride",
)  # fmt: skip
_THEIRS = "and diffusers' UNet2DModel"


def config_of(network: nn.Module, size: tuple[int, ...] | None = None) -> dict[str, Any]:
    """The arguments of the `UNet2DModel` that computes what the network does, but for those of the noise level.

    Attention of which the network has less than a block of `UNet2DModel` is left to weights of zero.

    Args:
        network: The network.
        size: Height and width of its images; those of the network if not given.

    Raises:
        ValueError: A network that no `UNet2DModel` is; the message names the option.
    """
    if not isinstance(network, UNet):
        raise ValueError(f"the network is a {type(network).__name__}, {_THEIRS} is a UNet: train one, network=ddpm")
    if len(network.shape) != 3:
        raise ValueError(f"the network is for samples of shape {network.shape}, {_THEIRS} for images (C, H, W)")
    _check_conditions(network)
    if network.mirrored:
        raise ValueError(
            f"network.resample is 'pool', as by default, {_THEIRS} has one block more in each level of the decoder: "
            "train with network=ddpm preconditioning=noise"
        )
    skip = _pyramids(network)
    parts: Any = network  # whose types are those of the modules within
    widths = [parts.encoder[level * network.blocks].conv1.out_channels for level in range(network.levels)]
    stem = parts.input.out_channels
    if stem != widths[0]:
        raise ValueError(f"network.stem_channels is {stem}, {_THEIRS} has {widths[0]} there, as in its first level")
    blocks = [module for module in network.modules() if isinstance(module, ResidualBlock)]
    norms = [module for module in network.modules() if isinstance(module, nn.GroupNorm)]
    groups = None if skip else _same("groups", [norm.num_groups for norm in norms])
    shifts = blocks[0].shifts
    central = parts.middle[0].attention
    between = isinstance(central, SelfAttention)
    if isinstance(parts.middle[1].attention, SelfAttention):
        raise ValueError(
            f"network.middle_attention is 'level', {_THEIRS} has attention after the first of the middle's two blocks "
            "alone: train with middle_attention=between"
        )
    middle = None if not between or shifts else getattr(central.norm, "num_groups", None)
    condition = network.conditioning.output.out_features
    height, width = size or network.shape[1:]
    down, up = _kinds(network, skip)
    by_blocks = not skip and any(isinstance(module, ResidualBlock) for module in network.downs)
    at_both_ends = any(isinstance(module, ConvDown) and module.ends is None for module in network.downs)
    config = {
        "sample_size": height if height == width else [height, width],
        "in_channels": network.shape[0],
        "out_channels": network.shape[0] * (1 + parts.learn_variance),
        "center_input_sample": network.center_input,
        "down_block_types": down,
        "mid_block_type": "UNetMidBlock2D",
        "up_block_types": up,
        "block_out_channels": widths,
        "layers_per_block": network.blocks,
        "mid_block_scale_factor": 1 / parts.middle[0].skip_scale,
        "downsample_padding": 1 if skip or by_blocks or at_both_ends else 0,
        "downsample_type": "resnet" if by_blocks else "conv",
        "upsample_type": "resnet" if by_blocks else "conv",
        "dropout": _same("dropout", [block.rate for block in blocks]),
        "act_fn": "silu",
        "attention_head_dim": _head_width(network),
        "norm_num_groups": groups,
        "attn_norm_num_groups": middle,
        "norm_eps": _same("norm_eps", [norm.eps for norm in norms]),
        "resnet_time_scale_shift": "default" if shifts else "scale_shift",
        "time_embedding_dim": None if condition == 4 * widths[0] else condition,
        "class_embed_type": None,
        "num_class_embeds": network.num_classes,
        "add_attention": between,
    }
    _check_all(network, config)
    return config


def _check_all(network: UNet, config: dict[str, Any]) -> None:
    """Reject a network that has or does something else than that of the configuration; the message names the first.

    The latter may have more: attention where the network has none, and weights of normalisations.
    """
    with torch.device("meta"):
        other = UNet(**network_options({**config, "time_embedding_type": "learned", "num_train_timesteps": 2}))
    theirs = dict(other.named_modules())
    for name, module in network.named_modules():
        if name.startswith(("conditioning", "rates")):
            continue
        twin = theirs.get(name)
        if twin is None or type(twin) is not type(module):
            has = "none" if twin is None else f"a {type(twin).__name__}"
            raise ValueError(f"{name} of the network is a {type(module).__name__}, {_THEIRS} has {has} there")
        there = _settings(twin)
        for key, value in _settings(module).items():
            if value != there[key] and not (isinstance(value, float) and math.isclose(value, there[key])):
                where = f"{name}.{key}".lstrip(".")
                raise ValueError(f"{where} of the network is {value}, {_THEIRS} has {there[key]} there")


def _settings(module: nn.Module) -> dict[str, Any]:
    """Plain values that a module was made with, and the taps of its filter."""
    found = {key: value for key, value in vars(module).items() if key in _COMPARED}
    taps = module._buffers.get("taps")
    return found if taps is None else found | {"taps": tuple(taps.flatten().tolist())}


def _check_conditions(network: UNet) -> None:
    """Reject conditions that `UNet2DModel` has not."""
    own = network.conditioning
    if network.condition_shapes:
        told = " and ".join(network.condition_shapes)
        raise ValueError(f"the network is conditioned on {told}, {_THEIRS} takes labels alone")
    if own.augmentations:
        raise ValueError(f"network.augmentations is {own.augmentations}, {_THEIRS} takes no augmentation labels")
    if own.num_classes is None:
        return
    if own.label_place != "output" or own.label_scale != 1 or own.label_bias is not None:
        raise ValueError(
            f"network.label_place is {own.label_place!r}, with label_scale {own.label_scale:g}, {_THEIRS} adds the "
            "vector of a class to the output of the noise level's layers: train with network=adm"
        )
    if own.label_dropout > 0:
        raise ValueError(f"network.label_dropout is {own.label_dropout:g}, {_THEIRS} knows no sample without a label")


def _pyramids(network: UNet) -> bool:
    """Whether there are an input and an output pyramid, which `UNet2DModel` has as a pair or not at all."""
    kinds = {type(module) for module in network.input_pyramid}
    if InputResidual in kinds:
        raise ValueError(f"network.input_pyramid is 'residual', {_THEIRS} has none or 'skip'")
    inputs, outputs = InputSkip in kinds, len(network.output_pyramid) > 0
    if inputs != outputs:
        raise ValueError(f"the network has an input or an output pyramid, {_THEIRS} has both as 'skip' or neither")
    if inputs and network.shape[0] != 3:
        raise ValueError(f"the images have {network.shape[0]} channels, {_THEIRS} has pyramids for 3 alone")
    return inputs


def _kinds(network: UNet, skip: bool) -> tuple[list[str], list[str]]:
    """The kinds of blocks going down and up."""

    def attends(blocks: nn.ModuleList, first: int, count: int) -> bool:
        return any(isinstance(blocks[i].attention, SelfAttention) for i in range(first, first + count))

    by_blocks = any(isinstance(module, ResidualBlock) for module in network.downs) and not skip
    if skip:
        plain, attending = ("SkipDownBlock2D", "SkipUpBlock2D"), ("AttnSkipDownBlock2D", "AttnSkipUpBlock2D")
    else:
        attending = ("AttnDownBlock2D", "AttnUpBlock2D")
        plain = ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D") if by_blocks else ("DownBlock2D", "UpBlock2D")
    count = network.blocks
    down = [attends(network.encoder, i * count, count) for i in range(network.levels)]
    up = [attends(network.decoder, i * (count + 1), count + 1) for i in range(network.levels)]
    return [(plain, attending)[a][0] for a in down], [(plain, attending)[a][1] for a in up]


def _head_width(network: UNet) -> int | None:
    """Channels of an attention head, which are the same everywhere; None for one head everywhere."""
    found = [
        (module.qkv.in_features, module.heads) for module in network.modules() if isinstance(module, SelfAttention)
    ]
    if all(heads == 1 for _, heads in found):
        return None
    each = {width // heads for width, heads in found}
    if len(each) > 1:
        raise ValueError(
            f"network.heads and network.head_channels give heads of {' and '.join(map(str, sorted(each)))} channels, "
            f"{_THEIRS} has one number of channels for all"
        )
    return each.pop()


def _same(name: str, values: list[Any]) -> Any:
    """The value that all have."""
    each = sorted(set(values))
    if len(each) > 1:
        raise ValueError(
            f"network.{name} comes to {', '.join(map(str, each))} in different layers, {_THEIRS} has one number for "
            f"all: train with network.{name}=N"
        )
    return each[0]
