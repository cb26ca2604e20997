"""EDM's churn: noise that is added before a step, and the levels at which it is added."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.numerics.values import not_negative
from scoresde.sde import SDE

__all__ = ["Churn"]


@checked
@dataclass(frozen=True)
class Churn:
    """Noise that is added before a step, which then starts from the higher level (Karras et al. 2022, algorithm 2).

    If the noise level s = σ/α of x̂ = x/α lies in [s_min, s_max], it is raised to ŝ, but not above the level at
    t_max of the SDE:

        ŝ = (1 + γ) s,    γ = min(amount/N, √2 − 1),    x̂ ← x̂ + s_noise √(ŝ² − s²) z.

    N is the number of noise levels of the grid, as in the paper. No noise is added at the last of them, from which the
    `Sampler` denoises.

    Attributes:
        amount: The paper's S_churn; 0 is no churn.
        s_min: The lowest level at which noise is added, S_min.
        s_max: The highest level at which noise is added, S_max.
        s_noise: The standard deviation of the noise, relative to that which keeps the marginals, S_noise.

    Raises:
        ValueError: A negative amount or standard deviation, or levels that are not 0 <= s_min <= s_max.

    >>> from scoresde.sde import EDMSDE
    >>> start, spread = Churn(1.0).starts(EDMSDE(), torch.tensor([4.0, 2.0, 1.0]).double())  # γ = 1/3, σ = t
    >>> (start * 3).round().tolist(), ((start**2 - spread**2).sqrt()).round(decimals=6).tolist()
    ([16.0, 8.0], [4.0, 2.0])

    References:
        Karras et al. 2022, Elucidating the design space of diffusion-based generative models,
            https://arxiv.org/abs/2206.00364
    """

    amount: float
    s_min: float = 0.0
    s_max: float = math.inf
    s_noise: float = 1.0

    def __post_init__(self) -> None:
        not_negative("the amount of churn", self.amount)
        if not 0 <= self.s_min <= self.s_max:
            raise ValueError(f"churn has s_min={self.s_min}, s_max={self.s_max}, expected 0 <= s_min <= s_max")
        not_negative("s_noise of churn", self.s_noise, finite=False)

    def starts(self, sde: SDE, times: Tensor) -> tuple[Tensor, Tensor]:
        """Return the time at which each step starts, `(n,)`, and the standard deviation of the noise on x/α, `(n,)`.

        Args:
            sde: The SDE.
            times: The times of the grid, `(n + 1,)`.
        """
        level = sde.noise_level(times[:-1])
        gamma = min(self.amount / len(times), math.sqrt(2) - 1)
        top = sde.noise_level(torch.tensor(sde.t_max, dtype=torch.float64))
        raised = (level * (1 + gamma)).clamp(max=top)
        # A margin, since exp and log of the same number may differ by round-off from call to call.
        churned = (level >= self.s_min) & (level <= self.s_max) & (raised > level * (1 + 1e-12))
        spread = self.s_noise * ((raised - level).clamp_min(0) * (raised + level)).sqrt()
        start = sde.time(-raised.log()).clamp(times[:-1], torch.full_like(level, sde.t_max))
        return torch.where(churned, start, times[:-1]), torch.where(churned, spread, 0.0)
