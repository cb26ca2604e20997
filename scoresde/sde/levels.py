"""Variance-exploding processes on discrete noise levels, as those of NCSN."""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from scoresde.arguments import checked

if TYPE_CHECKING:
    pass
from scoresde.sde.base import SDE, as_time
from scoresde.sde.tabulated import Levels, LevelTable, as_levels

__all__ = ["NCSNSDE", "DiscreteVESDE"]


@checked
class DiscreteVESDE(SDE):
    """A table of noise levels σ_1 < ... < σ_N (Song & Ermon 2019) as an SDE: α = 1.

    At the times t_i = i/N, i = 1 ... N, σ is σ_i; between them log σ is linear in t, so that a geometric table is the
    VE SDE. `DiscreteTime(steps, train_steps=N)` is made of the table's times.

    Args:
        sigmas: the levels, at least two, positive, from the smallest or from the largest.
        t_min: 1/N if not given, the first time of the table.

    Raises:
        ValueError: fewer than two levels, one that is not positive and finite, or levels that are in no order.
    """

    def __init__(self, sigmas: Iterable[float], t_min: float | None = None) -> None:
        levels = as_levels("sigmas", sigmas)
        levels = levels if levels[0] < levels[-1] else Levels(reversed(levels))
        log_sigma = torch.tensor(levels, dtype=torch.float64).log()
        if not bool((log_sigma.diff() > 0).all() & log_sigma.isfinite().all()):
            raise ValueError(
                f"sigmas are {levels}, expected positive numbers that increase, or decrease, from each to the next"
            )
        self.sigmas = levels
        super().__init__(1 / len(levels) if t_min is None else t_min, 1.0)
        rises = log_sigma.diff()
        # Straight on below the first of them.
        self._table = LevelTable(float(log_sigma[0] - rises[0]), torch.cat((rises[:1], rises)))

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(as_time(t))

    def sigma(self, t: Tensor) -> Tensor:
        return self._table(as_time(t)).exp()

    def log_snr(self, t: Tensor) -> Tensor:
        return -self._table(as_time(t))

    def time(self, log_snr: Tensor) -> Tensor:
        return self._table.inverse(-as_time(log_snr))

    def drift_coefficient(self, t: Tensor) -> Tensor:
        return torch.zeros_like(as_time(t))

    def diffusion(self, t: Tensor) -> Tensor:
        return self.sigma(t) * (2 * self._table.slope(as_time(t))).sqrt()


@checked
class NCSNSDE(DiscreteVESDE):
    """`DiscreteVESDE` with levels in a geometric sequence, as in Song & Ermon 2019, section 4.

    Args:
        levels: N.
        sigma_min: the smallest level.
        sigma_max: the largest.
        t_min: 1/N if not given.
    """

    def __init__(
        self, levels: int = 10, sigma_min: float = 0.01, sigma_max: float = 1.0, t_min: float | None = None
    ) -> None:
        if not 0 < sigma_min < sigma_max < math.inf:
            raise ValueError(f"expected 0 < sigma_min < sigma_max, got sigma_min={sigma_min}, sigma_max={sigma_max}")
        if levels < 2:
            raise ValueError(f"levels is {levels}, expected an integer of at least 2")
        ends = (math.log(sigma_min), math.log(sigma_max))
        super().__init__(torch.linspace(*ends, levels, dtype=torch.float64).exp().tolist(), t_min)
