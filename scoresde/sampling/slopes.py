"""The slope of the probability-flow ODE in any coordinate."""

from torch import Tensor

from scoresde.sde import SDE
from scoresde.sde.coordinates import Coordinate

__all__ = ["slope_terms"]


def slope_terms(sde: SDE, coordinate: Coordinate, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(n, a, b) with x = n y and dy/dw = a y + b ε, float64 of the shape of t.

    The coordinate has dy/dw = p x₀ + q ε, where x₀ = (x − σ ε)/α. The slope is a function of ε, since a batch may then
    have a time for each sample, and since ε is the prediction that is accurate at small noise.

    Args:
        sde: The SDE.
        coordinate: The coordinate (y, w).
        t: Times of any shape, float64.
    """
    (p, q), norm = coordinate.target(sde, t), coordinate.norm(sde, t)
    ratio = p / sde.alpha(t)
    return norm, ratio * norm, q - ratio * sde.sigma(t)
