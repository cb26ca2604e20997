"""Run directories of averages of the weights that are made after training, of the snapshots that it kept."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf, open_dict

from scoresde.data import Data
from scoresde.options.errors import ConfigError
from scoresde.runs.chains import RunModel, as_states
from scoresde.runs.directory import Run
from scoresde.runs.results import outdate
from scoresde.storage.bounded import CheckpointError
from scoresde.storage.digests import digest
from scoresde.storage.tensors import check_tensors
from scoresde.training.batches import Batches
from scoresde.training.conditions import taken_conditions
from scoresde.training.environment import processes
from scoresde.training.held_out import HeldOutLoss
from scoresde.training.posthoc import Average, posthoc_averages
from scoresde.training.snapshots import FOLDER as SNAPSHOTS

__all__ = ["FOLDER", "Averaged", "average"]

FOLDER = "ema"
"""Folder, in a run directory, of the run directories of its averages."""


@dataclass(frozen=True)
class Averaged:
    """An average of the weights of a run.

    Attributes:
        directory: Its run directory, which all commands but training take; None for the run's own weights.
        std: Relative standard deviation of its profile; None for the run's own weights.
        residual: Share of the profile's weight that is at other steps than it should be.
        held_out_loss: Loss on held-out data, always at the same noise; None without data.
    """

    directory: Path | None
    std: float | None
    residual: float
    held_out_loss: float | None


def average(
    run: Run,
    model: RunModel,
    stds: Sequence[float],
    step: int | None = None,
    tol: float = 0.01,
    data: Data | None = None,
) -> list[Averaged]:
    """Write a run directory `ema/std-STD` inside the run's own for each average.

    A directory of the same weights stays as it is; results of others in it are kept as those of their step.

    Args:
        run: The run.
        model: Its model, whose weights are those of the last average afterwards.
        stds: Standard deviation of each profile, relative to the training time.
        step: Step up to which the averages are, that of a snapshot; the last if not given.
        tol: Largest residual.
        data: Data of the run, for the loss on those that are held out.

    Returns:
        The run's own weights if there are `data`, for comparison, then the averages.

    Raises:
        ValueError: As for `scoresde.training.posthoc.posthoc_averages`.
        CheckpointError: A damaged snapshot, or one of another network.
        ConfigError: A directory in use, or one that cannot be written to.
    """
    if len(set(stds)) < len(stds):
        raise ConfigError(f"std is {list(stds)}, expected values that differ")
    run.check_writable(FOLDER)
    averages = posthoc_averages(run.directory / SNAPSHOTS, stds, step, tol)
    parameters = {name: p.detach() for name, p in model.network.named_parameters()}
    loss = None if data is None else _held_out_loss(run, model, data)
    made = [] if loss is None else [Averaged(None, None, 0.0, loss())]
    with run.alone("ema"):
        for std, each in zip(stds, averages, strict=True):
            try:
                check_tensors(each.tensors, {name: p.cpu() for name, p in parameters.items()}, "the snapshots'")
            except ValueError as error:
                raise CheckpointError(f"{run.directory / SNAPSHOTS} is of another network: {error}") from error
            with torch.no_grad():
                for name, parameter in parameters.items():
                    parameter.copy_(each.tensors[name])
            directory = run.directory / FOLDER / (f"std-{std:g}" + ("" if step is None else f"-step-{step}"))
            _write(run, directory, model, std, each)
            made.append(Averaged(directory, std, each.residual, None if loss is None else loss()))
    return made


def _held_out_loss(run: Run, model: RunModel, data: Data) -> HeldOutLoss:
    """The loss on held-out data that training logs."""
    objective, options = run.make("objective"), run.make("training")
    objective.begin(model)
    data = as_states(run.make("sde"), data)
    batches = Batches(
        data, options, processes(model.device.type), model.classes is not None, taken_conditions(model, data)
    )
    return HeldOutLoss(model, model.network, objective, batches)


def _write(run: Run, directory: Path, model: RunModel, std: float, average: Average) -> None:
    """Write a run directory of the model's present weights, which are an average of the run's."""
    plain: Any = OmegaConf.to_container(run.config, resolve=True)
    config: DictConfig = OmegaConf.create(plain)
    with open_dict(config):
        config.training.ema = {"_target_": "scoresde.training.PowerFunction", "relative_std": std}
    new = Run(directory, config, run.allow, run.accept)
    if new.model_path.is_file() and new.fingerprint() == digest(model.state_dict())[:16]:
        return
    with new.alone("training") if directory.exists() else nullcontext():
        before = new.step()
        if before is not None:
            outdate(new, before)
        new.write_config()
        if (info := run.info()) is not None:
            new.write_info(info)
        new.save_model(model, average.step)
        known: dict[str, Any] = {**run.summary().training, "steps": average.step, "loss": None}
        new.add_to_summary(
            name=directory.name, parameters=sum(p.numel() for p in model.network.parameters()), training=known
        )
