"""SDEs that are made of a rate β(t)."""

from abc import abstractmethod

import torch
from torch import Tensor

from scoresde.sde.base import SDE

__all__ = ["RateSDE"]


class RateSDE(SDE):
    """An SDE made of a rate β(t) ≥ 0 and its integral B(t) = ∫₀ᵗ β: α = e^{−B/2}, f = −β/2.

    α stays at the smallest normal number of the dtype where it would be less, so that x/α is finite; λ does not.
    """

    @abstractmethod
    def beta(self, t: Tensor) -> Tensor:
        """Rate β(t), of the shape of `t`."""

    @abstractmethod
    def _integral(self, t: Tensor) -> Tensor:
        """Integral B(t)."""

    @abstractmethod
    def _added(self, t: Tensor, s: Tensor) -> Tensor:
        """Difference B(t) − B(s)."""

    @abstractmethod
    def _time_of_integral(self, integral: Tensor) -> Tensor:
        """The inverse of `_integral`."""

    def alpha(self, t: Tensor) -> Tensor:
        alpha = (-0.5 * self._integral(t)).exp()
        return alpha.clamp_min(torch.finfo(alpha.dtype).tiny)

    def drift_coefficient(self, t: Tensor) -> Tensor:
        return -0.5 * self.beta(t)
