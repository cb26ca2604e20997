"""Checkpoints of EDM (Karras et al. 2022)."""

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from scoresde.arguments import checked
from scoresde.data import DataInfo
from scoresde.data.transforms import Discrete
from scoresde.interop.checkpoint import Checkpoint, described_network, node
from scoresde.interop.edm_names import converted, network_options
from scoresde.interop.fields import Fields, check_numbers
from scoresde.interop.records import attributes, module_state, read_modules, recorded_arguments
from scoresde.score import NetworkScore
from scoresde.storage.bounded import CheckpointError
from scoresde.storage.pickles import Record

__all__ = ["PIXELS", "checked_network", "data_name", "load_edm", "read_edm"]

PIXELS = Discrete(256, -1 - 1 / 255, 1 + 1 / 255)
"""The levels 0 ... 255 in the middle of cells, at v/127.5 − 1."""

_ARGUMENTS = ("img_resolution", "img_channels", "label_dim", "use_fp16")
# Where sampling begins and ends if the network has no limits: the defaults of the paper's sampler.
_SIGMAS = (0.002, 80.0)
_IDDPM_MAX = 81.0  # likewise, for iDDPM


@checked
def load_edm(path: str | Path) -> NetworkScore:
    """The model of a `.pkl` file of EDM, or of a `training-state-*.pt`, under `EDMSDE`; nothing in the file is run.

    The network and its preconditioning are what the file records of them, whatever its name says: `-vp` and `-ve` in
    the names of EDM's own models name architectures. Time is the noise level σ, and states are in [−1, 1]. A `.pkl` has
    EMA weights alone, and a training state those of the last step.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: No such file.
        CheckpointError: A file that is damaged or of another kind, or a network that is not understood.

    References:
        Karras et al. 2022, Elucidating the design space of diffusion-based generative models,
            https://arxiv.org/abs/2206.00364
    """
    return read_edm(path).model()


def read_edm(path: str | Path) -> Checkpoint:
    """The parts of the model that `load_edm` gives."""
    path = Path(path).expanduser()
    content = read_modules(path)
    averaged = "ema" in content
    module = content["ema"] if averaged else content.get("net")
    if not isinstance(module, Record):
        raise CheckpointError(f"{path} has neither an 'ema' nor a 'net' that is a module, as files of EDM do")
    if module.name == "Precond":
        raise CheckpointError(f"{path} is a checkpoint of EDM2: load it by load_edm2")
    if module.name not in _PRECONDITIONERS:
        raise CheckpointError(
            f"{path} has a network of class {module.name[:80]}, expected one of {', '.join(_PRECONDITIONERS)}"
        )
    arguments = recorded_arguments(module, _ARGUMENTS)
    state = module_state(module)
    fields = Fields({**arguments, **attributes(module)}, f"the {module.name} of {path}")
    sde, preconditioning = _PRECONDITIONERS[module.name](fields, state)
    state.pop("u", None)
    size, channels = fields.whole("img_resolution"), fields.whole("img_channels")
    config = {"class_name": module.name, **arguments}
    options = checked_network(network_options, config, path)
    info = DataInfo(data_name(content), (channels, size, size), PIXELS, _classes(fields))
    return Checkpoint(
        path,
        "EDM",
        described_network("UNet", options),
        sde,
        preconditioning,
        info,
        state,
        partial(_named, config=config),
        "EMA weights" if averaged else "raw weights of a training state",
    )


def _named(stored: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    return converted(stored, config)


def checked_network(options: Any, config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The arguments of the network here, by the function that knows the project's own.

    Raises:
        CheckpointError: Arguments that are not understood.
    """
    check_numbers(config, f"the network of {path}")
    try:
        found: dict[str, Any] = options(config)
    except CheckpointError:
        raise
    except (ValueError, TypeError, LookupError, ArithmeticError) as error:
        text = f"{error} is missing" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise CheckpointError(f"the network of {path} is not understood: {text}") from error
    return found


def _classes(fields: Fields) -> int | None:
    classes = fields.values.get("label_dim") or 0
    return fields.whole("label_dim") if classes else None


def data_name(content: Mapping[str, Any]) -> str:
    """The name of the data that the file says that its network was trained on."""
    told = content.get("dataset_kwargs")
    path = told.get("path") if isinstance(told, dict) else None
    return Path(path).stem if isinstance(path, str) and Path(path).stem else "images"


# -- preconditionings (Karras et al. 2022, table 1) -------------------------------------------------------------


def _edm(fields: Fields, _: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Any]]:
    low = max(_SIGMAS[0], fields.number("sigma_min", 0.0))
    high = min(_SIGMAS[1], fields.number("sigma_max", math.inf))
    return _sde(low, high), node("preconditioning.EDMPreconditioning", sigma_data=fields.number("sigma_data", 0.5))


def _ve(fields: Fields, _: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Any]]:
    halved = node("preconditioning.LogLevel", unit=2.0)
    return (
        _sde(fields.number("sigma_min", 0.02), fields.number("sigma_max", 100.0)),
        node("preconditioning.ScorePreconditioning", noise_input=halved),
    )


def _vp(fields: Fields, _: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Any]]:
    beta_d, beta_min = fields.number("beta_d", 19.9), fields.number("beta_min", 0.1)

    def sigma(t: float) -> float:
        return math.sqrt(math.expm1(0.5 * beta_d * t**2 + beta_min * t))

    first = fields.number("epsilon_t", 1e-5)
    time = node(
        "preconditioning.VPTime", beta_min=beta_min, beta_max=beta_min + beta_d, scale=fields.whole("M", 1000) - 1.0
    )
    return _sde(sigma(first), sigma(1.0)), node("preconditioning.NoisePreconditioning", noise_input=time)


def _iddpm(fields: Fields, state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Any]]:
    steps = fields.whole("M", 1000)
    levels = state.get("u")
    if levels is None or levels.shape != (steps + 1,):
        found = None if levels is None else tuple(levels.shape)
        raise CheckpointError(f"the noise levels u of {fields.what} have shape {found}, expected ({steps + 1},)")
    table = levels.double().tolist()[:-1]  # the last is no noise at all
    nearest = node("preconditioning.NearestLevel", levels=table)
    sde = _sde(max(_SIGMAS[0], table[-1]), min(_IDDPM_MAX, table[0]))
    return sde, node("preconditioning.NoisePreconditioning", noise_input=nearest)


def _sde(low: float, high: float) -> dict[str, Any]:
    return node("sde.EDMSDE", sigma_min=low, sigma_max=high)


_PRECONDITIONERS = {"EDMPrecond": _edm, "VEPrecond": _ve, "VPPrecond": _vp, "iDDPMPrecond": _iddpm}
