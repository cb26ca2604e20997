"""Noise-level inputs of published networks: the number that tells a network how much noise there is."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.numerics.values import described, whole_number
from scoresde.sde import SDE, VPSDE
from scoresde.sde.tabulated import as_levels

__all__ = ["Level", "LogLevel", "NearestLevel", "NoiseInput", "TableIndex", "Time", "VPTime"]

# Places so close to an entry, as parts of the table, are that entry: a time in float32 is a little beside it.
_SLACK = 1e-7


class NoiseInput(ABC):
    """The noise-level input of a network as a function of time, of the shape of t, computed in float64."""

    @abstractmethod
    def __call__(self, sde: SDE, t: Tensor) -> Tensor:
        """The input at times t, of the shape of t."""

    def __repr__(self) -> str:
        return described(self, digits=6)


@checked
class Time(NoiseInput):
    """The scaled time, `scale` · t.

    Args:
        scale: The factor; score_sde has 999 for VP and sub-VP.
    """

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale

    def __call__(self, sde: SDE, t: Tensor) -> Tensor:
        return self.scale * t.double()


class Level(NoiseInput):
    """The noise level σ/α itself, as k-diffusion's denoisers are given it."""

    def __call__(self, sde: SDE, t: Tensor) -> Tensor:
        return sde.noise_level(t.double())


@checked
class LogLevel(NoiseInput):
    """The scaled logarithm of the noise level, `scale` · log(σ/(α · `unit`)).

    Args:
        scale: The factor; EDM has ¼.
        unit: The noise level whose input is 0; EDM's preconditioning of variance exploding networks has 2.

    References:
        Karras et al. 2022, Elucidating the design space of diffusion-based generative models, table 1,
            https://arxiv.org/abs/2206.00364
    """

    def __init__(self, scale: float = 1.0, unit: float = 1.0) -> None:
        if not unit > 0:
            raise ValueError(f"unit is {unit}, expected a positive noise level")
        self.scale = scale
        self.unit = unit

    def __call__(self, sde: SDE, t: Tensor) -> Tensor:
        return -self.scale * (sde.log_snr(t.double()) + math.log(self.unit))


@checked
class TableIndex(NoiseInput):
    """The place of a noise level in the table that a network was trained on, as that of `DiscreteVPSDE`.

    The entries are at the times 1/N, 2/N, ..., 1, and have the indices 0 ... N − 1 times `scale`. Between them the
    input goes on in a straight line: the network was trained at the entries alone.

    Args:
        steps: Number N of entries.
        scale: Factor of the index, as 1000/N where timesteps are rescaled (Nichol & Dhariwal 2021).
        descending: Count from the largest noise level, as score_sde does in its variance exploding models.
    """

    def __init__(self, steps: int, scale: float = 1.0, descending: bool = False) -> None:
        self.steps = whole_number("steps", steps, at_least=2)
        self.scale = scale
        self.descending = descending

    def __call__(self, sde: SDE, t: Tensor) -> Tensor:
        place = self.steps * t.double()
        whole = place.round()
        place = torch.where((place - whole).abs() < _SLACK * self.steps, whole, place)
        return self.scale * (self.steps - place if self.descending else place - 1)


@checked
class VPTime(NoiseInput):
    """The time of a variance-preserving SDE at the same noise level, `scale` · t(σ/α), whatever the model's own SDE is.

    Args:
        beta_min: Rate β at t = 0.
        beta_max: Rate β at t = 1.
        scale: Factor of the time.

    References:
        Karras et al. 2022, Elucidating the design space of diffusion-based generative models, table 1,
            https://arxiv.org/abs/2206.00364
    """

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0, scale: float = 999.0) -> None:
        self.beta_min = beta_min
        self.beta_max = beta_max
        self.scale = scale
        self._sde = VPSDE(beta_min, beta_max)

    def __call__(self, sde: SDE, t: Tensor) -> Tensor:
        return self.scale * self._sde.time(sde.log_snr(t.double()))


@checked
class NearestLevel(NoiseInput):
    """The index of the nearest entry of a table of noise levels σ/α, which jumps half-way between two entries.

    It is how EDM asks networks of discrete chains: the noise level may be any, and the network hears the nearest that
    it knows.

    Args:
        levels: The table, from the smallest or from the largest level.
        descending: Count from the largest.

    Raises:
        ValueError: Fewer than two levels, or levels that are in no order.

    References:
        Karras et al. 2022, Elucidating the design space of diffusion-based generative models, appendix C.3,
            https://arxiv.org/abs/2206.00364
    """

    def __init__(self, levels: Iterable[float], descending: bool = False) -> None:
        given = as_levels("levels", levels)
        self.levels = given if given[0] < given[-1] else type(given)(reversed(given))
        self.descending = descending
        self._values = torch.tensor(self.levels, dtype=torch.float64)
        if not bool((self._values.diff() > 0).all() & self._values.isfinite().all()):
            raise ValueError(f"levels are {given}, expected numbers that increase, or decrease, from each to the next")

    def __call__(self, sde: SDE, t: Tensor) -> Tensor:
        values = self._values.to(t.device)
        level = sde.noise_level(t.double())
        nearest = torch.searchsorted(0.5 * (values[1:] + values[:-1]), level, right=True)
        return (len(self.levels) - 1 - nearest if self.descending else nearest).double()
