"""The stages of training a run: each has its own check, made before anything is written, and its own work.

`scoresde.runs.train.STAGES` is their list. A stage's work may find the results of an earlier command, which is how a
command that was interrupted is completed by the same command.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf

from scoresde.chains import DiscreteChainModel
from scoresde.data import Data
from scoresde.metrics.evaluate import FEWEST
from scoresde.options.errors import ConfigError
from scoresde.options.settings import option_problems
from scoresde.runs.chains import RunModel
from scoresde.runs.classifier import held_out_accuracy
from scoresde.runs.directory import Run
from scoresde.runs.evaluate import check_evaluation_size, evaluate
from scoresde.runs.likelihood import check_likelihood, likelihood
from scoresde.runs.log import read_log
from scoresde.runs.pictures import accuracy_picture, pictures
from scoresde.runs.results import Filing, identity_of, is_of
from scoresde.runs.sample import Draw
from scoresde.runs.summary import Summary, TrainingEntry, flattened
from scoresde.runs.weights import Trained
from scoresde.sampling.solver import NonFiniteError
from scoresde.score import NoisyClassifier
from scoresde.training.loggers import Logger
from scoresde.training.loop import Trainer
from scoresde.version import __version__

__all__ = ["Accuracy", "Context", "Evaluate", "Figures", "Fit", "Likelihood", "Log", "Report", "Save", "Stage"]

_log = logging.getLogger(__name__)


@dataclass
class Context:
    """Objects that the stages share.

    Attributes:
        run: The run.
        model: Its model.
        data: Its data.
        loggers: Receivers of numbers and figures.
        options: The run's `evaluation`.
        progress: Show progress.
        trainer: Trainer of the model; it is made after the checks.
    """

    run: Run
    model: Trained
    data: Data
    loggers: Sequence[Logger]
    options: DictConfig
    progress: bool = True
    trainer: Trainer = field(init=False)

    @property
    def generative(self) -> RunModel:
        """The model, for stages of one that samples are drawn of."""
        assert not isinstance(self.model, NoisyClassifier)
        return self.model


class Stage(ABC):
    """A part of training a run.

    Attributes:
        everywhere: Whether every process has a part in its work; else the first does it alone.
    """

    everywhere = False

    def check(self, context: Context) -> None:
        """Reject what `run` would reject, before anything is written.

        Raises:
            ConfigError: A wrong option.
        """

    @abstractmethod
    def run(self, context: Context) -> None:
        """Do the work of the stage."""


class Fit(Stage):
    """Trains the model to the last step, from the newest checkpoint."""

    everywhere = True

    def run(self, context: Context) -> None:
        context.trainer.fit(context.progress)


class Save(Stage):
    """Writes the weights, and into the summary how they were trained."""

    def run(self, context: Context) -> None:
        run, trainer = context.run, context.trainer
        run.save_model(context.model, trainer.step)
        run.add_to_summary(
            name=run.directory.name,
            parameters=sum(p.numel() for p in context.model.network.parameters()),
            training={
                "steps": trainer.step,
                "seconds": trainer.seconds,
                "skipped": trainer.skipped,
                "loss": next((e["loss"] for e in reversed(read_log(run)) if e.get("loss") is not None), None),
                **_circumstances(context),
            },
        )


def _circumstances(context: Context) -> TrainingEntry:
    """When, where and with what training came to its last step; what is known of that already stays."""
    now: TrainingEntry = {
        "samples": len(context.data.train),
        "device": _device_name(context.trainer.accelerator.device),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "version": __version__,
    }
    known: dict[str, Any] = {**context.run.summary().training}
    if known.get("steps") != context.trainer.step:
        return now
    return cast(TrainingEntry, {key: known[key] for key in now if key in known})


def _device_name(device: torch.device) -> str:
    """A device as a reader knows it: "a CPU", or the name of a GPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return "a CPU" if device.type == "cpu" else device.type


class Evaluate(Stage):
    """Draws samples and compares them with held-out data."""

    def check(self, context: Context) -> None:
        options, data = context.options, context.data
        plain: Any = OmegaConf.to_container(options, resolve=True)
        for problem in option_problems("evaluation", plain, prefix="evaluation."):
            raise ConfigError(problem)
        if options.samples:
            check_evaluation_size(min(options.samples, len(data.test), len(data.train)))
        elif options.samples is None and number_to_evaluate(options, data) == 0:
            _log.warning(
                "%d held-out and %d training samples are fewer than the %d that sample quality needs: it is left out",
                *(len(data.test), len(data.train), FEWEST),
            )

    def run(self, context: Context) -> None:
        run, options = context.run, context.options
        n = number_to_evaluate(options, context.data)
        if n > 0:
            draw = Draw(run.make("sampler"), n, options.seed)
            # Absent in the configuration of an earlier version's run.
            likelihood = options.get("sample_likelihood") or 0
            filing = Filing(own=True)
            evaluate(
                run,
                context.generative,
                context.data,
                draw,
                likelihood=likelihood,
                progress=context.progress,
                filing=filing,
            )


