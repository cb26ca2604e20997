"""The training loop.

Everything random in a step is a function of the seed, the step and the sample's place in the batch: the order
of the data, dequantisation, noise levels, noise and dropout. So a run that goes on from a checkpoint has
the weights, to the bit, that it would have had without the interruption (on an accelerator as far as its
kernels are deterministic), and several processes draw the numbers that one would, dropout apart.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather, reduce
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from scoresde.data import Data, batch_indices
from scoresde.numerics.random import SampleNoise, Stream
from scoresde.objectives import Objective, loss_by_noise_level
from scoresde.options.settings import option_problems
from scoresde.progress import Progress
from scoresde.score import NetworkScore
from scoresde.storage.files import set_aside
from scoresde.storage.tensors import check_tensor, check_tensors
from scoresde.training.checkpoint import (
    CheckpointError,
    DamagedFile,
    checkpoints,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from scoresde.training.ema import EMA, PowerFunction, Profile
from scoresde.training.environment import processes
from scoresde.training.interruptions import Deferred, deferred, stopping
from scoresde.training.loggers import Logger
from scoresde.training.noise_range import warn_of_scale
from scoresde.training.provenance import TRAINED_WITH, check_provenance
from scoresde.training.resuming import check_counts, load_optimizer, without_state

__all__ = ["Interrupted", "NoiseLevels", "Trainer", "Training", "TrainingFailed", "opening"]

_log = logging.getLogger(__name__)

# Steps between evaluations of the held-out loss, and its samples in batches: measured on images and in the plane, a
# fiftieth of the time of training.
_HELD_OUT_EVERY, _HELD_OUT_BATCHES = 50, 2


class Interrupted(Exception):
    """Training was asked to stop by a signal, after writing a checkpoint."""

    def __init__(self, signum: int, step: int) -> None:
        super().__init__(f"interrupted at step {step}")
        self.signum = signum
        self.step = step


class TrainingFailed(ArithmeticError):
    """Training cannot go on."""


@dataclass(frozen=True)
class Training:
    """How to train.

    Args:
        steps: optimiser steps.
        batch_size: samples per step, over all processes.
        warmup: steps over which the learning rate rises to its peak.
        final_lr: the learning rate at the end, as a part of its peak; it falls along a cosine.
        clip: largest norm of the gradient; null for no clipping.
        ema: profile of the moving average of the weights.
        stratified: spread the noise levels of a batch evenly (Kingma et al. 2021, appendix I.1).
        dequantise: add uniform noise to discrete data; else the cells' centres are the data.
        bf16: run the network in bfloat16 by autocast.
        compile: `torch.compile` the network.
        channels_last: keep images in the channels-last layout.
        seed: of everything random.
        log_every: steps between lines of the log.
        checkpoint_every: steps between checkpoints; null for one at the end alone.
        keep: how many checkpoints are kept.
        max_skipped: give up after so many non-finite steps in a row.
    """

    steps: int = 1400
    batch_size: int = 64
    warmup: int = 100
    final_lr: float = 0.0
    clip: float | None = 5.0
    ema: Profile = field(default_factory=PowerFunction)
    stratified: bool = True
    dequantise: bool = True
    bf16: bool = False
    compile: bool = False
    channels_last: bool = False
    seed: int = 0
    log_every: int = 50
    checkpoint_every: int | None = 500
    keep: int = 2
    max_skipped: int = 20

    def __post_init__(self) -> None:
        for problem in option_problems("training", vars(self), prefix="training."):
            raise ValueError(problem)
        if not isinstance(self.ema, Profile):
            raise ValueError(f"training.ema is {self.ema!r}, expected a profile such as HalfLife")

    def lr_factor(self, step: int) -> float:
        """The learning rate of `step` (0, 1, ...) as a part of its peak: linear warm-up, then a cosine."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.final_lr + (1 - self.final_lr) * 0.5 * (1 + math.cos(math.pi * progress))


