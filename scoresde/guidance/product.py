"""Products and quotients of the densities of several models."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.guidance.interval import finite
from scoresde.guidance.pair import _check_pair
from scoresde.score import Prediction, ScoreModel, with_sde
from scoresde.sde import expand_to
from scoresde.statistics import Statistics

__all__ = ["Product"]


@checked
class Product(ScoreModel):
    """The sum of scores Σ w_i s_i, for samples of a density like Π p_i^(w_i) (Liu et al. 2022b).

    Weights above 0 compose ("a seven" and "in italics"), those below 0 negate. The posterior of n independent
    observations under one prior is the product of n posteriors over n − 1 priors (Geffner et al. 2023):
    `Product([Given(model, ...), ..., prior], [1, ..., 1 - n])`.

        score = Σ w_i s_i,    ε = Σ w_i ε_i,    D = Σ w_i D_i + (1 − Σ w_i) x/α

    The noised density of a product is not the product of noised densities, so that samples are not exactly those of
    the product. Weights that add up to 1 leave the Gaussian at large noise as it is; of others, samplers start too
    wide or too narrow there.

    Conditions of a call go to those models that take them; `Given` binds other ones.

    Args:
        models: The models, of samples of one shape and in the same units, each under any SDE; that of the product is
            the first one's.
        weights: A weight for each; 1 each if not given.

    Raises:
        ValueError: No model, another number of weights than models, a weight that is not a finite number, or models
            that do not fit together.

    Two Gaussians of variance ½ and means ±1 have a product of variance ¼ and mean 0. At σ = 1 their noised scores add
    up to another one:

    >>> from scoresde.score import GaussianMixtureScore
    >>> from scoresde.sde import EDMSDE
    >>> parts = [GaussianMixtureScore([1.0], [[m]], [0.5], EDMSDE()) for m in (1.0, -1.0)]
    >>> Product(parts).score(torch.ones(1, 1), torch.tensor(1.0)).item()  # −2 x/(½ + σ²)
    -1.3333333730697632

    References:
        Liu et al. 2022b, Compositional visual generation with composable diffusion models,
            https://arxiv.org/abs/2206.01714
        Geffner et al. 2023, Compositional score modeling for simulation-based inference,
            https://arxiv.org/abs/2209.14249
    """

    def __init__(self, models: Sequence[ScoreModel], weights: Sequence[float] | None = None) -> None:
        if not models:
            raise ValueError("models is empty, expected at least one model")
        weights = [1.0] * len(models) if weights is None else [finite("a weight", w) for w in weights]
        if len(weights) != len(models):
            raise ValueError(f"there are {len(weights)} weights for {len(models)} models, expected one for each")
        sde = models[0].sde
        parts = []
        for model in models:
            _check_pair(models[0], model)
            part = model if model.sde == sde else with_sde(model, sde)
            sde = part.sde
            parts.append(part)
        super().__init__(sde, parts[0].statistics)
        self.weights = weights
        for i, part in enumerate(parts):
            self.add_module(f"model_{i}", part)

    @property
    def _members(self) -> list[ScoreModel]:
        return [cast(ScoreModel, self._modules[f"model_{i}"]) for i in range(len(self.weights))]

    @property
    def is_score(self) -> bool:
        left = [part for part, w in zip(self._members, self.weights, strict=True) if w != 0]
        return len(left) == 1 and sum(self.weights) == 1 and left[0].is_score

    @property
    def step_statistics(self) -> Statistics | None:
        known = [part.step_statistics for part in self._members]
        found = [statistics for statistics in known if statistics is not None]
        if len(found) < len(known):
            return None
        return max(found, key=lambda statistics: statistics.largest_std).widened(_wider(self.weights))

    @property
    def log_snr_range(self) -> tuple[float, float]:
        ranges = [part.log_snr_range for part in self._members]
        return max(low for low, _ in ranges), min(high for _, high in ranges)

    def takes_condition(self, name: str) -> bool:
        return any(part.takes_condition(name) for part in self._members)

    def _check_names(self, cond: Iterable[str]) -> None:
        for name in cond:
            if not self.takes_condition(name):
                self._members[0]._check_names([name])

    def for_rows(self, rows: Tensor) -> ScoreModel:
        parts = [part.for_rows(rows) for part in self._members]
        if all(a is b for a, b in zip(parts, self._members, strict=True)):
            return self
        return Product(parts, self.weights)

    def _parts(self) -> list[str]:
        return [f"[{', '.join(part._head() for part in self._members)}]", str(self.weights)]

    def _mixed(self, predictions: Iterable[Tensor]) -> Tensor:
        pairs = zip(self.weights, predictions, strict=True)
        weight, first = next(pairs)
        total = weight * first
        for weight, prediction in pairs:
            total = torch.add(total, prediction, alpha=weight)
        return total

    def _own(self, part: ScoreModel, cond: Mapping[str, Any]) -> dict[str, Any]:
        """The conditions of a call that a part takes."""
        return {name: value for name, value in cond.items() if part.takes_condition(name)}

    def prediction(self, times: Tensor, p: Tensor, q: Tensor) -> Prediction:
        times = self.sde.check_time(times)
        inner = [part.prediction(times, p, q) for part in self._members]
        on_x = ((1 - sum(self.weights)) * p / self.sde.alpha(times)).tolist()
        members = self._members

        known: dict[tuple[str, ...], list[list[str]]] = {}

        def predict(x: Tensor, i: int, **cond: Any) -> Tensor:
            names = tuple(cond)
            if names not in known:
                known[names] = [list(self._own(part, cond)) for part in members]
            taken = ({name: cond[name] for name in own} for own in known[names])
            total = self._mixed(part(x, i, **own) for part, own in zip(inner, taken, strict=True))
            return total if on_x[i] == 0 else torch.add(total, x, alpha=on_x[i])

        return predict

    def denoise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        total = self._mixed(part.denoise(x, t, **self._own(part, cond)) for part in self._members)
        rest = 1 - sum(self.weights)
        if rest == 0:
            return total
        return total + rest * x / expand_to(self.sde.alpha(torch.as_tensor(t, dtype=torch.float64)), x)

    def noise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        return self._mixed(part.noise(x, t, **self._own(part, cond)) for part in self._members)


def _wider(weights: Sequence[float]) -> float:
    """By how much the steps of a product are wider: as those of guidance by the sum of the weights above 0."""
    return float(max(sum(w for w in weights if w > 0), 1.0) ** (1 / 3))
