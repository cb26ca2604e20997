"""EDM's SongUNet and DhariwalUNet: the arguments of `UNet` and the names of its tensors, from those of the original."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from scoresde.interop.renaming import Renaming
from scoresde.networks import GaussianFourierFeatures, PositionalFeatures

__all__ = ["converted", "network_options"]

# What the original's arguments are if they are not recorded.
_SHARED: dict[str, Any] = {
    "label_dim": 0,
    "augment_dim": 0,
    "channel_mult_emb": 4,
    "dropout": 0.10,
    "label_dropout": 0,
}
_SONG: dict[str, Any] = _SHARED | {
    "model_channels": 128,
    "channel_mult": (1, 2, 2, 2),
    "num_blocks": 4,
    "attn_resolutions": (16,),
    "embedding_type": "positional",
    "channel_mult_noise": 1,
    "encoder_type": "standard",
    "decoder_type": "standard",
    "resample_filter": (1, 1),
}
_DHARIWAL: dict[str, Any] = _SHARED | {
    "model_channels": 192,
    "channel_mult": (1, 2, 3, 4),
    "num_blocks": 3,
    "attn_resolutions": (32, 16, 8),
}
_DEFAULTS = {"SongUNet": _SONG, "DhariwalUNet": _DHARIWAL}
# The network of each preconditioning, if it is not recorded.
_NETWORKS = {
    "VPPrecond": "SongUNet",
    "VEPrecond": "SongUNet",
    "EDMPrecond": "DhariwalUNet",
    "iDDPMPrecond": "DhariwalUNet",
}
# Of the preconditioning, which the network does not see.
_OTHERS = {"img_resolution", "img_channels", "model_type", "class_name", "use_fp16", "sigma_min", "sigma_max"} | {
    "sigma_data", "beta_d", "beta_min", "M", "epsilon_t", "C_1", "C_2"
}  # fmt: skip
_HEAD = 64  # channels of a head in DhariwalUNet


def network_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `UNet` for the arguments that a file of EDM records of its preconditioned network.

    Args:
        config: Arguments of the original's preconditioning class, `img_resolution` and `img_channels` among them, and
            that class's name as `class_name`; `EDMPrecond` if it is not given.

    Raises:
        ValueError: Arguments that are missing or that are not known.
    """
    kind = str(config.get("class_name", "EDMPrecond"))
    if kind not in _NETWORKS:
        raise ValueError(f"class_name is {kind!r}, expected {', '.join(_NETWORKS)}")
    network = str(config.get("model_type", _NETWORKS[kind]))
    if network not in _DEFAULTS:
        raise ValueError(f"model_type is {network!r}, expected {' or '.join(_DEFAULTS)}")
    defaults = _DEFAULTS[network]
    for name in config:
        if name not in defaults and name not in _OTHERS:
            raise ValueError(f"the arguments have {name}, expected those of {kind} and {network}")
    for name in ("img_resolution", "img_channels"):
        if name not in config:
            raise ValueError(f"the arguments have no {name}, without which the network cannot be built")
    given = defaults | dict(config)
    size, channels = int(given["img_resolution"]), int(given["model_channels"])
    multipliers = [int(m) for m in given["channel_mult"]]
    resolutions = {int(r) for r in given["attn_resolutions"]}
    attention = [level for level in range(len(multipliers)) if size >> level in resolutions]
    classes = int(given["label_dim"])
    options: dict[str, Any] = {
        "shape": (int(given["img_channels"]), size, size),
        "channels": channels,
        "multipliers": multipliers,
        "blocks": int(given["num_blocks"]),
        "attention": attention,
        "dropout": float(given["dropout"]),
        "num_classes": classes or None,
        "label_dropout": float(given["label_dropout"]) if classes else 0.0,
        "learn_variance": kind == "iDDPMPrecond",
        "resample": "block",
        "middle_attention": "between",
        "condition_width": channels * int(given["channel_mult_emb"]),
        "no_label": "zeros",
        "augmentations": int(given["augment_dim"]),
    }
    if network == "SongUNet":
        return options | _song_options(given, channels, classes)
    # A level of fewer channels than a head has no attention there, the middle neither.
    attending = [level for level in attention if channels * multipliers[level] >= _HEAD]
    return options | {
        "attention": attending,
        "head_channels": _HEAD,
        "embedding": PositionalFeatures(channels, cosine_first=True, endpoint=False),
        "resampled_skip": False,
        "skip_scale": 1.0,
        "modulation": "normed_scale_shift",
        "middle_attention": "between" if channels * multipliers[-1] >= _HEAD else "none",
        "stem_channels": channels * multipliers[0],
        "label_place": "output",
    }


