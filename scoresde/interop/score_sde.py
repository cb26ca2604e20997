"""Checkpoints of score_sde_pytorch (Song et al. 2021)."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.data import DataInfo
from scoresde.data.transforms import Discrete
from scoresde.interop import published
from scoresde.interop.checkpoint import Checkpoint, described_network, node
from scoresde.interop.fields import Fields, check_numbers
from scoresde.interop.records import read_modules
from scoresde.interop.score_sde_names import converted, network_options
from scoresde.score import NetworkScore
from scoresde.storage.bounded import CheckpointError

__all__ = ["load_score_sde", "read_score_sde"]

_FIRST_TIME = 1e-5  # of training and of likelihoods (Song et al. 2021, appendix C)
_PREFIX = "module."


@checked
def load_score_sde(
    path: str | Path, config: Mapping[str, Any] | str, weights: Literal["ema", "raw"] = "ema"
) -> NetworkScore:
    """The model of a `.pth` file of score_sde_pytorch, under its own SDE; nothing in the file is run.

    States are in the range of the file's data, [0, 1] for VE and [−1, 1] for VP and sub-VP. A model that was trained in
    discrete time has its own table of noise levels, as `DiscreteVPSDE` or `DiscreteVESDE`, at whose entries the network
    is given the integers of its training; between them, numbers in between.

    Args:
        path: The file.
        config: Its configuration, as nested mappings with the names of the project's; or the name of a published one,
            such as "vp/cifar10_ddpmpp_continuous".
        weights: The average of the weights, which samples of the paper are of, or the weights themselves.

    Raises:
        FileNotFoundError: No such file.
        CheckpointError: A file that is damaged or of another kind, or of another network than that of the
            configuration, and a configuration that is not understood.

    References:
        Song et al. 2021, Score-based generative modeling through stochastic differential equations,
            https://arxiv.org/abs/2011.13456
    """
    return read_score_sde(path, config, weights).model()


def read_score_sde(path: str | Path, config: Mapping[str, Any] | str, weights: str = "ema") -> Checkpoint:
    """The parts of the model that `load_score_sde` gives."""
    path = Path(path).expanduser()
    whole: Mapping[str, Any] = published.score_sde(config) if isinstance(config, str) else config
    fields = Fields(whole, "config")
    content = read_modules(path)  # that of another project is told by what it lacks
    stored = _stored(content, path, weights)
    sigmas = stored.pop("sigmas", None)
    sde, preconditioning = _process(fields, sigmas)
    options = _options(whole)
    data = fields.part("data")
    centred = data.flag("centered")
    size = data.whole("image_size")
    dataset = str(data.values.get("dataset", "images")).lower()
    info = DataInfo(dataset, (data.whole("num_channels", 3), size, size), Discrete(256, -1.0 if centred else 0.0, 1.0))
    return Checkpoint(
        path,
        "score_sde",
        described_network("UNet", options),
        sde,
        preconditioning,
        info,
        stored,
        partial(_named, config=whole),
        "EMA weights" if weights == "ema" else "raw weights",
        step=content["step"] if type(content.get("step")) is int else None,
    )


def _options(config: Mapping[str, Any]) -> dict[str, Any]:
    for part in ("model", "data"):
        check_numbers(config.get(part), f"config.{part}")
    try:
        return network_options(config)
    except CheckpointError:
        raise
    except (ValueError, KeyError, TypeError, ArithmeticError) as error:
        raise CheckpointError(f"config is not understood: {' '.join(str(error).split())}") from error


def _named(stored: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    return converted(stored, config)


# -- the file -----------------------------------------------------------------------------------------------


def _stored(content: Any, path: Path, weights: str) -> dict[str, Tensor]:
    """The tensors of the network, by the names of the file without the prefix of its wrapper."""
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise CheckpointError(f"{path} has no 'model', as files of score_sde_pytorch do: it is of another project")
    model = {str(name): value for name, value in content["model"].items()}
    for name, value in model.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(f"{path}: {name} of 'model' is no tensor, but a {type(value).__name__}")
    bare = {name.removeprefix(_PREFIX): value for name, value in model.items()}
    if weights == "raw":
        return bare
    ema = content.get("ema")
    averages = ema.get("shadow_params") if isinstance(ema, dict) else None
    if not isinstance(averages, list | tuple):
        raise CheckpointError(f"{path} has no EMA weights ('ema'): weights='raw' takes those of the last step")
    # They are listed in the order of the parameters that are trained: not the noise levels, nor Fourier frequencies.
    names = [name for name in bare if name not in ("sigmas", "all_modules.0.W")]
    if len(averages) != len(names):
        raise CheckpointError(
            f"{path} has {len(averages)} EMA weights, expected {len(names)}, one for each parameter that is trained: "
            "they have no names, so that it cannot be told which are missing or superfluous"
        )
    for name, average in zip(names, averages, strict=True):
        shape = tuple(average.shape) if isinstance(average, Tensor) else None
        if shape != tuple(bare[name].shape):
            raise CheckpointError(
                f"{path}: the EMA weight of {name} has shape {shape}, expected {tuple(bare[name].shape)}, that of the "
                "parameter itself"
            )
        bare[name] = average
    return bare


# -- the process --------------------------------------------------------------------------------------------


def _process(config: Fields, sigmas: Tensor | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The SDE and the preconditioning."""
    model, training = config.part("model"), config.part("training")
    kind = training.word("sde", ("vpsde", "subvpsde", "vesde"))
    continuous = training.flag("continuous") or kind == "subvpsde"
    if not model.flag("conditional", True):
        raise CheckpointError("config.model.conditional is False: networks without a noise level are not supported")
    steps = model.whole("num_scales")
    # The model called ddpm has positional features whatever the configuration says.
    fourier = model.values.get("name") != "ddpm" and model.values.get("embedding_type") == "fourier"
    scaled = model.flag("scale_by_sigma", kind == "vesde")
    if kind == "vesde":
        return _exploding(model, steps, continuous, fourier, scaled, sigmas)
    if fourier or scaled:
        what = "Fourier features of the time" if fourier else "an output divided by the noise levels of VE"
        raise CheckpointError(f"config has {kind} with {what}, which is in no published configuration")
    low, high = model.number("beta_min"), model.number("beta_max")
    if continuous:
        sde = node("sde.SubVPSDE" if kind == "subvpsde" else "sde.VPSDE", beta_min=low, beta_max=high)
        return sde, node("preconditioning.UnscaledNoisePreconditioning", noise_input="time")
    sde = node("sde.DDPMSDE", train_steps=steps, beta_min=low / steps, beta_max=high / steps)
    index = node("preconditioning.TableIndex", steps=steps)
    return sde, node("preconditioning.UnscaledNoisePreconditioning", noise_input=index)


