"""Extended reverse-time SDEs (Cui et al. 2023): as much noise as a function φ says, by exponential multistep steps.

With s = σ/α and x̂ = x/α, every φ with φ(s)/s non-decreasing gives a reverse SDE with the right marginals, for which

    x̂₁ = r x̂₀ + φ₁ ∫ D d(1/φ) + √(s₁² − r² s₀²) z,   r = φ₁/φ₀,

is exact, D being the data prediction along the way from s₀ to s₁ < s₀. φ = s is the probability-flow ODE, φ = s² the
reverse SDE of Anderson 1982.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.numerics.quadrature import gauss_legendre
from scoresde.numerics.values import Value
from scoresde.sampling.solver import Noise, Solver
from scoresde.score import ScoreModel

__all__ = ["ERSDE", "ERSDE1", "ERSDE4", "ERSDE5", "NoiseScale", "PowerScale"]

_NODES = 48  # for round-off, in a step over four decades of s


class NoiseScale(ABC):
    """A noise scale φ(s) > 0, for which φ(s)/s does not decrease; a constant factor has no effect."""

    @abstractmethod
    def __call__(self, s: Tensor) -> Tensor:
        """Return φ of noise levels s = σ/α, in float64 and of any shape."""


@checked
@dataclass(frozen=True)
class PowerScale(NoiseScale):
    """The scale φ = s^p: the ODE for p = 1, the reverse SDE for 2, the paper's ER SDE 2 and 3 for 1.5 and 2.5.

    Attributes:
        power: The power p, at least 1.
    """

    power: float = 2.0

    def __post_init__(self) -> None:
        if not 1 <= self.power < math.inf:
            raise ValueError(f"the power of a noise scale is {self.power}, expected at least 1, which is no noise")

    def __call__(self, s: Tensor) -> Tensor:
        return s**self.power


@dataclass(frozen=True)
class ERSDE1(NoiseScale):
    """The scale φ = s (e^(−1/s) + 10): the paper's ER SDE 1, noise at high levels only."""

    def __call__(self, s: Tensor) -> Tensor:
        return s * ((-1 / s).exp() + 10)


@dataclass(frozen=True)
class ERSDE4(NoiseScale):
    """The scale φ = s^0.9 log(1 + 100 s^1.5): the paper's ER SDE 4; not for s above 1000, where φ/s decreases."""

    def __call__(self, s: Tensor) -> Tensor:
        return s**0.9 * torch.log1p(100 * s**1.5)


@dataclass(frozen=True)
class ERSDE5(NoiseScale):
    """The scale φ = s (e^(s^0.3) + 10): the paper's ER SDE 5, its choice for samples."""

    def __call__(self, s: Tensor) -> Tensor:
        return s * ((s**0.3).exp() + 10)