def number_to_evaluate(options: DictConfig, data: Data) -> int:
    """Number of samples that are drawn and compared after training.

    Args:
        options: The run's `evaluation`.
        data: Its data.
    """
    if options.samples is None:
        return len(data.test) if min(len(data.test), len(data.train)) >= FEWEST else 0
    return min(int(options.samples), len(data.test))


class Likelihood(Stage):
    """Computes the likelihood of a split.

    Args:
        split: Split of the data, train or test.
    """

    def __init__(self, split: str) -> None:
        self.split = split

    def check(self, context: Context) -> None:
        check_likelihood(context.run, context.data, context.options, "evaluation.")

    def run(self, context: Context) -> None:
        options, data = context.options, context.data
        if options.likelihood == 0:
            return
        # As many of the training data as there are held out: enough to see overfitting.
        n = len(data.test) if options.likelihood is None else options.likelihood
        likelihood(context.run, context.generative, data, self.split, n, options, context.progress, Filing(own=True))


class Figures(Stage):
    """Draws what the model does, unless the figures are there."""

    def check(self, context: Context) -> None:
        sampler = context.run.make("sampler")
        model = context.generative
        if isinstance(model, DiscreteChainModel):
            sampler.of(model)
        else:
            sampler.grid(model.sde)

    def run(self, context: Context) -> None:
        run, seed = context.run, context.options.seed
        if not context.options.pictures:
            return
        settings = {
            "model": run.fingerprint(),
            "data_hash": context.data.fingerprint(),
            "sampler": identity_of(run.make("sampler"), run),
            "seed": seed,
        }
        if not is_of(run.summary().get("pictures"), settings):
            try:
                pictures(run, context.generative, context.data, seed=seed)
            except NonFiniteError as error:
                # A few of thousands of samples of a model that is hardly trained are no reason to do without a report.
                _log.warning("some figures are left out: %s", error)
                return
            run.add_to_summary(pictures=settings)


class Accuracy(Stage):
    """Finds how often a classifier is right by noise level, on held-out and on training data, and draws it."""

    def run(self, context: Context) -> None:
        run, seed = context.run, context.options.seed
        settings = {"model": run.fingerprint(), "data_hash": context.data.fingerprint(), "seed": seed}
        if is_of(run.summary().get("classifier"), settings):
            return
        assert isinstance(context.model, NoisyClassifier)
        entry = {**settings, **held_out_accuracy(context.model, context.data, seed), "step": context.trainer.step}
        if context.options.pictures:
            accuracy_picture(run, entry, context.model.num_classes)
        run.add_to_summary(classifier=entry)


class Log(Stage):
    """Hands results and figures to the loggers."""

    def run(self, context: Context) -> None:
        run, step = context.run, context.trainer.step
        summary = run.summary()
        for each in context.loggers:
            each.numbers(step, {"event": "evaluation", **flattened(summary)})
            for figure in run.pictures():
                each.picture(step, Path(figure["file"]).stem, run.directory / figure["file"])
            if summary.samples.get("metrics"):
                each.table(step, "sample quality", *_quality(summary))


def _quality(summary: Summary) -> tuple[list[str], list[list[Any]]]:
    """Head and rows of a table of the metrics of samples, and of training data for scale."""
    rows: list[list[Any]] = []
    for name, entry in summary.samples["metrics"].items():
        other: Any = summary.reference.get(name, {})
        rows.append([name, entry["value"], entry["stderr"], other.get("value"), other.get("stderr"), entry["n"]])
    return ["metric", "samples", "stderr", "training data", "stderr of training data", "n"], rows


class Report(Stage):
    """Marks the run as finished, and writes the page about it."""

    def run(self, context: Context) -> None:
        context.run.add_to_summary(finished=True)
        write_page(context.run)
        for each in context.loggers:
            each.directory(context.run.directory)


def write_page(run: Run) -> None:
    """Write the page about the run."""
    # Late: training does not wait for what only a page needs.
    from scoresde.report import write_report

    write_report(run.directory)
