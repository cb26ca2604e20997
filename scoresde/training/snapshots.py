"""Snapshots of averages of the weights, which training keeps so that any other average can be made afterwards.

Each is a file of two averages or more whose profiles are power functions of different widths, and
`scoresde.training.posthoc` combines them (Karras et al. 2024, section 3).
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState
from torch import Tensor, nn

from scoresde.storage.bounded import CheckpointError
from scoresde.storage.files import remove_leftovers
from scoresde.storage.tensors import load_metadata, load_tensors, save_tensors
from scoresde.training.ema import EMA, PowerFunction
from scoresde.training.sharded import spread, whole

__all__ = ["FOLDER", "Snapshot", "Snapshots", "snapshots"]

FOLDER = "snapshots"
"""Folder of the snapshots in a run directory."""

_NAME = re.compile(r"step-(\d+)\.safetensors")
_FORMAT = "scoresde-snapshot-1"


@dataclass(frozen=True)
class Snapshot:
    """A snapshot file.

    Attributes:
        path: The file.
        step: Step after which it was taken.
        stds: Relative standard deviations of the averages in it.
    """

    path: Path
    step: int
    stds: tuple[float, ...]

    def tensors(self) -> list[dict[str, Tensor]]:
        """The averages by the names of the parameters, in the order of `stds`.

        Raises:
            CheckpointError: A damaged file.
        """
        tensors = load_tensors(self.path)
        return [
            {name.removeprefix(f"{std!r}/"): value for name, value in tensors.items() if name.startswith(f"{std!r}/")}
            for std in self.stds
        ]


def snapshots(folder: Path) -> list[Snapshot]:
    """The snapshots in a folder, the oldest first; empty if there is no such folder. Only their heads are read.

    Files are written under another name and renamed when they are complete, so that none that was cut short is read.

    Raises:
        CheckpointError: A file that does not say what is in it.
    """
    found = []
    for path in folder.glob("step-*.safetensors"):
        if (match := _NAME.fullmatch(path.name)) is not None:
            found.append(Snapshot(path, int(match[1]), _stds(path)))
    return sorted(found, key=lambda snapshot: snapshot.step)


def _stds(path: Path) -> tuple[float, ...]:
    metadata = load_metadata(path)
    try:
        stds = json.loads(metadata["stds"]) if metadata.get("format") == _FORMAT else None
    except (KeyError, ValueError):
        stds = None
    if not (isinstance(stds, list) and stds and all(isinstance(std, float) and 0 < std < 12**-0.5 for std in stds)):
        raise CheckpointError(f"{path} cannot be read as a snapshot of averaged weights: remove it, others may do")
    return tuple(stds)


class Snapshots:
    """Averages of a network's parameters that are written every so many steps.

    They take the memory of the parameters once for each average, and on the disk as much for each snapshot, as float32
    parameters do: an average that is combined of snapshots in half precision would be no better than these.

    Args:
        network: Network, without the wrapper for several processes.
        stds: Relative standard deviations of the profiles.
        every: Steps between snapshots.
        folder: Folder that they are written to.
        processes: Processes that share the work, of which the first writes.
    """

    def __init__(
        self, network: nn.Module, stds: Sequence[float], every: int, folder: Path, processes: PartialState
    ) -> None:
        self.folder, self.every = folder, every
        self.averages = {float(std): EMA(network, PowerFunction(std)) for std in stds}
        self._writes = processes.is_main_process

    def begin(self, step: int) -> None:
        """Remove the snapshots after `step`, at which training begins or resumes: they are of another course of it."""
        if not self._writes:
            return
        remove_leftovers(self.folder, "step-*.safetensors")
        for path in self.folder.glob("step-*.safetensors"):
            if (match := _NAME.fullmatch(path.name)) is not None and int(match[1]) > step:
                path.unlink()

    def update(self, step: int) -> None:
        """Add the parameters after `step` (1, 2, ...)."""
        for average in self.averages.values():
            average.update(step)

    def write(self, step: int) -> None:
        """Write a snapshot of the averages after `step`."""
        tensors = whole({f"{std!r}/{name}": value for std, name, value in self._named()}, self._writes)
        if self._writes:
            metadata = {"format": _FORMAT, "step": str(step), "stds": json.dumps(list(self.averages))}
            save_tensors(self.folder / f"step-{step:09d}.safetensors", tensors, metadata)

    def _named(self) -> list[tuple[float, str, Tensor]]:
        return [(std, name, v) for std, average in self.averages.items() for name, v in average.state_dict().items()]

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """The averages, as a checkpoint keeps them."""
        return {repr(std): average.state_dict() for std, average in self.averages.items()}

    def load_state_dict(self, state: Any) -> None:
        """Load the averages from a `state_dict`.

        Raises:
            ValueError: Other averages, or other names, shapes or dtypes than the parameters'.
        """
        wanted = list(map(repr, self.averages))
        if not isinstance(state, Mapping) or set(state) != set(wanted):
            kept = ", ".join(map(str, state)) if isinstance(state, Mapping) and state else "no"
            raise ValueError(
                f"it has {kept} averages for snapshots and training.snapshot_stds asks for {', '.join(wanted)}, which "
                "must be kept from the first step on"
            )
        for std, average in self.averages.items():
            average.load_state_dict(spread(state[repr(std)], average.state_dict()))
