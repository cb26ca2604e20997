"""A score model under another SDE, or in model space."""

import copy
import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.data.affine import Identity
from scoresde.score.around import AroundModel
from scoresde.score.exact import ExactScore
from scoresde.score.learned_variance import SharedPrediction
from scoresde.score.model import Prediction, ScoreModel
from scoresde.sde import SDE, expand_to

__all__ = ["in_model_space", "with_sde"]


class _UnderSDE(AroundModel):
    """A model trained under one SDE, integrated under another."""

    def __init__(self, model: ScoreModel, sde: SDE) -> None:
        super().__init__(sde, model.statistics)
        self.model = model

    def _head(self) -> str:
        return f"with_sde({self.model._head()}, {self.sde!r})"

    def _translate(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The same noised sample in the model's own scale, and its time under the model's SDE."""
        t = self.sde.check_time(t).double()
        inner = self.model.sde
        time = inner.time(self.sde.log_snr(t))
        time = time.clamp(inner.t_min, inner.t_max)  # round-off at the ends
        return expand_to(inner.alpha(time) / self.sde.alpha(t), x) * x, time

    def prediction(self, times: Tensor, p: Tensor, q: Tensor) -> Prediction:
        # For a state of ones, the translation is that of the scale.
        scales, inner_times = self._translate(torch.ones_like(times), times)
        inner = self.model.prediction(inner_times, p, q)
        factors = scales.tolist()

        def predict(x: Tensor, i: int, **cond: Any) -> Tensor:
            return inner(factors[i] * x, i, **cond)

        return predict

    def prediction_with_share(self, times: Tensor, p: Tensor, q: Tensor) -> SharedPrediction:
        scales, inner_times = self._translate(torch.ones_like(times), times)
        inner = self.model.prediction_with_share(inner_times, p, q)
        factors = scales.tolist()

        def predict(x: Tensor, i: int, **cond: Any) -> tuple[Tensor, Tensor]:
            return inner(factors[i] * x, i, **cond)

        return predict

    def denoise_with_share(self, x: Tensor, t: Tensor, **cond: Any) -> tuple[Tensor, Tensor]:
        return self.model.denoise_with_share(*self._translate(x, t), **cond)

    def denoise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        return self.model.denoise(*self._translate(x, t), **cond)

    def noise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        return self.model.noise(*self._translate(x, t), **cond)


def in_model_space(model: ScoreModel) -> ScoreModel:
    """The model without its transform, so that all data and samples are in model space."""
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

    x_t/α has the same distribution under all SDEs at times of the same log-SNR. The interval of `sde` is shortened to
    the noise levels that the model knows.

    >>> from scoresde.score import GaussianMixtureScore
    >>> from scoresde.sde import VESDE, VPSDE
    >>> model = GaussianMixtureScore([1.0], [[0.0]], [1.0], VPSDE())
    >>> with_sde(model, VESDE()).sde
    VESDE(t_min=0, t_max=1, t_min_sampling=0, sigma_min=0.01, sigma_max=50)

    Args:
        model: The score model.
        sde: The SDE under which it is integrated.

    Raises:
        ValueError: An SDE without a noise level in common with the model.

    References:
        Variational diffusion models (Kingma et al. 2021), section 5.1, https://arxiv.org/abs/2107.00630
        Elucidating the design space of diffusion-based generative models (Karras et al. 2022), section 3,
        https://arxiv.org/abs/2206.00364
    """
    if isinstance(model, ExactScore) and model.exact:
        # p₀ does not depend on an SDE, and the model's own SDE may not reach every noise level of this one.
        moved = copy.copy(model)
        # Copies, so that a change of dtype or device of one model does not change the other.
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
