"""Checkpoints of EDM2 (Karras et al. 2024)."""

import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.data import DataInfo
from scoresde.data.affine import Affine, Identity
from scoresde.data.transforms import Transform
from scoresde.interop.checkpoint import Checkpoint, described_network, node
from scoresde.interop.edm import PIXELS, checked_network, data_name
from scoresde.interop.edm2_names import converted, network_options
from scoresde.interop.fields import Fields
from scoresde.interop.records import attributes, module_state, read_modules, recorded_arguments
from scoresde.score import NetworkScore
from scoresde.storage.bounded import CheckpointError
from scoresde.storage.pickles import Record

__all__ = ["load_edm2", "read_edm2"]

_ARGUMENTS = ("img_resolution", "img_channels", "label_dim", "use_fp16", "sigma_data", "logvar_channels")
_PIXELS, _LATENTS = "StandardRGBEncoder", "StabilityVAEEncoder"


@checked
def load_edm2(path: str | Path) -> NetworkScore:
    """The model of a `.pkl` file of EDM2 under `EDMSDE`; nothing in the file is run.

    The file's float16 weights are raised to float32, in which the network computes. Time is the noise level σ. A model
    of latents is reported by a warning: its samples are latents of an autoencoder whose decoder is not in the file.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: No such file.
        CheckpointError: A file that is damaged or of another kind, or a network that is not understood.

    References:
        Karras et al. 2024, Analyzing and improving the training dynamics of diffusion models,
            https://arxiv.org/abs/2312.02696
    """
    checkpoint = read_edm2(path)
    for note in checkpoint.notes:
        warnings.warn(note, UserWarning, stacklevel=2)
    return checkpoint.model()


def read_edm2(path: str | Path) -> Checkpoint:
    """The parts of the model that `load_edm2` gives."""
    path = Path(path).expanduser()
    content = read_modules(path)
    module = content.get("ema", content.get("net"))
    if not isinstance(module, Record) or module.name != "Precond":
        known = f"of class {module.name[:80]}" if isinstance(module, Record) else "that is no module"
        hint = ": load it by load_edm" if isinstance(module, Record) and module.name.endswith("Precond") else ""
        raise CheckpointError(f"{path} has an 'ema' {known}, and EDM2's is of class Precond{hint}")
    arguments = recorded_arguments(module, _ARGUMENTS)
    fields = Fields({**arguments, **attributes(module)}, f"the {module.name} of {path}")
    size, channels = fields.whole("img_resolution"), fields.whole("img_channels")
    options = checked_network(network_options, arguments, path)
    transform, notes = _encoding(content.get("encoder"), path, channels, size)
    classes = fields.whole("label_dim") if fields.values.get("label_dim") else None
    name = f"latents of {data_name(content)}" if notes else data_name(content)
    return Checkpoint(
        path,
        "EDM2",
        described_network("EDM2UNet", options),
        node("sde.EDMSDE", sigma_min=0.002, sigma_max=80.0),
        node("preconditioning.EDMPreconditioning", sigma_data=fields.number("sigma_data", 0.5)),
        DataInfo(name, (channels, size, size), transform, classes),
        module_state(module),
        partial(_named, config=arguments),
        "EMA weights",
        notes,
    )


def _named(stored: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    return converted(stored, config)


def _encoding(encoder: Any, path: Path, channels: int, size: int) -> tuple[Transform, tuple[str, ...]]:
    """The map from the data to the network's input, and what there is to say about it."""
    kind = encoder.name if isinstance(encoder, Record) else _PIXELS if encoder is None else ""
    if kind == _PIXELS:
        return PIXELS, ()
    if kind != _LATENTS:
        raise CheckpointError(f"{path} has data of an encoder {kind[:80]!r}, expected {_PIXELS} or {_LATENTS}")
    note = (
        f"{path} is a model of latents ({channels}, {size}, {size}) of an autoencoder "
        f"({attributes(encoder).get('vae_name', 'not named')}), which is not in the file: samples are latents, and "
        f"images of ({8 * size}, {8 * size}) are made of them by its decoder alone"
    )
    known = {**recorded_arguments(encoder, ()), **attributes(encoder)}
    scale, bias = known.get("scale"), known.get("bias")
    if scale is None or bias is None:
        return Identity(), (note,)
    # The network's input is scale · latent + bias, by channel.
    slope, offset = (torch.tensor(list(v), dtype=torch.float64).reshape(-1, 1, 1) for v in (scale, bias))
    return Affine((-offset / slope).tolist(), (1 / slope).tolist()), (note,)
