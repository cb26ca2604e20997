"""A checkpoint of another project, as the parts of a score model of this one."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scoresde.data import DataInfo
from scoresde.score import NetworkScore
from scoresde.storage.bounded import CheckpointError
from scoresde.storage.limits import check_memory

__all__ = ["Checkpoint", "Names", "built", "described_network", "node"]

_HOMES = ("scoresde.networks", "scoresde.preconditioning", "scoresde.sde")
_MEND = "give the configuration that it was trained with"

Names = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
"""A function from tensors by the file's names to those by the names of the network here."""


def node(target: str, **arguments: Any) -> dict[str, Any]:
    """A part of a model as configurations have it.

    Args:
        target: A name of `scoresde.networks`, `scoresde.preconditioning` or `scoresde.sde`, without `scoresde`.
        **arguments: The arguments of that class.
    """
    return {"_target_": f"scoresde.{target}", **arguments}


def described_network(target: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """A network as configurations have it, with plain values in place of modules and tuples among its options."""
    return node(f"networks.{target}", **{name: _plain(value) for name, value in options.items()})


def _plain(value: Any) -> Any:
    if isinstance(value, nn.Module):
        parameters = inspect.signature(type(value)).parameters
        return node(f"networks.{type(value).__name__}", **{name: _plain(getattr(value, name)) for name in parameters})
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of another project, as the parts of a score model of this one.

    Args:
        path: The file or folder.
        family: The project that wrote it.
        network: The network, as a configuration has it.
        sde: The forward SDE, likewise.
        preconditioning: The preconditioning, likewise.
        info: Facts about the model's data; None for images whose size the configuration does not say.
        stored: Tensors by the file's names.
        names: Renames them.
        weights: What the weights are, such as "EMA weights".
        notes: Sentences about the model that its user should know.
        step: Training step of the weights, if the file says it.
    """

    path: Path
    family: str
    network: dict[str, Any]
    sde: dict[str, Any]
    preconditioning: dict[str, Any]
    info: DataInfo | None
    stored: Mapping[str, Tensor] = field(repr=False)
    names: Names = field(repr=False)
    weights: str = "weights as stored"
    notes: tuple[str, ...] = ()
    step: int | None = None

    def model(self) -> NetworkScore:
        """The score model, in evaluation mode; it keeps no tensor of the file.

        Raises:
            CheckpointError: Tensors that are not those of the network; the message names the first that differs.
        """
        self._check_size()
        state = self._renamed()
        try:
            check_memory(8 * sum(value.numel() for value in state.values()), f"the network of {self.path}")
            with torch.random.fork_rng(devices=[]), torch.device("meta"):
                wanted: dict[str, Tensor] = built(self.network).state_dict()
        except ValueError as error:
            raise CheckpointError(f"{self.path}: {error}") from error
        self._check(state, wanted)
        with torch.random.fork_rng(devices=[]):
            network: nn.Module = built(self.network)
        network.load_state_dict({name: state[name].to(value.dtype, copy=True) for name, value in wanted.items()})
        try:
            model = NetworkScore(network, built(self.sde), built(self.preconditioning)).eval()
        except ValueError as error:
            raise CheckpointError(f"{self.path}: {error}") from error
        model.info = self.info
        return model

    def _check_size(self) -> None:
        """Reject a configuration of a network for which the file has by far too few numbers."""
        multipliers = self.network.get("multipliers") or [1]
        blocks = int(self.network.get("blocks", 0)) * len(multipliers)
        width = int(self.network.get("channels", 0) * max(multipliers))
        numbers = sum(value.numel() for value in self.stored.values())
        if blocks > len(self.stored) or width > numbers:
            raise CheckpointError(
                f"{self.path} has {len(self.stored)} tensors of {numbers} numbers in all, and the network of its "
                f"configuration {blocks} residual blocks of up to {width} channels: {_MEND}"
            )

    def _renamed(self) -> dict[str, Tensor]:
        try:
            return self.names(self.stored)
        except CheckpointError:
            raise
        except (ValueError, LookupError, RuntimeError, ArithmeticError) as error:
            text = f"it lacks {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
            raise CheckpointError(f"{self.path} does not hold the network of its configuration: {text}") from error

    def _check(self, state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
        for name, value in wanted.items():
            if name not in state:
                raise CheckpointError(
                    f"{self.path} has no tensor for {name}, which is of shape {tuple(value.shape)} in the network of "
                    f"its configuration: {_MEND}"
                )
            if state[name].shape != value.shape:
                raise CheckpointError(
                    f"{self._place(name)} of {self.path} has shape {tuple(state[name].shape)}, expected "
                    f"{tuple(value.shape)} by its configuration: {_MEND}"
                )
            if not bool(state[name].isfinite().all()):
                raise CheckpointError(
                    f"{self._place(name)} of {self.path} has values that are not finite: the file is damaged, or "
                    "training had failed"
                )
        for name in state.keys() - wanted.keys():
            raise CheckpointError(
                f"{self._place(name)} of {self.path} has shape {tuple(state[name].shape)}, and the network of its "
                f"configuration has no such tensor: {_MEND}"
            )

    def _place(self, name: str) -> str:
        """The tensor of the file that a tensor of the network is made of, or the first of several."""
        # Numbers in place of the file's tensors show where each of them goes.
        numbered = {
            stored: torch.full(value.shape, i, dtype=torch.float64)
            for i, (stored, value) in enumerate(self.stored.items(), 1)
        }
        number = float(self.names(numbered)[name].flatten()[0]) if self.stored[next(iter(self.stored))].numel() else 0
        order = list(self.stored)
        return order[int(number) - 1] if number in range(1, len(order) + 1) else name


def built(description: Any) -> Any:
    """The object that a description of `node` stands for."""
    if isinstance(description, list):
        return [built(each) for each in description]
    if not isinstance(description, dict):
        return description
    parts = {key: built(value) for key, value in description.items() if key != "_target_"}
    if "_target_" not in description:
        return parts
    home, _, name = str(description["_target_"]).rpartition(".")
    if home not in _HOMES:
        raise ValueError(f"{description['_target_']} is no part of a model")
    return getattr(importlib.import_module(home), name)(**parts)
