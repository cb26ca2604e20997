"""guided- and improved-diffusion: the arguments of `UNet` and the names of its tensors, from those of the originals."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from scoresde.interop.renaming import Renaming
from scoresde.networks import PositionalFeatures

__all__ = ["converted", "network_options"]

_DEFAULTS: dict[str, Any] = {
    "in_channels": 3,
    "dropout": 0.0,
    "channel_mult": None,
    "conv_resample": True,
    "dims": 2,
    "num_classes": None,
    "use_checkpoint": False,
    "use_fp16": False,
    "num_heads": 1,
    "num_head_channels": -1,
    "num_heads_upsample": -1,
    "use_scale_shift_norm": False,
    "resblock_updown": False,
    "use_new_attention_order": False,
}
# What only guided-diffusion has; its first layer has the channels of the finest level, that of the other the unit.
_GUIDED = ("image_size", "num_head_channels", "resblock_updown", "use_new_attention_order")
_REQUIRED = ("model_channels", "out_channels", "num_res_blocks", "attention_resolutions")
_MULTIPLIERS = {
    512: (0.5, 1, 1, 2, 2, 4, 4),
    256: (1, 1, 2, 2, 4, 4),
    128: (1, 1, 2, 3, 4),
    64: (1, 2, 3, 4),
    32: (1, 2, 2, 2),
}


def network_options(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `UNet` for those of the projects' `UNetModel`.

    `attention_resolutions` are factors of downsampling, as `UNetModel` has them. As text, "16,8", they are resolutions,
    as on the projects' command lines; `channel_mult` may be text, too, or left out for the usual one of an image size.
    Without `image_size`, which improved-diffusion's class does not have, the network takes images of any size.

    Args:
        arguments: Arguments of `UNetModel`.

    Raises:
        ValueError: Arguments that are missing, that are not known, or that no published model has.
    """
    for name in arguments:
        if name not in _DEFAULTS and name not in _REQUIRED and name != "image_size":
            raise ValueError(f"the arguments have {name}, expected those of UNetModel")
    for name in _REQUIRED:
        if arguments.get(name) is None:
            raise ValueError(f"the arguments have no {name}, without which the network cannot be built")
    given = _DEFAULTS | dict(arguments)
    if not given["conv_resample"]:
        raise ValueError("conv_resample is False, expected True as in published models")
    size = arguments.get("image_size")
    channels, inputs, outputs = int(given["model_channels"]), int(given["in_channels"]), int(given["out_channels"])
    if outputs not in (inputs, 2 * inputs):
        raise ValueError(f"out_channels is {outputs}, expected {inputs}, or {2 * inputs} with learned variances")
    multipliers = _multipliers(given["channel_mult"], size)
    levels = len(multipliers)
    factors = _factors(given["attention_resolutions"], size)
    heads, width = int(given["num_heads"]), int(given["num_head_channels"])
    up = int(given["num_heads_upsample"])
    by_width = width != -1
    side = int(size) if size is not None else 64
    return {
        "shape": (inputs, *(side,) * int(given["dims"])),
        "channels": channels,
        "multipliers": multipliers,
        "blocks": int(given["num_res_blocks"]),
        "attention": [level for level in range(levels) if 2**level in factors],
        "dropout": float(given["dropout"]),
        "embedding": PositionalFeatures(channels, cosine_first=True, endpoint=False),
        "num_classes": given["num_classes"],
        "learn_variance": outputs == 2 * inputs,
        "resample": "block" if given["resblock_updown"] else "conv",
        "conv_padding": "both",
        "resampled_skip": False,
        "skip_scale": 1.0,
        "modulation": "normed_scale_shift" if given["use_scale_shift_norm"] else "shift",
        "middle_attention": "between",
        "groups": 32,
        "norm_eps": 1e-5,
        "label_place": "output",
        "stem_channels": int(multipliers[0] * channels) if any(name in arguments for name in _GUIDED) else channels,
        "any_size": size is None,
        **({"head_channels": width} if by_width else {"heads": heads, "decoder_heads": heads if up == -1 else up}),
    }


def _numbers(value: Any) -> list[float]:
    if isinstance(value, str):
        return [float(part) for part in value.split(",") if part.strip()]
    return [float(each) for each in (value if isinstance(value, Sequence) else (value,))]


