"""The networks of score_sde: the arguments of `UNet` and the names of its tensors, from those of the original.

The original lists all modules of a network by one running number, in the order in which they are called.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from scoresde.interop.fields import Fields
from scoresde.interop.renaming import Renaming
from scoresde.networks import GaussianFourierFeatures, PositionalFeatures

__all__ = ["converted", "network_options"]

_PYRAMIDS = {"none": "none", "input_skip": "skip", "output_skip": "skip", "residual": "residual"}


def network_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `UNet` for a configuration of score_sde, with its parts `model` and `data`.

    A network with `data.centered` false takes data in [0, 1] and centres them itself. Division by σ, which the original
    has within networks with `scale_by_sigma`, is not part of the network here.

    Args:
        config: The configuration, as nested mappings.

    Raises:
        ValueError: A value that the original does not have, or that no published configuration has.
        KeyError: A value that is missing.
    """
    model, data = config["model"], config["data"]
    name = model["name"]
    if name not in ("ncsnpp", "ddpm"):
        raise ValueError(f"model.name is {name!r}, expected 'ncsnpp' (NCSN++ and DDPM++) or 'ddpm'")
    sizes, images = Fields(model, "config.model"), Fields(data, "config.data")
    channels, size = sizes.whole("nf"), images.whole("image_size")
    multipliers = [int(m) for m in model["ch_mult"]]
    resolutions = {int(r) for r in model["attn_resolutions"]}
    _check(model, "conditional", (True,))
    _check(model, "nonlinearity", ("swish",))
    _check(model, "resamp_with_conv", (True,))
    options: dict[str, Any] = {
        "shape": (images.whole("num_channels"), size, size),
        "channels": channels,
        "multipliers": multipliers,
        "blocks": sizes.whole("num_res_blocks"),
        "attention": [level for level in range(len(multipliers)) if size >> level in resolutions],
        "dropout": sizes.number("dropout"),
        "resample": "conv",
        "conv_padding": "end",
        "modulation": "shift",
        "decoder_attention": "last",
        "middle_attention": "between",
        "heads": 1,
        "norm_eps": 1e-6,
        "center_input": not data["centered"],
        "initialisation": "xavier",
    }
    if name == "ddpm":
        return options | {"embedding": PositionalFeatures(channels), "skip_scale": 1.0, "groups": 32}
    _check(model, "embedding_type", ("fourier", "positional"))
    _check(model, "progressive_combine", ("sum",))
    _check(model, "progressive", ("none", "output_skip"))
    _check(model, "progressive_input", ("none", "input_skip", "residual"))
    _check(model, "resblock_type", ("biggan", "ddpm"))
    biggan, fir = model["resblock_type"] == "biggan", bool(model["fir"])
    if not fir and model["progressive_input"] == "residual":
        raise ValueError("model.fir is False with progressive_input 'residual', expected True as in published models")
    if fir and not biggan:
        raise ValueError("model.fir is True with resblock_type 'ddpm', expected 'biggan' as in published models")
    fourier = model["embedding_type"] == "fourier"
    return options | {
        "embedding": GaussianFourierFeatures(2 * channels, float(model.get("fourier_scale", 16)))
        if fourier
        else PositionalFeatures(channels),
        "resample": "block" if biggan else "conv",
        "taps": [float(tap) for tap in model["fir_kernel"]] if fir else [1.0, 1.0],
        "skip_scale": 0.5**0.5 if model["skip_rescale"] else 1.0,
        "input_pyramid": _PYRAMIDS[model["progressive_input"]],
        "output_pyramid": _PYRAMIDS[model["progressive"]],
    }


def _check(model: Mapping[str, Any], key: str, known: tuple[Any, ...]) -> None:
    """Check a word that changes the network; the DDPM of the project lacks some, and they are as published there."""
    value = model.get(key, known[0])
    value = value.lower() if isinstance(value, str) else value
    if value not in known:
        raise ValueError(f"model.{key} is {value!r}, expected {' or '.join(map(repr, known))}")