def _exploding(
    model: Fields, steps: int, continuous: bool, fourier: bool, scaled: bool, sigmas: Tensor | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    low, high = model.number("sigma_min"), model.number("sigma_max")
    kind = "ScorePreconditioning" if scaled else "UnscaledScorePreconditioning"
    if continuous != fourier:
        has = "Fourier" if fourier else "positional"
        raise CheckpointError(
            f"config has a {'continuous' if continuous else 'discrete'} VE model with {has} features, which is in no "
            "published configuration"
        )
    if continuous:
        sde = node("sde.VESDE", sigma_min=low, sigma_max=high, t_min=_FIRST_TIME)
        return sde, node(f"preconditioning.{kind}", noise_input="sigma")
    index = node("preconditioning.TableIndex", steps=steps, descending=True)
    return _levels(steps, low, high, sigmas), node(f"preconditioning.{kind}", noise_input=index)


def _levels(steps: int, low: float, high: float, sigmas: Tensor | None) -> dict[str, Any]:
    """The SDE of a table of levels: that of the file, if it has another than the configuration says."""
    geometric = torch.linspace(1, 0, steps, dtype=torch.float64) * torch.tensor(high / low, dtype=torch.float64).log()
    if sigmas is None or (
        sigmas.shape == geometric.shape and bool(((sigmas.double() / low).log() - geometric).abs().max() < 1e-6)
    ):
        return node("sde.NCSNSDE", levels=steps, sigma_min=low, sigma_max=high)
    if sigmas.ndim != 1 or len(sigmas) != steps:
        raise CheckpointError(f"sigmas has shape {tuple(sigmas.shape)}, expected ({steps},), config.model.num_scales")
    return node("sde.DiscreteVESDE", sigmas=sigmas.double().tolist())
