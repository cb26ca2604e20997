"""Density guidance: samples of higher or lower log-density than those that a model would give."""

import math
from typing import Any

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.score import ScoreModel
from scoresde.sde import expand_to

__all__ = ["DensityGuided"]

# The smallest |ε|²/D that counts; in many dimensions it is near 1 unless the noise is small against the data.
_FLOOR = 0.25


@checked
class DensityGuided(ScoreModel):
    """A model whose noise prediction is scaled so that log-densities along the flow are driven up or down.

    Along dx/dt = v the log-density of a sample in D dimensions changes by ∂_t log p + s · v, with s = ∇ log p_t. For
    the velocity of the probability-flow ODE, u = f x − ½ g² s, that is −div u; for v = f x − ½ g² η s it is

        d log p_t(x)/dt = −div u + ½ g² (1 − η) |s|².

    The quantity σ² (Δ log p + |s|²) has mean 0 over p_t and, in many dimensions, nearly the law N(0, 2 D). With Φ⁻¹(q)
    the quantile of the normal distribution,

        η = 1 + √(2 D) Φ⁻¹(q)/|ε|²,    ε = −σ s,    d log p_t(x)/dt = −div u − ½ (g²/σ²) √(2 D) Φ⁻¹(q),

    so that the log-density, as t decreases, goes up by as much more than that of the flow as the q-quantile of that
    quantity is above its median. Of images, those of higher density have less detail. q = ½ is the model itself.

    It is for solvers of the probability-flow ODE. Where |ε|² is below D/4 it counts as D/4: in few dimensions, and at
    noise that is small against the data in all directions, of which the law above does not hold.

    >>> from scoresde.sampling import EDMHeun, KarrasGrid, Sampler
    >>> from scoresde.score import GaussianMixtureScore
    >>> from scoresde.sde import EDMSDE
    >>> model = GaussianMixtureScore(torch.ones(1), torch.zeros(1, 16), torch.ones(1), EDMSDE())
    >>> for q in (0.4, 0.5, 0.6):
    ...     out = Sampler(EDMHeun(), KarrasGrid(20))(DensityGuided(model, q), shape=100, seed=0)
    ...     print(q, round(float(out.x.square().mean()), 1))
    0.4 2.1
    0.5 1.1
    0.6 0.3

    Args:
        model: The model.
        quantile: The quantile q, between 0 and 1: above ½ for samples of higher density, below for lower.

    Raises:
        ValueError: A quantile that is not between 0 and 1.

    References:
        Devil is in the details: density guidance for detail-aware generation with flow models (Karczewski et al.
        2025b), section 4, https://arxiv.org/abs/2502.05807
    """

    def __init__(self, model: ScoreModel, quantile: float = 0.5) -> None:
        if not 0 < quantile < 1:
            raise ValueError(f"quantile is {quantile}, expected a number between 0 and 1, 0.5 for the model itself")
        super().__init__(model.sde, model.statistics)
        self.model = model
        self.quantile = float(quantile)
        self._shift = math.sqrt(2) * float(torch.special.ndtri(torch.tensor(self.quantile, dtype=torch.float64)))

    @property
    def log_snr_range(self) -> tuple[float, float]:
        return self.model.log_snr_range

    @property
    def is_score(self) -> bool:
        return self.quantile == 0.5 and self.model.is_score

    def takes_condition(self, name: str) -> bool:
        return self.model.takes_condition(name)

    @property
    def has_unconditional(self) -> bool:
        return self.model.has_unconditional

    def for_rows(self, rows: Tensor) -> "DensityGuided":
        return DensityGuided(self.model.for_rows(rows), self.quantile)

    def _parts(self) -> list[str]:
        return [self.model._head(), f"quantile={self.quantile:g}"]

    def denoise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        mean = self.model.denoise(x, t, **cond)
        fine = torch.as_tensor(t, dtype=torch.float64)
        state = x / expand_to(self.sde.alpha(fine), x)
        return mean + (1 - self._scale((state - mean) / expand_to(self.sde.noise_level(fine), x))) * (state - mean)

    def noise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        noise = self.model.noise(x, t, **cond)
        return self._scale(noise) * noise

    def _scale(self, noise: Tensor) -> Tensor:
        """η of noise predictions `(B, ...)`, `(B, 1, ...)`."""
        size = noise[0].numel()
        square = noise.square().sum(tuple(range(1, noise.ndim)), keepdim=True)
        return 1 + math.sqrt(size) * self._shift / square.clamp_min(_FLOOR * size)
