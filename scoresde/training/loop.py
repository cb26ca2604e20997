"""The training loop: `Trainer.steps` makes the steps one by one, and `Trainer.fit` is a loop over them.

Everything random in a step is a function of the seed, the step and the sample's index in the batch: the order of the
data, dequantisation, noise levels, noise and dropout. So a run that resumes from a checkpoint has the weights, to the
bit, that it would have had without the interruption (on an accelerator as far as its kernels are deterministic), and
several processes draw the numbers that one would, dropout apart.
"""

import logging
import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from scoresde.chains import DiscreteChainModel
from scoresde.data import Data
from scoresde.data.augmentation import LABELS
from scoresde.data.rows import UnreadableData
from scoresde.objectives import Criterion, Loss
from scoresde.progress import Progress
from scoresde.score import NetworkScore, NoisyClassifier
from scoresde.training.accumulation import accumulated
from scoresde.training.batches import Batch, Batches
from scoresde.training.compiling import first_line, is_of_compiler
from scoresde.training.conditions import taken_conditions
from scoresde.training.ema import EMA
from scoresde.training.environment import processes
from scoresde.training.held_out import HeldOutLoss
from scoresde.training.interruptions import Deferred, deferred, stopping
from scoresde.training.loggers import Logger, StopTraining
from scoresde.training.messages import failure, log_line
from scoresde.training.noise_levels import LossRecord
from scoresde.training.noise_range import warn_of_scale
from scoresde.training.options import Training
from scoresde.training.sharded import Sharded, parts_of_launcher, wants_sharding
from scoresde.training.sharing import in_batch_order, largest, total
from scoresde.training.snapshots import FOLDER, Snapshots
from scoresde.training.step import GuardedOptimizer, Step
from scoresde.training.store import CheckpointStore, Provenance

__all__ = ["Interrupted", "Trainer", "TrainingFailed"]

_log = logging.getLogger(__name__)

# Steps between the agreements of several processes on whether to stop.
_AGREE_EVERY = 10


class Interrupted(Exception):
    """Training was asked to stop by a signal, after writing a checkpoint."""

    def __init__(self, signum: int, step: int) -> None:
        super().__init__(f"interrupted at step {step}")
        self.signum = signum
        self.step = step


class TrainingFailed(ArithmeticError):
    """Too many steps in a row had a loss or a gradient that was not finite."""


