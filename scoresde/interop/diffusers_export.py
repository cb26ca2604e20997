"""A score model as a folder that diffusers loads."""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from scoresde.arguments import checked
from scoresde.data.transforms import Discrete
from scoresde.interop.diffusers import load_diffusers
from scoresde.interop.diffusers_config import config_of
from scoresde.interop.diffusers_names import network_options, rename
from scoresde.interop.renaming import Places
from scoresde.networks import GaussianFourierFeatures, PositionalFeatures, UNet
from scoresde.score import NetworkScore
from scoresde.sde import SDE, VESDE, DiscreteVPSDE, cosine_betas, linear_betas
from scoresde.storage.files import new_folder

__all__ = ["export_diffusers"]

_VERSION = {"_diffusers_version": "0.42.1"}  # whose format it is
_STEPS = 1000
_EXACT = 1e-9  # what coefficients in float64 may differ by
_SAME = 1e-4  # what predictions of the two networks may differ by, whose features of the noise level are in float32


class _Process(NamedTuple):
    """What a scheduler says, and the number that the network is told at each of its timesteps."""

    scheduler: dict[str, Any]
    times: Tensor
    sign: int
    level: dict[str, Any]
    features: Tensor | None = None


@checked
def export_diffusers(model: NetworkScore, folder: str | Path, steps: int | None = None) -> list[str]:
    """Write a model as a folder of diffusers: a `UNet2DModel` with its scheduler, as a pipeline.

    `DDPMPipeline.from_pretrained(folder)`, `UNet2DModel.from_pretrained(folder, subfolder="unet")` and `load_diffusers`
    read it. At timestep i the network there predicts what this model does at the time of the i-th noise level:
    (i + 1)/T for a chain of T steps (`DiscreteVPSDE`), whose table the scheduler has, and t_max (i + 1)/T for an SDE in
    continuous time (`VPSDE`, `CosineSDE`), whose chain of T steps it is (`SDE.chain`). That is exact to the rounding of
    float32 at these noise levels, and there is nothing between them. Where no `time_embedding_type` gives the features
    of the noise level, a table has them ("learned"). What is not exact is diffusers' own: its ᾱ is in float32.

    The folder is written whole or not at all, after its predictions have been compared with the model's.

    Args:
        model: The model. Its network is a `UNet` with what `UNet2DModel` has; its preconditioning gives the network the
            state as it is, and takes noise, data or velocity from it; its SDE is a chain, or has one, or is `VESDE`
            with `ScorePreconditioning` on Gaussian features, which becomes `ScoreSdeVePipeline`.
        folder: The folder, which must not be there.
        steps: Number T of timesteps for an SDE in continuous time, 1000 if not given.

    Returns:
        Sentences about the folder that its user should know.

    Raises:
        ValueError: A model that no `UNet2DModel` is, or a folder that is there; the message names the option.

    References:
        Ho et al. 2020, Denoising diffusion probabilistic models, https://arxiv.org/abs/2006.11239
    """
    folder = Path(folder).expanduser()
    if folder.exists() or folder.is_symlink():
        raise ValueError(f"{folder} is there already, and is not replaced: give folder=DIR with another name")
    model = model.eval()
    network: Any = model.unwrapped
    shape = model.shape
    config = config_of(network, None if shape is None else shape[1:])
    process = _process(model, network, steps, config["block_out_channels"][0])
    config = {"_class_name": "UNet2DModel", **_VERSION, **config, **process.level}
    tensors = _tensors(network, config, process)
    exploding = process.scheduler["_class_name"] == "ScoreSdeVeScheduler"
    index = {
        "_class_name": "ScoreSdeVePipeline" if exploding else "DDPMPipeline", **_VERSION,
        "scheduler": ["diffusers", process.scheduler["_class_name"]], "unet": ["diffusers", "UNet2DModel"],
    }  # fmt: skip
    with new_folder(folder) as made:
        for name, content in (
            ("model_index.json", index),
            ("unet/config.json", config),
            ("scheduler/scheduler_config.json", process.scheduler),
        ):
            (made / name).parent.mkdir(exist_ok=True)
            (made / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        save_file(tensors, made / "unet" / "diffusion_pytorch_model.safetensors", {"format": "pt"})
        _check_same(model, load_diffusers(made), process.times)
    return _notes(model, exploding)


def _process(model: NetworkScore, network: UNet, steps: int | None, width: int) -> _Process:
    sde, embedding = model.sde, network.conditioning.embedding
    if isinstance(sde, VESDE):
        return _exploding(model, embedding, width)
    betas, times = _chain(sde, steps)
    prediction, sign = _prediction(model, times)
    count = len(betas)
    scheduler = {
        "_class_name": "DDPMScheduler", **_VERSION, "num_train_timesteps": count, **_schedule(betas),
        "prediction_type": prediction, "clip_sample": False, "timestep_spacing": "leading", "steps_offset": 0,
        "variance_type": "learned_range" if network.learn_variance else "fixed_small",
    }  # fmt: skip
    levels = model.preconditioning.c_noise(sde, times)
    if (
        isinstance(embedding, PositionalFeatures)
        and (embedding.dim, embedding.scale, embedding.max_period) == (width, 1, 10000)
        and torch.equal(levels, torch.arange(count, dtype=levels.dtype))
    ):
        level = {
            "time_embedding_type": "positional", "flip_sin_to_cos": embedding.cosine_first,
            "freq_shift": int(embedding.endpoint), "num_train_timesteps": None,
        }  # fmt: skip
        return _Process(scheduler, times, sign, level)
    with torch.no_grad():
        device = next(network.parameters()).device
        features = embedding(levels.float().to(device)).float().cpu()
    if features.shape[1] > width:
        raise ValueError(
            f"network.embedding has {features.shape[1]} features, and diffusers' UNet2DModel has a table of {width}, "
            f"as many as network.channels: train with network.embedding.dim={width}"
        )
    level = {"time_embedding_type": "learned", "num_train_timesteps": count}
    return _Process(scheduler, times, sign, level, features)


def _chain(sde: SDE, steps: int | None) -> tuple[Tensor, Tensor]:
    """The table of β and the times of its noise levels."""
    if isinstance(sde, DiscreteVPSDE):
        count = len(sde.betas)
        if steps not in (None, count):
            raise ValueError(f"steps is {steps}, and the run's SDE is a chain of {count} steps: leave steps out")
        betas = sde.chain().betas
    elif (chain := getattr(sde, "chain", None)) is not None:
        count = steps or _STEPS
        betas = chain(count).betas
    else:
        raise ValueError(
            f"sde is {sde}, and the schedulers of DDPMPipeline are chains that keep the variance: only runs with "
            "sde=vp, cosine, ddpm, cosine_ddpm or another table of β, and ve with preconditioning=score are exported"
        )
    return betas.detach(), sde.t_max * torch.arange(1, count + 1, dtype=torch.float64) / count


def _schedule(betas: Tensor) -> dict[str, Any]:
    """A table of β in a scheduler's words."""
    count = len(betas)
    first, last = float(betas[0]), float(betas[-1])
    if torch.equal(betas, linear_betas(count, first, last)):
        return {"beta_schedule": "linear", "beta_start": first, "beta_end": last, "trained_betas": None}
    if torch.equal(betas, cosine_betas(count)):
        return {"beta_schedule": "squaredcos_cap_v2", "trained_betas": None}
    return {"beta_schedule": "linear", "trained_betas": betas.tolist()}


def _prediction(model: NetworkScore, times: Tensor) -> tuple[str, int]:
    """What the network predicts, in diffusers' word, and its sign."""
    sde, preconditioning = model.sde, model.preconditioning
    alpha, sigma = sde.alpha(times), sde.sigma(times)
    if float((preconditioning.c_in(sde, times) - 1).abs().max()) > _EXACT:
        raise ValueError(
            f"preconditioning is {preconditioning}, by which the network sees its input scaled by a number that "
            "depends on the noise level, and diffusers' pipelines give it as it is: train with preconditioning=noise, "
            "data or velocity"
        )
    target = torch.stack(preconditioning.target(sde, times))
    zero, one = torch.zeros_like(times), torch.ones_like(times)
    for name, p, q in (("epsilon", zero, one), ("sample", one, zero), ("v_prediction", -sigma, alpha)):
        for sign in (1, -1):
            if float((sign * target - torch.stack((p, q))).abs().max()) < _EXACT:
                return name, sign
    raise ValueError(
        f"preconditioning is {preconditioning}, and diffusers' schedulers take the noise, the data or the velocity "
        "α ε − σ x₀: train with preconditioning=noise, data or velocity"
    )


def _exploding(model: NetworkScore, embedding: nn.Module, width: int) -> _Process:
    """The variance exploding model of score_sde, whose network diffusers divides by σ."""
    sde = model.sde
    assert isinstance(sde, VESDE)
    times = torch.linspace(sde.t_min, sde.t_max, 5, dtype=torch.float64)
    prediction, sign = _prediction(model, times)
    heard = model.preconditioning.c_noise(sde, times)
    gaussian = isinstance(embedding, GaussianFourierFeatures) and embedding.dim == 2 * width
    if prediction != "epsilon" or not gaussian or not torch.allclose(heard, sde.sigma(times).log(), atol=_EXACT):
        raise ValueError(
            f"sde is {sde}, which diffusers has with preconditioning=score, preconditioning.noise_input=sigma and "
            f"GaussianFourierFeatures of {2 * width} features alone: train with these, or with sde=vp"
        )
    scheduler = {
        "_class_name": "ScoreSdeVeScheduler", **_VERSION, "sigma_min": sde.sigma_min, "sigma_max": sde.sigma_max
    }  # fmt: skip
    # There the network gives the score, and here −ε.
    return _Process(scheduler, times, -sign, {"time_embedding_type": "fourier", "num_train_timesteps": None})


def _tensors(network: UNet, config: dict[str, Any], process: _Process) -> dict[str, Tensor]:
    """The tensors of the `UNet2DModel`, by its names."""
    own = {name: value.detach().float().cpu() for name, value in network.state_dict().items()}
    channels = network.shape[0]
    for kind in ("weight", "bias"):
        own[f"output.{kind}"] = torch.cat(
            (process.sign * own[f"output.{kind}"][:channels], own[f"output.{kind}"][channels:])
        )
    if process.features is not None:
        missing = config["block_out_channels"][0] - process.features.shape[1]
        own["conditioning.embedding.vectors.weight"] = nn.functional.pad(process.features, (0, missing))
        own["conditioning.input.weight"] = nn.functional.pad(own["conditioning.input.weight"], (0, missing))
    places = Places(options := network_options(config))
    rename(places, options)
    state: dict[str, Tensor] = {}
    for name, value in places.network.state_dict().items():
        kind = name.rpartition(".")[2]
        norm = "norm" in name.split(".")[-2]
        # What the network has not: attention whose output is 0, and normalisations without weights of their own.
        found = own.get(name, torch.full(value.shape, float(norm and kind == "weight")))
        if found.shape != value.shape:
            raise ValueError(
                f"{name} of the network has shape {tuple(found.shape)}, and diffusers' UNet2DModel has "
                f"{tuple(value.shape)} there"
            )
        state[name] = found
    return places.file(state)


def _check_same(model: NetworkScore, written: NetworkScore, times: Tensor) -> None:
    """Compare noise predictions of what was written with those of the model."""
    shape = (1, *(model.shape or written.shape or ()))
    device = next(model.parameters()).device
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    cond = {} if model.classes is None else {"labels": torch.zeros(1, dtype=torch.int64)}
    on_device = {name: value.to(device) for name, value in cond.items()}
    for i in (0, len(times) // 2, len(times) - 1):
        exploding = isinstance(model.sde, VESDE)
        there = times[i] if exploding else torch.tensor((i + 1) / len(times), dtype=torch.float64)
        state = x * math.hypot(float(model.sde.alpha(times[i])), float(model.sde.sigma(times[i])))
        with torch.no_grad():
            own = model.noise(state.to(device), times[i], **on_device).cpu()
            other = written.noise(state, there, **cond)
        error = float((own - other).abs().max() / own.abs().max().clamp_min(1e-30))
        if not error < _SAME:
            raise ValueError(
                f"what would be written predicts other noise than the model, by {error:.1g} of it at t = "
                f"{float(times[i]):g}: nothing is written"
            )


def _notes(model: NetworkScore, exploding: bool) -> list[str]:
    found = []
    if model.classes is not None:
        found.append("DDPMPipeline gives no labels: call the network as unet(x, timestep, class_labels=labels)")
    transform = None if model.info is None else model.info.transform
    low, high = (0.0, 1.0) if exploding else (-1.0, 1.0)
    if isinstance(transform, Discrete) and max(abs(transform.low - low), abs(transform.high - high)) < 0.01:
        return found
    if transform is not None:
        found.append(f"pictures of the pipeline are black at {low:g} and white at {high:g}: the data are {transform}")
    return found
