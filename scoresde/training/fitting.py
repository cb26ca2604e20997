"""Training from Python: a model, data and a number of steps, with neither a configuration nor a run directory.

The loop is that of `scoresde train`, so that the same seed gives the same weights.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from scoresde.arguments import ArgumentError, checked, shown
from scoresde.data import Data, DataInfo
from scoresde.data.affine import Standardisation
from scoresde.data.conditions import condition_infos
from scoresde.data.rows import InMemory
from scoresde.objectives import Criterion, CrossEntropy, DenoisingScoreMatching, Likelihood, LogNormalSigma
from scoresde.progress import say
from scoresde.score import NetworkScore, NoisyClassifier
from scoresde.training.conditions import scale_conditions
from scoresde.training.environment import limit_threads
from scoresde.training.intake import as_data
from scoresde.training.loggers import Logger
from scoresde.training.loop import Interrupted, Trainer
from scoresde.training.messages import opening
from scoresde.training.moments import data_statistics
from scoresde.training.options import Training

__all__ = ["Fit", "fit", "make_trainer"]


@dataclass(frozen=True)
class Fit:
    """The course of a training.

    Attributes:
        steps: Step of each entry of the log, in order.
        loss: Mean weighted loss since the entry before, of each entry.
        log_snr: Centres of the bins of λ = log(α/σ) of `loss_by_log_snr`.
        loss_by_log_snr: Mean squared error of the noise prediction in each bin, over the last fifth of the log.
        skipped: Number of steps skipped because the loss or its gradient was not finite.
        seconds: Seconds of training, with those before an interruption.
    """

    steps: list[int]
    loss: list[float]
    log_snr: list[float]
    loss_by_log_snr: list[float]
    skipped: int
    seconds: float

    def __repr__(self) -> str:
        last = f"loss {self.loss[-1]:.4g}" if self.loss else "no entry of the log"
        return f"Fit({self.steps[-1] if self.steps else 0} steps, {last}, {self.seconds:.1f} s)"


@checked
def fit(
    model: NetworkScore | NoisyClassifier,
    data: Any,
    steps: int,
    *,
    labels: Any = None,
    conditions: Mapping[str, Any] | None = None,
    objective: Criterion | None = None,
    optimizer: Callable[[Any], torch.optim.Optimizer] | None = None,
    lr: float = 3e-3,
    standardise: Standardisation = "auto",
    in_memory: InMemory = "auto",
    run_dir: str | Path | None = None,
    progress: bool = True,
    **options: Any,
) -> Fit:
    """Train a model in place; it holds the averaged weights afterwards and is in evaluation mode.

    Data of any scale and offset do: the model is given the `transform` that standardises them, and samples, codes and
    log-densities are in the data's units. `model.info` holds what is known of them, such as the names of classes. A
    model without `statistics` is given those of the training data in model space, and its preconditioning their
    standard deviation. A model that has statistics keeps its space. The initial weights are the network's own: seed
    them where it is made.

    Args:
        model: Model to train, or a classifier of noised samples.
        data: Samples `(N, ...)` as a tensor, array, data frame or list of arrays; a pair `(samples, labels)` of these,
            where labels may be integers or names; a torch data set of x or (x, label), or a loader of one, whose batch
            size is taken; or a `scoresde.data.Data`, whose own transform is taken. Floating
            point is continuous, uint8 are pixels of 256 levels, and images may be `(N, H, W, C)` or `(N, H, W)` where
            the network takes `(C, H, W)`. All samples are trained on (of a `Data`, its `train`): hold some out to
            evaluate the model on.
        steps: Optimiser steps in all.
        labels: Labels of the samples, where they are not given as a pair.
        conditions: Conditions of the samples beside labels, by name: `vector` `(N, k)`, `image` `(N, C, ...)`, `tokens`
            `(N, L, d)` with a `mask` `(N, L)`. A new model of this package standardises vectors and images by their
            moments, and takes them in their own units.
        objective: The loss; the default experiment's likelihood-weighted denoising score matching if not given, and the
            cross-entropy of a classifier.
        optimizer: Makes an optimiser of parameters, such as `functools.partial(torch.optim.SGD, lr=0.1)`; AdamW with
            `lr` if not given.
        lr: Peak of the learning rate, without `optimizer`.
        standardise: Parts of the samples that are standardised by themselves, or `"none"`; see
            `scoresde.data.continuous`. For samples that are no data set.
        in_memory: Whether the items of a torch data set are read at once and held in memory; "auto": if they take at
            most `SCORESDE_MEMORY`. Otherwise they are read when they are asked for, by threads; an item must then be
            the same whenever it is read. Numbers are the same.
        run_dir: Directory of the checkpoints; a call with the same directory resumes from the newest. None for none.
        progress: Show what is trained and how far it is: a bar on a terminal and in a notebook, lines elsewhere.
        **options: Other options of `Training`, such as `batch_size`, `seed`, `ema`.

    Raises:
        ValueError: An option that makes no sense, data of another kind, shape or transform than the model's, labels or
            conditions that are not the network's, or checkpoints of another model.
        KeyboardInterrupt: Training was interrupted; the model holds the average so far.
        TrainingFailed: Too many steps in a row whose loss was not finite.
    """
    memory, threads = _Memory(), torch.get_num_threads()
    # Training seeds torch's own generator at every step; the caller's stays as it is.
    with torch.random.fork_rng():
        trainer = make_trainer(
            model,
            data,
            steps,
            labels=labels,
            conditions=conditions,
            objective=objective,
            optimizer=optimizer,
            lr=lr,
            standardise=standardise,
            in_memory=in_memory,
            run_dir=run_dir,
            loggers=[memory],
            **options,
        )
        limit_threads(trainer.data.shape)
        if progress:
            directory = None if run_dir is None else Path(run_dir)
            say(opening(model, trainer.data, trainer.options, trainer.accelerator.device, directory))
        try:
            trainer.fit(progress)
        except Interrupted as interruption:
            trainer.finish()
            raise KeyboardInterrupt(f"training stopped after step {interruption.step} of {steps}") from None
        finally:
            torch.set_num_threads(threads)
    centres, curve = memory.curve()
    return Fit(memory.steps, memory.losses, centres, curve, trainer.skipped, trainer.seconds)


@checked
def make_trainer(
    model: NetworkScore | NoisyClassifier,
    data: Any,
    steps: int,
    *,
    labels: Any = None,
    conditions: Mapping[str, Any] | None = None,
    objective: Criterion | None = None,
    optimizer: Callable[[Any], torch.optim.Optimizer] | None = None,
    lr: float = 3e-3,
    standardise: Standardisation = "auto",
    in_memory: InMemory = "auto",
    run_dir: str | Path | None = None,
    loggers: Sequence[Logger] = (),
    **options: Any,
) -> Trainer:
    """The trainer of `fit`, for a loop of one's own over its steps.

    `for step in trainer.steps(): ...` trains; after the last step the model holds the averaged weights and is in
    evaluation mode. Every step seeds torch's own generator.

    Args:
        model: Model to train, as for `fit`.
        data: Samples, as for `fit`.
        steps: Optimiser steps in all.
        labels: Labels of the samples, as for `fit`.
        conditions: Their other conditions, as for `fit`.
        objective: The loss, as for `fit`.
        optimizer: Makes an optimiser of parameters, as for `fit`.
        lr: Peak of the learning rate, without `optimizer`.
        standardise: Parts of the samples that are standardised by themselves, as for `fit`.
        in_memory: Whether the items of a torch data set are held in memory, as for `fit`.
        run_dir: Directory of the checkpoints that `Trainer.save` writes; None for none.
        loggers: Receivers of the entries of the log, which `Trainer.fit` makes.
        **options: Other options of `Training`.

    Raises:
        ValueError: As for `fit`.
    """
    if not lr > 0:
        raise ValueError(f"lr is {lr}, expected a positive learning rate")
    if isinstance(data, Data) and standardise != "auto":
        raise ValueError(f"standardise={standardise!r} is for samples, and {data.name} is a data set with a transform")
    if isinstance(data, DataLoader) and data.batch_size is not None:
        options.setdefault("batch_size", data.batch_size)
    data = as_data(model, data, standardise, labels, conditions, in_memory)
    if model.transform not in (None, data.transform):
        raise ValueError(
            f"the model is of data under {model.transform!r} and {data.name} has {data.transform!r}: give its samples "
            "as a tensor, or the data set the model's transform"
        )
    training = Training(**{"steps": steps, **({"checkpoint_every": None} if run_dir is None else {}), **options})
    infos = condition_infos(data.train_conditions or {})
    model.info = DataInfo(data.name, data.shape, data.transform, data.num_classes, data.class_names, None, infos)
    if model.statistics is None:
        scale_conditions(model, data)
        model.statistics = data_statistics(data, training.dequantise)
        model.preconditioning = model.preconditioning.with_data_std(float(model.statistics.std))
    if objective is None and isinstance(model, NoisyClassifier):
        objective = CrossEntropy()
    elif objective is None:
        objective = DenoisingScoreMatching(Likelihood(), LogNormalSigma(-1.0, 1.6, importance=True))
    return Trainer(
        model,
        objective,
        data,
        _optimizer(optimizer, lr),
        training,
        None if run_dir is None else Path(run_dir),
        loggers,
        held_out=False,
    )


def _optimizer(
    given: Callable[[Any], torch.optim.Optimizer] | None, lr: float
) -> Callable[[Any], torch.optim.Optimizer]:
    """The user's maker of an optimiser, whose result is checked; AdamW if there is none."""

    def make(parameters: Any) -> torch.optim.Optimizer:
        if given is None:
            return torch.optim.AdamW(parameters, lr, betas=(0.9, 0.99), weight_decay=0.05)
        made = given(parameters)
        if not isinstance(made, torch.optim.Optimizer):
            raise ArgumentError(f"optimizer makes {shown(made)} of parameters, expected an optimiser of torch.optim")
        return made

    return make


class _Memory(Logger):
    """Keeps the entries of the log."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.losses: list[float] = []
        self.curves: list[dict[float, float]] = []

    def start(self, run_dir: Path, config: dict[str, Any]) -> None:
        pass

    def numbers(self, step: int, values: dict[str, Any]) -> None:
        self.steps.append(step)
        self.losses.append(values["loss"])
        self.curves.append(dict(zip(values["log_snr"], values["loss_by_log_snr"], strict=True)))

    def curve(self) -> tuple[list[float], list[float]]:
        """Centres of bins, and the mean loss in each over the last fifth of the log."""
        late = self.curves[-max(1, len(self.curves) // 5) :]
        centres = sorted({c for curve in late for c in curve})
        values = [[curve[c] for curve in late if c in curve] for c in centres]
        return centres, [sum(v) / len(v) for v in values]
