"""Weights of an error at each noise level.

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
from scoresde.score import ScoreModel
from scoresde.sde import SDE

__all__ = ["EDMWeighting", "Likelihood", "MinSNR", "SigmaSquared", "StraightVelocity", "Weighting"]


def _squared_level(sde: SDE, t: Tensor) -> Tensor:
    """(σ/α)², at most 1e300, since the error that an infinite weight multiplies may be 0."""
    return (-2 * sde.log_snr(t)).exp().clamp(max=1e300)


class Weighting(ABC):
    """The weight w(t) of ‖ε̂ − ε‖²."""

    @abstractmethod
    def __call__(self, sde: SDE, t: Tensor) -> Tensor:
        """w(t), of the shape of t."""

    def for_model(self, model: ScoreModel) -> "Weighting":
        """This weighting with the numbers that it takes from the model; itself if it takes none."""
        return self


@dataclass(frozen=True)
class SigmaSquared(Weighting):
    """σ² on the score error, so 1 on ε (Song et al. 2021, eq. 7; Ho et al. 2020, eq. 14)."""

    def __call__(self, sde: SDE, t: Tensor) -> Tensor:
        return torch.ones_like(t)


@dataclass(frozen=True)
class Likelihood(Weighting):
    """g² on the score error, so g²/σ² = −2 dλ/dt on ε.

    With it, and times that estimate an integral over t, ½ D times the loss is a bound on the negative log-likelihood in
    nats, up to a term that does not depend on the model (Song, Durkan, Murray & Ermon 2021, theorem 1; Kingma et al.
    2021, section 5).

    References:
        Maximum likelihood training of score-based diffusion models (Song, Durkan, Murray & Ermon 2021),
        https://arxiv.org/abs/2101.09258
    """

    def __call__(self, sde: SDE, t: Tensor) -> Tensor:
        return (sde.diffusion(t) / sde.sigma(t)) ** 2


@checked
@dataclass(frozen=True)
class EDMWeighting(Weighting):
    """(r² + σ_d²)/(r σ_d)² on the denoiser error at r = σ/α, so 1 + (r/σ_d)² on ε.

    Under `EDMPreconditioning` the raw output then has weight 1 (Karras et al. 2022, table 1, where α = 1).

    >>> from scoresde.sde import EDMSDE
    >>> weight = EDMWeighting(sigma_data=0.5)(EDMSDE(), torch.tensor([0.5, 1.0], dtype=torch.float64))
    >>> [round(w, 6) for w in weight.tolist()]
    [2.0, 5.0]

    Args:
        sigma_data: Standard deviation σ_d of the data. If not given, that of the model's preconditioning, or else of
            its statistics.

    Raises:
        ValueError: A number that is not positive, or that is neither given nor known to the model.

    References:
        Elucidating the design space of diffusion-based generative models (Karras et al. 2022),
        https://arxiv.org/abs/2206.00364
    """

    sigma_data: float | None = None

    def __post_init__(self) -> None:
        if self.sigma_data is not None and not 0 < self.sigma_data < math.inf:
            raise ValueError(f"sigma_data is {self.sigma_data}, expected a positive standard deviation")

    def for_model(self, model: ScoreModel) -> "EDMWeighting":
        if self.sigma_data is not None:
            return self
        std = model.sigma_data
        if std is None:
            raise ValueError(
                "EDMWeighting has no sigma_data and the model knows no statistics of its data: "
                "give EDMWeighting(sigma_data=...)"
            )
        return EDMWeighting(std)

    def __call__(self, sde: SDE, t: Tensor) -> Tensor:
        if self.sigma_data is None:
            raise ValueError("EDMWeighting has no sigma_data: give it, or use for_model(model)")
        return 1 + _squared_level(sde, t) / self.sigma_data**2


@checked
@dataclass(frozen=True)
class MinSNR(Weighting):
    """min(SNR, γ) on the denoiser error with SNR = (α/σ)², so min(1, γ/SNR) on ε (Hang et al. 2023, section 3.4).

    Args:
        gamma: Largest weight γ of the denoiser error.

    Raises:
        ValueError: A number that is not positive.

    References:
        Efficient diffusion training via Min-SNR weighting strategy (Hang et al. 2023),
        https://arxiv.org/abs/2303.09556
    """

    gamma: float = 5.0

    def __post_init__(self) -> None:
        if not self.gamma > 0:
            raise ValueError(f"gamma is {self.gamma}, expected a positive number")

    def __call__(self, sde: SDE, t: Tensor) -> Tensor:
        return (self.gamma * _squared_level(sde, t)).clamp(max=1)


@checked
@dataclass(frozen=True)
class StraightVelocity(Weighting):
    """1 on the error of the straight velocity v = ε − x₀ of rectified flow, so (1 + σ/α)² on ε.

    At x = α x₀ + σ ε an error of ε is one of −σ/α of x₀, and so one of 1 + σ/α of v. Under any SDE this is the error of
    v for the state x/(α + σ) of rectified flow, whose time is s = σ/(α + σ); on the denoiser error it is 1/s². With
    `least`, s is at least that, as JiT has it, which keeps the weight of a network that predicts x₀ finite.

    >>> from scoresde.sde import FlowSDE
    >>> t = torch.tensor([0.02, 0.5, 0.9], dtype=torch.float64)
    >>> on_denoiser = StraightVelocity(least=0.05)(FlowSDE(), t) / (t / (1 - t)) ** 2
    >>> [round(w, 4) for w in on_denoiser.tolist()]  # 1/0.05², 1/0.5², 1/0.9²
    [400.0, 4.0, 1.2346]

    Args:
        least: The smallest s by which the error of x₀ is divided, in [0, 1).

    Raises:
        ValueError: A number that is not in [0, 1).

    References:
        Flow straight and fast: learning to generate and transfer data with rectified flow (Liu et al. 2022),
        https://arxiv.org/abs/2209.03003
        Back to basics: let denoising generative models denoise (Li & He 2025), https://arxiv.org/abs/2511.13720
    """

    least: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.least < 1:
            raise ValueError(f"least is {self.least}, expected a number of at least 0 and below 1")

    def __call__(self, sde: SDE, t: Tensor) -> Tensor:
        log_snr = sde.log_snr(t)
        # r/max(s, least) with r = σ/α and s = r/(1 + r): 1 + r where s is not below the least.
        level = (-log_snr).clamp(max=345).exp()
        factor = 1 + level
        return (torch.minimum(factor, level / self.least) if self.least > 0 else factor) ** 2
