"""Noise that is added before a step, and the levels at which it is (Karras et al. 2022, algorithm 2)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.sde import SDE

__all__ = ["Churn"]


@checked
@dataclass(frozen=True)
class Churn:
    """Noise added before a step, which then starts from the higher level (Karras et al. 2022, algorithm 2).

    Where the noise level s = σ/α of x/α lies in [s_min, s_max], it is raised to ŝ = (1 + γ) s,
    γ = min(amount/N, √2 − 1), but not above the level at the SDE's t_max. N counts the grid's noise levels, as in
    the paper. No noise is added at the last of them, from which the `Sampler` denoises.

    Attributes:
        amount: S_churn ≥ 0; 0 is no churn at all.
        s_min: S_min.
        s_max: S_max.
        s_noise: S_noise, the standard deviation of the noise relative to what keeps the marginals.
    """

    amount: float
    s_min: float = 0.0
    s_max: float = math.inf
    s_noise: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.amount < math.inf:
            raise ValueError(f"the amount of churn is {self.amount}, expected 0 or more")
        if not 0 <= self.s_min <= self.s_max:
            raise ValueError(f"churn has s_min={self.s_min}, s_max={self.s_max}, expected 0 <= s_min <= s_max")
        if not self.s_noise >= 0:
            raise ValueError(f"s_noise of churn is {self.s_noise}, expected 0 or more")

    def starts(self, sde: SDE, times: Tensor) -> tuple[Tensor, Tensor]:
        """Where each step starts, `(n,)`, and the standard deviation `(n,)` of the noise on x/α."""
        level = sde.noise_level(times[:-1])
        gamma = min(self.amount / len(times), math.sqrt(2) - 1)
        top = sde.noise_level(torch.tensor(sde.t_max, dtype=torch.float64))
        raised = (level * (1 + gamma)).clamp(max=top)
        # A margin, since exp and log of the same number may differ by round-off from call to call.
        churned = (level >= self.s_min) & (level <= self.s_max) & (raised > level * (1 + 1e-12))
        spread = self.s_noise * ((raised - level).clamp_min(0) * (raised + level)).sqrt()
        start = sde.time(-raised.log()).clamp(times[:-1], torch.full_like(level, sde.t_max))
        return torch.where(churned, start, times[:-1]), torch.where(churned, spread, 0.0)