def _song_options(given: Mapping[str, Any], channels: int, classes: int) -> dict[str, Any]:
    for name, known in (
        ("embedding_type", ("fourier", "positional")),
        ("encoder_type", ("standard", "skip", "residual")),
        ("decoder_type", ("standard", "skip")),
    ):
        if given[name] not in known:
            raise ValueError(f"{name} is {given[name]!r}, expected {' or '.join(known)}")
    noise = channels * int(given["channel_mult_noise"])
    fourier = given["embedding_type"] == "fourier"
    encoder, decoder = given["encoder_type"], given["decoder_type"]
    return {
        "embedding": GaussianFourierFeatures(noise) if fourier else PositionalFeatures(noise),
        "taps": [float(tap) for tap in given["resample_filter"]],
        "skip_scale": 0.5**0.5,
        "modulation": "shift",
        "input_pyramid": "none" if encoder == "standard" else encoder,
        "output_pyramid": "none" if decoder == "standard" else decoder,
        "decoder_attention": "last",
        "heads": 1,
        "norm_eps": 1e-6,
        "label_place": "features",
        "label_scale": classes**0.5 if classes else 1.0,
        "label_bias": True,
        "initialisation": "xavier",
    }


def converted(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of `UNet(**network_options(config))` from that of the original's preconditioned network.

    Args:
        state: Tensors by the original's names, with or without the `model.` of its preconditioning class. The constant
            filters are ignored, and iDDPM's table of noise levels, `u`.
        config: The arguments, as of `network_options`.

    Raises:
        ValueError: A tensor that is missing, left over or of another shape; the message names the first.
    """
    options = network_options(config)
    kept = {name: value for name, value in state.items() if name != "u"}
    own = Renaming(options, kept, ("resample_filter",))
    root = "model." if any(name.startswith("model.") for name in kept) else ""
    network, size = own.network, options["shape"][1]

    def block(ours: str, theirs: str) -> None:
        theirs = f"{root}{theirs}"
        for mine, name in (
            ("norm1", "norm0"),
            ("conv1", "conv0"),
            ("modulation.linear", "affine"),
            ("norm2", "norm1"),
            ("conv2", "conv1"),
            ("skip", "skip"),
            ("attention.norm", "norm2"),
        ):
            if own.has(f"{ours}.{mine}"):
                own.layer(f"{ours}.{mine}", f"{theirs}.{name}")
        if not own.has(f"{ours}.attention.qkv"):
            return
        # Channels of q, k and v alternate within each head, and matrices are convolutions of size 1.
        heads, width = own.heads(f"{ours}.attention"), own.shapes[f"{ours}.attention.qkv.weight"][1]
        weight, bias = (
            own.take(f"{theirs}.qkv.{part}", shape).reshape(heads, width // heads, 3, -1).movedim(2, 0)
            for part, shape in (("weight", (3 * width, width, 1, 1)), ("bias", (3 * width,)))
        )
        own.put(f"{ours}.attention.qkv.weight", weight)
        own.put(f"{ours}.attention.qkv.bias", bias)
        own.put(f"{ours}.attention.project.weight", own.take(f"{theirs}.proj.weight", (width, width, 1, 1)))
        own.one(f"{ours}.attention.project.bias", f"{theirs}.proj.bias")

    if own.has("conditioning.embedding.frequencies"):
        own.one("conditioning.embedding.frequencies", f"{root}map_noise.freqs")
    if own.has("conditioning.classes"):
        classes, width = own.shapes["conditioning.classes.weight"]
        own.put("conditioning.classes.weight", own.take(f"{root}map_label.weight", (width, classes)).T)
        if own.has("conditioning.label_bias"):
            own.one("conditioning.label_bias", f"{root}map_label.bias")
    if own.has("conditioning.augmentation"):
        own.one("conditioning.augmentation.weight", f"{root}map_augment.weight")
    own.layer("conditioning.input", f"{root}map_layer0")
    own.layer("conditioning.output", f"{root}map_layer1")
    own.layer("input", f"{root}enc.{size}x{size}_conv")
    for level in range(network.levels):
        at = f"enc.{size >> level}x{size >> level}"
        if level > 0:
            block(f"downs.{level - 1}", f"{at}_down")
            if own.has(f"input_pyramid.{level - 1}.conv"):
                own.layer(f"input_pyramid.{level - 1}.conv", f"{root}{at}_aux_skip")
            if own.has(f"input_pyramid.{level - 1}.down.conv"):
                own.layer(f"input_pyramid.{level - 1}.down.conv", f"{root}{at}_aux_residual")
        for i in range(network.blocks):
            block(f"encoder.{level * network.blocks + i}", f"{at}_block{i}")
    for i, level in enumerate(reversed(range(network.levels))):
        at = f"dec.{size >> level}x{size >> level}"
        if i == 0:
            block("middle.0", f"{at}_in0")
            block("middle.1", f"{at}_in1")
        else:
            block(f"ups.{level}", f"{at}_up")
        for j in range(network.blocks + 1):
            block(f"decoder.{i * (network.blocks + 1) + j}", f"{at}_block{j}")
        if level > 0 and own.has(f"output_pyramid.{level - 1}.output"):
            own.layer(f"output_pyramid.{level - 1}.norm", f"{root}{at}_aux_norm")
            own.layer(f"output_pyramid.{level - 1}.output", f"{root}{at}_aux_conv")
    song = options["modulation"] == "shift"
    own.layer("norm", f"{root}dec.{size}x{size}_aux_norm" if song else f"{root}out_norm")
    own.layer("output", f"{root}dec.{size}x{size}_aux_conv" if song else f"{root}out_conv")
    return own.finished()
