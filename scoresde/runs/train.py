"""Trains a run: a list of stages, all checked before the first of them writes anything."""

import math
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from functools import partial
from typing import Any

import torch
from omegaconf import OmegaConf

from scoresde.data import Data, DataInfo
from scoresde.options.errors import ConfigError
from scoresde.progress import say
from scoresde.runs.chains import as_states, check_parts
from scoresde.runs.classifier import check_classifier, trains_classifier
from scoresde.runs.conditions import take_conditions
from scoresde.runs.directory import Run
from scoresde.runs.labels import check_labels
from scoresde.runs.log import read_log
from scoresde.runs.provenance import provenance
from scoresde.runs.results import outdate
from scoresde.runs.stages import (
    Accuracy,
    Context,
    Evaluate,
    Figures,
    Fit,
    Likelihood,
    Log,
    Report,
    Save,
    Stage,
    write_page,
)
from scoresde.runs.team import leading, serve
from scoresde.sde import SDE
from scoresde.sde.erasure import ErasureChain
from scoresde.storage.bounded import CheckpointError
from scoresde.storage.files import remove_leftovers
from scoresde.storage.limits import check_memory
from scoresde.training.environment import limit_threads, processes
from scoresde.training.loggers import Guarded, LocalLogger, Logger
from scoresde.training.loop import Trainer
from scoresde.training.messages import opening
from scoresde.training.moments import data_statistics
from scoresde.training.options import Training
from scoresde.training.provenance import check_same_data
from scoresde.training.store import Provenance

__all__ = ["CLASSIFIER_STAGES", "STAGES", "train"]

STAGES: tuple[Stage, ...] = (
    Fit(),
    Save(),
    Evaluate(),
    Likelihood("test"),
    Likelihood("train"),
    Figures(),
    Log(),
    Report(),
)
"""Stages of training a run, in their order."""
CLASSIFIER_STAGES: tuple[Stage, ...] = (Fit(), Save(), Accuracy(), Log(), Report())
"""Those of a run of a classifier of noised samples."""


def train(
    run: Run,
    loggers: Sequence[Logger] | None = None,
    progress: bool = True,
    restart: bool = False,
    data: Data | None = None,
    device: str | None = None,
) -> bool:
    """Train the run's model, or resume its training, and do what follows: all of `STAGES`, or `CLASSIFIER_STAGES`.

    Args:
        run: The run.
        loggers: Receivers of numbers and figures besides the run directory.
        progress: Show progress.
        restart: Train a run anew whose checkpoints are gone or damaged, which is rejected otherwise.
        data: Data of a new run, if they were loaded already.
        device: Device to train on; as for `scoresde.training.environment.processes` if not given.

    Returns:
        Whether this is the process that did what follows training.

    Raises:
        ConfigError: The run is in use, cannot be written to, or has lost its checkpoints.
        CheckpointError: All its checkpoints are damaged.
    """
    run.check_writable("checkpoints", "samples", "snapshots")
    process, criterion = run.make("sde"), run.make("objective")
    classifies = trains_classifier(run)
    if not classifies:
        check_parts(process, run.config, criterion, run.make("sampler"))
    data, known = _data(run, process, data)
    options = run.make("training")
    _check_batch(options, data)
    # The order of creation and the seed fix the initial weights.
    torch.manual_seed(options.seed)
    statistics = data_statistics(data, options.dequantise)
    model = run.new_model(data.shape, statistics)
    check_classifier(model, classifies)
    check_labels(model.classes, data)
    take_conditions(model, data)
    receivers = [LocalLogger(), *(Guarded(each) for each in loggers or () if not isinstance(each, LocalLogger))]
    context = Context(run, model, data, receivers, run.config.evaluation, progress)
    stages = CLASSIFIER_STAGES if classifies else STAGES
    for stage in stages:
        stage.check(context)
    accelerator = processes(device)
    context.trainer = Trainer(
        model,
        criterion,
        data,
        run.make("optimizer"),
        options,
        run.directory,
        receivers,
        accelerator,
        Provenance(provenance(run.config, known), run.accept),
    )
    with run.alone("training") if accelerator.is_main_process else nullcontext():
        if not _resume(run, context.trainer, restart):
            _check_new(run, context.trainer, restart)
        # Everything that can be rejected has been: now write.
        return _run_stages(context, stages, accelerator.is_main_process)