class Trainer:
    """Trains a network score model, the model of a discrete chain, or a classifier of noised samples.

    Args:
        model: Model to train; it holds the averaged weights afterwards.
        objective: The loss.
        data: Training data.
        make_optimizer: Makes the optimiser of a list of parameters.
        options: Options of training.
        run_dir: Directory whose `checkpoints` folder the checkpoints go into, and `snapshots` the snapshots; None for
            neither.
        loggers: Receivers of the entries of the log.
        accelerator: This process's device and the processes that share the work; those of the program if not given.
        provenance: What the weights depend on in use; kept in checkpoints, and compared with theirs.
        held_out: Log the loss on test data, too.

    Attributes:
        step: Number of steps made so far.
        seconds: Seconds of training so far, with those before an interruption.
        skipped: Number of steps skipped so far because the loss or its gradient was not finite.
        bare: The network, without the wrapper for several processes.

    Raises:
        ValueError: A batch that the processes cannot share, a model that the objective cannot train, options that the
            optimiser does not take, or snapshots without `run_dir`.
    """

    def __init__(
        self,
        model: NetworkScore | DiscreteChainModel | NoisyClassifier,
        objective: Criterion,
        data: Data,
        make_optimizer: Callable[[Any], torch.optim.Optimizer],
        options: Training,
        run_dir: Path | None = None,
        loggers: Sequence[Logger] = (),
        accelerator: PartialState | None = None,
        provenance: Provenance | None = None,
        held_out: bool = True,
    ) -> None:
        self.accelerator = accelerator or processes()
        options = replace(options, accumulate=parts_of_launcher(options))
        _check_batch_size(options, data, self.accelerator)
        self.model, self.objective, self.data, self.options = model, objective, data, options
        self.loggers = list(loggers)
        self.bare = model.network
        device = self.accelerator.device
        if (
            not isinstance(model, DiscreteChainModel)
            and model.statistics is not None
            and self.accelerator.is_main_process
        ):
            warn_of_scale(model.sde, model.statistics, data.transform)
        model.to(device)
        objective.begin(model)
        if options.channels_last and len(data.shape) == 3:
            self.bare.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.sharded = None
        if wants_sharding(self.accelerator):
            self.sharded = Sharded(self.bare, self.accelerator, options)
        self.optimizer = GuardedOptimizer(self.bare, make_optimizer, options, device, objective.trained)
        if options.compile:
            # In place, so that the parameters keep their names.
            self.bare.compile()
        if self.accelerator.num_processes > 1 and self.sharded is None:
            # Only the network is wrapped: gradients are averaged in its backward pass, and the model around it
            # stays what it is. Gradients of parameters that only the loss uses, such as the rates that an SDE
            # learns, are averaged as well.
            devices = None if device.type == "cpu" else [device]
            model.network = DistributedDataParallel(self.bare, device_ids=devices)
        self.ema = EMA(self.bare, options.ema)
        self.snapshots = self._snapshots(run_dir)
        names = taken_conditions(model, data)
        _check_told(self.bare, options, data)
        self.batches = Batches(data, options, self.accelerator, model.classes is not None, names)
        self.held_out = HeldOutLoss(model, self.bare, objective, self.batches) if held_out else None
        # Sums over the processes, so that all skip the step that one must skip.
        self._total = partial(total, processes=self.accelerator)
        self.record = LossRecord(model.log_snr_range, device, self._total, self.accelerator.num_processes)
        self._store = CheckpointStore(
            None if run_dir is None else run_dir / "checkpoints",
            self.bare,
            self.ema,
            self.snapshots,
            self.optimizer,
            self.objective,
            self.record,
            self.accelerator,
            options.keep,
            provenance or Provenance(),
        )
        self.step, self.seconds = 0, 0.0
        self._began: float | None = None  # when the clock read 0, while it runs
        self._signals = Deferred()
        self._resumed = False

    def _snapshots(self, run_dir: Path | None) -> Snapshots | None:
        every = self.options.snapshots
        if every is None:
            return None
        if run_dir is None:
            raise ValueError(f"training.snapshots is {every}, and there is no directory to write them to: give run_dir")
        return Snapshots(self.bare, self.options.snapshot_stds, every, run_dir / FOLDER, self.accelerator)

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints.

        Raises:
            ValueError: A trainer without `run_dir`.
        """
        if self._store.folder is None:
            raise ValueError("the trainer writes no checkpoints: give run_dir")
        return self._store.folder

    @property
    def skipped(self) -> int:
        """Number of steps skipped so far because the loss or its gradient was not finite."""
        return int(self.optimizer.skipped)

    def _read_clock(self) -> float:
        if self._began is not None:
            self.seconds = time.perf_counter() - self._began
        return self.seconds

    # -- steps ------------------------------------------------------------------------------------------

    def steps(self) -> Generator[Step, None, None]:
        """Train, and yield each step when it is made, from the newest checkpoint if there is one.

        After the last step the model holds the averaged weights and is in evaluation mode; a loop that is left earlier
        gets there by `finish`, or resumes by another call. Checkpoints are written by `save`, and entries of the log by
        `fit`. Every step seeds torch's own generator.

        Raises:
            TrainingFailed: Too many non-finite steps in a row; the last good checkpoint stays.
        """
        self.resume()
        if self.snapshots is not None:
            self.snapshots.begin(self.step)
        self.model.train()
        # On a CPU a look at a number costs nothing; elsewhere it waits for the device.
        look_every = 1 if self.accelerator.device.type == "cpu" else self.options.log_every
        self._began = time.perf_counter() - self.seconds
        try:
            while self.step < self.options.steps:
                step = self._advance()
                if self.step % look_every == 0 and int(self.optimizer.in_a_row) >= self.options.max_skipped:
                    self._give_up()
                yield step
        finally:
            self._began = None
            self.batches.close()
        self.finish()

    def _advance(self) -> Step:
        """Make one optimiser step."""
        optimizer = self.optimizer
        optimizer.schedule(self.step)
        loss = self._gradients()
        if self.accelerator.num_processes > 1:
            optimizer.average(lambda gradient: self._total(gradient) / self.accelerator.num_processes)
        norm = optimizer.clip(self.bare.parameters())
        bad = ~(norm.isfinite() & self._total(loss.value).isfinite())
        optimizer.step(bad)
        self.step += 1
        self.ema.update(self.step)
        if self.snapshots is not None:
            self.snapshots.update(self.step)
            if self.step % self.snapshots.every == 0 or self.step == self.options.steps:
                self.snapshots.write(self.step)
        self.record.add(loss, bad)
        self._remember(loss, bad)
        return Step(self.step, loss.value, norm.detach(), bad, optimizer.lr, self._read_clock())

    def _gradients(self) -> Loss:
        """The loss of the next step's batch, whose gradients are the parameters' afterwards."""
        compiled = self.bare._compiled_call_impl is not None
        batch = self.batches(self.step)
        try:
            return accumulated(batch, self.options.accumulate, self._loss, self._unsynchronised, own_draws=compiled)
        except Exception as error:
            if not (compiled and is_of_compiler(error)):
                raise
            _log.warning(
                "the network cannot be compiled (%s): it is trained as it is, as with training.compile=false",
                first_line(error),
            )
        self.bare._compiled_call_impl = None
        self.optimizer.inner.zero_grad(set_to_none=True)
        return self._gradients()

    def _loss(self, batch: Batch) -> Loss:
        """The loss of a batch, or of a part of one."""
        x0, u, noise, conditions, generator = batch
        with torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=self.options.bf16):
            return self.objective(self.model, x0, generator, u=u, noise=noise, **conditions)

    def _unsynchronised(self) -> AbstractContextManager[Any]:
        network = self.model.network
        if self.sharded is not None:
            return self.sharded.unsynchronised()
        return network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext()

    def _remember(self, loss: Loss, bad: Tensor) -> None:
        """Tell the objective the losses of the batch that it learns from, those of all processes."""
        if loss.steps is None or loss.losses is None:
            return
        # A step that is skipped teaches nothing; what is not finite is left out.
        losses = torch.where(bad, torch.full_like(loss.losses, math.nan), loss.losses)
        self.objective.remember(*(in_batch_order(value, self.accelerator) for value in (loss.steps, losses)))

    def finish(self) -> None:
        """Give the model the averaged weights, and put it into evaluation mode; all processes call it."""
        if self.sharded is not None:
            self.bare = self.sharded.gathered(self.ema.state_dict(), self.accelerator.device)
            self.model.network = self.bare
            self.model.eval()
            return
        self.model.network = self.bare
        # Likelihoods differentiate through the network in ways that a compiled one does not support.
        self.bare._compiled_call_impl = None
        self.ema.copy_to(self.bare)
        self.model.eval()

    # -- the loop ---------------------------------------------------------------------------------------

    def fit(self, progress: bool = True) -> None:
        """Train to the last step, from the newest checkpoint if there is one, with a log and checkpoints.

        Args:
            progress: Show progress: a bar on a terminal, else a line for each entry of the log.

        Raises:
            Interrupted: After a signal that asks the process to end, with a checkpoint written.
            StopTraining: A logger asked for the end, with a checkpoint written.
            TrainingFailed: Too many non-finite steps in a row; the last good checkpoint stays.
            UnreadableData: Samples that cannot be read; a checkpoint is written first.
        """
        self.resume()
        options = self.options
        bar = Progress(options.steps, "training", "step", self.step, progress and self.accelerator.is_main_process)
        with deferred() as self._signals, bar, closing(self.steps()) as steps:
            for step in self._until_unreadable(steps):
                bar.update()
                done = step.step >= options.steps
                if done or step.step % options.log_every == 0:
                    self._log_or_stop(step, done, bar)
                stop = self._stop_requested()
                due = options.checkpoint_every is not None and step.step % options.checkpoint_every == 0
                # Weights that are being skipped over must not push out a good state.
                due = done or stop is not None or (due and not int(self.optimizer.in_a_row))
                if due and self._store.folder is not None:
                    self.save()
                if stop is not None:
                    self._stop(stop)

    def _until_unreadable(self, steps: Iterator[Step]) -> Iterator[Step]:
        """The steps; where samples cannot be read, a checkpoint is written before the error is passed on."""
        try:
            yield from steps
        except UnreadableData as error:
            # Several processes write one together, and the others may be able to read theirs.
            if self._store.folder is None or self.accelerator.num_processes > 1 or self.step == 0:
                raise
            self.save()
            raise UnreadableData(
                f"{error} (stopped after step {self.step}, of which there is a checkpoint: the same command goes on "
                "from there)"
            ) from error

    def _log_or_stop(self, step: Step, done: bool, bar: Progress) -> None:
        """Make an entry of the log, and write a checkpoint if a logger then ends training."""
        try:
            self._log_losses(step, done, bar)
        except StopTraining:
            if self._store.folder is not None:
                self.save()
            raise

    def _log_losses(self, step: Step, done: bool, bar: Progress) -> None:
        """Make an entry of the log from the losses since the last one."""
        seconds, skipped = self._read_clock(), self.skipped
        loss = self.record.mean(step.step, skipped)
        centres, curve = self.record.curve()
        held_out = {}
        # A divided network computes in all processes or in none.
        computes = self.accelerator.is_main_process or self.sharded is not None
        if self.held_out is not None and self.held_out.is_due(step.step, done) and computes:
            held_out["held_out_loss"] = self.held_out()
        entry = {
            "loss": loss,
            **held_out,
            "grad_norm": float(step.grad_norm),
            "lr": step.lr,
            "steps_per_second": step.step / seconds,
            "skipped": skipped,
            "log_snr": centres,
            "loss_by_log_snr": curve,
        }
        bar.note(f"loss {loss:.4f}")
        bar.line(log_line(entry, skipped - self.record.skipped))
        self._log(entry)
        self.record.reset(step.step, skipped)

    def _log(self, values: dict[str, Any]) -> None:
        if self.accelerator.is_main_process:
            for logger in self.loggers:
                logger.numbers(self.step, values)

    def _give_up(self) -> None:
        centres, curve = self.record.levels.curve()
        self._log({"loss": math.nan, "skipped": self.skipped, "log_snr": centres, "loss_by_log_snr": curve})
        raise TrainingFailed(failure(self.step, self.options, centres, curve, self._store.newest()))

    # -- checkpoints ------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write a checkpoint of the present step.

        Raises:
            ValueError: A trainer without `run_dir`.
        """
        self._store.save(self.step, self._read_clock())

    def resume(self) -> bool:
        """Load the newest checkpoint, if there is one and none has been loaded; `steps` and `fit` do so, too.

        One that is damaged is set aside, and the one before it is loaded.

        Returns:
            Whether training resumes from a checkpoint.

        Raises:
            CheckpointError: All checkpoints are damaged.
            ValueError: A checkpoint of another configuration or of other data, or with values that no training has.
        """
        if not self._resumed and (known := self._store.resume()) is not None:
            self.step, self.seconds = known
            self._resumed = True
        return self._resumed

    def set_aside_checkpoints(self) -> None:
        """Rename all checkpoints, so that training can begin anew beside them."""
        self._store.set_aside_all()

    # -- signals ----------------------------------------------------------------------------------------

    def _stop_requested(self) -> int | None:
        signum = self._signals.pending[0] if self._signals.pending else None
        if self.accelerator.num_processes == 1:
            return signum
        # The processes must agree, but need not at every step.
        if self.step % _AGREE_EVERY and self.step < self.options.steps:
            return None
        return largest(torch.tensor(signum or 0, device=self.accelerator.device)) or None

    def _stop(self, signum: int) -> None:
        """End, now that there is a checkpoint; unless a launcher handles the signal, and training resumes."""
        if not self._signals.pass_on(signum):
            stopping(signum)
            raise Interrupted(signum, self.step)


