"""A score model with its conditions bound and its calls counted."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from scoresde.score.around import AroundModel
from scoresde.score.conditions import Conditions
from scoresde.score.learned_variance import SharedPrediction
from scoresde.score.model import Prediction, ScoreModel

__all__ = ["BoundModel"]


class BoundModel(AroundModel):
    """A score model whose conditions are fixed for a batch, and whose evaluations are counted.

    A solver is given such a model, so that it needs to know nothing of conditions. Conditions in a call are ignored.

    Args:
        model: The score model.
        conditions: Conditions of the batch, one entry or one value for all samples each.
    """

    def __init__(self, model: ScoreModel, conditions: Conditions | Mapping[str, Any]) -> None:
        super().__init__(model.sde, model.statistics)
        self.model = model
        self.bound = conditions if isinstance(conditions, Conditions) else Conditions(conditions, 0)
        self._cond = dict(self.bound)  # unpacks faster
        # A list, because setting an attribute of a module takes longer than a step of a solver should.
        self._calls = [0]

    @property
    def nfe(self) -> int:
        """Number of evaluations of the model so far, each for the whole batch."""
        return self._calls[0]

    def for_rows(self, rows: Tensor) -> "BoundModel":
        """The model with the conditions of the samples `rows` `(b,)` of its batch, and a count of its own."""
        return BoundModel(self.model, self.bound.select(rows))

    @property
    def log_snr_range(self) -> tuple[float, float]:
        """The range of the model that is bound."""
        return self.model.log_snr_range

    @property
    def conditioned(self) -> bool:
        """True if there are conditions."""
        return self.model.conditioned_on(self.bound)

    def conditioned_on(self, names: Iterable[str]) -> bool:
        return self.conditioned  # conditions of a call are ignored

    def prediction(self, times: Tensor, p: Tensor, q: Tensor) -> Prediction:
        inner, cond, calls = self.model.prediction(times, p, q), self._cond, self._calls

        def predict(x: Tensor, i: int) -> Tensor:
            calls[0] += 1
            return inner(x, i, **cond)

        return predict

    def prediction_with_share(self, times: Tensor, p: Tensor, q: Tensor) -> SharedPrediction:
        inner, cond, calls = self.model.prediction_with_share(times, p, q), self._cond, self._calls

        def predict(x: Tensor, i: int) -> tuple[Tensor, Tensor]:
            calls[0] += 1
            return inner(x, i, **cond)

        return predict

    def denoise_with_share(self, x: Tensor, t: Tensor, **cond: Any) -> tuple[Tensor, Tensor]:
        self._calls[0] += 1
        return self.model.denoise_with_share(x, t, **self._cond)

    def denoise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        self._calls[0] += 1
        return self.model.denoise(x, t, **self._cond)

    def noise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        self._calls[0] += 1
        return self.model.noise(x, t, **self._cond)

    def score(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        self._calls[0] += 1
        return self.model.score(x, t, **self._cond)

    def velocity(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        self._calls[0] += 1
        return self.model.velocity(x, t, **self._cond)
