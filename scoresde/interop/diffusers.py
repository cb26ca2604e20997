"""Folders of diffusers with an unconditional or class-conditional `UNet2DModel`."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.data import DataInfo
from scoresde.data.transforms import Discrete
from scoresde.interop.checkpoint import Checkpoint, described_network, node
from scoresde.interop.diffusers_names import converted, network_options
from scoresde.interop.edm import PIXELS, checked_network
from scoresde.interop.fields import Fields
from scoresde.score import NetworkScore
from scoresde.storage.bounded import CheckpointError, read_json
from scoresde.storage.bounded_tensors import read_tensor_header
from scoresde.storage.torch_files import read_torch_file

__all__ = ["load_diffusers", "read_diffusers"]

_WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
# Parts of a pipeline that stand for models of another kind.
_OTHERS = {
    "vae": "latents of an autoencoder",
    "vqvae": "latents of an autoencoder",
    "movq": "latents of an autoencoder",
    "text_encoder": "text",
    "tokenizer": "text",
    "bert": "text",
    "image_encoder": "images as conditions",
    "transformer": "a transformer",
    "controlnet": "images as conditions",
}
_PREDICTIONS = {
    "epsilon": "UnscaledNoisePreconditioning",
    "sample": "UnscaledDataPreconditioning",
    "v_prediction": "UnscaledVelocityPreconditioning",
}


@checked
def load_diffusers(directory: str | Path) -> NetworkScore:
    """The model of a folder of diffusers with a `UNet2DModel` and its scheduler, under the scheduler's own SDE.

    With a scheduler of a chain, such as `DDPMScheduler`, the SDE is `DiscreteVPSDE` with its table of β: at the times
    i/T the network is given the integer timesteps of its training, between them numbers in between. With
    `ScoreSdeVeScheduler` it is `VESDE`. The table is computed in float64, where diffusers keeps ᾱ in float32.

    Args:
        directory: The folder, that of a pipeline or that of its model with `scheduler_config.json`.

    Raises:
        FileNotFoundError: No such folder, or a file that it lacks.
        CheckpointError: A folder of another kind of model, damaged files, or a configuration that is not understood.
    """
    return read_diffusers(directory).model()


def read_diffusers(directory: str | Path) -> Checkpoint:
    """The parts of the model that `load_diffusers` gives."""
    folder = Path(directory).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(2, "no such folder", str(folder))
    _check_pipeline(folder)
    inner = folder / "unet" if (folder / "unet").is_dir() else folder
    config = _configuration(inner / "config.json")
    kind = config.get("_class_name", "UNet2DModel")
    if kind != "UNet2DModel":
        told = " (a network with text or images as conditions)" if "Condition" in str(kind) else ""
        raise CheckpointError(f"{folder} has a {str(kind)[:60]}{told}, and only UNet2DModel is supported")
    place = next((p for p in (folder / "scheduler", folder) if (p / "scheduler_config.json").is_file()), None)
    if place is None:
        raise CheckpointError(
            f"{folder} has no scheduler_config.json, which says how much noise there is at each step: copy that of its "
            "pipeline into the folder"
        )
    scheduler = Fields(_configuration(place / "scheduler_config.json"), f"{place / 'scheduler_config.json'}")
    sde, preconditioning, unit = _process(config, scheduler)
    options = checked_network(network_options, config, folder)
    transform = Discrete(256, -0.5 / 255, 1 + 0.5 / 255) if unit else PIXELS
    fields = Fields(config, f"{inner / 'config.json'}")
    channels = fields.whole("in_channels", 3)
    if channels != fields.whole("out_channels", 3) and scheduler.values.get("variance_type") != "learned_range":
        raise CheckpointError(
            f"{folder} has a network from {channels} channels to others, and its scheduler's variance_type is not "
            "learned_range, so that it is no denoiser"
        )
    classes = config.get("num_class_embeds")
    return Checkpoint(
        folder,
        "diffusers",
        described_network("UNet", options),
        sde,
        preconditioning,
        None if config.get("sample_size") is None else DataInfo(folder.name, options["shape"], transform, classes),
        _tensors(inner),
        partial(_named, config=config),
    )


def _named(stored: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    return converted(stored, config)


def _configuration(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"{path.parent} has no {path.name}, as folders of diffusers do")
    found: dict[str, Any] = read_json(path, dict)
    return found


def _check_pipeline(folder: Path) -> None:
    """Reject a pipeline with parts of which its network is not the whole model."""
    index = folder / "model_index.json"
    if not index.is_file():
        return
    for name in read_json(index, dict):
        if name in _OTHERS and read_json(index, dict)[name] not in ([None, None], None):
            raise CheckpointError(
                f"{folder} is a pipeline with {_OTHERS[name]} ({name}), which is not supported: only models of the "
                "data themselves are, a UNet2DModel with its scheduler"
            )


def _tensors(folder: Path) -> dict[str, Tensor]:
    path = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)
    if path is None:
        raise CheckpointError(f"{folder} has neither {_WEIGHTS[0]} nor {_WEIGHTS[1]}")
    if path.suffix == ".bin":
        content = read_torch_file(path)
        if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
            raise CheckpointError(f"{path} is no dictionary of tensors")
        return {str(name): value for name, value in content.items()}
    read_tensor_header(path)  # its sizes are checked before any tensor is read
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} cannot be read as a safetensors file: truncated, or of another format"
        ) from error


def _process(config: Mapping[str, Any], scheduler: Fields) -> tuple[dict[str, Any], dict[str, Any], bool]:
    """The SDE, the preconditioning, and whether the data are in [0, 1]."""
    exploding = scheduler.values.get("_class_name") == "ScoreSdeVeScheduler"
    fourier = config.get("time_embedding_type", "positional") == "fourier"
    if exploding != fourier:
        raise CheckpointError(
            f"{scheduler.what} is of a {scheduler.values.get('_class_name')}, and the network has "
            f"{config.get('time_embedding_type', 'positional')} features: which number it is to be given is not known"
        )
    if exploding:
        sde = node(
            "sde.VESDE",
            sigma_min=scheduler.number("sigma_min"),
            sigma_max=scheduler.number("sigma_max"),
        )
        return sde, node("preconditioning.ScorePreconditioning", noise_input="sigma"), True
    steps = scheduler.whole("num_train_timesteps", 1000)
    known = config.get("num_train_timesteps")
    if config.get("time_embedding_type") == "learned" and known != steps:
        raise CheckpointError(f"{scheduler.what} has {steps} num_train_timesteps, and the network {known}")
    prediction = scheduler.word("prediction_type", _PREDICTIONS, "epsilon")
    index = node("preconditioning.TableIndex", steps=steps)
    return _chain(scheduler, steps), node(f"preconditioning.{_PREDICTIONS[prediction]}", noise_input=index), False


def _chain(scheduler: Fields, steps: int) -> dict[str, Any]:
    if "beta_schedule" not in scheduler.values and "trained_betas" not in scheduler.values:
        raise CheckpointError(
            f"{scheduler.what} is of a {scheduler.values.get('_class_name')} without β's, and only schedulers of a "
            "chain and ScoreSdeVeScheduler are supported"
        )
    if scheduler.values.get("rescale_betas_zero_snr", False):
        raise CheckpointError(
            f"{scheduler.what} has rescale_betas_zero_snr, with which no signal is left at the last step: not supported"
        )
    trained = scheduler.values.get("trained_betas")
    if trained is not None:
        if not isinstance(trained, list) or len(trained) != steps:
            raise scheduler.wrong("trained_betas", f"a list of {steps} numbers")
        if not all(isinstance(beta, float | int) and 0 < beta < 1 for beta in trained):
            raise scheduler.wrong("trained_betas", "numbers between 0 and 1")
        return node("sde.DiscreteVPSDE", betas=[float(beta) for beta in trained])
    schedule = scheduler.word("beta_schedule", ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"), "linear")
    if schedule == "squaredcos_cap_v2":
        return node("sde.CosineDDPMSDE", train_steps=steps)
    low, high = scheduler.number("beta_start", 1e-4), scheduler.number("beta_end", 0.02)
    if schedule == "linear":
        return node("sde.DDPMSDE", train_steps=steps, beta_min=low, beta_max=high)
    if schedule == "scaled_linear":
        betas = torch.linspace(low**0.5, high**0.5, steps, dtype=torch.float64).square()
    else:
        betas = torch.linspace(-6, 6, steps, dtype=torch.float64).sigmoid() * (high - low) + low
    return node("sde.DiscreteVPSDE", betas=betas.tolist())