class NoiseLevels:
    """Running sums of the loss in bins of λ = log(α/σ), on the device."""

    def __init__(self, low: float, high: float, bins: int, device: torch.device) -> None:
        self.edges = torch.linspace(low, high, bins + 1, device=device)
        self.reset()

    def reset(self) -> None:
        """Forget what was added."""
        self._sum = torch.zeros(len(self.edges) - 1, dtype=torch.float64, device=self.edges.device)
        self._count = torch.zeros_like(self._sum)

    def add(self, log_snr: Tensor, loss: Tensor) -> None:
        """Take in per-sample losses `(B,)`."""
        # One sample that is not finite must not hide the rest of its bin.
        good = loss.isfinite()
        mean, count = loss_by_noise_level(torch.where(good, log_snr, torch.inf), loss.nan_to_num(), self.edges)
        self._sum += torch.where(count > 0, mean * count, torch.zeros_like(self._sum))
        self._count += count

    def gather(self, total: Callable[[Tensor], Tensor]) -> None:
        """Replace the sums by what `total` makes of them: those of all processes."""
        self.load(self.state(total))

    def state(self, total: Callable[[Tensor], Tensor]) -> Tensor:
        """`(2, bins)` sums and counts of all processes, by `total`."""
        return total(torch.stack((self._sum, self._count)))

    def load(self, state: Tensor) -> None:
        """Take the sums and counts from `state`."""
        self._sum, self._count = state.to(self.edges.device, torch.float64).unbind()

    def curve(self) -> tuple[list[float], list[float]]:
        """(centres of the bins that have samples, mean losses)."""
        centres = ((self.edges[1:] + self.edges[:-1]) / 2).tolist()
        sums, counts = self._sum.tolist(), self._count.tolist()
        kept = [(c, s / n) for c, s, n in zip(centres, sums, counts, strict=True) if n > 0]
        return [c for c, _ in kept], [v for _, v in kept]


