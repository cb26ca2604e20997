"""Trains the variational dequantisation of a run, and keeps it if it is better than the uniform one."""

import math
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from scoresde.data import Data
from scoresde.likelihood import CellFlow, Variational, bits_per_dim
from scoresde.likelihood.fit_dequantisation import fit
from scoresde.likelihood.options import FlowOptions
from scoresde.numerics.means import mean_and_error
from scoresde.options.errors import ConfigError
from scoresde.options.settings import option_problems
from scoresde.progress import Progress
from scoresde.runs.conditions import refuse_others
from scoresde.runs.directory import Run
from scoresde.score import NetworkScore, ScoreModel
from scoresde.storage.tensors import save_tensors

__all__ = ["FILE", "dequantise"]

FILE = "dequantisation.safetensors"

_MIN_HELD_OUT = 8  # held-out samples


def dequantise(run: Run, model: NetworkScore, data: Data, options: DictConfig) -> tuple[dict[str, Any], Path | None]:
    """Train a dequantisation for the run's model, and write it into the run directory if it is better than uniform.

    Some of the training data are held out, and compared by their bits per dimension with either, at the same seeds.

    Args:
        run: The run.
        model: Its model.
        data: Its data.
        options: Options as in `conf/dequantise.yaml`.

    Returns:
        Bits per dimension with both, their difference and its standard error; and the file, or None if the difference
        is not above its standard error plus the tolerance of the solver. A file that is there then stays.

    Raises:
        ConfigError: Continuous data, too few of them, or an option out of its range.
    """
    refuse_others(model, "dequantise")
    if data.transform.levels is None:
        raise ConfigError(f"{data.name} is continuous: only discrete data are dequantised")
    plain: Any = OmegaConf.to_container(options, resolve=True)
    for problem in option_problems("dequantise", plain):
        raise ConfigError(problem)
    count = min(options.judge, len(data.train) // 5)
    if count < _MIN_HELD_OUT:
        raise ConfigError(f"{data.name} has {len(data.train)} training samples, expected at least {5 * _MIN_HELD_OUT}")
    flow = _new_flow(model, data, options)
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(options.seed))
    held_out, rest = order[:count], order[count:]
    labels = data.train_labels if model.classes is not None else None
    fit(
        flow,
        model,
        data.train[rest],
        data.transform,
        labels=None if labels is None else labels[rest],
        steps=options.steps,
        batch_size=options.batch_size,
        lr=options.lr,
        level=options.level,
        seed=options.seed,
        progress=options.progress,
    )
    entry = _evaluated(flow, model, data, held_out, labels, options)
    size = math.prod(data.shape)
    nats = FlowOptions(tol=options.tol).tolerance(size).nats
    assert nats is not None
    if not entry["gain"] > entry["stderr"] + nats / (size * math.log(2)):
        return entry, None
    path = run.directory / FILE
    save_tensors(path, flow.state_dict(), flow.metadata())
    return entry, path


def _new_flow(model: ScoreModel, data: Data, options: DictConfig) -> CellFlow:
    levels = data.transform.levels
    assert levels is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        flow = CellFlow(
            data.shape,
            levels,
            couplings=options.couplings,
            width=options.width,
            blocks=options.blocks,
            bins=options.bins,
        ).to(model.device)
    return flow


def _evaluated(
    flow: CellFlow, model: ScoreModel, data: Data, held_out: Tensor, labels: Tensor | None, options: DictConfig
) -> dict[str, Any]:
    """Bits per dimension of the training samples `held_out`, uniformly dequantised and by the flow."""
    cond = {} if labels is None else {"labels": labels[held_out].to(model.device)}
    pixels = data.train[held_out].to(model.device)
    common: dict[str, Any] = {"seed": options.seed, "tol": options.tol, **cond}
    with Progress(2, "evaluating", "likelihood", shown=options.progress) as bar:
        uniform = bits_per_dim(model, pixels, data.transform, dequantisation="uniform", **common)
        bar.update()
        learned = bits_per_dim(model, pixels, data.transform, dequantisation=Variational(flow), **common)
        bar.update()
    gain, error = mean_and_error(uniform.bits - learned.bits)
    return {"uniform": uniform.mean, "variational": learned.mean, "gain": gain, "stderr": error, "n": len(held_out)}
