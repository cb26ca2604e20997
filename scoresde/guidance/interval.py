"""The noise levels at which guidance is at work."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from scoresde.sde import SDE

__all__ = ["Interval", "finite"]


def finite(name: str, value: float) -> float:
    """The value as a float.

    Raises:
        ValueError: NaN, an infinite number, or something else than a number.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name} is {value!r}, expected a finite number")
    return float(value)


class Interval:
    """Noise levels σ/α from `low` to `high`, both ends inside (Kynkäänniemi et al. 2024); all levels if not given.

    Args:
        levels: The two levels, or None.
        sde: The SDE whose times are asked about.

    Raises:
        ValueError: Something else than two numbers of which the second is larger, or levels none of which the SDE has.
    """

    def __init__(self, levels: Sequence[float] | None, sde: SDE) -> None:
        self.levels: tuple[float, float] | None = None
        self._sde = sde
        if levels is None:
            return
        numbers = [v for v in levels if isinstance(v, int | float) and not isinstance(v, bool)]
        if len(levels) != 2 or len(numbers) != 2 or not 0 <= numbers[0] < numbers[1]:
            raise ValueError(
                f"interval is {list(levels)}, expected two noise levels σ/α, the smaller one first, such as [0.2, 5]"
            )
        self.levels = float(numbers[0]), float(numbers[1])
        ends = torch.tensor([sde.t_min, sde.t_max], dtype=torch.float64)
        least, most = sde.noise_level(ends).tolist()
        if self.levels[0] >= most or self.levels[1] <= least:
            raise ValueError(
                f"interval is {list(self.levels)}, and no noise level σ/α of this model lies in it: they run from "
                f"{least:.3g} to {most:.3g}"
            )

    def holds(self, t: Tensor) -> Tensor | bool:
        """Which times `()` or `(B,)` have a level in the interval; True if it has all."""
        if self.levels is None:
            return True
        level = self._sde.noise_level(torch.as_tensor(t, dtype=torch.float64))
        return (level >= self.levels[0]) & (level <= self.levels[1])

    def listed(self, times: Tensor) -> list[bool]:
        """Whether each of the times `(n,)` has a level in the interval."""
        inside = self.holds(times)
        return inside.tolist() if isinstance(inside, Tensor) else [inside] * len(times)

    def parts(self) -> list[str]:
        """The text of the interval among the arguments of a model."""
        return [] if self.levels is None else [f"interval=({self.levels[0]:g}, {self.levels[1]:g})"]
