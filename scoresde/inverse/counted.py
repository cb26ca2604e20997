"""The honest cost of anyone's sampler: evaluations of the model, and products with its Jacobian, sample by sample."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.score import ScoreModel
from scoresde.score.around import AroundModel
from scoresde.score.learned_variance import SharedPrediction
from scoresde.score.model import Prediction

__all__ = ["Cost", "CountedModel"]


class Cost:
    """What was asked of a model so far, in rows: an evaluation of a batch of B samples counts B.

    Attributes:
        evaluations: The evaluations.
        products: The products of a vector with the Jacobian, from the left (backward passes) or from the right. One
            takes about as long as an evaluation, or twice where it is a backward pass.
    """

    def __init__(self) -> None:
        self.evaluations, self.products = 0, 0

    def each(self, samples: int) -> tuple[float, float]:
        """Evaluations and products for each of so many samples."""
        return self.evaluations / samples, self.products / samples

    def __repr__(self) -> str:
        return f"Cost(evaluations={self.evaluations}, products={self.products})"


@checked
class CountedModel(AroundModel):
    """A model whose evaluations and Jacobian products are counted, whoever asks for them.

    It counts what goes through it by `torch.autograd` and by `torch.func`, under `vmap` too, where a call for one
    sample stands for many.

    Args:
        model: The model.

    Attributes:
        cost: What was asked of it so far.

    >>> from scoresde.score import GaussianMixtureScore
    >>> from scoresde.sde import EDMSDE
    >>> model = CountedModel(GaussianMixtureScore([1.0], [[0.0, 0.0]], [1.0], EDMSDE()))
    >>> gradient = torch.func.grad(lambda x: model.denoise(x, 1.0).sum())(torch.ones(3, 2))
    >>> model.cost
    Cost(evaluations=3, products=3)
    """

    def __init__(self, model: ScoreModel) -> None:
        super().__init__(model.sde, model.statistics)
        self.model = model
        self.cost = Cost()

    def _head(self) -> str:
        return self.model._head()

    @property
    def log_snr_range(self) -> tuple[float, float]:
        return self.model.log_snr_range

    def takes_condition(self, name: str) -> bool:
        return self.model.takes_condition(name)

    def conditioned_on(self, names: Iterable[str]) -> bool:
        return self.model.conditioned_on(names)

    def for_rows(self, rows: Tensor) -> ScoreModel:
        part = self.model.for_rows(rows)
        if part is self.model:
            return self
        counted = CountedModel(part)
        counted.cost = self.cost
        return counted

    def _counted(self, output: Tensor) -> Tensor:
        return _through(_Evaluation, output, self.cost)

    def denoise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        return self._counted(self.model.denoise(x, t, **cond))

    def noise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        return self._counted(self.model.noise(x, t, **cond))

    def score(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        return self._counted(self.model.score(x, t, **cond))

    def velocity(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        return self._counted(self.model.velocity(x, t, **cond))

    def noise_and_trace(self, x: Tensor, t: Tensor, **cond: Any) -> tuple[Tensor, Tensor] | None:
        found = self.model.noise_and_trace(x, t, **cond)
        return None if found is None else (self._counted(found[0]), found[1])

    def denoise_with_share(self, x: Tensor, t: Tensor, **cond: Any) -> tuple[Tensor, Tensor]:
        mean, share = self.model.denoise_with_share(x, t, **cond)
        return self._counted(mean), share

    def prediction(self, times: Tensor, p: Tensor, q: Tensor) -> Prediction:
        inner = self.model.prediction(times, p, q)

        def predict(x: Tensor, i: int, **cond: Any) -> Tensor:
            return self._counted(inner(x, i, **cond))

        return predict

    def prediction_with_share(self, times: Tensor, p: Tensor, q: Tensor) -> SharedPrediction:
        inner = self.model.prediction_with_share(times, p, q)

        def predict(x: Tensor, i: int, **cond: Any) -> tuple[Tensor, Tensor]:
            mean, share = inner(x, i, **cond)
            return self._counted(mean), share

        return predict


class _Passed(torch.autograd.Function):
    """The identity, which counts the derivatives that pass through it. A subclass counts its own calls."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Cost], output: Tensor) -> None:
        ctx.cost = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _through(_Product, gradient, ctx.cost), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        return _through(_Product, tangent, ctx.cost)


class _Evaluation(_Passed):
    """The identity of the output `(B, ...)` of an evaluation, which counts it."""

    @staticmethod
    def forward(output: Tensor, cost: Cost) -> Tensor:
        cost.evaluations += len(output)
        return output.view_as(output)

    @staticmethod
    def vmap(info: Any, dims: tuple[int | None, ...], output: Tensor, cost: Cost) -> tuple[Tensor, int]:
        return _through(_Evaluation, _merged(info, dims, output), cost).unflatten(0, (info.batch_size, -1)), 0


class _Product(_Passed):
    """The identity of a vector `(B, ...)` that a Jacobian is multiplied with, which counts the product."""

    @staticmethod
    def forward(vector: Tensor, cost: Cost) -> Tensor:
        cost.products += len(vector)
        return vector.view_as(vector)

    @staticmethod
    def vmap(info: Any, dims: tuple[int | None, ...], vector: Tensor, cost: Cost) -> tuple[Tensor, int]:
        return _through(_Product, _merged(info, dims, vector), cost).unflatten(0, (info.batch_size, -1)), 0


def _through(counter: Any, x: Tensor, cost: Cost) -> Tensor:
    """The tensor itself, as one that has passed through a counter."""
    found: Tensor = counter.apply(x, cost)
    return found


def _merged(info: Any, dims: tuple[int | None, ...], x: Tensor) -> Tensor:
    """All samples of a vmapped batch, one after the other."""
    across = x.expand(info.batch_size, *x.shape) if dims[0] is None else x.movedim(dims[0], 0)
    return across.flatten(0, 1)
