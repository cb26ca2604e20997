"""What the commands do with a run: train, sample, compute likelihoods and evaluate."""

import logging
import math
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from scoresde.data import Data, DataInfo
from scoresde.metrics.evaluate import FEWEST
from scoresde.options.errors import ConfigError
from scoresde.options.settings import option_problems
from scoresde.progress import say
from scoresde.runs.directory import Run
from scoresde.runs.evaluate import check_evaluation_size, evaluate, flattened
from scoresde.runs.labels import check_labels
from scoresde.runs.likelihood import check_likelihood, likelihood
from scoresde.runs.log import read_log
from scoresde.runs.pictures import pictures
from scoresde.runs.provenance import provenance
from scoresde.runs.results import identity_of, is_of, outdate
from scoresde.score import NetworkScore
from scoresde.storage.files import remove_leftovers
from scoresde.storage.limits import check_memory
from scoresde.training.checkpoint import CheckpointError
from scoresde.training.environment import limit_threads, processes
from scoresde.training.loggers import Guarded, LocalLogger, Logger
from scoresde.training.loop import Trainer
from scoresde.training.messages import opening
from scoresde.training.moments import data_statistics
from scoresde.training.provenance import check_same_data
from scoresde.training.store import Provenance
from scoresde.version import __version__

__all__ = ["train"]

_log = logging.getLogger(__name__)


def train(
    run: Run,
    loggers: Sequence[Logger] | None = None,
    progress: bool = True,
    restart: bool = False,
    data: Data | None = None,
    device: str | None = None,
) -> bool:
    """Train (or go on with) the run's model, then sample, evaluate and draw pictures.

    Args:
        loggers: where numbers and pictures go besides the run directory.
        progress: show progress.
        data: the data of a new run, if they were loaded already.
        restart: train a run anew whose checkpoints are gone or damaged, which is refused otherwise.
        device: where to train; as for `scoresde.training.environment.processes` if not given.

    Returns:
        Whether this is the process that did the latter.

    Raises:
        ConfigError: the run is in use, cannot be written to, or has lost its checkpoints.
        CheckpointError: all its checkpoints are damaged.
    """
    run.check_writable("checkpoints", "samples")
    known = run.info()
    if data is None or known is not None:
        data = run.data()
    if known is not None:
        check_same_data(str(run.info_path), known, data, run.accept)
    info = DataInfo.of(data)
    limit_threads(data.shape)
    options = run.make("training")
    # The least that a step takes: values of the batch, in several stages, and their numbers.
    least = options.batch_size * (24 * math.prod(data.shape) + 64)
    check_memory(least, f"training.batch_size={options.batch_size}")
    # The order of creation and the seed fix the initial weights.
    torch.manual_seed(options.seed)
    statistics = data_statistics(data, options.dequantise)
    model = run.new_model(data.shape, statistics)
    check_labels(model.classes, data)
    _check_evaluation(run, model, data)
    accelerator = processes(device)
    loggers = [LocalLogger(), *(Guarded(each) for each in loggers or () if not isinstance(each, LocalLogger))]
    trainer = Trainer(
        model,
        run.make("objective"),
        data,
        run.make("optimizer"),
        options,
        run.directory,
        loggers,
        accelerator,
        Provenance(provenance(run.config, info), run.accept),
    )
    with run.alone("training") if accelerator.is_main_process else nullcontext():
        if not _resume(run, trainer, restart):
            _check_new(run, trainer, restart)
        # Everything that can be refused has been refused: now write.
        return _train(run, trainer, model, data, loggers, accelerator.is_main_process, progress)


def _resume(run: Run, trainer: Trainer, restart: bool) -> bool:
    """Go on from a checkpoint; False if there is none, or none that is good where a `restart` is asked for."""
    try:
        resumed = trainer.resume()
    except CheckpointError as error:
        if not restart:
            raise CheckpointError(f"{error}; or restart=true to train again from step 0") from error
        trainer.set_aside_checkpoints()
        return False
    if resumed and restart:
        raise ConfigError(f"restart=true, but {run.directory} can go on from step {trainer.step}: leave it out")
    return resumed


def _check_new(run: Run, trainer: Trainer, restart: bool) -> None:
    """Refuse to begin at step 0 where a checkpoint must have been, lest what was trained be replaced."""
    every, logged = trainer.options.checkpoint_every, max((line["step"] for line in read_log(run)), default=0)
    lost = run.model_path.exists() or (every is not None and logged > every)
    if lost and not restart:
        what = "a trained model" if run.model_path.exists() else f"a log of {logged} steps"
        raise ConfigError(
            f"{run.directory} has {what}, but no checkpoint to go on from: restore {trainer.checkpoints}, or give "
            "restart=true to train again from step 0"
        )


