"""Configurations of published checkpoints whose files do not hold them, by name.

They are what the projects' own configuration files and documented commands say, in the fields that a model depends on.
"""

import difflib
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

__all__ = ["GUIDED", "SCORE_SDE", "guided", "score_sde"]

Entries = Mapping[str, Any]


# -- score_sde_pytorch (Song et al. 2021, appendix H and the project's configs) ---------------------------------

_MODEL: Entries = {
    "sigma_min": 0.01,
    "beta_min": 0.1,
    "beta_max": 20.0,
    "normalization": "GroupNorm",
    "nonlinearity": "swish",
    "resamp_with_conv": True,
    "conditional": True,
    "attn_resolutions": [16],
}
_NCSNPP: Entries = {
    **_MODEL,
    "name": "ncsnpp",
    "fir": True,
    "fir_kernel": [1, 3, 3, 1],
    "skip_rescale": True,
    "resblock_type": "biggan",
    "progressive": "none",
    "progressive_input": "residual",
    "progressive_combine": "sum",
    "attention_type": "ddpm",
    "init_scale": 0.0,
    "fourier_scale": 16,
    "conv_size": 3,
    "nf": 128,
}
_DDPM: Entries = {**_MODEL, "name": "ddpm", "nf": 128, "num_res_blocks": 2, "embedding_type": "positional"}
_CIFAR: Entries = {"num_scales": 1000, "sigma_max": 50, "dropout": 0.1, "ch_mult": [1, 2, 2, 2]}
_LARGE: Entries = {"num_scales": 2000, "dropout": 0.0, "ch_mult": [1, 1, 2, 2, 2, 2, 2], "num_res_blocks": 2}
_PYRAMIDS: Entries = {"progressive": "output_skip", "progressive_input": "input_skip"}
_1024: Entries = {"nf": 16, "ch_mult": [1, 2, 4, 8, 16, 32, 32, 32], "num_res_blocks": 1, "sigma_max": 1348}
_DDPM_LARGE: Entries = {
    "num_scales": 1000,
    "sigma_max": 378,
    "dropout": 0.0,
    "ch_mult": [1, 1, 2, 2, 4, 4],
}


def _config(model: Entries, sde: str, continuous: bool, dataset: str, size: int) -> Entries:
    exploding = sde == "vesde"
    return {
        "model": {"scale_by_sigma": exploding, **model},
        "data": {"dataset": dataset, "image_size": size, "num_channels": 3, "centered": not exploding},
        "training": {"sde": sde, "continuous": continuous},
    }


def _cifar() -> dict[str, Entries]:
    kinds: dict[str, Entries] = {
        "ncsnpp": {**_NCSNPP, **_CIFAR, "num_res_blocks": 4},
        "ddpmpp": {**_NCSNPP, **_CIFAR, "num_res_blocks": 4, "fir": False, "progressive_input": "none"},
    }
    found: dict[str, Entries] = {}
    for folder in ("ve", "vp", "subvp"):
        for kind, model in kinds.items():
            if folder == "ve" and kind == "ddpmpp":
                continue
            deep = {**model, "num_res_blocks": 8}
            for suffix, used, continuous in (
                ("", model, False), ("_continuous", model, True), ("_deep_continuous", deep, True),
            ):  # fmt: skip
                if folder == "subvp" and not continuous:
                    continue
                embedding = "fourier" if folder == "ve" and continuous else "positional"
                found[f"{folder}/cifar10_{kind}{suffix}"] = _config(
                    {**used, "embedding_type": embedding}, f"{folder}sde", continuous, "CIFAR10", 32
                )
    ddpm = {**_DDPM, **_CIFAR}
    found["ve/cifar10_ddpm"] = _config(ddpm, "vesde", False, "CIFAR10", 32)
    found["vp/ddpm/cifar10"] = _config(ddpm, "vpsde", False, "CIFAR10", 32)
    found["vp/ddpm/cifar10_continuous"] = _config(ddpm, "vpsde", True, "CIFAR10", 32)
    found["subvp/cifar10_ddpm_continuous"] = _config(ddpm, "subvpsde", True, "CIFAR10", 32)
    return found


def _larger() -> dict[str, Entries]:
    fourier = {**_NCSNPP, **_LARGE, "embedding_type": "fourier"}
    celeba = {**_NCSNPP, **_CIFAR, "num_res_blocks": 4, "sigma_max": 90, "embedding_type": "positional"}
    found = {"ve/celeba_ncsnpp": _config(celeba, "vesde", False, "CELEBA", 64)}
    for name, dataset, sigma_max in (
        ("celebahq_256", "CelebAHQ", 348), ("ffhq_256", "FFHQ", 348), ("church", "LSUN church_outdoor", 380),
        ("bedroom", "LSUN bedroom", 378),
    ):  # fmt: skip
        model = {**fourier, **_PYRAMIDS, "sigma_max": sigma_max}
        found[f"ve/{name}_ncsnpp_continuous"] = _config(model, "vesde", True, dataset, 256)
    for name, dataset in (("celebahq", "CelebAHQ"), ("ffhq", "FFHQ")):
        model = {**fourier, **_PYRAMIDS, **_1024}
        found[f"ve/{name}_ncsnpp_continuous"] = _config(model, "vesde", True, dataset, 1024)
    for name, dataset in (("celebahq", "CelebAHQ"), ("church", "LSUN church_outdoor"), ("bedroom", "LSUN bedroom")):
        found[f"vp/ddpm/{name}"] = _config({**_DDPM, **_DDPM_LARGE}, "vpsde", False, dataset, 256)
    return found