def _check_told(network: torch.nn.Module, options: Training, data: Data) -> None:
    """Reject augmentation of which the network is not told, or of data that are no images.

    Raises:
        ValueError: Other data, a network without labels of augmentation, or with another number of them.
    """
    if options.augment is None:
        return
    if len(data.shape) != 3:
        raise ValueError(
            f"training.augment is for images, and {data.name} has samples of shape {tuple(data.shape)}: leave it out"
        )
    told = getattr(network, "augmentations", 0)
    if told != LABELS:
        raise ValueError(
            f"training.augment tells the network by {LABELS} labels how images were augmented, and it takes {told}: "
            f"set network.augmentations={LABELS}, which network=unet, adm, song_ddpmpp and song_ncsnpp have, or "
            "training.augment=null"
        )


def _check_batch_size(options: Training, data: Data, processes: PartialState) -> None:
    """Reject a batch that the processes cannot share evenly, and warn of one that is larger than the data.

    Raises:
        ValueError: A batch size that is no multiple of the number of processes, or more parts than samples.
    """
    if options.batch_size % processes.num_processes:
        raise ValueError(
            f"training.batch_size is {options.batch_size}, "
            f"expected a multiple of the {processes.num_processes} processes"
        )
    if options.accumulate > options.batch_size // processes.num_processes:
        raise ValueError(
            f"training.accumulate is {options.accumulate} parts of the {options.batch_size // processes.num_processes} "
            "samples that a process has of a batch, expected at most as many: reduce it, or enlarge training.batch_size"
        )
    if options.batch_size > len(data.train) and processes.is_main_process:
        _log.warning(
            "training.batch_size is %d and there are %d training samples: each step takes all of them %.3g times, "
            "with other noise; training.batch_size=%d takes them once",
            *(options.batch_size, len(data.train), options.batch_size / len(data.train), len(data.train)),
        )
