"""What a network sees and what its raw output F stands for.

A preconditioning states the input scale c_in, the noise-level input c_noise, and the target: the combination
p(t) x₀ + q(t) ε that F learns. Everything else follows, since x_t = α x₀ + σ ε and F ≈ p x₀ + q ε are two
equations for x₀ and ε:

    x₀ = (q x − σ F) / Δ,    ε = (α F − p x) / Δ,    Δ = α q − σ p.

In each preconditioning below α q and −σ p have the same sign, so that Δ is a sum and nothing cancels.
"""

import math
from abc import ABC, abstractmethod
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.numerics.values import described
from scoresde.sde import SDE

__all__ = [
    "Coefficients",
    "EDMPreconditioning",
    "FlowPreconditioning",
    "NoisePreconditioning",
    "Preconditioning",
    "ScorePreconditioning",
    "VelocityPreconditioning",
]


class Coefficients(NamedTuple):
    """D(x; t) = c_skip x + c_out F(c_in x, c_noise) (Karras et al. 2022, eq. 7); each of the shape of t."""

    c_in: Tensor
    c_skip: Tensor
    c_out: Tensor
    c_noise: Tensor


@checked
class Preconditioning(ABC):
    """Base class.

    Args:
        noise_input: what the network is told of the noise level: `"log_sigma"`, ¼ log(σ/α) as in EDM;
            `"time"`, 999 t as score_sde does for VP and sub-VP; `"sigma"`, log σ as score_sde does for VE.

    Attributes:
        sigma_data: Standard deviation of the data that the coefficients depend on; None if they depend on none, or on
            one that is not known yet.
    """

    sigma_data: float | None = None

    def __init__(self, noise_input: Literal["log_sigma", "time", "sigma"] = "log_sigma") -> None:
        if noise_input not in ("log_sigma", "time", "sigma"):
            raise ValueError(f"noise_input is {noise_input!r}, expected 'log_sigma', 'time' or 'sigma'")
        self.noise_input = noise_input

    def with_data_std(self, std: float) -> "Preconditioning":
        """This preconditioning for data of standard deviation `std`; itself if it does not depend on that."""
        return self

    @abstractmethod
    def target(self, sde: SDE, t: Tensor) -> tuple[Tensor, Tensor]:
        """(p, q) of the target p x₀ + q ε, each of the shape of t."""

    @abstractmethod
    def c_in(self, sde: SDE, t: Tensor) -> Tensor:
        """The scale of the network's input, of the shape of t."""

    def c_noise(self, sde: SDE, t: Tensor) -> Tensor:
        """The network's noise-level input, of the shape of t."""
        if self.noise_input == "time":
            return 999 * t
        if self.noise_input == "sigma":
            return sde.sigma(t).log()
        return -0.25 * sde.log_snr(t)

    def coefficients(self, sde: SDE, t: Tensor) -> Coefficients:
        """The four coefficients in the notation of Karras et al. 2022."""
        p, q = self.target(sde, t)
        sigma = sde.sigma(t)
        det = sde.alpha(t) * q - sigma * p
        return Coefficients(self.c_in(sde, t), q / det, -sigma / det, self.c_noise(sde, t))

    def __repr__(self) -> str:
        return described(self, digits=6)


def _norm(sde: SDE, t: Tensor) -> Tensor:
    return torch.hypot(sde.alpha(t), sde.sigma(t))


class NoisePreconditioning(Preconditioning):
    """F = ε (Ho et al. 2020, eq. 14). The input has unit variance for unit data; on VP, c_in = 1."""

    def target(self, sde: SDE, t: Tensor) -> tuple[Tensor, Tensor]:
        one = torch.ones_like(t)
        return torch.zeros_like(t), one

    def c_in(self, sde: SDE, t: Tensor) -> Tensor:
        return 1 / _norm(sde, t)


class ScorePreconditioning(Preconditioning):
    """F/σ = score, so F = −ε, on the unscaled input (score_sde; Karras et al. 2022, table 1, VE)."""

    def target(self, sde: SDE, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(t), -torch.ones_like(t)

    def c_in(self, sde: SDE, t: Tensor) -> Tensor:
        return torch.ones_like(t)


class VelocityPreconditioning(Preconditioning):
    """F = (α ε − σ x₀)/√(α² + σ²), the derivative along the angle (Salimans & Ho 2022, appendix D)."""

    def target(self, sde: SDE, t: Tensor) -> tuple[Tensor, Tensor]:
        norm = _norm(sde, t)
        return -sde.sigma(t) / norm, sde.alpha(t) / norm

    def c_in(self, sde: SDE, t: Tensor) -> Tensor:
        return 1 / _norm(sde, t)


class FlowPreconditioning(Preconditioning):
    """F = ε − x₀, the velocity of the straight interpolant, on the unscaled input (Liu et al. 2022, eq. 1)."""

    def target(self, sde: SDE, t: Tensor) -> tuple[Tensor, Tensor]:
        one = torch.ones_like(t)
        return -one, one

    def c_in(self, sde: SDE, t: Tensor) -> Tensor:
        return torch.ones_like(t)


@checked
class EDMPreconditioning(Preconditioning):
    """Unit-variance input and target (Karras et al. 2022, table 1), for x/α and σ/α under any SDE.

    Args:
        sigma_data: standard deviation of the data; taken from the training data if not given.
    """

    def __init__(
        self,
        sigma_data: float | None = None,
        noise_input: Literal["log_sigma", "time", "sigma"] = "log_sigma",
    ) -> None:
        super().__init__(noise_input)
        if sigma_data is not None and not 0 < sigma_data < math.inf:
            raise ValueError(f"sigma_data is {sigma_data}, expected a positive standard deviation")
        self.sigma_data = sigma_data

    def with_data_std(self, std: float) -> "EDMPreconditioning":
        return self if self.sigma_data is not None else EDMPreconditioning(std, self.noise_input)

    def _scales(self, sde: SDE, t: Tensor) -> tuple[float, Tensor, Tensor, Tensor]:
        """σ_d, α σ_d, σ and √(α² σ_d² + σ²): not over α, which may leave nothing of the square of σ/α."""
        data = 0.5 if self.sigma_data is None else self.sigma_data  # 0.5: Karras et al.'s default
        signal, sigma = data * sde.alpha(t), sde.sigma(t)
        return data, signal, sigma, torch.hypot(signal, sigma)

    def target(self, sde: SDE, t: Tensor) -> tuple[Tensor, Tensor]:
        data, signal, sigma, norm = self._scales(sde, t)
        return sigma / (norm * data), -signal / norm

    def c_in(self, sde: SDE, t: Tensor) -> Tensor:
        return 1 / self._scales(sde, t)[3]