def _train(
    run: Run, trainer: Trainer, model: NetworkScore, data: Data, loggers: list[Logger], first: bool, progress: bool
) -> bool:
    """The part of `train` that writes, if this is the `first` of its processes."""
    if first:
        remove_leftovers(trainer.checkpoints, "step-*.pt")
        remove_leftovers(run.directory, run.model_path.name, "config.yaml", "metrics.jsonl")
        run.write_config()
        run.write_info(DataInfo.of(data))
        summary = run.summary()
        if summary.get("finished"):
            run.add_to_summary(finished=False)
        if trainer.step < trainer.options.steps and "training" in summary:
            # What the weights will no longer give, whatever stops training before they are evaluated.
            outdate(run, summary["training"]["steps"])
            _rewrite_report(run)
        plain: Any = OmegaConf.to_container(run.config, resolve=True)
        for each in loggers:
            each.rewind(run.directory, trainer.step)
            each.start(run.directory, plain)
        if progress:
            say(opening(model, data, trainer.options, trainer.accelerator.device, run.directory))
    try:
        trainer.fit(progress)
        if not first:
            return False
        run.save_model(model, trainer.step)
        run.add_to_summary(
            name=run.directory.name,
            parameters=sum(p.numel() for p in model.network.parameters()),
            training={
                "steps": trainer.step,
                "seconds": trainer.seconds,
                "skipped": trainer.skipped,
                "loss": _last_loss(run),
                **_circumstances(run, trainer, data),
            },
        )
        _after_training(run, model, data, loggers, trainer.step, progress)
        run.add_to_summary(finished=True)
        _rewrite_report(run)
        for each in loggers:
            each.directory(run.directory)
        return True
    finally:
        if first:
            for each in loggers:
                each.finish()


def _circumstances(run: Run, trainer: Trainer, data: Data) -> dict[str, Any]:
    """When, where and with what training came to its last step; what is known of that already stays."""
    now = {
        "samples": len(data.train),
        "device": _device_name(trainer.accelerator.device),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "version": __version__,
    }
    known = run.summary().get("training", {})
    return {key: known.get(key) for key in now if key in known} if known.get("steps") == trainer.step else now


def _device_name(device: torch.device) -> str:
    """A device as a reader knows it: "a CPU", or the name of a GPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return "a CPU" if device.type == "cpu" else device.type


def _rewrite_report(run: Run) -> None:
    # Late: training does not wait for what only a page needs.
    from scoresde.report import write_report

    write_report(run.directory)


def _check_evaluation(run: Run, model: NetworkScore, data: Data) -> None:
    """Refuse before training what would be refused after it."""
    evaluation = run.config.evaluation
    plain: Any = OmegaConf.to_container(evaluation, resolve=True)
    for problem in option_problems("evaluation", plain, prefix="evaluation."):
        raise ConfigError(problem)
    if evaluation.samples:
        check_evaluation_size(min(evaluation.samples, len(data.test), len(data.train)))
    elif evaluation.samples is None and _number_to_evaluate(evaluation, data) == 0:
        _log.warning(
            "%d held-out and %d training samples are fewer than the %d that sample quality needs: it is left out",
            *(len(data.test), len(data.train), FEWEST),
        )
    check_likelihood(run, data, evaluation, "evaluation.")
    run.make("sampler").grid(model.sde)


def _number_to_evaluate(evaluation: DictConfig, data: Data) -> int:
    """How many samples are drawn and compared after training."""
    if evaluation.samples is None:
        return len(data.test) if min(len(data.test), len(data.train)) >= FEWEST else 0
    return min(int(evaluation.samples), len(data.test))


def _after_training(
    run: Run, model: NetworkScore, data: Data, loggers: list[Logger], step: int, progress: bool
) -> None:
    evaluation = run.config.evaluation
    n = _number_to_evaluate(evaluation, data)
    if n > 0:
        evaluate(run, model, data, run.make("sampler"), n, seed=evaluation.seed, progress=progress, own=True)
    if evaluation.likelihood != 0:
        # As many of the training data as there are held out: enough to see overfitting.
        most = len(data.test) if evaluation.likelihood is None else evaluation.likelihood
        for split in ("test", "train"):
            likelihood(run, model, data, split, most, evaluation, progress, own=True)
    if evaluation.pictures:
        _pictures(run, model, data)
    summary = run.summary()
    for each in loggers:
        each.numbers(step, {"event": "evaluation", **flattened(summary)})
        for picture in run.pictures():
            each.picture(step, Path(picture["file"]).stem, run.directory / picture["file"])
        if summary.get("samples", {}).get("metrics"):
            each.table(step, "sample quality", *_quality(summary))


def _pictures(run: Run, model: NetworkScore, data: Data) -> None:
    """Draw the pictures of a model, unless they are there."""
    settings = {
        "model": run.fingerprint(),
        "data_hash": data.fingerprint(),
        "sampler": identity_of(run.make("sampler")),
        "seed": run.config.evaluation.seed,
    }
    if not is_of(run.summary().get("pictures"), settings):
        pictures(run, model, data, seed=run.config.evaluation.seed)
        run.add_to_summary(pictures=settings)


def _quality(summary: dict[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Head and rows of a table of the metrics of samples, and of training data for scale."""
    rows = []
    for name, entry in summary["samples"]["metrics"].items():
        other = summary.get("reference", {}).get(name, {})
        rows.append([name, entry["value"], entry["stderr"], other.get("value"), other.get("stderr"), entry["n"]])
    return ["metric", "samples", "stderr", "training data", "stderr of training data", "n"], rows


def _last_loss(run: Run) -> float | None:
    return next((line["loss"] for line in reversed(read_log(run)) if line.get("loss") is not None), None)
