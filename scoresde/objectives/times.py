"""Distributions of the times, that is noise levels, at which a loss is evaluated.

Each distribution maps uniforms u in [0, 1] to times by the inverse of its distribution function, so that u = 0 is t_min
and u = 1 is t_max, and gives a correction with each time. A distribution that serves to estimate the integral
∫ w(t) L(t) dt over the SDE's interval has the correction 1/p(t), and every such distribution gives the same loss with
another variance. A distribution that is itself part of the loss has the correction 1.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.numerics.values import at_least
from scoresde.objectives.weightings import Weighting
from scoresde.sde import SDE

__all__ = [
    "ImportanceSampled",
    "LogNormalSigma",
    "Times",
    "UniformLogSNR",
    "UniformTime",
    "low_discrepancy",
]


def low_discrepancy(start: Tensor, size: int) -> Tensor:
    """Uniforms u_i = (start + i/size) mod 1, `(size,)`, from one uniform `start` `()`.

    Each is uniform on [0, 1), and together they are spread evenly, so that the noise levels of a batch vary much less
    from batch to batch (Kingma et al. 2021, appendix I.1).

    >>> low_discrepancy(torch.tensor(0.5), 4).tolist()
    [0.5, 0.75, 0.0, 0.25]
    """
    return (start + torch.arange(size, dtype=start.dtype, device=start.device) / size) % 1


def _log_snr_ends(sde: SDE) -> tuple[float, float]:
    """The largest λ, at t_min, and the smallest, at t_max."""
    high, low = sde.log_snr(torch.tensor([sde.t_min, sde.t_max], dtype=torch.float64)).tolist()
    return high, low


def _rate(sde: SDE, t: Tensor) -> Tensor:
    """−dλ/dt = g²/(2σ²), which is proportional to the density of t if λ is uniform."""
    return 0.5 * (sde.diffusion(t) / sde.sigma(t)) ** 2


def _time(sde: SDE, log_snr: Tensor) -> Tensor:
    # Round-off must not carry t over an end of the interval.
    return sde.time(log_snr).clamp(sde.t_min, sde.t_max)


class Times(ABC):
    """A distribution of times on `[t_min, t_max]`."""

    #: Whether the distribution follows from the losses so far, which `remember` is told.
    remembers: ClassVar[bool] = False

    @abstractmethod
    def sample(self, sde: SDE, u: Tensor) -> tuple[Tensor, Tensor]:
        """The times and their corrections for uniforms u in [0, 1], `(B,)` float64 each, on the device of u."""

    def begin(self, sde: SDE, device: torch.device) -> None:
        """Forget all losses, since a training under an SDE begins."""
        return

    def step(self, sde: SDE, t: Tensor) -> Tensor:
        """The steps `(B,)` of times `(B,)` by which losses are remembered.

        Raises:
            TypeError: A distribution that remembers none.
        """
        raise TypeError(f"{self!r} remembers no losses")

    def remember(self, steps: Tensor, losses: Tensor) -> None:
        """Learn from the losses `(B,)` of a batch at the steps `(B,)`."""
        return

    def state_dict(self) -> dict[str, Tensor]:
        """What was learned from losses, as a checkpoint keeps it."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Resume with what `state_dict` gave."""
        return


@dataclass(frozen=True)
class UniformTime(Times):
    """t uniform on the interval (Song et al. 2021, eq. 7); the correction is the interval's length."""

    def sample(self, sde: SDE, u: Tensor) -> tuple[Tensor, Tensor]:
        length = sde.t_max - sde.t_min
        t = (sde.t_min + length * u.double()).clamp(max=sde.t_max)
        return t, torch.full_like(t, length)


@checked
@dataclass(frozen=True)
class LogNormalSigma(Times):
    """log(σ/α) normal, cut off at the ends of the SDE's interval (Karras et al. 2022, table 1).

    Args:
        mean: Mean of log(σ/α).
        std: Standard deviation of log(σ/α).
        importance: Correct by 1/p(t), to estimate the integral over t with most draws where the loss can be lowered.
            Otherwise the distribution is part of the loss, as in EDM, and the correction is 1.

    Raises:
        ValueError: A standard deviation that is not positive, or an interval of the SDE without probability.

    References:
        Elucidating the design space of diffusion-based generative models (Karras et al. 2022),
        https://arxiv.org/abs/2206.00364
    """

    mean: float = -1.2
    std: float = 1.2
    importance: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and 0 < self.std < math.inf):
            raise ValueError(f"expected a finite mean and a positive std, got mean={self.mean}, std={self.std}")

    def sample(self, sde: SDE, u: Tensor) -> tuple[Tensor, Tensor]:
        high, low = _log_snr_ends(sde)
        ends = (torch.tensor([-high, -low], dtype=torch.float64) - self.mean) / self.std
        # Φ by erfc, which is accurate in the lower tail only: an interval beyond the mean is mirrored.
        mirror = bool(ends[0] > 0)
        below, above = (0.5 * torch.erfc((ends if mirror else -ends) / math.sqrt(2))).tolist()
        if below == above:
            raise ValueError(f"{self} has no probability on the noise levels of {sde}: change mean and std")
        u = u.double()
        z = torch.special.ndtri(below * (1 - u) + above * u)
        z = (-z if mirror else z).clamp(*ends.tolist())
        t = _time(sde, -(self.mean + self.std * z))
        if not self.importance:
            return t, torch.ones_like(t)
        density = (-0.5 * z**2).exp() / (math.sqrt(2 * math.pi) * self.std * abs(above - below))
        return t, 1 / (density * _rate(sde, t))