SCORE_SDE: Mapping[str, Entries] = MappingProxyType({**_cifar(), **_larger()})
"""Configurations of score_sde_pytorch, by the paths of the project's files in `configs`."""


def score_sde(name: str) -> Entries:
    """The configuration of score_sde_pytorch of a name such as "vp/cifar10_ddpmpp_continuous".

    Raises:
        ValueError: No such name.
    """
    return SCORE_SDE[_known("config", name.removesuffix(".py").removeprefix("configs/"), SCORE_SDE)]


# -- guided-diffusion and improved-diffusion (Dhariwal & Nichol 2021; Nichol & Dhariwal 2021; their READMEs) -------


def _guided(
    size: int, channels: int, blocks: int, multipliers: list[float], *, classes: bool = True, **others: Any
) -> tuple[Entries, Entries]:
    """Arguments of a network of guided-diffusion with learned variances, and of its diffusion."""
    diffusion = {"steps": 1000, "learn_sigma": True, "noise_schedule": "linear", "rescale_timesteps": False}
    network = {
        "image_size": size,
        "in_channels": 3,
        "out_channels": 6,
        "model_channels": channels,
        "num_res_blocks": blocks,
        "channel_mult": multipliers,
        "attention_resolutions": [size // 32, size // 16, size // 8],
        "num_classes": 1000 if classes else None,
        "num_heads": 4,
        "num_head_channels": 64,
        "num_heads_upsample": -1,
        "use_scale_shift_norm": True,
        "resblock_updown": True,
        "use_new_attention_order": False,
        "dropout": 0.0,
    }
    return {**network, **{k: v for k, v in others.items() if k in network}}, {
        **diffusion, **{k: v for k, v in others.items() if k in diffusion}
    }  # fmt: skip


def _improved(
    size: int, channels: int, blocks: int, multipliers: list[float], *, classes: bool = False, **others: Any
) -> tuple[Entries, Entries]:
    """The same of improved-diffusion."""
    network, diffusion = _guided(size, channels, blocks, multipliers, classes=classes)
    own = {
        **network,
        "attention_resolutions": [size // 16, size // 8],
        "num_head_channels": -1,
        "resblock_updown": False,
    }
    chain = {**diffusion, "steps": 4000, "noise_schedule": "cosine", "rescale_timesteps": True}
    return {**own, **{k: v for k, v in others.items() if k in own}}, {
        **chain, **{k: v for k, v in others.items() if k in chain}
    }  # fmt: skip


_LSUN: Entries = {
    "num_heads": 1, "use_scale_shift_norm": False, "attention_resolutions": [16], "steps": 1000,
    "noise_schedule": "linear", "rescale_timesteps": False,
}  # fmt: skip

GUIDED: Mapping[str, tuple[Entries, Entries]] = MappingProxyType(
    {
        "64x64_diffusion": _guided(
            64, 192, 3, [1, 2, 3, 4], dropout=0.1, noise_schedule="cosine", use_new_attention_order=True
        ),
        "128x128_diffusion": _guided(128, 256, 2, [1, 1, 2, 3, 4], num_head_channels=-1),
        "256x256_diffusion": _guided(256, 256, 2, [1, 1, 2, 2, 4, 4]),
        "256x256_diffusion_uncond": _guided(256, 256, 2, [1, 1, 2, 2, 4, 4], classes=False),
        "512x512_diffusion": _guided(512, 256, 2, [0.5, 1, 1, 2, 2, 4, 4]),
        "lsun_bedroom": _guided(256, 256, 2, [1, 1, 2, 2, 4, 4], classes=False, dropout=0.1),
        "lsun_cat": _guided(256, 256, 2, [1, 1, 2, 2, 4, 4], classes=False, dropout=0.1),
        "lsun_horse": _guided(256, 256, 2, [1, 1, 2, 2, 4, 4], classes=False, dropout=0.1),
        "lsun_horse_nodropout": _guided(256, 256, 2, [1, 1, 2, 2, 4, 4], classes=False),
        "imagenet64_uncond_100M_1500K": _improved(64, 128, 3, [1, 2, 3, 4]),
        "imagenet64_uncond_vlb_100M_1500K": _improved(64, 128, 3, [1, 2, 3, 4]),
        "imagenet64_cond_270M_250K": _improved(64, 192, 3, [1, 2, 3, 4], classes=True, rescale_timesteps=False),
        "cifar10_uncond_50M_500K": _improved(32, 128, 3, [1, 2, 2, 2], dropout=0.3),
        "cifar10_uncond_vlb_50M_500K": _improved(32, 128, 3, [1, 2, 2, 2], dropout=0.3),
        "lsun_uncond_100M_1200K_bs128": _improved(256, 128, 2, [1, 1, 2, 2, 4, 4], **_LSUN),
        "lsun_uncond_100M_2400K_bs64": _improved(256, 128, 2, [1, 1, 2, 2, 4, 4], **_LSUN),
    }
)
"""Arguments of the networks and of the diffusions of OpenAI's two projects, by the names of their files."""


def guided(name: str) -> tuple[Entries, Entries]:
    """The network's arguments and the diffusion's of a file of that name, such as "64x64_diffusion".

    Raises:
        ValueError: No such name.
    """
    return GUIDED[_known("network_arguments", name.removesuffix(".pt"), GUIDED)]


def _known(what: str, name: str, names: Iterable[str]) -> str:
    names = sorted(names)
    if name not in names:
        near = difflib.get_close_matches(name, names, 3, 0.5)
        told = f"did you mean {' or '.join(near)}?" if near else f"expected one of {', '.join(names)}"
        raise ValueError(f"{what} {name!r} is no published configuration: {told}")
    return name
