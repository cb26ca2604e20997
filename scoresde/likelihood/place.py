"""Places on the way from data to noise."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

__all__ = ["Place"]


@dataclass(frozen=True)
class Place:
    """Quantities that depend on time alone; float64, `(b,)`, or `(b, k)` for the k eigenvalues of the scaling.

    Attributes:
        t: Times.
        alpha: Signal scales α.
        level: Noise levels σ̃ = σ/α.
        norm: √(λ + σ̃²) for the eigenvalues λ, `(b, k)`.
        rate: dτ/dw.
    """

    t: Tensor
    alpha: Tensor
    level: Tensor
    norm: Tensor
    rate: Tensor

    def __getitem__(self, rows: Any) -> "Place":
        return Place(self.t[rows], self.alpha[rows], self.level[rows], self.norm[rows], self.rate[rows])