@checked
@dataclass(frozen=True)
class UniformLogSNR(Times):
    """λ = log(α/σ) uniform between its values at the ends of the interval.

    The density of t is p(t) = −(dλ/dt)/(λ_max − λ_min), proportional to the likelihood weighting
    g²/σ² = −2 dλ/dt. So this is importance sampling for that weighting (Song, Durkan, Murray & Ermon 2021,
    section 5.1): weight times correction is the constant 2 (λ_max − λ_min) at every t and under every SDE
    (Kingma et al. 2021, section 5.1).

    Args:
        importance: Correct by 1/p(t), to estimate the integral over t. Otherwise the loss is the mean over λ.

    References:
        Maximum likelihood training of score-based diffusion models (Song, Durkan, Murray & Ermon 2021),
        https://arxiv.org/abs/2101.09258
        Variational diffusion models (Kingma et al. 2021), https://arxiv.org/abs/2107.00630
    """

    importance: bool = True

    def sample(self, sde: SDE, u: Tensor) -> tuple[Tensor, Tensor]:
        high, low = _log_snr_ends(sde)
        t = _time(sde, high - (high - low) * u.double())
        return t, (high - low) / _rate(sde, t) if self.importance else torch.ones_like(t)


@checked
class ImportanceSampled(Times):
    """t with a density proportional to a weighting, corrected by 1/p(t): weight times correction is constant.

    The density is constant in λ over each of `cells` equal steps of λ, with the weighting's mass from the trapezoidal
    rule. The correction belongs to exactly that density, so that the loss is unbiased however coarse the table. The
    table is accurate to O(cells⁻²) and made once for an SDE. For `Likelihood` the closed form is `UniformLogSNR()`.

    Args:
        weighting: Positive weighting to which the density is proportional.
        cells: Number of steps.

    Raises:
        ValueError: Fewer than 1 step, or a weighting that is not positive and finite on the interval.
    """

    def __init__(self, weighting: Weighting, cells: int = 4096) -> None:
        at_least("cells", cells, 1)
        self.weighting = weighting
        self.cells = cells
        self._table: tuple[SDE, Tensor, Tensor] | None = None

    def __repr__(self) -> str:
        return f"ImportanceSampled({self.weighting!r}, cells={self.cells})"

    def _tabulate(self, sde: SDE, device: torch.device) -> tuple[Tensor, Tensor]:
        """λ at the `cells + 1` nodes, decreasing, and the distribution function of t there."""
        if self._table is None or self._table[0] is not sde or self._table[1].device != device:
            log_snr = torch.linspace(*_log_snr_ends(sde), self.cells + 1, dtype=torch.float64)
            t = _time(sde, log_snr)
            density = self.weighting(sde, t) / _rate(sde, t)
            if not bool(((density > 0) & density.isfinite()).all()):
                raise ValueError(f"{self.weighting} is not positive and finite on the interval of {sde}")
            mass = torch.cat([density.new_zeros(1), (density[1:] + density[:-1]).cumsum(0)])
            self._table = sde, log_snr.to(device), (mass / mass[-1]).to(device)
        return self._table[1], self._table[2]

    def sample(self, sde: SDE, u: Tensor) -> tuple[Tensor, Tensor]:
        u = u.double()
        log_snr, cumulative = self._tabulate(sde, u.device)
        cell = (torch.searchsorted(cumulative, u, right=True) - 1).clamp(0, self.cells - 1)
        step, mass = log_snr[cell + 1] - log_snr[cell], cumulative[cell + 1] - cumulative[cell]
        t = _time(sde, log_snr[cell] + step * (u - cumulative[cell]) / mass)
        return t, -step / (mass * _rate(sde, t))
