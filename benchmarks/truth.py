"""The true endpoints of the probability flow."""

from typing import Any

from torch import Tensor

from scoresde.sampling import Adaptive, ExplicitTimes, Sampler, ScipyODE
from scoresde.score import ScoreModel

__all__ = ["endpoints", "own_endpoints"]


def endpoints(model: ScoreModel, x: Tensor, tolerance: float = 1e-10, **cond: Any) -> Tensor:
    """The endpoints, by scipy. A chunk is one system for it, so small ones keep the error of each sample small."""
    sampler = Sampler(ScipyODE("DOP853", rtol=tolerance, atol=tolerance), _ends(model), denoise=False)
    return sampler(model, x_init=x, batch_size=128, **cond).x


def own_endpoints(model: ScoreModel, x: Tensor, tolerance: float = 1e-11, **cond: Any) -> Tensor:
    """The endpoints, by the solver of this project that gives every sample steps of its own: quicker on many starts."""
    solver = Adaptive("dop853", tolerance, tolerance, max_steps=100_000, strict=True)
    return Sampler(solver, _ends(model), denoise=False)(model, x_init=x, **cond).x


def _ends(model: ScoreModel) -> ExplicitTimes:
    return ExplicitTimes([model.sde.t_max, model.sde.t_min_sampling])
