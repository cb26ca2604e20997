"""EDM2's networks: the arguments of `EDM2UNet` and the names of its tensors, from those of the original."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["converted", "network_options"]

# What the original's arguments are if they are not recorded.
_DEFAULTS: dict[str, Any] = {
    "model_channels": 192,
    "channel_mult": (1, 2, 3, 4),
    "channel_mult_noise": None,
    "channel_mult_emb": None,
    "num_blocks": 3,
    "attn_resolutions": (16, 8),
    "label_balance": 0.5,
    "concat_balance": 0.5,
    "resample_filter": (1, 1),
    "channels_per_head": 64,
    "dropout": 0.0,
    "res_balance": 0.3,
    "attn_balance": 0.3,
    "clip_act": 256,
    "logvar_channels": 128,
    "label_dim": 0,
}
# The preconditioning's own, which the network does not see.
_OTHERS = {"img_resolution", "img_channels", "use_fp16", "sigma_data"}

_BLOCK = {
    "emb_gain": "gain",
    "conv_res0.weight": "first.weight",
    "emb_linear.weight": "modulation.weight",
    "conv_res1.weight": "second.weight",
    "conv_skip.weight": "skip.weight",
    "attn_qkv.weight": "attention.qkv.weight",
    "attn_proj.weight": "attention.project.weight",
}
_OUTSIDE = {
    "unet.emb_fourier.freqs": "embedding.frequencies",
    "unet.emb_fourier.phases": "embedding.phases",
    "unet.emb_noise.weight": "noise.weight",
    "unet.emb_label.weight": "labels.weight",
    "unet.out_gain": "output_gain",
    "unet.out_conv.weight": "output.weight",
    "logvar_fourier.freqs": "log_variance.embedding.frequencies",
    "logvar_fourier.phases": "log_variance.embedding.phases",
    "logvar_linear.weight": "log_variance.linear.weight",
}


def network_options(init_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `EDM2UNet` for the arguments that an EDM2 file records of its preconditioned network.

    Args:
        init_kwargs: Arguments of the original's `Precond`, `img_resolution` and `img_channels` among them.

    Returns:
        The arguments, of plain values.

    Raises:
        ValueError: Arguments that are missing, or that are not known.
    """
    unknown = sorted(set(init_kwargs) - _DEFAULTS.keys() - _OTHERS)
    if unknown:
        raise ValueError(
            f"the file's network has an argument {unknown[0]}, expected those of EDM2's Precond and UNet: "
            "it is of another architecture"
        )
    missing = [name for name in ("img_resolution", "img_channels") if name not in init_kwargs]
    if missing:
        raise ValueError(f"the file does not record {missing[0]} of its network, without which it cannot be built")
    given = {**_DEFAULTS, **init_kwargs}
    size, channels = int(given["img_resolution"]), int(given["model_channels"])
    multipliers = [int(m) for m in given["channel_mult"]]
    resolutions = {int(r) for r in given["attn_resolutions"]}
    classes = int(given["label_dim"])

    def multiple(name: str) -> int | None:
        return None if given[name] is None else round(channels * given[name])

    return {
        "shape": (int(given["img_channels"]), size, size),
        "channels": channels,
        "multipliers": multipliers,
        "blocks": int(given["num_blocks"]),
        "attention": [level for level in range(len(multipliers)) if size >> level in resolutions],
        "head_channels": int(given["channels_per_head"]),
        "noise_channels": multiple("channel_mult_noise"),
        "embedding_channels": multiple("channel_mult_emb"),
        "dropout": float(given["dropout"]),
        "num_classes": classes or None,
        "unlabelled": classes > 0,
        "log_variance": int(given["logvar_channels"]),
        "label_share": float(given["label_balance"]),
        "skip_share": float(given["concat_balance"]),
        "residual_share": float(given["res_balance"]),
        "attention_share": float(given["attn_balance"]),
        "clip": None if given["clip_act"] is None else float(given["clip_act"]),
        "taps": [float(t) for t in given["resample_filter"]],
    }


def converted(state: Mapping[str, Tensor], init_kwargs: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of `EDM2UNet(**network_options(init_kwargs))` from that of the original's `Precond`.

    The file has float16, to which the random Fourier frequencies are rounded, too. They are raised to float32 as they
    are, since the network was trained with other frequencies only if they were drawn anew.

    Args:
        state: Tensors by the original's names.
        init_kwargs: Arguments of the original's `Precond`.

    Returns:
        Float32 copies by the names of `EDM2UNet`.

    Raises:
        ValueError: Tensors that the network has no place for.
    """
    options = network_options(init_kwargs)
    blocks = _blocks(options["shape"][1], options["multipliers"], options["blocks"])
    names = dict(_OUTSIDE)
    names[f"unet.enc.{options['shape'][1]}x{options['shape'][1]}_conv.weight"] = "input.weight"
    for theirs, ours in blocks.items():
        names |= {f"{theirs}.{part}": f"{ours}.{own}" for part, own in _BLOCK.items()}
    # Buffers that follow from the arguments.
    kept = {name: value for name, value in state.items() if not name.endswith("resample_filter")}
    foreign = [name for name in kept if name not in names]
    if foreign:
        raise ValueError(
            f"the file has a tensor {foreign[0]} of shape {tuple(kept[foreign[0]].shape)}, which an EDM2 network of "
            "these arguments does not have: it is of another architecture"
        )
    return {names[name]: value.detach().to(torch.float32, copy=True).contiguous() for name, value in kept.items()}


def _blocks(size: int, multipliers: list[int], blocks: int) -> dict[str, str]:
    """Our names of the original's blocks, by theirs."""
    encoder, decoder = [], []
    last = len(multipliers) - 1
    for level in range(last + 1):
        at = f"{size >> level}x{size >> level}"
        encoder += [f"{at}_down"] * (level > 0) + [f"{at}_block{i}" for i in range(blocks)]
    for level in range(last, -1, -1):
        at = f"{size >> level}x{size >> level}"
        decoder += [f"{at}_in0", f"{at}_in1"] if level == last else [f"{at}_up"]
        decoder += [f"{at}_block{i}" for i in range(blocks + 1)]
    return {
        **{f"unet.enc.{name}": f"encoder.{i}" for i, name in enumerate(encoder)},
        **{f"unet.dec.{name}": f"decoder.{i}" for i, name in enumerate(decoder)},
    }
