"""Tables of numbers that discrete SDEs are made of, and the functions that are linear between their entries."""

from collections.abc import Iterable

import torch
from torch import Tensor

__all__ = ["LevelTable", "Levels", "as_levels"]


class Levels(tuple[float, ...]):
    """The numbers of a table, whose text is short.

    >>> Levels((0.1, 0.2, 0.4))
    [0.1, ..., 0.4] (3)
    """

    def __repr__(self) -> str:
        return f"[{self[0]:g}, ..., {self[-1]:g}] ({len(self)})"


def as_levels(name: str, values: Iterable[float]) -> Levels:
    """The numbers of a table.

    Raises:
        ValueError: Fewer than two; the message calls them `name`.
    """
    levels = Levels(float(v) for v in values)
    if len(levels) < 2:
        raise ValueError(f"{name} has {len(levels)} values, expected at least 2")
    return levels


class LevelTable:
    """A function that is linear between its values at 0, 1/N, ..., 1 and continues in a straight line beyond.

    It is computed in float64, and takes and returns tensors of any shape and dtype.

    Args:
        start: Value at 0.
        rises: Growth on each piece, positive, `(N,)` float64.

    >>> table = LevelTable(0.0, torch.tensor([1.0, 3.0], dtype=torch.float64))
    >>> t = torch.tensor([0.25, 0.75, 1.0])
    >>> table(t).tolist(), table.slope(t).tolist(), table.inverse(table(t)).tolist()
    ([0.5, 2.5, 4.0], [2.0, 6.0, 6.0], [0.25, 0.75, 1.0])
    """

    def __init__(self, start: float, rises: Tensor) -> None:
        self._pieces = len(rises)
        values = start + torch.cat((rises.new_zeros(1), rises.cumsum(0)))
        self._on = {rises.device: (values, rises)}

    def _tensors(self, device: torch.device) -> tuple[Tensor, Tensor]:
        # Copied once for each device, since a copy waits for it.
        if device not in self._on:
            values, rises = next(iter(self._on.values()))
            self._on[device] = values.to(device), rises.to(device)
        return self._on[device]

    def _piece(self, place: Tensor) -> Tensor:
        # The end of a piece belongs to that piece.
        return (place.detach().ceil() - 1).clamp(0, self._pieces - 1).long()

    def __call__(self, t: Tensor) -> Tensor:
        values, rises = self._tensors(t.device)
        place = t.double() * self._pieces
        i = self._piece(place)
        return (values[i] + (place - i) * rises[i]).to(t.dtype)

    def slope(self, t: Tensor) -> Tensor:
        """The derivative; where two pieces meet, that of the earlier one."""
        _, rises = self._tensors(t.device)
        return (self._pieces * rises[self._piece(t.double() * self._pieces)]).to(t.dtype)

    def inverse(self, y: Tensor) -> Tensor:
        """The argument at which the function has the value `y`."""
        values, rises = self._tensors(y.device)
        fine = y.double()
        i = torch.searchsorted(values[1:-1], fine.detach().contiguous())
        return ((i + (fine - values[i]) / rises[i]) / self._pieces).to(y.dtype)
