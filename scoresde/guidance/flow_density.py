"""The density of samples of a guided model's flow."""

from typing import Any

from torch import Tensor

from scoresde.arguments import checked
from scoresde.score import Prediction, ScoreModel
from scoresde.score.around import AroundModel

__all__ = ["FlowDensity"]


@checked
class FlowDensity(AroundModel):
    """A model of the same field, whose likelihoods are those of samples of its probability-flow ODE.

    A guided field is the score of no noised density, so that a guided model has no likelihood, and asking for one is an
    error. Its flow has a density all the same: that of what samplers without noise make, without the last denoising,
    of the Gaussian at t_max. Likelihoods of this model are of that density. It is not the data's, nor that which
    guidance is meant to sample from, and solvers with noise sample from another one.

    Args:
        model: The guided model.

    Of one Gaussian guided by another, whose flow is affine:

    >>> import torch
    >>> from scoresde.guidance import ClassifierFree
    >>> from scoresde.likelihood import log_likelihood
    >>> from scoresde.score import GaussianMixtureScore
    >>> from scoresde.sde import EDMSDE
    >>> narrow, wide = (GaussianMixtureScore([1.0], [[0.0]], [v], EDMSDE()) for v in (1.0, 4.0))
    >>> guided = ClassifierFree(narrow, 2.0, wide)
    >>> out = log_likelihood(FlowDensity(guided), torch.zeros(1, 1), tol=1e-4)
    >>> round(out.log_prob.exp().item() ** -2 / (2 * torch.pi), 3)  # the variance, 1²/4
    0.25
    """

    def __init__(self, model: ScoreModel) -> None:
        super().__init__(model.sde, model.statistics)
        self.model = model

    @property
    def is_score(self) -> bool:
        """True, since likelihoods are of the flow."""
        return True

    @property
    def log_snr_range(self) -> tuple[float, float]:
        return self.model.log_snr_range

    def takes_condition(self, name: str) -> bool:
        return self.model.takes_condition(name)

    def for_rows(self, rows: Tensor) -> ScoreModel:
        part = self.model.for_rows(rows)
        return self if part is self.model else FlowDensity(part)

    def prediction(self, times: Tensor, p: Tensor, q: Tensor) -> Prediction:
        return self.model.prediction(times, p, q)

    def denoise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        return self.model.denoise(x, t, **cond)

    def noise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        return self.model.noise(x, t, **cond)

    def score(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        return self.model.score(x, t, **cond)

    def velocity(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        return self.model.velocity(x, t, **cond)
