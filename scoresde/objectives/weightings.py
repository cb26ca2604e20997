"""How much an error counts at each noise level.

A weighting w(t) is stated as the factor of the mean-square error of the noise prediction, ‖ε̂ − ε‖². An error
of ε is one of the score and one of the denoised sample,

    score error = −(ε̂ − ε)/σ,    denoiser error = −(σ/α)(ε̂ − ε),

so that a factor k on the squared score error is w = k/σ², and on the squared denoiser error w = k (σ/α)².
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.score import NetworkScore, ScoreModel
from scoresde.score.preconditioning import EDMPreconditioning
from scoresde.sde import SDE

__all__ = ["EDMWeighting", "Likelihood", "MinSNR", "SigmaSquared", "Weighting"]


def _squared_level(sde: SDE, t: Tensor) -> Tensor:
    """(σ/α)², at most 1e300: the error that an infinite weight multiplies may be 0."""
    return (-2 * sde.log_snr(t)).exp().clamp(max=1e300)


class Weighting(ABC):
    """The weight w(t) of ‖ε̂ − ε‖²."""

    @abstractmethod
    def __call__(self, sde: SDE, t: Tensor) -> Tensor:
        """w(t), of the shape of t."""

    def for_model(self, model: ScoreModel) -> "Weighting":
        """This weighting with what it takes from the model's data filled in; itself where that is nothing."""
        return self


@dataclass(frozen=True)
class SigmaSquared(Weighting):
    """σ² on the score error, so 1 on ε (Song et al. 2021, eq. 7; Ho et al. 2020, eq. 14)."""

    def __call__(self, sde: SDE, t: Tensor) -> Tensor:
        return torch.ones_like(t)


@dataclass(frozen=True)
class Likelihood(Weighting):
    """g² on the score error, so g²/σ² = −2 dλ/dt on ε.

    With it, and times that estimate an integral over t, ½ D times the loss is, up to what does not depend on
    the model, a bound on the negative log-likelihood in nats (Song, Durkan, Murray & Ermon 2021,
    arXiv:2101.09258, theorem 1; Kingma et al. 2021, section 5).
    """

    def __call__(self, sde: SDE, t: Tensor) -> Tensor:
        return (sde.diffusion(t) / sde.sigma(t)) ** 2


@checked
@dataclass(frozen=True)
class EDMWeighting(Weighting):
    """(r² + σ_d²)/(r σ_d)² on the denoiser error at r = σ/α, so 1 + (r/σ_d)² on ε.

    Karras et al. 2022, table 1, where α = 1. Under `EDMPreconditioning` the raw output then has weight 1.

    Args:
        sigma_data: standard deviation σ_d of the data; the preconditioning's, or else that of the model's
            statistics, if not given.

    Raises:
        ValueError: sigma_data is not positive, or is neither given nor known to the model.
    """

    sigma_data: float | None = None

    def __post_init__(self) -> None:
        if self.sigma_data is not None and not 0 < self.sigma_data < math.inf:
            raise ValueError(f"sigma_data is {self.sigma_data}, expected a positive standard deviation")

    def for_model(self, model: ScoreModel) -> "EDMWeighting":
        if self.sigma_data is not None:
            return self
        # The preconditioning first: its number is on the host, and the two belong together.
        if isinstance(model, NetworkScore) and isinstance(model.preconditioning, EDMPreconditioning):
            known = model.preconditioning.sigma_data
            if known is not None:
                return EDMWeighting(known)
        if model.statistics is None:
            raise ValueError(
                "EDMWeighting has no sigma_data and the model knows no statistics of its data: "
                "give EDMWeighting(sigma_data=...)"
            )
        return EDMWeighting(float(model.statistics.std))

    def __call__(self, sde: SDE, t: Tensor) -> Tensor:
        if self.sigma_data is None:
            raise ValueError("EDMWeighting has no sigma_data: give it, or use for_model(model)")
        return 1 + _squared_level(sde, t) / self.sigma_data**2


@checked
@dataclass(frozen=True)
class MinSNR(Weighting):
    """min(SNR, γ) on the denoiser error with SNR = (α/σ)², so min(1, γ/SNR) on ε (Hang et al. 2023,
    arXiv:2303.09556, section 3.4).

    Args:
        gamma: the largest weight γ of the denoiser error.

    Raises:
        ValueError: gamma is not positive.
    """

    gamma: float = 5.0

    def __post_init__(self) -> None:
        if not self.gamma > 0:
            raise ValueError(f"gamma is {self.gamma}, expected a positive number")

    def __call__(self, sde: SDE, t: Tensor) -> Tensor:
        return (self.gamma * _squared_level(sde, t)).clamp(max=1)
