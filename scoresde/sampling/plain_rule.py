"""The rules of the default solver for models of which nothing was measured, and the coordinate of a rule."""

import math
from dataclasses import replace

from scoresde.score import ScoreModel, StepRule
from scoresde.sde.coordinates import Angle, Coordinate, SignalLevel, Straight
from scoresde.statistics import Statistics

__all__ = ["bend_level", "coordinate_of", "guided_rule", "narrow_level", "plain_rule", "usual_rule"]

# The largest standard deviation in units of the mean one, where it is not known
_LARGEST = 3.0


def plain_rule(steps: int) -> StepRule:
    """Return the rule for a number of steps on any score: low orders while steps are long."""
    if steps < 15:
        narrow = 0.05 if steps < 7 else 0.1 if steps < 10 else 0.15
        return StepRule("angle", 2, 2, bend=1 / 3, top=0.05, narrow=narrow, safeguard=True)
    if steps < 25:
        return StepRule("straight", 3, 2, bend=0.25, top=0.1, narrow=0.15, safeguard=True)
    # From 50 steps on, the safeguard has nothing to do.
    return StepRule("straight", 4, 3, bend=0.2, top=0.25, narrow=0.15, safeguard=steps < 50)


def guided_rule(steps: int) -> StepRule:
    """Return the rule for a number of steps on a field that may be the score of nothing, such as a guided one.

    Such a field changes where noise is larger than the data, which the velocity of a normal density does not follow. So
    it is interpolated in the `Straight` coordinate, by a corrector without further values while steps are long, and
    fewer steps are taken at small noise.
    """
    plain = plain_rule(steps)
    if not 5 <= steps < 25:
        return plain
    order, corrector = (2, 1) if steps < 15 else (3, 2)
    return replace(plain, coordinate="straight", order=order, corrector=corrector, bend=1 / 3)


def usual_rule(model: ScoreModel, steps: int) -> StepRule:
    """Return the rule for a model that was not measured: that of scores only if it says what its samples are."""
    return plain_rule(steps) if model.normal_at_most_noise else guided_rule(steps)


def bend_level(share: float, known: Statistics | None) -> float:
    """Return a share of the largest standard deviation of the data, which is 3 times the mean one if not known."""
    if known is None:
        return share * _LARGEST
    return share * (_LARGEST * float(known.std) if known.covariance is None else known.largest_std)


def narrow_level(known: Statistics | None) -> float:
    """Return the standard deviation of the data in narrow directions; infinity if it is not known."""
    return math.inf if known is None or known.covariance is None else known.narrow_std


def coordinate_of(rule: StepRule, known: Statistics | None) -> Coordinate:
    """Return the coordinate in which a rule integrates, for data of these statistics."""
    if rule.coordinate == "data":
        return SignalLevel()
    if rule.coordinate == "straight":
        return Straight(bend_level(rule.bend, known))
    return Angle(1.0 if known is None else float(known.std))
