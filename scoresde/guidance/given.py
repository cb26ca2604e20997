"""A model with conditions that hold for every sample, as parts of guided models have them."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.score import Prediction, ScoreModel
from scoresde.score.around import AroundModel

__all__ = ["Given"]


@checked
class Given(AroundModel):
    """A model under conditions that are the same for all samples, whatever the size of a batch.

    Others may be given in a call, but none of these again. `Given(model, labels=7)` and `Given(model, labels=3)` may be
    the two models of `ClassifierFree`, which guides to sevens and away from threes (a negative condition), or parts of
    a `Product`. `Given(model)` of a model that was trained with dropped conditions is the unconditional one, if no
    conditions are given in the call.

    Args:
        model: The model.
        **cond: The conditions of one sample each: a number, as a class, or a tensor without the dimension of a batch.

    Raises:
        ValueError: Conditions that the model does not take, or a class that it does not have.
    """

    def __init__(self, model: ScoreModel, **cond: Any) -> None:
        super().__init__(model.sde, model.statistics)
        self.model = model
        model._check_names(cond)
        fixed = {k: torch.as_tensor(v) for k, v in cond.items() if v is not None}
        label = fixed.get("labels")
        if label is not None and model.classes is not None and not 0 <= int(label) < model.classes:
            raise ValueError(f"labels is {int(label)}, expected a class from 0 to {model.classes - 1}")
        self.fixed = fixed

    @property
    def conditioned(self) -> bool:
        return bool(self.fixed) or self.model.conditioned

    @property
    def log_snr_range(self) -> tuple[float, float]:
        return self.model.log_snr_range

    @property
    def has_unconditional(self) -> bool:
        return False

    @property
    def takes_dropped(self) -> bool:
        return False

    def conditioned_on(self, names: Iterable[str]) -> bool:
        return self.model.conditioned_on([*names, *self.fixed])

    def _own_classes(self) -> int | None:
        return None if "labels" in self.fixed else super()._own_classes()

    def takes_condition(self, name: str) -> bool:
        return name not in self.fixed and self.model.takes_condition(name)

    def _check_names(self, cond: Iterable[str]) -> None:
        names = list(cond)
        again = [name for name in names if name in self.fixed]
        if again:
            raise ValueError(f"{again[0]} is given for all samples of this model: leave it out")
        self.model._check_names(names)

    def for_rows(self, rows: Tensor) -> ScoreModel:
        part = self.model.for_rows(rows)
        return self if part is self.model else Given(part, **self.fixed)

    def _parts(self) -> list[str]:
        return [self.model._head(), *(f"{name}={value.tolist()}" for name, value in self.fixed.items())]

    def _all(self, x: Tensor, cond: dict[str, Any]) -> dict[str, Any]:
        """Those of the call, and these for each sample of x."""
        return cond | {k: v.to(x.device).expand(len(x), *v.shape) for k, v in self.fixed.items()}

    def prediction(self, times: Tensor, p: Tensor, q: Tensor) -> Prediction:
        inner = self.model.prediction(times, p, q)

        def predict(x: Tensor, i: int, **cond: Any) -> Tensor:
            return inner(x, i, **self._all(x, cond))

        return predict

    def denoise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        return self.model.denoise(x, t, **self._all(x, cond))

    def noise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        return self.model.noise(x, t, **self._all(x, cond))

    def score(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        return self.model.score(x, t, **self._all(x, cond))

    def velocity(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        return self.model.velocity(x, t, **self._all(x, cond))
