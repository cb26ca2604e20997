"""Any score model under another SDE, or without its data's information."""

import copy
import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.data.affine import Identity
from scoresde.score.exact import ExactScore
from scoresde.score.model import Prediction, ScoreModel
from scoresde.sde import SDE, expand_to

__all__ = ["in_model_space", "with_sde"]


class _UnderSDE(ScoreModel):
    """A model trained under one SDE, integrated under another."""

    def __init__(self, model: ScoreModel, sde: SDE) -> None:
        super().__init__(sde, model.statistics)
        self.model = model

    def _head(self) -> str:
        return f"with_sde({self.model._head()}, {self.sde!r})"

    @property
    def exact(self) -> bool:
        return self.model.exact

    def _translate(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The same noised sample in the model's own scale, and its time there."""
        t = self.sde.check_time(t).double()
        inner = self.model.sde
        time = inner.time(self.sde.log_snr(t))
        time = time.clamp(inner.t_min, inner.t_max)  # round-off at the ends
        return expand_to(inner.alpha(time) / self.sde.alpha(t), x) * x, time

    def prediction(self, times: Tensor, p: Tensor, q: Tensor) -> Prediction:
        # With a state of no dimension, the translation of its scale.
        scales, inner_times = self._translate(torch.ones_like(times), times)
        inner = self.model.prediction(inner_times, p, q)
        factors = scales.tolist()

        def predict(x: Tensor, i: int, **cond: Any) -> Tensor:
            return inner(factors[i] * x, i, **cond)

        return predict

    def denoise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        return self.model.denoise(*self._translate(x, t), **cond)

    def noise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        return self.model.noise(*self._translate(x, t), **cond)


def in_model_space(model: ScoreModel) -> ScoreModel:
    """`model` without its transform: what takes data or gives samples does so in model space."""
    if model.transform is None:
        return model
    bare, info = copy.copy(model), model.info
    bare.transform = None
    if info is not None:
        bare._info = replace(info, transform=Identity())
    return bare


@checked
def with_sde(model: ScoreModel, sde: SDE) -> ScoreModel:
    """`model` integrated under another SDE, by matching the signal-to-noise ratio.

    x_t under one SDE, divided by its α, has the distribution of x_t' under any other, divided by that one's
    α, where the log-SNRs agree (Kingma et al. 2021, section 5.1; Karras et al. 2022, section 3). The interval
    of `sde` is shortened to the noise levels that the model knows.
    """
    if isinstance(model, ExactScore):
        # p₀ does not know of any SDE, and the model's own may not reach every noise level of this one.
        moved = copy.copy(model)
        # Or a change of dtype or device of the one would be the other's, too.
        moved._buffers, moved._modules = dict(model._buffers), copy.deepcopy(model._modules)
        moved.sde = sde
        return moved
    low, high = model.log_snr_range
    t_min = sde.t_min if math.isinf(high) else max(sde.t_min, _time(sde, high))
    t_max = sde.t_max if math.isinf(low) else min(sde.t_max, _time(sde, low))
    if not t_min < t_max:
        raise ValueError(
            f"{sde} has no noise level in common with the model, whose log-SNR runs from {low:g} to {high:g}"
        )
    return _UnderSDE(model, sde.between(t_min, t_max))


def _time(sde: SDE, log_snr: float) -> float:
    return float(sde.time(torch.tensor(log_snr, dtype=torch.float64)))
