"""Variance-preserving chains on discrete levels, as those of DDPM, in continuous time."""

from collections.abc import Iterable

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.numerics.values import whole_number
from scoresde.sde.base import as_time
from scoresde.sde.tabulated import LevelTable, as_levels
from scoresde.sde.variance_preserving import VariancePreserving

__all__ = ["DDPMSDE", "DiscreteVPSDE"]


@checked
class DiscreteVPSDE(VariancePreserving):
    """The SDE of a discrete-time model that was trained with a table of β (Ho et al. 2020).

    At the times t_i = i/N, i = 1 ... N, the kernels are the chain's own: α² = ᾱ_i = Π_{j≤i} (1 − β_j), and from t_{i−1}
    to t_i, a = √(1 − β_i) and b = √β_i. Between them log α is linear in t (Lu et al. 2022a, for discrete-time models).

        β(t) = −N log(1 − β_i) on (t_{i−1}, t_i]
        B(t) = ∫₀ᵗ β, linear between the times of the table
        α(t) = e^{−B/2}
        σ(t) = √(1 − e^{−B})
        λ(t) = −log(e^B − 1)/2
        t(λ) where B = log(1 + e^{−2λ})
        f(t) = −β/2
        g(t) = √β

    `DiscreteTime(steps, train_steps=N)` is made of the table's times.

    Args:
        betas: The table β_1 ... β_N, at least two numbers between 0 and 1.
        t_min: Smallest time that is integrated; if not given, 1/N, below which such a model was not trained.

    Raises:
        ValueError: Fewer than two values, or one that is not between 0 and 1.

    References:
        Ho et al. 2020, Denoising diffusion probabilistic models, https://arxiv.org/abs/2006.11239
        Lu et al. 2022a, DPM-Solver: a fast ODE solver for diffusion probabilistic model sampling in around 10 steps,
            https://arxiv.org/abs/2206.00927
    """

    def __init__(self, betas: Iterable[float], t_min: float | None = None) -> None:
        self.betas = as_levels("betas", betas)
        wrong = [(i, b) for i, b in enumerate(self.betas, 1) if not 0 < b < 1]
        if wrong:
            raise ValueError(
                f"β_{wrong[0][0]} of {len(self.betas)} is {wrong[0][1]:g}, expected numbers between 0 and 1: at 1 no "
                "signal is left"
            )
        super().__init__(1 / len(self.betas) if t_min is None else t_min, 1.0)
        self._table = LevelTable(0.0, -torch.tensor(self.betas, dtype=torch.float64).neg().log1p())

    def beta(self, t: Tensor) -> Tensor:
        return self._table.slope(as_time(t))

    def _integral(self, t: Tensor) -> Tensor:
        return self._table(as_time(t))

    def _added(self, t: Tensor, s: Tensor) -> Tensor:
        dtype = torch.promote_types(t.dtype, s.dtype)
        return (self._table(t.double()) - self._table(s.double())).to(dtype)

    def _time_of_integral(self, integral: Tensor) -> Tensor:
        return self._table.inverse(integral)


@checked
class DDPMSDE(DiscreteVPSDE):
    """The chain of DDPM: `DiscreteVPSDE` with β_i linear in i (Ho et al. 2020, section 4).

    Args:
        train_steps: Number N of entries of the table.
        beta_min: First entry β_1.
        beta_max: Last entry β_N.
        t_min: Smallest time that is integrated; 1/N if not given.

    Raises:
        ValueError: Fewer than two entries, or one that is not between 0 and 1.

    References:
        Ho et al. 2020, Denoising diffusion probabilistic models, https://arxiv.org/abs/2006.11239
    """

    def __init__(
        self, train_steps: int = 1000, beta_min: float = 1e-4, beta_max: float = 0.02, t_min: float | None = None
    ) -> None:
        train_steps = whole_number("train_steps", train_steps, at_least=2)
        super().__init__(torch.linspace(beta_min, beta_max, train_steps, dtype=torch.float64).tolist(), t_min)
