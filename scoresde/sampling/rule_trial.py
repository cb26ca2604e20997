"""The trial of rules of the default solver: their errors from starts that a search sees, and from others.

A search among many rules finds one that is best by chance, or whose errors cancel from the starts and in the number of
steps that it was tried on. So there are two sets of starts. One guides the search. On the other a rule has to show that
it is better than the one that it would replace: by more than chance, in all numbers of steps that it is to serve.

The error is a mean of two: the root mean square, which starts that end in another mode decide, and the geometric mean,
which is that of the others.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from scoresde.sampling.auto_adams import AutoAdams
from scoresde.sampling.edge_starts import Starts
from scoresde.sampling.grids import DataStraight
from scoresde.sampling.plain_rule import usual_rule
from scoresde.score import BoundModel, Conditions, ScoreModel, StepRule

__all__ = ["TRUE", "Solves", "Trial"]

TRUE = StepRule("straight", 4, 3, 0.12, 0.3)
"""The rule of true end points."""

_IMPOSSIBLE = 1e100  # a distance
# The mean square goes by the number of starts that end in another mode, so that a number and a distance count alike.
_OF_ERROR = torch.tensor([2 / 3, 1 / 3, 0.0], dtype=torch.float64)
_RESAMPLES = 400  # draws of as many starts, with replacement: what else might have been found
_SURE = 0.95  # of them
_LEAST_GAIN, _MOST_LOSS = math.log(1.03), math.log(1.05)


class Solves:
    """Solves by a rule, which count their evaluations of one sample."""

    def __init__(self, model: ScoreModel, batch_size: int) -> None:
        self.model, self.batch_size = model, batch_size
        self.evaluations = 0

    def __call__(self, rule: StepRule, steps: int, x: Tensor, conditions: Conditions) -> Tensor:
        """The end points of starts `(n, ...)`."""
        solver, grid = AutoAdams().ruled(rule), DataStraight(steps).ruled(rule)
        times = grid(self.model.sde, self.model.step_statistics)
        parts = []
        for start in range(0, len(x), self.batch_size):
            rows = slice(start, start + self.batch_size)
            bound = BoundModel(self.model, conditions.select(rows))
            *_, end = solver.solve(bound, x[rows], times, _no_noise)
            self.evaluations += bound.nfe * len(end)
            parts.append(end)
        return torch.cat(parts)


def _no_noise(start: float | None = None, stop: float | None = None) -> Tensor:
    raise AssertionError("a solver of the ODE draws no noise")


class TrueEnds:
    """Starts with their true end points.

    Args:
        solves: Solves of the model.
        starts: The starts.
    """

    def __init__(self, solves: Solves, starts: Starts) -> None:
        self.solves, self.starts = solves, starts
        self._true: tuple[int, Tensor] = (0, starts.x)

    def true(self, steps: int) -> Tensor:
        """The end points by so many steps that their error counts for nothing beside that of `steps`."""
        fine = max(200, min(6 * steps, 3 * steps + 200))  # of order 4
        if self._true[0] < fine:
            self._true = fine, self.solves(TRUE, fine, self.starts.x, self.starts.conditions)
        return self._true[1]

    def distances(self, rule: StepRule, steps: int, every: int = 1) -> Tensor:
        """Distances to the true end points from one start in `every`, `(n,)` float64 on the CPU.

        They are huge for an impossible rule.
        """
        starts = self.starts.thinned(every)
        try:
            found = self.solves(rule, steps, starts.x, starts.conditions)
        except ValueError:  # times that do not decrease, so near are they
            return torch.full((len(starts.x),), _IMPOSSIBLE, dtype=torch.float64)
        distances: Tensor = (found - self.true(steps)[::every]).flatten(1).double().norm(dim=1).cpu()
        return distances.nan_to_num(_IMPOSSIBLE, _IMPOSSIBLE).clamp(max=_IMPOSSIBLE)


class Trial:
    """The errors of rules.

    Args:
        solves: Solves of the model.
        seen: The starts that guide a search.
        unseen: Those that confirm what it finds.
    """

    def __init__(self, solves: Solves, seen: Starts, unseen: Starts) -> None:
        self.model = solves.model
        self.seen, self.unseen = TrueEnds(solves, seen), TrueEnds(solves, unseen)
        self._errors: dict[tuple[StepRule, int, int], float] = {}
        self._resampled: dict[tuple[StepRule, int], Tensor] = {}
        generator = torch.Generator().manual_seed(0)
        n = len(unseen.x)
        drawn = torch.randint(n, (_RESAMPLES, n), generator=generator)
        counts = torch.zeros(_RESAMPLES, n, dtype=torch.float64).scatter_add_(1, drawn, torch.ones_like(drawn).double())
        self._counts = torch.cat((torch.ones(1, n, dtype=torch.float64), counts))

    def error(self, rule: StepRule, steps: int, every: int = 1) -> float:
        """A mean distance to the true end points, from one seen start in `every`; huge for an impossible rule."""
        key = rule, steps, every
        if key not in self._errors:
            distances, starts = self.seen.distances(*key), self.seen.starts.thinned(every)
            once = torch.ones(1, len(distances), dtype=torch.float64)
            self._errors[key] = math.exp(float(_logs(distances, starts, once)[0] @ _OF_ERROR))
        return self._errors[key]

    def _logs(self, rule: StepRule, steps: int) -> Tensor:
        key = rule, steps
        if key not in self._resampled:
            self._resampled[key] = _logs(self.unseen.distances(rule, steps), self.unseen.starts, self._counts)
        return self._resampled[key]

    def surely_better(self, rule: StepRule, than: StepRule, numbers: Sequence[int]) -> bool:
        """Whether the unseen starts tell that a rule is better than another.

        It is if in 19 of 20 resamples of these starts the mean of its error over the numbers of steps is smaller, and
        if in as many, and in each number of steps, it is at most a little worse than the rule for any model: in the
        root mean square, in the geometric mean, and in that over all starts alike. Half of these are near edges, so
        that it tells how far a solver moves an edge before a start is seen to cross it.

        Args:
            rule: The rule.
            than: The other.
            numbers: Numbers of steps; the rule for any model is that for the first of them.
        """
        gain, plain = torch.zeros(len(self._counts), dtype=torch.float64), usual_rule(self.model, numbers[0])
        for steps in numbers:
            new = self._logs(rule, steps)
            worse = new - self._logs(plain, steps)
            if bool((worse.quantile(_SURE, dim=0) > _MOST_LOSS).any()):
                return False
            gain += (self._logs(than, steps) - new) @ _OF_ERROR / len(numbers)
        return float(gain.quantile(1 - _SURE)) > _LEAST_GAIN


def _logs(distances: Tensor, starts: Starts, counts: Tensor) -> Tensor:
    """The logarithms of the root mean square and of two geometric means, `(r, 3)`, by how often starts count `(r, n)`.

    The first geometric mean is one over draws, as the mean square; in the second all starts weigh the same.
    """
    weights, distances = counts * starts.weights, distances.clamp(min=1 / _IMPOSSIBLE)
    logs = distances.log()
    square = (weights @ distances.square()).log() / 2
    return torch.stack((square, weights @ logs / weights.sum(1), counts @ logs / counts.sum(1)), 1)