class Trainer:
    """Trains a network score model.

    Args:
        model: to train; holds the averaged weights after `fit`.
        objective: the loss.
        data: training data.
        make_optimizer: from parameters to an optimiser.
        options: how to train.
        run_dir: where checkpoints go.
        loggers: where numbers go.
        accelerator: this process's device and the processes that share the work; those of the program if not given.
        progress: show progress: a bar on a terminal, else a line for each entry of the log.
        trained_with: what the weights depend on in use, as `scoresde.runs.provenance` has it; kept in checkpoints,
            and compared with theirs.
        accept: keys of it whose difference is accepted.
        held_out: log the loss on test data, too.
    """

    def __init__(
        self,
        model: NetworkScore,
        objective: Objective,
        data: Data,
        make_optimizer: Callable[[Any], torch.optim.Optimizer],
        options: Training,
        run_dir: Path,
        loggers: list[Logger],
        accelerator: PartialState | None = None,
        progress: bool = True,
        trained_with: Mapping[str, Any] | None = None,
        accept: Sequence[str] = (),
        held_out: bool = True,
    ) -> None:
        self.trained_with, self.accept, self.held_out = dict(trained_with or {}), accept, held_out
        self.accelerator = accelerator or processes()
        if options.batch_size % self.accelerator.num_processes:
            raise ValueError(
                f"training.batch_size is {options.batch_size}, "
                f"expected a multiple of the {self.accelerator.num_processes} processes"
            )
        if options.batch_size > len(data.train) and self.accelerator.is_main_process:
            _log.warning(
                "training.batch_size is %d and there are %d training samples: each step takes all of them %.3g times, "
                "with other noise; training.batch_size=%d takes them once",
                *(options.batch_size, len(data.train), options.batch_size / len(data.train), len(data.train)),
            )
        self.model, self.objective, self.data, self.options = model, objective, data, options
        self.checkpoints = run_dir / "checkpoints"
        self.run_dir, self.loggers, self.progress = run_dir, loggers, progress
        self.bare = model.network
        device = self.accelerator.device
        if model.statistics is not None and self.accelerator.is_main_process:
            warn_of_scale(model.sde, model.statistics, data.transform)
        model.to(device)
        if options.channels_last and len(data.shape) == 3:
            self.bare.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        try:
            optimizer = make_optimizer([p for p in self.bare.parameters() if p.requires_grad])
        except (TypeError, ValueError) as error:
            raise ValueError(f"optimizer: {' '.join(str(error).split())}") from error
        if options.compile:
            # In place, so that the parameters keep their names.
            self.bare.compile()
        if self.accelerator.num_processes > 1:
            # Only the network is wrapped: gradients are averaged in its backward pass, and the model around it
            # stays what it is.
            devices = None if device.type == "cpu" else [device]
            model.network = DistributedDataParallel(self.bare, device_ids=devices)
        self.ema = EMA(self.bare, options.ema)
        # Fused optimisers skip a step on the device, by the interface that gradient scalers use.
        self._skips_on_device = bool(getattr(optimizer, "_step_supports_amp_scaling", False))
        self._inner = optimizer
        self._peaks = [group["lr"] for group in optimizer.param_groups]
        self.step = 0
        self.seconds = 0.0
        self._skipped = torch.zeros((), dtype=torch.int64, device=device)
        self._in_a_row = torch.zeros((), dtype=torch.int64, device=device)
        low, high = model.log_snr_range
        self.levels = NoiseLevels(low, high, 24, device)
        self._signals = Deferred()
        self._resumed = False
        # Since the last entry of the log: the sum of the losses, the step and the number of skipped steps there.
        self._total = torch.zeros((), device=device)
        self._since, self._skipped_since = 0, 0

    @property
    def skipped(self) -> int:
        """Steps skipped so far because the loss or its gradient was not finite."""
        return int(self._skipped)

    # -- one step ---------------------------------------------------------------------------------------

    def _batch(self, step: int) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor], torch.Generator]:
        """(x₀, u, ε, conditions, generator) of this process's part of a step."""
        options, rank, world = self.options, self.accelerator.process_index, self.accelerator.num_processes
        device = self.accelerator.device
        chosen = batch_indices(len(self.data.train), options.batch_size, step, options.seed)[rank::world]
        place = torch.arange(options.batch_size)[rank::world]
        noise = SampleNoise(
            options.seed, step * options.batch_size + place, self.data.shape, device=device, stream=Stream.BATCH_NOISE
        )
        discrete = self.data.transform.levels is not None
        raw = self.data.train[chosen].to(device, non_blocking=True)
        x0 = self.data.transform.encode(raw, noise.uniform() if discrete and options.dequantise else None)
        if options.channels_last and x0.ndim == 4:
            x0 = x0.contiguous(memory_format=torch.channels_last)
        epsilon = noise()
        mixed = _mix(options.seed, step)
        if options.stratified:
            start = torch.rand((), generator=torch.Generator().manual_seed(mixed), dtype=torch.float64)
            u = (start + place.double() / options.batch_size) % 1
        else:
            u = SampleNoise(
                options.seed, step * options.batch_size + place, (1,), torch.float64, stream=Stream.BATCH_TIMES
            ).uniform()[:, 0]
        cond = self._conditions(self.data.train_labels, chosen)
        # For dropout, and for objectives that draw projections.
        torch.manual_seed(mixed + rank)
        generator = torch.Generator(device).manual_seed(mixed + rank)
        return x0, u.to(device), epsilon, cond, generator

    def _conditions(self, labels: Tensor | None, chosen: Tensor) -> dict[str, Tensor]:
        if self.model.classes is None:
            return {}
        assert labels is not None
        return {"labels": labels[chosen].to(self.accelerator.device)}

    def _advance(self) -> tuple[Tensor, Tensor]:
        """One optimiser step; (loss, gradient norm), on the device."""
        options = self.options
        factor = options.lr_factor(self.step)
        for group, peak in zip(self._inner.param_groups, self._peaks, strict=True):
            group["lr"] = peak * factor
        x0, u, epsilon, cond, generator = self._batch(self.step)
        with torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=options.bf16):
            loss = self.objective(self.model, x0, generator, u=u, noise=epsilon, **cond)
        loss.value.backward()
        parameters = [p for p in self.bare.parameters() if p.grad is not None]
        norm = nn.utils.clip_grad_norm_(parameters, math.inf if options.clip is None else options.clip)
        bad = ~(norm.isfinite() & self._everywhere(loss.value.detach()).isfinite())
        # A fused SGD that skips its very first step leaves its momentum uninitialised: the first step is looked at.
        if self._skips_on_device and self._inner.state:
            self._inner.grad_scale = None  # type: ignore[attr-defined]
            self._inner.found_inf = bad.float()  # type: ignore[attr-defined]
            self._inner.step()
        elif not bool(bad):
            self._inner.step()
        self._inner.zero_grad(set_to_none=True)
        self._skipped += bad
        self._in_a_row = torch.where(bad, self._in_a_row + 1, torch.zeros_like(self._in_a_row))
        self.step += 1
        self.ema.update(self.step)
        self.levels.add(loss.log_snr, loss.per_sample)
        return torch.where(bad, torch.zeros_like(loss.value), loss.value).detach(), norm.detach()

    def _everywhere(self, value: Tensor) -> Tensor:
        """The sum over processes, so that all skip the step that one must skip."""
        return value if self.accelerator.num_processes == 1 else reduce(value, "sum")

    # -- the loop ---------------------------------------------------------------------------------------

    def fit(self) -> None:
        """Train to the last step, from the newest checkpoint if there is one.

        Raises:
            Interrupted: after a signal that asks the process to end, with a checkpoint written.
            TrainingFailed: too many non-finite steps in a row; the last good checkpoint stays.
        """
        self.resume()
        self.model.train()
        began, base = time.perf_counter(), self.seconds
        shown = self.progress and self.accelerator.is_main_process
        bar = Progress(self.options.steps, "training", "step", self.step, shown)
        # On a CPU a look at a number costs nothing; elsewhere it waits for the device.
        look_every = 1 if self.accelerator.device.type == "cpu" else self.options.log_every
        with deferred() as self._signals, bar:
            while self.step < self.options.steps:
                loss, norm = self._advance()
                self._total = self._total + loss
                bar.update()
                done = self.step >= self.options.steps
                if self.step % look_every == 0 and int(self._in_a_row) >= self.options.max_skipped:
                    self._give_up()
                if self.step % self.options.log_every == 0 or done:
                    now = time.perf_counter()
                    self.seconds = base + now - began
                    good = self.step - self._since - (self.skipped - self._skipped_since)
                    mean = (
                        float(self._everywhere(self._total)) / (good * self.accelerator.num_processes)
                        if good
                        else math.nan
                    )
                    self.levels.gather(self._everywhere)
                    centres, curve = self.levels.curve()
                    entry = {
                        "loss": mean,
                        **self._held_out_loss(done),
                        "grad_norm": float(norm),
                        "lr": self._inner.param_groups[0]["lr"],
                        "steps_per_second": self.step / self.seconds,
                        "skipped": self.skipped,
                        "log_snr": centres,
                        "loss_by_log_snr": curve,
                    }
                    bar.note(f"loss {mean:.4f}")
                    bar.line(_line(entry, self.skipped - self._skipped_since))
                    self._log(entry)
                    self.levels.reset()
                    self._total = torch.zeros_like(self._total)
                    self._since, self._skipped_since = self.step, self.skipped
                every = self.options.checkpoint_every
                stop = self._stop_requested()
                if done or stop is not None or (every is not None and self.step % every == 0):
                    self.seconds = base + time.perf_counter() - began
                    # Weights that are being skipped over must not push out a good state.
                    if done or stop is not None or not int(self._in_a_row):
                        self._checkpoint()
                if stop is not None:
                    self._stop(stop)
        self.model.network = self.bare
        # What comes after differentiates through the network in ways that a compiled one does not take.
        self.bare._compiled_call_impl = None
        self.ema.copy_to(self.bare)
        self.model.eval()

    def _held_out_loss(self, done: bool) -> dict[str, float]:
        """The loss on test data where it is due: of the present weights without dropout, always at the same noise."""
        options = self.options
        due = done or self.step // _HELD_OUT_EVERY > (self.step - options.log_every) // _HELD_OUT_EVERY
        if not (self.held_out and due and self.accelerator.is_main_process):
            return {}
        x0, u, epsilon, labels = self._held_out
        device, sums = self.accelerator.device, 0.0
        # Neither the copies for several processes, of which this is one, nor a network compiled for training.
        wrapped, self.model.network = self.model.network, self.bare
        compiled, self.bare._compiled_call_impl = self.bare._compiled_call_impl, None
        try:
            with self.model.evaluating(), torch.autocast(device.type, torch.bfloat16, enabled=options.bf16):
                for start in range(0, len(x0), options.batch_size):
                    rows = slice(start, start + options.batch_size)
                    cond = {name: value[rows] for name, value in labels.items()}
                    generator = torch.Generator(device).manual_seed(options.seed)
                    loss = self.objective(self.model, x0[rows], generator, u=u[rows], noise=epsilon[rows], **cond)
                    sums += float(loss.value.detach()) * len(x0[rows])
        finally:
            self.model.network, self.bare._compiled_call_impl = wrapped, compiled
        return {"held_out_loss": sums / len(x0)}

    @cached_property
    def _held_out(self) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """Test data in model space, the times' uniform numbers, the noise and the conditions of the held-out loss."""
        options, device = self.options, self.accelerator.device
        order = torch.randperm(len(self.data.test), generator=torch.Generator().manual_seed(options.seed))
        chosen = order[: _HELD_OUT_BATCHES * options.batch_size]
        noise = SampleNoise(
            options.seed, torch.arange(len(chosen)), self.data.shape, device=device, stream=Stream.HELD_OUT_NOISE
        )
        # Stratified like the batches; a draw of their own would let the curve jump.
        u = (torch.arange(len(chosen), dtype=torch.float64) + 0.5) / len(chosen)
        u = u[torch.randperm(len(chosen), generator=torch.Generator().manual_seed(options.seed))]
        discrete = self.data.transform.levels is not None
        x0 = self.data.transform.encode(
            self.data.test[chosen].to(device), noise.uniform() if discrete and options.dequantise else None
        )
        return x0, u.to(device), noise(), self._conditions(self.data.test_labels, chosen)

    def _log(self, values: dict[str, Any]) -> None:
        if self.accelerator.is_main_process:
            for logger in self.loggers:
                logger.numbers(self.step, values)

    def _give_up(self) -> None:
        centres, curve = self.levels.curve()
        worst = ", ".join(f"{c:.1f}: {v:.3g}" for c, v in zip(centres, curve, strict=True))
        self._log({"loss": math.nan, "skipped": self.skipped, "log_snr": centres, "loss_by_log_snr": curve})
        good = latest_checkpoint(self.checkpoints)
        raise TrainingFailed(
            f"the loss was not finite in the {self.options.max_skipped} steps up to step {self.step}; loss by "
            f"log-SNR [{worst}]; lower optimizer.lr or training.clip, or turn training.bf16 off; "
            + (f"the last good checkpoint is {good}" if good else "no checkpoint had been written yet")
        )

    # -- checkpoints ------------------------------------------------------------------------------------

    def _checkpoint(self) -> None:
        log = {
            "since": self._since,
            "skipped": self._skipped_since,
            "loss": self._everywhere(self._total) / self.accelerator.num_processes,
            "levels": self.levels.state(self._everywhere),
        }
        if self.accelerator.is_main_process:
            state = {
                "network": self.bare.state_dict(),
                "ema": self.ema.state_dict(),
                "optimizer": self._inner.state_dict(),
                "without_state": without_state(self._inner),
                "seconds": self.seconds,
                "skipped": self.skipped,
                TRAINED_WITH: self.trained_with,
                "log": log,
            }
            save_checkpoint(self.checkpoints, self.step, state, self.options.keep)
        self.accelerator.wait_for_everyone()

    def resume(self) -> bool:
        """Take up the newest checkpoint, if there is one and none has been taken up; `fit` does so, too.

        One that is damaged is set aside, and the one before it is taken.

        Returns:
            Whether training goes on from a checkpoint.

        Raises:
            CheckpointError: all checkpoints are damaged.
            ValueError: a checkpoint of another configuration or of other data, or with values that no training has.
        """
        if self._resumed:
            return True
        damaged: list[tuple[Path, CheckpointError]] = []
        for path in checkpoints(self.checkpoints):
            try:
                state = load_checkpoint(path)
            except CheckpointError as error:
                if path.exists() and not isinstance(error, DamagedFile):
                    raise
                damaged.append((path, error))
                continue
            self._take_up(path, state)
            for bad, _ in damaged:
                self._set_aside(bad, path)
            return True
        if damaged:
            newest = damaged[0][1]
            raise CheckpointError(f"{newest}, and there is no other: restore one from a copy") from newest
        return False

    def set_aside_checkpoints(self) -> None:
        """Rename all checkpoints, so that training can begin again beside them."""
        if self.accelerator.is_main_process:
            for path in checkpoints(self.checkpoints):
                set_aside(path)

    def _set_aside(self, path: Path, older: Path) -> None:
        if not self.accelerator.is_main_process:
            return
        try:
            aside = set_aside(path).name
        except OSError as error:
            raise CheckpointError(f"{path} is damaged and cannot be renamed ({error.strerror}): remove it") from error
        _log.warning("%s is damaged and was set aside as %s: going on from %s", path, aside, older.name)

    def _take_up(self, path: Path, state: dict[str, Any]) -> None:
        check_provenance(str(path), state.get(TRAINED_WITH, {}), self.trained_with, self.accept)
        try:
            check_counts(state)
            check_tensors(state.get("network"), self.bare.state_dict(), "the network's")
            check_tensors(state.get("ema"), self.ema.state_dict(), "the average's")
            log = self._checked_log(state)
            stepped = state["step"] > state["skipped"]
            load_optimizer(self._inner, state.get("optimizer"), stepped, state.get("without_state"))
        except (RuntimeError, KeyError, ValueError) as error:
            raise ValueError(
                f"{path} does not fit this configuration ({str(error).splitlines()[0]}): "
                "continue with the configuration that it was trained with, or start a new run"
            ) from error
        self.bare.load_state_dict(state["network"])
        self.ema.load_state_dict(state["ema"])
        self._resumed = True
        self.step, self.seconds = state["step"], float(state["seconds"])
        self._skipped.fill_(state["skipped"])
        self._since, self._skipped_since = log["since"], log["skipped"]
        if self.accelerator.is_main_process:  # a sum over all processes, which the others must not add again
            self._total = (log["loss"] * self.accelerator.num_processes).to(self._total)
            self.levels.load(log["levels"])
        _log.info("going on from %s", path)

    def _checked_log(self, state: dict[str, Any]) -> dict[str, Any]:
        """Sums since the last entry of the log; without them, as of an older version, the mean is of the rest."""
        nothing = {"since": state["step"], "skipped": state["skipped"], "loss": torch.zeros(())}
        nothing["levels"] = torch.zeros_like(self.levels.state(lambda x: x))
        log = state.get("log", nothing)
        if not isinstance(log, dict):
            raise ValueError("the sums of the log are missing")
        check_tensor(log.get("loss"), nothing["loss"], "the log's loss")
        check_tensor(log.get("levels"), nothing["levels"], "the log's loss by noise level")
        check_counts({"step": log.get("since"), "skipped": log.get("skipped"), "seconds": 0})
        if log["since"] > state["step"] or log["skipped"] > state["skipped"]:
            raise ValueError("the log is ahead of the step")
        return log

    # -- signals ----------------------------------------------------------------------------------------

    def _stop_requested(self) -> int | None:
        signum = self._signals.pending[0] if self._signals.pending else None
        if self.accelerator.num_processes == 1:
            return signum
        # The processes must agree, but need not at every step.
        if self.step % 10 and self.step < self.options.steps:
            return None
        flag = torch.tensor(signum or 0, device=self.accelerator.device)
        return int(gather(flag[None]).max()) or None

    def _stop(self, signum: int) -> None:
        """End, now that there is a checkpoint; unless a launcher handles the signal, and lets the process go on."""
        if not self._signals.pass_on(signum):
            stopping(signum)
            raise Interrupted(signum, self.step)


