"""diffusers' `UNet2DModel`: the arguments of `UNet` and the names of its tensors, from those of the original."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from scoresde.interop.renaming import Renaming
from scoresde.networks import GaussianFourierFeatures, PositionalFeatures, TableEmbedding

__all__ = ["converted", "network_options", "rename"]

# What the original's arguments are if a configuration does not have them.
_DEFAULTS: dict[str, Any] = {
    "sample_size": None,
    "in_channels": 3,
    "out_channels": 3,
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (224, 448, 672, 896),
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "downsample_padding": 1,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "dropout": 0.0,
    "act_fn": "silu",
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "attn_norm_num_groups": None,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default",
    "class_embed_type": None,
    "num_class_embeds": None,
    "num_train_timesteps": None,
    "add_attention": True,
}
_OPTIONAL = (
    "attention_head_dim", "attn_norm_num_groups", "norm_num_groups", "num_class_embeds", "num_train_timesteps",
    "time_embedding_dim",
)  # fmt: skip
_PLAIN = (
    ("DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D"),
    ("UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"),
)
_SKIP = (("SkipDownBlock2D", "AttnSkipDownBlock2D"), ("SkipUpBlock2D", "AttnSkipUpBlock2D"))


def network_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `UNet` for a configuration of `UNet2DModel`, as its config.json has it.

    The network is told what the original's embedding sees: the timestep, or log σ with `time_embedding_type`
    "fourier". Division of the output by σ, which the original has then, is not part of the network here.

    Args:
        config: The configuration; what it does not have is as the original's class has it by default.

    Raises:
        ValueError: A value of another kind than networks here have.
    """
    given = _DEFAULTS | {name: value for name, value in config.items() if not name.startswith("_")}
    _check(given)
    widths, down = [int(width) for width in given["block_out_channels"]], list(given["down_block_types"])
    up = list(reversed(given["up_block_types"]))
    levels, channels = len(widths), widths[0]
    if len(down) != levels or len(up) != levels:
        raise ValueError(
            f"there are {levels} block_out_channels, {len(down)} down_block_types and {len(up)} up_block_types, "
            "expected as many of each"
        )
    skip = down[0] in _SKIP[0]
    known = _SKIP if skip else _PLAIN
    for types, names in zip((down, up), known, strict=True):
        for kind in types:
            if kind not in names:
                raise ValueError(f"a block is {kind}, expected {' or '.join(names)} beside {down[0]}")
    size = given["sample_size"]
    sides = (64, 64) if size is None else (size, size) if isinstance(size, int) else tuple(size)
    width = given["attention_head_dim"]
    by_shift = given["resnet_time_scale_shift"] == "default"
    inputs, outputs = int(given["in_channels"]), int(given["out_channels"])
    middle = given["attn_norm_num_groups"]
    options: dict[str, Any] = {
        "shape": (inputs, *sides),
        "channels": channels,
        "multipliers": [each / channels for each in widths],
        "blocks": int(given["layers_per_block"]),
        "attention": [level for level in range(levels) if "Attn" in down[level]],
        "decoder_levels": [level for level in range(levels) if "Attn" in up[level]],
        "dropout": float(given["dropout"]),
        "embedding": _embedding(given, channels),
        "condition_width": given["time_embedding_dim"] or 4 * channels,
        "num_classes": given["num_class_embeds"],
        "learn_variance": outputs == 2 * inputs,
        "middle_skip_scale": 1 / float(given["mid_block_scale_factor"]),
        "modulation": "shift" if by_shift else "normed_scale_shift",
        "middle_attention": "between" if given["add_attention"] else "none",
        "groups": given["norm_num_groups"],
        "middle_attention_groups": middle if by_shift or middle is not None else 0,
        "norm_eps": float(given["norm_eps"]),
        "label_place": "output",
        "center_input": bool(given["center_input_sample"]),
        "any_size": size is None,
        **({"heads": 1} if width is None else {"head_channels": width}),
    }
    attended = {each for each, *kinds in zip(widths, down, up, strict=True) if "Attn" in "".join(kinds)}
    for each in (attended | {widths[-1]} if given["add_attention"] else attended) if width else ():
        if each % width:
            raise ValueError(f"attention_head_dim is {width}, expected a divisor of the {each} channels of a level")
    if not skip:
        padding = "end" if given["downsample_padding"] == 0 else "both"
        resample = "block" if _by_blocks(given, down, up) else "conv"
        return options | {
            "resample": resample, "resampled_skip": False, "conv_padding": padding, "skip_scale": 1.0
        }  # fmt: skip
    # What these blocks have whatever the configuration says.
    return options | {
        "resample": "block",
        "taps": [1.0, 3.0, 3.0, 1.0],
        "skip_scale": 0.5**0.5,
        "input_pyramid": "skip",
        "output_pyramid": "skip",
        "decoder_attention": "last",
        "attention_groups": 32,
        "joined_groups": "first",
    }


