"""Amount of noise that a solver adds on the way: the noise level τ as a function of log-SNR."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.numerics.values import Value, not_negative

__all__ = ["ConstantTau", "Eta", "IntervalTau", "StepTau", "Stochasticity"]


class Stochasticity(Value, ABC):
    """A noise level τ(t) ≥ 0 of the reverse SDE: 0 is the ODE, 1 the reverse of the forward SDE.

    With x̂ = x/α, s = σ/α and λ = −log s it is the τ of

        dx̂ = −(1 + τ²) s ε dλ + √2 τ s dw,

    whose marginals are the same for every τ (Xue et al. 2023, eq. 6).

    References:
        Xue et al. 2023, SA-Solver: stochastic Adams solver for fast sampling of diffusion models,
        https://arxiv.org/abs/2309.05019
    """

    @abstractmethod
    def integral(self, start: Tensor, stop: Tensor) -> Tensor:
        """Integrate τ² dλ from λ = start to stop, `(n,)` each; within a step τ² counts as its mean."""

    @property
    def adds_noise(self) -> bool:
        """True if τ is above 0 anywhere between σ/α = e³⁰ and e⁻³⁰."""
        return bool(self.integral(*torch.tensor([[-30.0], [30.0]], dtype=torch.float64)) > 0)


@checked
class ConstantTau(Stochasticity):
    """The same noise level everywhere.

    Args:
        tau: The noise level τ; 0 for the ODE, 1 for the reverse SDE.

    >>> ConstantTau(0.5).integral(torch.tensor([0.0]), torch.tensor([2.0])).item()
    0.5
    """

    def __init__(self, tau: float = 1.0) -> None:
        not_negative("tau", tau, "a number of at least 0")
        self.tau = float(tau)

    def integral(self, start: Tensor, stop: Tensor) -> Tensor:
        return self.tau**2 * (stop - start)


@checked
class IntervalTau(Stochasticity):
    """Noise between two levels of σ/α, none elsewhere (Xue et al. 2023, section 6; Karras et al. 2022, algorithm 2).

    Args:
        tau: The noise level τ between the two.
        s_min: The lowest σ/α with noise.
        s_max: The highest σ/α with noise.
    """

    def __init__(self, tau: float = 1.0, s_min: float = 0.05, s_max: float = 1.0) -> None:
        not_negative("tau", tau, "a number of at least 0")
        if not 0 < s_min < s_max:
            raise ValueError(f"s_min is {s_min} and s_max is {s_max}, expected 0 < s_min < s_max")
        self.tau = float(tau)
        self.s_min = s_min
        self.s_max = s_max

    def integral(self, start: Tensor, stop: Tensor) -> Tensor:
        low, high = -math.log(self.s_max), -math.log(self.s_min)
        return self.tau**2 * (stop.clamp(low, high) - start.clamp(low, high))


@checked
class Eta(Stochasticity):
    """DDIM's η (Song, Meng & Ermon 2021, eq. 16): 0 is DDIM, 1 is DDPM's ancestral sampling, at order 1.

    A step over h in λ adds η² of the variance of p(x_t | x_s, x₀), that is

        e^{−2 ∫ τ² dλ} = 1 − η² (1 − e^{−2h}).

    Args:
        eta: The share η of the standard deviation.

    References:
        Song, Meng & Ermon 2021, Denoising diffusion implicit models, https://arxiv.org/abs/2010.02502
    """

    def __init__(self, eta: float = 1.0) -> None:
        if not 0 <= eta <= 1:
            raise ValueError(f"eta is {eta}, expected a number from 0 (DDIM) to 1 (ancestral)")
        self.eta = eta

    def integral(self, start: Tensor, stop: Tensor) -> Tensor:
        return -0.5 * torch.log1p(self.eta**2 * torch.expm1(-2 * (stop - start)))


@checked
class StepTau(Stochasticity):
    """Noise by the length of a step: τ = min(tau, share/h) for a step over h in λ.

    What a step adds and removes of noise grows with τ² h, and the error that is made there with it. Long steps so come
    near the ODE, and short ones are steps of the reverse SDE.

    Args:
        tau: The largest noise level τ.
        share: The product τ h at longer steps.

    >>> StepTau()._tau(torch.tensor([0.1, 0.5, 1.0])).tolist()
    [1.0, 0.5, 0.25]
    """

    def __init__(self, tau: float = 1.0, share: float = 0.25) -> None:
        not_negative("tau", tau, "a number of at least 0")
        not_negative("share", share, "a number of at least 0")
        self.tau = float(tau)
        self.share = float(share)

    def integral(self, start: Tensor, stop: Tensor) -> Tensor:
        return self._tau(stop - start) ** 2 * (stop - start)

    def _tau(self, h: Tensor) -> Tensor:
        return (self.share / h).clamp(max=self.tau)
