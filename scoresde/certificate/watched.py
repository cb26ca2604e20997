"""A model that counts what is asked of it, and notes at which noise levels."""

import math
from typing import Any

import torch
from torch import Tensor

from scoresde.inverse.counted import CountedModel
from scoresde.score import ScoreModel
from scoresde.score.model import Prediction

__all__ = ["Watched"]


class Watched(CountedModel):
    """A model that knows the least and the largest level σ/α at which it was evaluated.

    Args:
        model: The model.

    Attributes:
        low: The least level so far; infinite before the first evaluation.
        high: The largest level so far; 0 before the first.
    """

    def __init__(self, model: ScoreModel) -> None:
        super().__init__(model)
        self.low, self.high = math.inf, 0.0

    def _note(self, t: Tensor | float) -> None:
        level = (-self.sde.log_snr(torch.as_tensor(t, dtype=torch.float64).flatten())).exp()
        self.low, self.high = min(self.low, float(level.min())), max(self.high, float(level.max()))

    def denoise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        self._note(t)
        return super().denoise(x, t, **cond)

    def noise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        self._note(t)
        return super().noise(x, t, **cond)

    def score(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        self._note(t)
        return super().score(x, t, **cond)

    def velocity(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        self._note(t)
        return super().velocity(x, t, **cond)

    def prediction(self, times: Tensor, p: Tensor, q: Tensor) -> Prediction:
        inner = super().prediction(times, p, q)

        def predict(x: Tensor, i: int, **cond: Any) -> Tensor:
            self._note(times[i])
            return inner(x, i, **cond)

        return predict