def _data(run: Run, process: SDE | ErasureChain, data: Data | None) -> tuple[Data, DataInfo]:
    """The run's data, compared with those that it was trained on so far, and what is known of them."""
    known = run.info()
    if data is None or known is not None:
        data = run.data()
    if known is not None:
        check_same_data(str(run.info_path), known, data, run.accept)
    data = as_states(process, data)
    limit_threads(data.shape)
    return data, DataInfo.of(data)


def _check_batch(options: Training, data: Data) -> None:
    # The least that a step takes: values of the batch, in several stages, and their numbers.
    least = options.batch_size * (24 * math.prod(data.shape) + 64)
    check_memory(least, f"training.batch_size={options.batch_size}")


def _resume(run: Run, trainer: Trainer, restart: bool) -> bool:
    """Resume from a checkpoint; False if there is none, or none that is good where a `restart` is asked for."""
    try:
        resumed = trainer.resume()
    except CheckpointError as error:
        if not restart:
            raise CheckpointError(f"{error}; or restart=true to train again from step 0") from error
        trainer.set_aside_checkpoints()
        return False
    if resumed and restart:
        raise ConfigError(f"restart=true, but {run.directory} can resume from step {trainer.step}: leave it out")
    return resumed


def _check_new(run: Run, trainer: Trainer, restart: bool) -> None:
    """Reject a beginning at step 0 where a checkpoint must have been, so that nothing trained is replaced."""
    every, logged = trainer.options.checkpoint_every, max((entry["step"] for entry in read_log(run)), default=0)
    lost = run.model_path.exists() or (every is not None and logged > every)
    if lost and not restart:
        what = "a trained model" if run.model_path.exists() else f"a log of {logged} steps"
        raise ConfigError(
            f"{run.directory} has {what}, but no checkpoint to resume from: restore {trainer.checkpoints}, or give "
            "restart=true to train again from step 0"
        )


def _run_stages(context: Context, stages: Sequence[Stage], first: bool) -> bool:
    """Do the work of the stages, as the `first` of the processes or not; whether it is the first."""
    processes = context.trainer.accelerator
    with ExitStack() as ended:
        if first:
            # Each of them, whatever stops the run: another logger, an error, an interrupt.
            for each in context.loggers:
                ended.push(partial(_end, each))
            _begin(context)
        for stage in stages:
            if stage.everywhere:
                stage.run(context)
        if first:
            with leading(processes):
                for stage in stages:
                    if not stage.everywhere:
                        stage.run(context)
        else:
            serve(processes)  # what the first hands out of the stages after training
    return first


def _end(logger: Logger, kind: Any, error: BaseException | None, traceback: Any) -> None:
    """Close a logger, which is told of the error that ends the run, if there is one."""
    try:
        if error is not None:
            logger.failed(error)
    finally:
        logger.finish()


def _begin(context: Context) -> None:
    """Write what is known before training, mark what the weights will no longer give, and start the loggers."""
    run, trainer = context.run, context.trainer
    remove_leftovers(trainer.checkpoints, "step-*.pt")
    remove_leftovers(run.directory, run.model_path.name, "config.yaml", "metrics.jsonl")
    run.write_config()
    run.write_info(DataInfo.of(context.data))
    summary = run.summary()
    if summary.finished:
        run.add_to_summary(finished=False)
    if trainer.step < trainer.options.steps and "steps" in summary.training:
        # Now, whatever stops training before the weights are evaluated.
        outdate(run, summary.training["steps"])
        write_page(run)
    plain: Any = OmegaConf.to_container(run.config, resolve=True)
    # The first of them cuts the log, in which the others see how far it went.
    for each in reversed(context.loggers):
        each.rewind(run.directory, trainer.step)
    for each in context.loggers:
        each.start(run.directory, plain)
    if context.progress:
        say(opening(context.model, context.data, trainer.options, trainer.accelerator.device, run.directory))
