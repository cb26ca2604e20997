"""The default sampler on the starts of a search: its end points, and its steps as coefficients to search from."""

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from scoresde.sampling.auto_adams import AutoAdams
from scoresde.sampling.data_grids import DataStraight
from scoresde.sampling.plain_rule import usual_rule
from scoresde.sampling.sampler import Sampler
from scoresde.sampling.true_paths import Part, TruePaths
from scoresde.score import ScoreModel
from scoresde.score.model import Prediction

__all__ = ["DefaultSteps"]

_COUNTED = 2  # starts on which evaluations are counted


class DefaultSteps:
    """What the solver and the grid of `sampler=default` do with the starts of some true paths.

    Args:
        paths: The true paths.
        evaluations: The number of evaluations that it may take, without the denoising step.
    """

    def __init__(self, paths: TruePaths, evaluations: int) -> None:
        self.paths, self.evaluations = paths, evaluations
        self.sampler = self._within(evaluations)

    def _within(self, evaluations: int) -> Sampler:
        """The sampler with the most steps that take no more evaluations than this."""
        # The first prediction may need none.
        for steps in range(evaluations + 1, 0, -1):
            # With the rule that was measured for the model, so that nothing is measured on the way.
            sampler = Sampler(AutoAdams(), DataStraight(steps), denoise=False).ruled(self.paths.model)
            if self.paths.sampled(sampler, slice(0, _COUNTED))[1] <= evaluations:
                break
        return sampler

    def _linear(self) -> Sampler:
        """The sampler without a safeguard."""
        grid, solver = self.sampler.grid, self.sampler.solver
        assert isinstance(solver, AutoAdams)
        rule = solver.rule or usual_rule(self.paths.model, grid.steps)
        return Sampler(AutoAdams(rule=replace(rule, safeguard=False)), grid, denoise=False)

    def ends(self, part: Part) -> Tensor:
        """The end points of the starts `part`, `(B, D)`, as y."""
        return self.paths.sampled(self.sampler, part)[0]

    def visited(self, part: Part) -> tuple[Tensor, Tensor] | None:
        """The times `(n + 1,)` at which the model is evaluated, and the states there behind the first, `(n, B, D)`.

        The last of both are those of the end. A solver whose steps are linear in the start and in the predictions at
        these states is known by them, so that a rule is followed without its safeguard.

        Returns:
            Times and states; None if the evaluations are not one at each of that many decreasing times.
        """
        paths, asked = self.paths, dict[float, list[Tensor]]()
        end, _ = paths.sampled(self._linear(), part, lambda model: _watched(model, asked))
        first, last = float(paths.times[0]), float(paths.times[-1])
        inner = [t for t in asked if t != first]
        times = torch.tensor([first, *inner, last], dtype=torch.float64)
        one_each = all(sum(map(len, states)) == len(end) for states in asked.values())
        if not one_each or len(inner) + (not paths.gaussian) != self.evaluations or not bool((times.diff() < 0).all()):
            return None
        states = [paths.scaled(torch.cat(asked[t]), torch.tensor(t, dtype=torch.float64)) for t in inner]
        return times, torch.stack([*states, end])


def _watched(model: ScoreModel, asked: dict[float, list[Tensor]]) -> ScoreModel:
    """The model with predictions that put down the states that they are asked for, by their times."""
    copied = copy.copy(model)

    def prediction(times: Tensor, p: Tensor, q: Tensor) -> Prediction:
        predict, known = model.prediction(times, p, q), times.tolist()

        def noted(x: Tensor, i: int, **cond: Any) -> Tensor:
            asked.setdefault(known[i], []).append(x.clone())
            return predict(x, i, **cond)

        return noted

    copied.__dict__["prediction"] = prediction
    return copied