def _embedding(given: Mapping[str, Any], channels: int) -> nn.Module:
    kind, steps = given["time_embedding_type"], given["num_train_timesteps"]
    if kind == "fourier":
        return GaussianFourierFeatures(2 * channels)
    if kind == "positional":
        return PositionalFeatures(
            channels, cosine_first=bool(given["flip_sin_to_cos"]), endpoint=bool(given["freq_shift"])
        )
    if type(steps) is not int:
        raise ValueError(f"num_train_timesteps is {steps!r}, expected how many timesteps the network has vectors for")
    return TableEmbedding(steps, channels)


def _by_blocks(given: Mapping[str, Any], down: list[str], up: list[str]) -> bool:
    """Whether residual blocks halve and double, and not convolutions; that is one thing or the other here."""
    # The coarsest level neither halves nor is it doubled to.
    kinds = [
        kind.startswith("Resnet") or ("Attn" in kind and given["downsample_type"] == "resnet") for kind in down[:-1]
    ]
    kinds += [kind.startswith("Resnet") or ("Attn" in kind and given["upsample_type"] == "resnet") for kind in up[1:]]
    if len(set(kinds)) > 1:
        raise ValueError(
            "some levels are resampled by residual blocks and others by convolutions, expected one of both"
        )
    return any(kinds)


def _whole(value: Any) -> bool:
    return type(value) is int and value >= 1


def _number(value: Any) -> bool:
    return type(value) in (int, float) and value >= 0


def _list(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list | tuple) and len(value) > 0 and all(map(fits, value))


def _size(value: Any) -> bool:
    return value is None or _whole(value) or (_list(_whole)(value) and len(value) == 2)


# Kinds of the original's arguments: others might be read as something else.
_KINDS: tuple[tuple[tuple[str, ...], Callable[[Any], bool], str], ...] = (
    (("in_channels", "out_channels", "layers_per_block"), _whole, "a positive integer"),
    (_OPTIONAL, lambda value: value is None or _whole(value), "a positive integer or null"),
    (("sample_size",), _size, "a positive integer, two of them or null"),
    (("dropout", "norm_eps"), _number, "a number of at least 0"),
    (("mid_block_scale_factor",), lambda value: _number(value) and value > 0, "a positive number"),
    (
        ("center_input_sample", "flip_sin_to_cos", "add_attention"),
        lambda value: isinstance(value, bool),
        "true or false",
    ),
    (("block_out_channels",), _list(_whole), "a list of positive integers"),
    (("down_block_types", "up_block_types"), _list(lambda each: isinstance(each, str)), "a list of words"),
)


def _check(given: Mapping[str, Any]) -> None:
    for names, fits, expected in _KINDS:
        for name in names:
            if not fits(given[name]):
                raise ValueError(f"{name} is {given[name]!r}, expected {expected}")
    for name, known in (
        ("act_fn", ("silu", "swish")),
        ("mid_block_type", ("UNetMidBlock2D",)),
        ("time_embedding_type", ("positional", "fourier", "learned")),
        ("resnet_time_scale_shift", ("default", "scale_shift")),
        ("downsample_type", ("conv", "resnet")),
        ("upsample_type", ("conv", "resnet")),
        ("downsample_padding", (0, 1)),
        ("freq_shift", (0, 1)),
        ("class_embed_type", (None,)),
        ("out_channels", (given["in_channels"], 2 * given["in_channels"])),
    ):
        if given[name] not in known:
            raise ValueError(f"{name} is {given[name]!r}, expected {' or '.join(map(repr, known))}")


_OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def converted(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of `UNet(**network_options(config))` from that of the original's `UNet2DModel`.

    Args:
        state: Tensors by the original's names; those of attention may be the old ones.
        config: The configuration.

    Raises:
        ValueError: A tensor that is missing, left over or of another shape; the message names the first.
    """
    options = network_options(config)
    own = Renaming(options, state)
    rename(own, options)
    return own.finished()


def rename(own: Renaming, options: Mapping[str, Any]) -> None:
    """Take every tensor of the original's network and put it where it is in `UNet(**options)`."""
    network, pyramids = own.network, "input_pyramid" in options

    def attention(ours: str, theirs: str) -> None:
        if own.has(f"{ours}.norm"):
            own.layer(f"{ours}.norm", f"{theirs}.group_norm")
        width = own.shapes[f"{ours}.qkv.weight"][1]
        old = f"{theirs}.query.weight" in own.state

        def taken(part: str, kind: str) -> Tensor:
            name = f"{theirs}.{_OLD[part] if old else part}.{kind}"
            shape = (width, width) if kind == "weight" else (width,)
            # Some files have matrices as convolutions of size 1.
            found = own.state.get(name)
            if found is not None and found.shape == (*shape, 1, 1):
                shape = (*shape, 1, 1)
            return own.take(name, shape)

        for kind in ("weight", "bias"):
            own.put(f"{ours}.qkv.{kind}", torch.cat([taken(part, kind) for part in ("to_q", "to_k", "to_v")]))
        for kind in ("weight", "bias"):
            own.put(f"{ours}.project.{kind}", taken("to_out.0", kind))

    def block(ours: str, theirs: str) -> None:
        own.layer(f"{ours}.norm1", f"{theirs}.norm1")
        own.layer(f"{ours}.conv1", f"{theirs}.conv1")
        own.layer(f"{ours}.modulation.linear", f"{theirs}.time_emb_proj")
        own.layer(f"{ours}.norm2", f"{theirs}.norm2")
        own.layer(f"{ours}.conv2", f"{theirs}.conv2")
        if own.has(f"{ours}.skip"):
            own.layer(f"{ours}.skip", f"{theirs}.conv_shortcut")

    def between(ours: str, theirs: str) -> None:
        if options["resample"] == "conv":
            own.layer(f"{ours}.conv", f"{theirs}.conv")
        else:
            block(ours, theirs)

    def level_of(ours: str, first: int, count: int, theirs: str) -> None:
        """The blocks of a level, and the attention after all of them or after the last."""
        attending = 0
        for i in range(count):
            block(f"{ours}.{first + i}", f"{theirs}.resnets.{i}")
            if own.has(f"{ours}.{first + i}.attention.qkv"):
                attention(f"{ours}.{first + i}.attention", f"{theirs}.attentions.{attending}")
                attending += 1

    if own.has("conditioning.embedding.frequencies"):
        own.one("conditioning.embedding.frequencies", "time_proj.weight")
    if own.has("conditioning.embedding.vectors"):
        own.one("conditioning.embedding.vectors.weight", "time_proj.weight")
    own.layer("conditioning.input", "time_embedding.linear_1")
    own.layer("conditioning.output", "time_embedding.linear_2")
    if own.has("conditioning.classes"):
        own.one("conditioning.classes.weight", "class_embedding.weight")
    own.layer("input", "conv_in")
    last = network.levels - 1
    for level in range(network.levels):
        theirs = f"down_blocks.{level}"
        level_of("encoder", level * network.blocks, network.blocks, theirs)
        if level == last:
            continue
        if not pyramids:
            between(f"downs.{level}", f"{theirs}.downsamplers.0")
        else:
            block(f"downs.{level}", f"{theirs}.resnet_down")
            own.layer(f"input_pyramid.{level}.conv", f"{theirs}.skip_conv")
    block("middle.0", "mid_block.resnets.0")
    if own.has("middle.0.attention.qkv"):
        attention("middle.0.attention", "mid_block.attentions.0")
    block("middle.1", "mid_block.resnets.1")
    for i in range(network.levels):
        theirs, level = f"up_blocks.{i}", last - i
        level_of("decoder", i * (network.blocks + 1), network.blocks + 1, theirs)
        if level == 0:
            continue
        if not pyramids:
            between(f"ups.{level - 1}", f"{theirs}.upsamplers.0")
        else:
            own.layer(f"output_pyramid.{level - 1}.norm", f"{theirs}.skip_norm")
            own.layer(f"output_pyramid.{level - 1}.output", f"{theirs}.skip_conv")
            block(f"ups.{level - 1}", f"{theirs}.resnet_up")
    own.layer("norm", "conv_norm_out")
    own.layer("output", "conv_out")