def _multipliers(value: Any, size: Any) -> list[float]:
    found = [] if value is None else _numbers(value)
    if not found:
        if size not in _MULTIPLIERS:
            raise ValueError(f"channel_mult is missing, and there is no usual one for image_size {size}: give it")
        found = list(map(float, _MULTIPLIERS[size]))
    return found


def _factors(value: Any, size: Any) -> set[int]:
    """The factors of downsampling at which there is attention."""
    numbers = [int(number) for number in _numbers(value)]
    if not isinstance(value, str):
        return set(numbers)
    if size is None:
        raise ValueError(
            "attention_resolutions are text, which means resolutions: give image_size, or a list of factors"
        )
    return {int(size) // number for number in numbers}


def converted(state: Mapping[str, Tensor], arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of `UNet(**network_options(arguments))` from that of the original's `UNetModel`.

    Args:
        state: Tensors by the original's names.
        arguments: Arguments of `UNetModel`.

    Raises:
        ValueError: A tensor that is missing, left over or of another shape; the message names the first.
    """
    options = network_options(arguments)
    own = Renaming(options, state)
    network, convolutions = own.network, options["resample"] == "conv"
    ordered = bool(arguments.get("use_new_attention_order", False))

    def attention(ours: str, theirs: str) -> None:
        own.layer(f"{ours}.norm", f"{theirs}.norm")
        width, heads = own.shapes[f"{ours}.qkv.weight"][1], own.heads(ours)
        for part, shape in (("weight", (3 * width, width, 1)), ("bias", (3 * width,))):
            value = own.take(f"{theirs}.qkv.{part}", shape)
            # By default, q, k and v follow each other within each head.
            own.put(
                f"{ours}.qkv.{part}",
                value if ordered else value.reshape(heads, 3, width // heads, -1).transpose(0, 1),
            )
        own.put(f"{ours}.project.weight", own.take(f"{theirs}.proj_out.weight", (width, width, 1)))
        own.one(f"{ours}.project.bias", f"{theirs}.proj_out.bias")

    def block(ours: str, theirs: str) -> None:
        own.layer(f"{ours}.norm1", f"{theirs}.in_layers.0")
        own.layer(f"{ours}.conv1", f"{theirs}.in_layers.2")
        own.layer(f"{ours}.modulation.linear", f"{theirs}.emb_layers.1")
        own.layer(f"{ours}.norm2", f"{theirs}.out_layers.0")
        own.layer(f"{ours}.conv2", f"{theirs}.out_layers.3")
        if own.has(f"{ours}.skip"):
            own.layer(f"{ours}.skip", f"{theirs}.skip_connection")

    def attending(ours: str, theirs: str) -> int:
        """A block with what follows it; returns the number of modules."""
        block(ours, f"{theirs}.0")
        if own.has(f"{ours}.attention.qkv"):
            attention(f"{ours}.attention", f"{theirs}.1")
            return 2
        return 1

    own.layer("conditioning.input", "time_embed.0")
    own.layer("conditioning.output", "time_embed.2")
    if own.has("conditioning.classes"):
        own.one("conditioning.classes.weight", "label_emb.weight")
    own.layer("input", "input_blocks.0.0")
    number = 1
    for level in range(network.levels):
        if level > 0:
            theirs = f"input_blocks.{number}.0"
            if convolutions:
                own.layer(f"downs.{level - 1}.conv", f"{theirs}.op")
            else:
                block(f"downs.{level - 1}", theirs)
            number += 1
        for i in range(network.blocks):
            attending(f"encoder.{level * network.blocks + i}", f"input_blocks.{number}")
            number += 1
    block("middle.0", "middle_block.0")
    attention("middle.0.attention", "middle_block.1")
    block("middle.1", "middle_block.2")
    for number in range(network.levels * (network.blocks + 1)):
        place = attending(f"decoder.{number}", f"output_blocks.{number}")
        level = network.levels - 1 - number // (network.blocks + 1)
        if level > 0 and number % (network.blocks + 1) == network.blocks:
            theirs = f"output_blocks.{number}.{place}"
            if convolutions:
                own.layer(f"ups.{level - 1}.conv", f"{theirs}.conv")
            else:
                block(f"ups.{level - 1}", theirs)
    own.layer("norm", "out.0")
    own.layer("output", "out.2")
    return own.finished()
