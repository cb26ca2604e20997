"""Preconditionings: the scale of a network's input, and the meaning of its raw output F.

A preconditioning states the input scale c_in, the noise-level input c_noise, and the target: the combination
p(t) x₀ + q(t) ε that F learns. Everything else follows, since x_t = α x₀ + σ ε and F ≈ p x₀ + q ε are two
equations for x₀ and ε:

    x₀ = (q x − σ F) / Δ,    ε = (α F − p x) / Δ,    Δ = α q − σ p.

In each preconditioning below α q and −σ p have the same sign, so that Δ is a sum and nothing cancels in it. What may
cancel is a prediction: that of the noise from a network that predicts the data, where the noise is small, and the
reverse (`DataPreconditioning`, `NoisePreconditioning`).
"""

import math
from abc import ABC, abstractmethod
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.numerics.values import described, one_of
from scoresde.score.noise_inputs import Level, LogLevel, NearestLevel, NoiseInput, TableIndex, Time, VPTime
from scoresde.sde import SDE

__all__ = [
    "Coefficients",
    "DataPreconditioning",
    "EDMPreconditioning",
    "FlowPreconditioning",
    "Level",
    "LogLevel",
    "NearestLevel",
    "NoiseInput",
    "NoisePreconditioning",
    "Preconditioning",
    "ScorePreconditioning",
    "TableIndex",
    "Time",
    "UnscaledDataPreconditioning",
    "UnscaledNoisePreconditioning",
    "UnscaledScorePreconditioning",
    "UnscaledVelocityPreconditioning",
    "VPTime",
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
    """The base class of preconditionings.

    Args:
        noise_input: The noise-level input of the network: `"log_sigma"`, ¼ log(σ/α) as in EDM; `"time"`, 999 t as in
            score_sde for VP and sub-VP; `"sigma"`, log σ as in score_sde for VE; `"none"`, 0 at all levels, so that the
            network sees the state alone, as in NCSNv2; or a `NoiseInput`, as published networks have them.

    Attributes:
        sigma_data: Standard deviation of the data that the coefficients depend on; None if they depend on none, or on
            one that is not known yet.
    """

    sigma_data: float | None = None

    def __init__(self, noise_input: Literal["log_sigma", "time", "sigma", "none"] | NoiseInput = "log_sigma") -> None:
        if not isinstance(noise_input, NoiseInput):
            one_of("noise_input", noise_input, ("log_sigma", "time", "sigma", "none"))
        self.noise_input = noise_input

    def with_data_std(self, std: float) -> "Preconditioning":
        """This preconditioning for data of standard deviation `std`; itself if it does not depend on that."""
        return self

    @abstractmethod
    def target(self, sde: SDE, t: Tensor) -> tuple[Tensor, Tensor]:
        """The coefficients p and q of the target p x₀ + q ε, of the shape of t each."""

    @abstractmethod
    def c_in(self, sde: SDE, t: Tensor) -> Tensor:
        """The scale of the network's input, of the shape of t."""

    def c_noise(self, sde: SDE, t: Tensor) -> Tensor:
        """The network's noise-level input, of the shape of t."""
        if isinstance(self.noise_input, NoiseInput):
            return self.noise_input(sde, t)
        if self.noise_input == "time":
            return 999 * t
        if self.noise_input == "sigma":
            return sde.sigma(t).log()
        if self.noise_input == "none":
            return torch.zeros_like(t)
        return -0.25 * sde.log_snr(t)

    def coefficients(self, sde: SDE, t: Tensor) -> Coefficients:
        """The four coefficients in the notation of Karras et al. 2022, eq. 7."""
        p, q = self.target(sde, t)
        sigma = sde.sigma(t)
        det = sde.alpha(t) * q - sigma * p
        return Coefficients(self.c_in(sde, t), q / det, -sigma / det, self.c_noise(sde, t))

    def __repr__(self) -> str:
        return described(self, digits=6)


def _norm(sde: SDE, t: Tensor) -> Tensor:
    return torch.hypot(sde.alpha(t), sde.sigma(t))


class NoisePreconditioning(Preconditioning):
    """F = ε, the noise. The input has unit variance for data of unit variance; under VP, c_in = 1.

    References:
        Denoising diffusion probabilistic models (Ho et al. 2020), eq. 14, https://arxiv.org/abs/2006.11239
    """

    def target(self, sde: SDE, t: Tensor) -> tuple[Tensor, Tensor]:
        one = torch.ones_like(t)
        return torch.zeros_like(t), one

    def c_in(self, sde: SDE, t: Tensor) -> Tensor:
        return 1 / _norm(sde, t)


class UnscaledNoisePreconditioning(NoisePreconditioning):
    """F = ε, the noise, on the unscaled input, as the networks of DDPM and those of score_sde for VP and sub-VP.

    Under a variance-preserving SDE it is `NoisePreconditioning`.

    References:
        Denoising diffusion probabilistic models (Ho et al. 2020), eq. 14, https://arxiv.org/abs/2006.11239
    """

    def c_in(self, sde: SDE, t: Tensor) -> Tensor:
        return torch.ones_like(t)


class DataPreconditioning(Preconditioning):
    """F = x₀, the denoised sample. The input has unit variance for data of unit variance.

    The other predictions follow from x and F:

        ε = (x − α F)/σ,    score = −ε/σ,    dx/dt = f x + g²/(2σ) ε.

    Where the noise is small, x and α F agree in their first digits and ε is what the rest says: an error of F, that of
    rounding among others, becomes α/σ times as large in ε. Of the 7 digits of float32, log₁₀(α ‖x₀‖/(σ √D)) are lost,
    or all of them below σ/α = 10⁻⁷ ‖x₀‖/√D; at σ/α = 0.002, where EDM ends, 2.4 for data of standard deviation 0.5.
    Nothing is lost in x₀ at any noise level, in any prediction where σ is not below α, and in training, where the error
    of F is taken against x₀ itself. Solvers that ask for x₀ (`SignalLevel`, `DPMSolverPP`) are not touched by the loss
    of digits, and likelihoods are least to be trusted next to t_min.

    The network's own error is amplified as rounding is. A loss of the velocity (`StraightVelocity`) weighs it as it
    will count when the flow is integrated.

    References:
        Back to basics: let denoising generative models denoise (Li & He 2025), https://arxiv.org/abs/2511.13720
        Progressive distillation for fast sampling of diffusion models (Salimans & Ho 2022), section 4,
        https://arxiv.org/abs/2202.00512
    """

    def target(self, sde: SDE, t: Tensor) -> tuple[Tensor, Tensor]:
        one = torch.ones_like(t)
        return one, torch.zeros_like(t)

    def c_in(self, sde: SDE, t: Tensor) -> Tensor:
        return 1 / _norm(sde, t)


class UnscaledDataPreconditioning(DataPreconditioning):
    """F = x₀, the data, on the unscaled input, as networks of DDPM's kind that predict x₀, and of JiT.

    References:
        Denoising diffusion probabilistic models (Ho et al. 2020), section 3.2, https://arxiv.org/abs/2006.11239
    """

    def c_in(self, sde: SDE, t: Tensor) -> Tensor:
        return torch.ones_like(t)


class ScorePreconditioning(Preconditioning):
    """F/σ = score, so F = −ε, on the unscaled input.

    With `noise_input="none"` it is the noise-scaled network of NCSNv2, s(x)/σ, of which s knows no noise level
    (technique 3 of Song & Ermon 2020).

    References:
        Score-based generative modeling through stochastic differential equations (Song et al. 2021),
        https://arxiv.org/abs/2011.13456
        Elucidating the design space of diffusion-based generative models (Karras et al. 2022), table 1, VE,
        https://arxiv.org/abs/2206.00364
    """

    def target(self, sde: SDE, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(t), -torch.ones_like(t)

    def c_in(self, sde: SDE, t: Tensor) -> Tensor:
        return torch.ones_like(t)


class UnscaledScorePreconditioning(Preconditioning):
    """F = score, on the unscaled input, as the networks of NCSN.

    The network has to give numbers in proportion to 1/σ itself, which `ScorePreconditioning` takes from it.

    References:
        Generative modeling by estimating gradients of the data distribution (Song & Ermon 2019), section 4.2,
        https://arxiv.org/abs/1907.05600
    """

    def target(self, sde: SDE, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(t), -1 / sde.sigma(t)

    def c_in(self, sde: SDE, t: Tensor) -> Tensor:
        return torch.ones_like(t)


class VelocityPreconditioning(Preconditioning):
    """F = (α ε − σ x₀)/√(α² + σ²), the derivative along the angle arctan(σ/α).

    References:
        Progressive distillation for fast sampling of diffusion models (Salimans & Ho 2022), appendix D,
        https://arxiv.org/abs/2202.00512
    """

    def target(self, sde: SDE, t: Tensor) -> tuple[Tensor, Tensor]:
        norm = _norm(sde, t)
        return -sde.sigma(t) / norm, sde.alpha(t) / norm

    def c_in(self, sde: SDE, t: Tensor) -> Tensor:
        return 1 / _norm(sde, t)


class UnscaledVelocityPreconditioning(Preconditioning):
    """F = α ε − σ x₀ on the unscaled input: the velocity prediction of others' networks, whatever α² + σ² is.

    References:
        Progressive distillation for fast sampling of diffusion models (Salimans & Ho 2022), appendix D,
        https://arxiv.org/abs/2202.00512
    """

    def target(self, sde: SDE, t: Tensor) -> tuple[Tensor, Tensor]:
        return -sde.sigma(t), sde.alpha(t)

    def c_in(self, sde: SDE, t: Tensor) -> Tensor:
        return torch.ones_like(t)


class FlowPreconditioning(Preconditioning):
    """F = ε − x₀, the velocity of the straight interpolant, on the unscaled input.

    References:
        Flow straight and fast: learning to generate and transfer data with rectified flow (Liu et al. 2022), eq. 1,
        https://arxiv.org/abs/2209.03003
    """

    def target(self, sde: SDE, t: Tensor) -> tuple[Tensor, Tensor]:
        one = torch.ones_like(t)
        return -one, one

    def c_in(self, sde: SDE, t: Tensor) -> Tensor:
        return torch.ones_like(t)


@checked
class EDMPreconditioning(Preconditioning):
    """Input and target of unit variance, for x/α and σ/α under any SDE.

    With σ̃ = σ/α and α = 1 these are c_skip = σ_d²/(σ̃² + σ_d²) and c_out = σ̃ σ_d/√(σ̃² + σ_d²):

    >>> from scoresde.sde import EDMSDE
    >>> c = EDMPreconditioning(sigma_data=1.0).coefficients(EDMSDE(), torch.tensor(2.0, dtype=torch.float64))
    >>> [round(float(v), 4) for v in (c.c_skip, c.c_out**2, c.c_in**2)]
    [0.2, 0.8, 0.2]

    Args:
        sigma_data: Standard deviation of the data; that of the training data if not given.
        noise_input: The noise-level input of the network, as for `Preconditioning`.

    References:
        Elucidating the design space of diffusion-based generative models (Karras et al. 2022), table 1,
        https://arxiv.org/abs/2206.00364
    """

    def __init__(
        self,
        sigma_data: float | None = None,
        noise_input: Literal["log_sigma", "time", "sigma", "none"] | NoiseInput = "log_sigma",
    ) -> None:
        super().__init__(noise_input)
        if sigma_data is not None and not 0 < sigma_data < math.inf:
            raise ValueError(f"sigma_data is {sigma_data}, expected a positive standard deviation")
        self.sigma_data = sigma_data

    def with_data_std(self, std: float) -> "EDMPreconditioning":
        return self if self.sigma_data is not None else EDMPreconditioning(std, self.noise_input)

    def _scales(self, sde: SDE, t: Tensor) -> tuple[float, Tensor, Tensor, Tensor]:
        """σ_d, α σ_d, σ and √(α² σ_d² + σ²), without a division by α, since the square of σ/α may underflow."""
        data = 0.5 if self.sigma_data is None else self.sigma_data  # the default of Karras et al.
        signal, sigma = data * sde.alpha(t), sde.sigma(t)
        return data, signal, sigma, torch.hypot(signal, sigma)

    def target(self, sde: SDE, t: Tensor) -> tuple[Tensor, Tensor]:
        data, signal, sigma, norm = self._scales(sde, t)
        return sigma / (norm * data), -signal / norm

    def c_in(self, sde: SDE, t: Tensor) -> Tensor:
        return 1 / self._scales(sde, t)[3]
