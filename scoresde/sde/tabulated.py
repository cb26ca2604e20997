"""Levels and tables of numbers that discrete SDEs are made of."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    pass


class Levels(tuple[float, ...]):
    """Numbers of a table, written in short."""

    def __repr__(self) -> str:
        return f"[{self[0]:g}, ..., {self[-1]:g}] ({len(self)})"


def as_levels(name: str, values: Iterable[float]) -> Levels:
    levels = Levels(float(v) for v in values)
    if len(levels) < 2:
        raise ValueError(f"{name} has {len(levels)} values, expected at least 2")
    return levels


class LevelTable:
    """A function that is linear between its values at 0, 1/N, ..., 1 and goes straight on beyond; float64 inside.

    Args:
        start: the value at 0.
        rises: `(N,)` float64, positive, by how much it grows on each piece.
    """

    def __init__(self, start: float, rises: Tensor) -> None:
        self._pieces = len(rises)
        values = start + torch.cat((rises.new_zeros(1), rises.cumsum(0)))
        self._on = {rises.device: (values, rises)}

    def _tensors(self, device: torch.device) -> tuple[Tensor, Tensor]:
        # Once for each device: a copy to an accelerator would wait for it.
        if device not in self._on:
            values, rises = next(iter(self._on.values()))
            self._on[device] = values.to(device), rises.to(device)
        return self._on[device]

    def _piece(self, place: Tensor) -> Tensor:
        # The end of a piece belongs to it.
        return (place.detach().ceil() - 1).clamp(0, self._pieces - 1).long()

    def __call__(self, t: Tensor) -> Tensor:
        values, rises = self._tensors(t.device)
        place = t.double() * self._pieces
        i = self._piece(place)
        return (values[i] + (place - i) * rises[i]).to(t.dtype)

    def slope(self, t: Tensor) -> Tensor:
        """The derivative, at an end of pieces that of the earlier one."""
        _, rises = self._tensors(t.device)
        return (self._pieces * rises[self._piece(t.double() * self._pieces)]).to(t.dtype)

    def inverse(self, y: Tensor) -> Tensor:
        """Where it has the value y."""
        values, rises = self._tensors(y.device)
        fine = y.double()
        i = torch.searchsorted(values[1:-1], fine.detach().contiguous())
        return ((i + (fine - values[i]) / rises[i]) / self._pieces).to(y.dtype)
