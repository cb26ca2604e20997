"""Which project a checkpoint is of, told from its content."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from scoresde.interop import published
from scoresde.interop.checkpoint import Checkpoint
from scoresde.interop.diffusers import read_diffusers
from scoresde.interop.edm import read_edm
from scoresde.interop.edm2 import read_edm2
from scoresde.interop.guided import read_guided_diffusion
from scoresde.interop.records import read_modules
from scoresde.interop.score_sde import read_score_sde
from scoresde.storage.bounded import CheckpointError
from scoresde.storage.pickles import Record

__all__ = ["read_checkpoint"]


def read_checkpoint(
    path: str | Path, config: Mapping[str, Any] | str | None = None, weights: str = "ema"
) -> Checkpoint:
    """The parts of a model of any project that is known.

    Args:
        path: The file or folder.
        config: What the file does not hold: the configuration of score_sde, the arguments of guided-diffusion as
            mappings `network_arguments` and `diffusion` (beside them `image_size` or `input_shape`, where the former
            does not say it), or the name of a published configuration of either.
        weights: "ema" or "raw", where a file has both.

    Raises:
        FileNotFoundError: No such file.
        CheckpointError: A file of no project that is known, or one without a configuration that needs one.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        _superfluous(path, config, weights)
        return read_diffusers(path)
    content = read_modules(path)
    module = content.get("ema", content.get("net"))
    if isinstance(module, Record):
        _superfluous(path, config, weights)
        return read_edm2(path) if module.name == "Precond" else read_edm(path)
    if isinstance(content.get("model"), dict):
        if config is None:
            raise CheckpointError(
                f"{path} is a checkpoint of score_sde_pytorch, which does not hold its configuration: give config=NAME "
                f"of a published one, such as {next(iter(published.SCORE_SDE))}, or config=FILE"
            )
        whole = config.get("config", config) if isinstance(config, Mapping) else config
        return read_score_sde(path, whole, weights)
    if content and all(isinstance(value, Tensor) for value in content.values()):
        _superfluous(path, None, weights)
        return _guided(path, config)
    raise CheckpointError(
        f"{path} is no checkpoint that is known: it holds {', '.join(map(str, list(content)[:5])) or 'nothing'}; "
        "score_sde_pytorch, EDM, EDM2, guided-diffusion, improved-diffusion and diffusers are supported"
    )


def _guided(path: Path, config: Mapping[str, Any] | str | None) -> Checkpoint:
    if isinstance(config, str):
        return read_guided_diffusion(path, config)
    if config is None or not {"network_arguments", "diffusion"} <= config.keys():
        raise CheckpointError(
            f"{path} has the tensors of a network alone, as files of guided-diffusion do: give config=NAME of a "
            f"published one, such as {next(iter(published.GUIDED))}, or config=FILE with network_arguments and "
            "diffusion"
        )
    shape = config.get("input_shape")
    size = shape[-1] if isinstance(shape, list) and shape and type(shape[-1]) is int else config.get("image_size")
    return read_guided_diffusion(path, config["network_arguments"], config["diffusion"], size)


def _superfluous(path: Path, config: Any, weights: str) -> None:
    if weights != "ema":
        raise CheckpointError(
            f"{path} has one set of weights, and only files of score_sde_pytorch both: leave weights out"
        )
    if config is not None:
        raise CheckpointError(f"{path} holds its own configuration: leave config out")