def opening(
    model: NetworkScore, data: Data, options: Training, device: torch.device, run_dir: Path | None = None
) -> str:
    """One line on what is about to be trained: data, SDE, network and its size, steps, device, seed, directory."""
    network = model.unwrapped
    parts = [
        f"training on {data.name} ({len(data.train)} samples of shape {data.shape})",
        type(model.sde).__name__,
        f"{type(network).__name__} of {sum(p.numel() for p in network.parameters()):,} parameters",
        f"{options.steps} steps of {options.batch_size} samples",
        str(device),
        f"seed {options.seed}",
        *([] if run_dir is None else [str(run_dir)]),
    ]
    return ", ".join(parts)


def _line(entry: Mapping[str, Any], skipped: int) -> str:
    """An entry of the log in one line, with the steps skipped since the one before."""
    held_out = f", held-out loss {entry['held_out_loss']:.4f}" if "held_out_loss" in entry else ""
    lost = f", {skipped} skipped (NaN or infinite)" if skipped else ""
    return (
        f"loss {entry['loss']:.4f}{held_out}, lr {entry['lr']:.3g}, grad norm {entry['grad_norm']:.3g}{lost}, "
        f"{entry['steps_per_second']:.3g} steps/s"
    )


def _mix(seed: int, step: int) -> int:
    """A seed for a step: neighbours must not look alike, and seed + step would repeat."""
    return int(SampleNoise(seed, torch.tensor([step]), (1,), torch.float64, stream=Stream.STEP_SEED).seeds())
