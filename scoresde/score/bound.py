"""A score model with its conditions bound and its calls counted."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from scoresde.score.model import Prediction, ScoreModel

if TYPE_CHECKING:
    pass

__all__ = ["for_rows"]


class BoundModel(ScoreModel):
    """A model with its conditions, counting evaluations."""

    def __init__(self, model: ScoreModel, cond: dict[str, Any]) -> None:
        super().__init__(model.sde, model.statistics)
        self.model = model
        self.cond = cond
        # In a list, since setting an attribute of a module takes longer than a step of a solver should.
        self._calls = [0]

    @property
    def nfe(self) -> int:
        return self._calls[0]

    def rows(self, rows: Tensor) -> "BoundModel":
        """The model for these samples of the batch, with a count of its own."""
        cond = {k: v[rows.to(v.device)] if isinstance(v, Tensor) and v.ndim else v for k, v in self.cond.items()}
        return BoundModel(self.model, cond)

    @property
    def log_snr_range(self) -> tuple[float, float]:
        return self.model.log_snr_range

    @property
    def exact(self) -> bool:
        return self.model.exact

    @property
    def conditioned(self) -> bool:
        return bool(self.cond) or self.model.conditioned

    def prediction(self, times: Tensor, p: Tensor, q: Tensor) -> Prediction:
        inner, cond, calls = self.model.prediction(times, p, q), self.cond, self._calls

        def predict(x: Tensor, i: int) -> Tensor:
            calls[0] += 1
            return inner(x, i, **cond)

        return predict

    def denoise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        self._calls[0] += 1
        return self.model.denoise(x, t, **self.cond)

    def noise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        self._calls[0] += 1
        return self.model.noise(x, t, **self.cond)

    def score(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        self._calls[0] += 1
        return self.model.score(x, t, **self.cond)

    def velocity(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        self._calls[0] += 1
        return self.model.velocity(x, t, **self.cond)


def for_rows(model: ScoreModel, rows: Tensor) -> ScoreModel:
    """`model` with the conditions of the samples `rows` `(b,)` of its batch, which may repeat."""
    return model.rows(rows) if isinstance(model, BoundModel) else model


def where_rows(chosen: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(chosen.reshape(-1, *[1] * (a.ndim - 1)), a, b)


def rows_of(value: Any, start: int, stop: int, total: int) -> Any:
    if isinstance(value, Tensor) and value.ndim and len(value) == total:
        return value[start:stop]
    return value
