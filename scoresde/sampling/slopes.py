"""The slope of the probability-flow ODE in any coordinate."""

from torch import Tensor

from scoresde.score import ScoreModel
from scoresde.sde import SDE
from scoresde.sde.coordinates import Coordinate

__all__ = ["slope_terms"]


def slope_terms(sde: SDE, coordinate: Coordinate, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(n, a, b) with x = n y and dy/dw = a y + b ε, float64 of the shape of t.

    By ε for every sample: a batch of different times has one call, and ε is what is accurate at small noise.
    """
    (p, q), norm = coordinate.target(sde, t), coordinate.norm(sde, t)
    # p x₀ + q ε with x₀ = (x − σ ε)/α
    ratio = p / sde.alpha(t)
    return norm, ratio * norm, q - ratio * sde.sigma(t)


def data_std(model: ScoreModel) -> float:
    """The data's standard deviation, or 1 where it is not known."""
    return 1.0 if model.statistics is None else float(model.statistics.std)
