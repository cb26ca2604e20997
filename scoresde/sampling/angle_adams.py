"""The default solver: Adams methods in the angle, of an order that suits the number of steps."""

from collections.abc import Iterator
from typing import Literal

from torch import Tensor

from scoresde.sampling.multistep import Multistep, Stochasticity
from scoresde.sampling.sampler import Noise, Solver
from scoresde.score import ScoreModel

__all__ = ["AngleAdams"]


class AngleAdams(Solver):
    """`Multistep` in the `Angle` of the data's standard deviation, of order 2 below 12 steps and 4 from there.

    One evaluation a step, and below 50 steps none in the first where the noised density is normal. In few steps a polynomial of high
    order through values that are themselves uncertain makes errors larger, and below 7 only half of the corrector's
    change is made. Found on a ring in the plane and on a mixture in 64 dimensions, on the grid `DataStraight`: from 5
    to 200 evaluations its error is near the least of all methods and grids here. The first step leaves an error of
    order 3.

    Args:
        tau: stochasticity, as for `Multistep`.
    """

    def __init__(self, tau: Stochasticity | float | None = None) -> None:
        self.tau = tau
        self.method(1)

    def method(self, steps: int) -> Multistep:
        """The method for a number of steps."""
        order, corrector = (min(2, steps), 2) if steps < 12 else (4, 3)
        relaxation = 0.5 if steps < 7 else 1.0
        # The small error of a Gaussian start would be all that is left in many steps.
        start: Literal["gaussian", "model"] = "gaussian" if steps < 50 else "model"
        return Multistep(order, corrector, tau=self.tau, centre=True, start=start, relaxation=relaxation)

    def solve(self, model: ScoreModel, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        yield from self.method(len(times) - 1).solve(model, x, times, noise)