def converted(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of `UNet(**network_options(config))` from that of the original's network.

    Args:
        state: Tensors by the original's names, with or without the `module.` of its wrapper; `sigmas` is ignored.
        config: The configuration.

    Raises:
        ValueError: A tensor that is missing, left over or of another shape; the message names the first.
    """
    bare = {name.removeprefix("module."): value for name, value in state.items()}
    options = network_options(config)
    own = Renaming(options, bare, ("sigmas",))
    convolutions = options["resample"] == "conv"
    number = -1

    def following() -> str:
        nonlocal number
        number += 1
        return f"all_modules.{number}"

    def attention(ours: str) -> None:
        """Four matrices, (in, out) as the original has them."""
        theirs = following()
        own.layer(f"{ours}.norm", f"{theirs}.GroupNorm_0")
        _, width = own.shapes[f"{ours}.qkv.weight"]
        parts = [f"{theirs}.NIN_{i}" for i in range(4)]
        own.put(f"{ours}.qkv.weight", torch.cat([own.take(f"{part}.W", (width, width)).T for part in parts[:3]]))
        own.put(f"{ours}.qkv.bias", torch.cat([own.take(f"{part}.b", (width,)) for part in parts[:3]]))
        own.put(f"{ours}.project.weight", own.take(f"{parts[3]}.W", (width, width)).T)
        own.put(f"{ours}.project.bias", own.take(f"{parts[3]}.b", (width,)))

    def block(ours: str) -> None:
        theirs = following()
        own.layer(f"{ours}.norm1", f"{theirs}.GroupNorm_0")
        own.layer(f"{ours}.conv1", f"{theirs}.Conv_0")
        own.layer(f"{ours}.modulation.linear", f"{theirs}.Dense_0")
        own.layer(f"{ours}.norm2", f"{theirs}.GroupNorm_1")
        own.layer(f"{ours}.conv2", f"{theirs}.Conv_1")
        if own.has(f"{ours}.skip") and convolutions:
            outputs, inputs = own.shapes[f"{ours}.skip.weight"][:2]
            own.put(f"{ours}.skip.weight", own.take(f"{theirs}.NIN_0.W", (inputs, outputs)).T)
            own.one(f"{ours}.skip.bias", f"{theirs}.NIN_0.b")
        elif own.has(f"{ours}.skip"):
            own.layer(f"{ours}.skip", f"{theirs}.Conv_2")
        if own.has(f"{ours}.attention.qkv"):
            attention(f"{ours}.attention")

    def between(ours: str) -> None:
        if convolutions:
            own.layer(f"{ours}.conv", f"{following()}.Conv_0")
        else:
            block(ours)

    network = own.network
    if own.has("conditioning.embedding.frequencies"):
        own.one("conditioning.embedding.frequencies", f"{following()}.W")
    for layer in ("conditioning.input", "conditioning.output", "input"):
        own.layer(layer, following())
    for level in range(network.levels):
        for i in range(network.blocks):
            block(f"encoder.{level * network.blocks + i}")
        if level < network.levels - 1:
            between(f"downs.{level}")
            if own.has(f"input_pyramid.{level}.conv"):
                own.layer(f"input_pyramid.{level}.conv", f"{following()}.Conv_0")
            if own.has(f"input_pyramid.{level}.down.conv"):
                own.layer(f"input_pyramid.{level}.down.conv", f"{following()}.Conv2d_0")
    block("middle.0")
    block("middle.1")
    for i, level in enumerate(reversed(range(network.levels))):
        for j in range(network.blocks + 1):
            block(f"decoder.{i * (network.blocks + 1) + j}")
        if level > 0:
            if own.has(f"output_pyramid.{level - 1}.output"):
                own.layer(f"output_pyramid.{level - 1}.norm", following())
                own.layer(f"output_pyramid.{level - 1}.output", following())
            between(f"ups.{level - 1}")
    own.layer("norm", following())
    own.layer("output", following())
    return own.finished()
