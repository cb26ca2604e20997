"""Variance-exploding processes on discrete noise levels, as those of NCSN."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.numerics.values import whole_number
from scoresde.sde.base import SDE, as_time
from scoresde.sde.tabulated import Levels, LevelTable, as_levels

__all__ = ["NCSNSDE", "DiscreteVESDE"]


@checked
class DiscreteVESDE(SDE):
    """The SDE of a model that was trained on noise levels σ_1 < ... < σ_N (Song & Ermon 2019).

    At the times t_i = i/N, i = 1 ... N, σ is σ_i; between them log σ is linear in t, so that a geometric table is the
    VE SDE.

        α(t) = 1
        σ(t) = σ_{i−1} (σ_i/σ_{i−1})^{N t − i + 1} on (t_{i−1}, t_i]
        λ(t) = −log σ
        t(λ) where log σ = −λ
        f(t) = 0
        g(t) = σ √(2 N log(σ_i/σ_{i−1}))

    `DiscreteTime(steps, train_steps=N)` is made of the table's times.

    Args:
        sigmas: The levels, at least two, positive, from the smallest or from the largest.
        t_min: Smallest time that is integrated; 1/N if not given, the first time of the table.

    Raises:
        ValueError: Fewer than two levels, one that is not positive and finite, or levels that are in no order.

    References:
        Song & Ermon 2019, Generative modeling by estimating gradients of the data distribution,
            https://arxiv.org/abs/1907.05600
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
        # The first piece goes on in a straight line below the first level.
        self._table = LevelTable(float(log_sigma[0] - rises[0]), torch.cat((rises[:1], rises)))

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(as_time(t))

    def sigma(self, t: Tensor) -> Tensor:
        return self._table(as_time(t)).exp()

    def log_snr(self, t: Tensor) -> Tensor:
        return -self._table(as_time(t))

    def time(self, log_snr: Tensor) -> Tensor:
        return self._table.inverse(-as_time(log_snr))

    def scales(self, log_snr: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(as_time(log_snr)), (-as_time(log_snr)).exp()

    def drift_coefficient(self, t: Tensor) -> Tensor:
        return torch.zeros_like(as_time(t))

    def diffusion(self, t: Tensor) -> Tensor:
        return self.sigma(t) * (2 * self._table.slope(as_time(t))).sqrt()


@checked
class NCSNSDE(DiscreteVESDE):
    """The noise levels of NCSN: `DiscreteVESDE` with a geometric sequence (Song & Ermon 2019, section 4).

    Args:
        levels: Number N of levels.
        sigma_min: Smallest level.
        sigma_max: Largest level.
        t_min: Smallest time that is integrated; 1/N if not given.

    Raises:
        ValueError: Fewer than two levels, or ends that are out of order.

    References:
        Song & Ermon 2019, Generative modeling by estimating gradients of the data distribution,
            https://arxiv.org/abs/1907.05600
    """

    def __init__(
        self, levels: int = 10, sigma_min: float = 0.01, sigma_max: float = 1.0, t_min: float | None = None
    ) -> None:
        if not 0 < sigma_min < sigma_max < math.inf:
            raise ValueError(f"expected 0 < sigma_min < sigma_max, got sigma_min={sigma_min}, sigma_max={sigma_max}")
        levels = whole_number("levels", levels, at_least=2)
        ends = (math.log(sigma_min), math.log(sigma_max))
        super().__init__(torch.linspace(*ends, levels, dtype=torch.float64).exp().tolist(), t_min)
