"""A checkpoint of another project as a run directory, which every command takes."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from scoresde.data import Data, DataInfo
from scoresde.interop import Checkpoint
from scoresde.options.errors import ConfigError
from scoresde.runs.directory import Run
from scoresde.runs.stages import write_page
from scoresde.storage.files import new_folder
from scoresde.training.moments import data_statistics
from scoresde.training.provenance import check_fit

__all__ = ["import_checkpoint"]


def import_checkpoint(
    checkpoint: Checkpoint,
    directory: Path,
    parts: Mapping[str, Any],
    data: Mapping[str, Any] | None = None,
    allow: Sequence[str] = (),
) -> Run:
    """Write a run directory of a checkpoint, whole or not at all.

    Args:
        checkpoint: The checkpoint.
        directory: The directory, which must not be there.
        parts: The run's `sampler` and `evaluation`, as configurations have them.
        data: The data that the model was trained on, likewise; their moments help samplers and likelihoods, and
            `evaluate` and `likelihood` use them unless they are given others.
        allow: Packages that the configuration may name.

    Returns:
        The run.

    Raises:
        ConfigError: A directory that is there, or data of another shape or number of levels than the model's.
        CheckpointError: A checkpoint that is not of its configuration.
    """
    if directory.exists() or directory.is_symlink():
        raise ConfigError(f"{directory} is there already, and is not replaced: give run=DIR with another name")
    model = checkpoint.model()
    body = {
        "imported": {"file": checkpoint.path.name, "family": checkpoint.family, "weights": checkpoint.weights},
        "data": None if data is None else dict(data),
        "sde": checkpoint.sde,
        "network": {key: value for key, value in checkpoint.network.items() if key != "shape"},
        "preconditioning": checkpoint.preconditioning,
        **parts,
    }
    if (info := checkpoint.info) is None:
        raise ConfigError(
            f"the configuration of {checkpoint.path} does not say how large its images are: add image_size, or "
            "sample_size in a folder of diffusers"
        )
    with new_folder(directory) as made:
        run = Run(made, OmegaConf.create(body), allow)
        if data is not None:
            loaded: Data = run.make("data")
            check_fit(str(checkpoint.path), info, loaded)
            loaded = replace(loaded, transform=info.transform)
            info = _info_of(loaded, info, str(checkpoint.path))
            model.statistics = data_statistics(loaded, dequantise=True)
        run.write_config()
        run.write_info(info)
        run.save_model(model, checkpoint.step or 0)
        Run.open(made, allow).model()  # what cannot be opened is not kept
        run.add_to_summary(
            name=directory.name,
            parameters=sum(p.numel() for p in model.network.parameters()),
            imported=body["imported"],
        )
    run = Run(directory, run.config, allow)
    write_page(run)
    return run


def _info_of(data: Data, known: DataInfo, where: str) -> DataInfo:
    """The facts about the data, with the classes of the model."""
    own = DataInfo.of(data)
    if known.num_classes is None:
        return replace(own, num_classes=None, class_names=None)
    if own.num_classes not in (None, known.num_classes):
        raise ConfigError(f"the data {data.name} have {own.num_classes} classes, and {where} has {known.num_classes}")
    return replace(own, num_classes=known.num_classes)
