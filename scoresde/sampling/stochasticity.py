"""How much noise a solver adds on the way: the noise level τ as a function of log-SNR."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from scoresde.arguments import checked

__all__ = ["ConstantTau", "Eta", "IntervalTau", "Stochasticity"]


class Stochasticity(ABC):
    """τ(t) ≥ 0, how much noise the reverse SDE draws: 0 is the ODE, 1 the reverse of the forward SDE."""

    @abstractmethod
    def integral(self, start: Tensor, stop: Tensor) -> Tensor:
        """∫ τ² dλ from λ = start to stop, `(n,)`; in a step τ² counts as its mean."""

    @property
    def adds_noise(self) -> bool:
        """Whether τ is above 0 anywhere between σ/α = e³⁰ and e⁻³⁰."""
        return bool(self.integral(*torch.tensor([[-30.0], [30.0]], dtype=torch.float64)) > 0)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in vars(self).items())})"


@checked
class ConstantTau(Stochasticity):
    """The same τ everywhere."""

    def __init__(self, tau: float = 1.0) -> None:
        self.tau = _not_negative("tau", tau)

    def integral(self, start: Tensor, stop: Tensor) -> Tensor:
        return self.tau**2 * (stop - start)


@checked
class IntervalTau(Stochasticity):
    """τ where s_min ≤ σ/α ≤ s_max, 0 elsewhere (Xue et al. 2023, section 6; Karras et al. 2022, algorithm 2)."""

    def __init__(self, tau: float = 1.0, s_min: float = 0.05, s_max: float = 1.0) -> None:
        self.tau = _not_negative("tau", tau)
        if not 0 < s_min < s_max:
            raise ValueError(f"s_min is {s_min} and s_max is {s_max}, expected 0 < s_min < s_max")
        self.s_min = s_min
        self.s_max = s_max

    def integral(self, start: Tensor, stop: Tensor) -> Tensor:
        low, high = -math.log(self.s_max), -math.log(self.s_min)
        return self.tau**2 * (stop.clamp(low, high) - start.clamp(low, high))


@checked
class Eta(Stochasticity):
    """DDIM's η (Song, Meng & Ermon 2021, eq. 16): 0 is DDIM, 1 is DDPM's ancestral sampling, at order 1.

    A step then adds η² of the variance of p(x_t | x_s, x₀), so e^{−2 ∫ τ² dλ} = 1 − η² (1 − e^{−2h}) for a step h in λ.
    """

    def __init__(self, eta: float = 1.0) -> None:
        if not 0 <= eta <= 1:
            raise ValueError(f"eta is {eta}, expected a number from 0 (DDIM) to 1 (ancestral)")
        self.eta = eta

    def integral(self, start: Tensor, stop: Tensor) -> Tensor:
        return -0.5 * torch.log1p(self.eta**2 * torch.expm1(-2 * (stop - start)))


def _not_negative(name: str, value: float) -> float:
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} is {value}, expected a number of at least 0")
    return float(value)
