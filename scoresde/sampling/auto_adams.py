"""The default solver: an Adams method that was measured to suit the model, or one that suits most."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from scoresde.arguments import checked
from scoresde.sampling.adams import Multistep
from scoresde.sampling.plain_rule import coordinate_of, plain_rule
from scoresde.sampling.solver import Noise, Solver
from scoresde.sampling.stochasticity import Stochasticity
from scoresde.score import ScoreModel, StepRule
from scoresde.sde.coordinates import LogSNR
from scoresde.statistics import Statistics

__all__ = ["AutoAdams"]

# From so many steps on, the small error of a Gaussian start would be all that is left.
_MODEL_START = 50


@checked
@dataclass(frozen=True)
class AutoAdams(Solver):
    """The default solver: a `Multistep` with the orders and the coordinate of a `StepRule`.

    A `Sampler` gives it the rule that was measured for the model and the number of steps, if its grid is `DataStraight`
    without settings, which takes the same rule: see `measure_steps`. Otherwise the rule is that for any score, of low
    orders while steps are long:

    | steps | order, corrector | coordinate | grid: bend, top, narrow |
    | --- | --- | --- | --- |
    | below 7 | 2, 2 | `Angle`, with the standard deviation of the data | 1/3, 0.05, 0.05 |
    | 7 to 9 | 2, 2 | the same | 1/3, 0.05, 0.1 |
    | 10 to 14 | 2, 2 | the same | 1/3, 0.05, 0.15 |
    | 15 to 24 | 3, 2 | `Straight`, with the level of the bend | 0.25, 0.1, 0.15 |
    | from 25 | 4, 3 | the same | 0.2, 0.25, 0.15 |

    and from 5 to 24 steps that for a field that may be no score, of a model that does not say what its samples are (its
    `normal_at_most_noise` is False), such as a guided one: the same with a bend of 1/3 in `Straight`, and with orders
    2, 1 up to 14 steps.

    Below 50 steps of the ODE it has the safeguard of `Multistep`: where the values of a sample do not tell how its
    field goes on, as between modes far apart or under strong guidance, a step of it goes over into one of order 1.

    A step is one evaluation, and below 50 steps the first takes none if the noised density is normal.

    What is assumed: that the largest standard deviation of the data tells the noise level at which modes part, and
    those in narrow directions how wide modes are; that a rule which is surely better from some hundred starts is so
    from others; and that an error counts alike in all directions. `tuned` is better on 10 evaluations and fewer, a
    named solver where results have to be those of a paper.

    Args:
        tau: The stochasticity, as for `Multistep`. What was measured is for the ODE and is not used with noise.
        rule: The rule, instead of that of the model.

    >>> from scoresde.score import StepRule
    >>> AutoAdams(rule=StepRule("angle", 2, 2, bend=0.3, top=0.0)).method(8).order
    2
    """

    tau: Stochasticity | float | None = None
    rule: StepRule | None = None

    def __post_init__(self) -> None:
        self.method(1)  # checks tau

    def ruled(self, rule: StepRule) -> "AutoAdams":
        """Return the solver with a rule that was measured; itself if it does not follow it."""
        return self if self.rule is not None or self.stochastic else AutoAdams(self.tau, rule)

    def method(self, steps: int, known: Statistics | None = None) -> Multistep:
        """Return the method for a number of steps and data of these statistics."""
        rule = self.rule or plain_rule(steps)
        start: Literal["gaussian", "model"] = "gaussian" if steps < _MODEL_START else "model"
        return Multistep(
            order=min(rule.order, steps),
            corrector=rule.corrector,
            coordinate=coordinate_of(rule, known),
            interpolation=LogSNR() if rule.coordinate == "data" else None,
            tau=self.tau,
            centre=True,
            start=start,
            safeguard=rule.safeguard and self.tau is None,
        )

    @property
    def stochastic(self) -> bool:
        return self.method(1).stochastic

    def solve(self, model: ScoreModel, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        yield from self.method(len(times) - 1, model.step_statistics).solve(model, x, times, noise)
