"""The checkpoints of a training: what they hold, and how training resumes from them."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import PartialState
from torch import nn

from scoresde.objectives import Criterion
from scoresde.storage.bounded import CheckpointError, DamagedFile
from scoresde.storage.files import set_aside
from scoresde.storage.tensors import check_tensors
from scoresde.training.checkpoint import checkpoints, load_checkpoint, save_checkpoint
from scoresde.training.ema import EMA
from scoresde.training.noise_levels import LossRecord
from scoresde.training.provenance import TRAINED_WITH, check_provenance
from scoresde.training.resuming import check_counts, load_optimizer, without_state
from scoresde.training.sharded import is_divided, spread, whole
from scoresde.training.snapshots import Snapshots
from scoresde.training.step import GuardedOptimizer

__all__ = ["CheckpointStore", "Provenance"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Provenance:
    """The provenance of weights, which is kept in checkpoints and compared with theirs.

    Args:
        trained_with: Plain values, as `scoresde.runs.provenance` makes them.
        accept: Keys whose difference is accepted.
    """

    trained_with: Mapping[str, Any] = field(default_factory=dict)
    accept: Sequence[str] = ()


@dataclass(frozen=True)
class CheckpointStore:
    """The parts of a training that its checkpoints hold, and the folder of these.

    Args:
        folder: Folder of the checkpoints; None for a training without any.
        network: Network, without the wrapper for several processes.
        ema: Average of its parameters.
        snapshots: Further averages of them, for snapshots; None for a training without.
        optimizer: Optimiser of its parameters.
        objective: The loss, which may remember losses so far.
        record: Losses since the last entry of the log.
        processes: Processes that share the work, of which the first writes.
        keep: Number of checkpoints that are kept.
        provenance: What the weights depend on besides.
    """

    folder: Path | None
    network: nn.Module
    ema: EMA
    snapshots: Snapshots | None
    optimizer: GuardedOptimizer
    objective: Criterion
    record: LossRecord
    processes: PartialState
    keep: int
    provenance: Provenance

    def save(self, step: int, seconds: float) -> None:
        """Write the checkpoint of `step`; all processes call it.

        Raises:
            ValueError: A training without a folder of checkpoints.
        """
        if self.folder is None:
            raise ValueError("there is no folder for checkpoints: give run_dir")
        log = self.record.state()
        first, divided = self.processes.is_main_process, is_divided(self.network)
        if first or divided:
            state = {
                "network": self.network.state_dict(),
                "ema": self.ema.state_dict(),
                "optimizer": self.optimizer.inner.state_dict(),
                "without_state": without_state(self.optimizer.inner),
                "seconds": seconds,
                "skipped": int(self.optimizer.skipped),
                TRAINED_WITH: dict(self.provenance.trained_with),
                "log": log,
            }
            if self.snapshots is not None:
                state["snapshots"] = self.snapshots.state_dict()
            remembered = self.objective.state_dict()
            if remembered:
                state["objective"] = remembered
            if divided:
                state = whole(state, keep=first)
            if first:
                save_checkpoint(self.folder, step, state, self.keep)
        self.processes.wait_for_everyone()

    def resume(self) -> tuple[int, float] | None:
        """Load the newest checkpoint that can be read; those that cannot are set aside.

        Returns:
            The step and the seconds of training so far; None if there is no checkpoint.

        Raises:
            CheckpointError: All checkpoints are damaged.
            ValueError: A checkpoint of another configuration or of other data, or with values that no training has.
        """
        damaged: list[tuple[Path, CheckpointError]] = []
        for path in self._newest_first():
            try:
                state = load_checkpoint(path)
            except CheckpointError as error:
                if path.exists() and not isinstance(error, DamagedFile):
                    raise
                damaged.append((path, error))
                continue
            self._load(path, state)
            for bad, _ in damaged:
                self._set_aside(bad, path)
            return state["step"], float(state["seconds"])
        if damaged:
            newest = damaged[0][1]
            raise CheckpointError(f"{newest}, and there is no other: restore one from a copy") from newest
        return None

    def set_aside_all(self) -> None:
        """Rename all checkpoints, so that training can begin anew beside them."""
        if self.processes.is_main_process:
            for path in self._newest_first():
                set_aside(path)

    def _newest_first(self) -> list[Path]:
        return [] if self.folder is None else checkpoints(self.folder)

    def newest(self) -> Path | None:
        """The newest checkpoint; None without any."""
        return next(iter(self._newest_first()), None)

    def _set_aside(self, path: Path, older: Path) -> None:
        if not self.processes.is_main_process:
            return
        try:
            aside = set_aside(path).name
        except OSError as error:
            raise CheckpointError(f"{path} is damaged and cannot be renamed ({error.strerror}): remove it") from error
        _log.warning("%s is damaged and was set aside as %s: resuming from %s", path, aside, older.name)

    def _load(self, path: Path, state: dict[str, Any]) -> None:
        """Check a checkpoint, and only then put its values into the parts."""
        known = self.provenance
        check_provenance(str(path), state.get(TRAINED_WITH, {}), known.trained_with, known.accept)
        try:
            check_counts(state)
            check_tensors(state.get("network"), self.network.state_dict(), "the network's")
            check_tensors(state.get("ema"), self.ema.state_dict(), "the average's")
            remembered = state.get("objective", {})
            check_tensors(remembered, self.objective.state_dict(), "the objective's")
            log = self.record.checked(state)
            stepped = state["step"] > state["skipped"]
            if self.snapshots is not None:
                self.snapshots.load_state_dict(state.get("snapshots"))
            load_optimizer(self.optimizer.inner, state.get("optimizer"), stepped, state.get("without_state"))
        except (RuntimeError, KeyError, ValueError) as error:
            raise ValueError(
                f"{path} does not fit this configuration ({str(error).splitlines()[0]}): "
                "continue with the configuration that it was trained with, or start a new run"
            ) from error
        self.network.load_state_dict(spread(state["network"], self.network.state_dict()))
        self.ema.load_state_dict(spread(state["ema"], self.ema.state_dict()))
        self.objective.load_state_dict(remembered)
        self.optimizer.skipped.fill_(state["skipped"])
        self.record.load(log, self.processes.is_main_process)
        _log.info("resuming from %s", path)