@checked
class ERSDE(Value, Solver):
    """ER-SDE-Solver-1, 2 and 3 (Cui et al. 2023), under any SDE; one evaluation a step.

    In the exact solution from s₀ to s₁,

        x̂₁ = r x̂₀ + φ₁ ∫ D d(1/φ) + √(s₁² − r² s₀²) z,    r = φ₁/φ₀,

    D is interpolated by a polynomial in s through the last `order` predictions, and the integral of that is exact. The
    published third-order solver has the first divided difference for the first derivative, which leaves an error of
    second order; here it is the interpolant's own. The first steps have the order that their predictions allow, so that
    the third order becomes the second if D is not flat at the start of the grid. For φ = s the order is that of the
    ODE's solution. With noise, the weak order observed on normal data is 1 for `order` 1 and 2 for `order` 2 and 3; the
    strong order is 1. A step that is long beside those before it keeps its values, as a polynomial in s extrapolates
    little of the way to s = 0: on uniform times normal data are at most 1.34 times too wide.

    Args:
        order: The number of predictions that a step uses, 1, 2 or 3.
        scale: The noise scale φ, any function of noise levels in float64; the paper's ER SDE 5 if not given.

    Raises:
        ValueError: Another order; at the solve, a scale that is not positive or for which φ(s)/s decreases.

    >>> from scoresde.sampling import KarrasGrid
    >>> from scoresde.score import GaussianMixtureScore
    >>> from scoresde.sde import EDMSDE
    >>> model = GaussianMixtureScore(torch.ones(2), torch.tensor([[-1.0], [1.0]]), torch.tensor([0.1, 0.2]), EDMSDE())
    >>> start, z, s = torch.randn(5, 1).double(), torch.randn(5, 1).double(), KarrasGrid(6)(model.sde)  # σ = t, α = 1
    >>> *_, solved = ERSDE(order=1).solve(model, start, s, lambda *clock: z)
    >>> x, scale = start, s * ((s**0.3).exp() + 10)
    >>> for i in range(6):
    ...     r = scale[i + 1] / scale[i]
    ...     x = r * x + (1 - r) * model.denoise(x, s[i]) + (s[i + 1]**2 - (r * s[i])**2).sqrt() * z
    >>> torch.allclose(solved, x, rtol=1e-9, atol=1e-9)
    True

    References:
        Cui et al. 2023, Elucidating the solution space of extended reverse-time SDE for diffusion models,
            https://arxiv.org/abs/2309.06169
    """

    def __init__(self, order: int = 3, scale: Callable[[Tensor], Tensor] | None = None) -> None:
        if order not in (1, 2, 3):
            raise ValueError(f"order is {order}, expected 1, 2 or 3")
        self.order = order
        self.scale = ERSDE5() if scale is None else scale

    def coefficients(self, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the coefficients of x̂ᵢ₊₁ = r x̂ᵢ + Σ_j weights_j D_{i−j} + spread z.

        Args:
            s: The noise levels of the grid, `(n + 1,)`.

        Returns:
            The factors r `(n,)`, the weights `(n, order)` and the spreads `(n,)`.

        Raises:
            ValueError: A scale φ that is not positive and finite, or for which φ(s)/s decreases.
        """
        phi = self.scale(s)
        if phi.shape != s.shape or not bool(((phi > 0) & phi.isfinite()).all()):
            raise ValueError(
                f"the noise scale {self.scale!r} is not positive and finite at all noise levels of the grid"
            )
        start, stop = s[:-1], s[1:]
        ratio = phi[1:] / phi[:-1]
        kept = ratio * start / stop  # of the noise, in units of its new level
        if not bool((kept <= 1 + 1e-12).all()):
            i = int((kept > 1 + 1e-12).to(torch.int8).argmax())
            raise ValueError(
                f"the noise scale {self.scale!r} has φ(s)/s larger at s = {float(stop[i]):g} than at "
                f"s = {float(start[i]):g}: it must not decrease with s"
            )
        # The root of round-off would be noise of 1e-8 in the ODE.
        lost = torch.where(1 - kept > 1e-14, 1 - kept, 0.0)
        spread = stop * (lost * (1 + kept)).sqrt()
        first, second = self._moments(s, phi)
        weights = torch.zeros(len(start), self.order, dtype=torch.float64)
        weights[:, 0] = 1 - ratio
        if self.order > 1:
            # Newton's form: D₀ + (s − s₀) D[0,1] + (s − s₀)(s − s₁) D[0,1,2]
            gap = 1 / (s[1:-1] - s[:-2])
            weights[1:, 0] += first[1:] * gap
            weights[1:, 1] -= first[1:] * gap
        if self.order > 2:
            near, far, both = s[2:-1] - s[1:-2], s[1:-2] - s[:-3], s[2:-1] - s[:-3]
            weight = second[2:] + near * first[2:]
            weights[2:, 0] += weight / (near * both)
            weights[2:, 1] -= weight / (near * far)
            weights[2:, 2] += weight / (far * both)
        return ratio, weights, spread

    def _moments(self, s: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        """Integrate φ₁ (s − s₀)^k d(1/φ) over each step, for k = 1 and 2."""
        # By parts, with the boundary terms inside the integral: k ∫ from s₁ to s₀ of (s − s₀)^(k−1) (φ₁/φ − 1) ds,
        # which has one sign, while the two parts would cancel.
        nodes, weights = gauss_legendre(_NODES)
        start, stop = s[:-1, None], s[1:, None]
        half = 0.5 * (start / stop).log()
        inner = stop * (half * (nodes + 1)).exp()
        lost = (phi[1:, None] / self.scale(inner) - 1) * inner * weights * half
        return lost.sum(1), 2 * ((inner - start) * lost).sum(1)

    @property
    def stochastic(self) -> bool:
        return not (isinstance(self.scale, PowerScale) and self.scale.power == 1)

    def solve(self, model: ScoreModel, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        sde = model.sde
        alpha, log_snr = sde.alpha(times), sde.log_snr(times)
        ratio, weights, spread = self.coefficients((-log_snr).exp())
        keep = (ratio * alpha[1:] / alpha[:-1]).tolist()
        share = (alpha[1:, None] * weights).tolist()
        loud = (alpha[1:] * spread).tolist()
        # The other solvers have this clock of the Brownian motion, too; strong order 1 needs no other.
        clock = (2 * log_snr).exp().tolist()
        data = model.prediction(times[:-1], torch.ones_like(times[1:]), torch.zeros_like(times[1:]))
        past: list[Tensor] = []
        for i, row in enumerate(share):
            past = [data(x, i), *past[: self.order - 1]]
            x = keep[i] * x
            for w, prediction in zip(row, past, strict=False):
                x.add_(prediction, alpha=w)
            if loud[i]:
                x.add_(noise(clock[i], clock[i + 1]), alpha=loud[i])
            yield x
