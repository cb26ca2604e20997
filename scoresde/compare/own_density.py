"""The log-density that samples lose under the model itself, by its likelihood, where no exact density is known."""

from functools import cached_property
from typing import Any

from torch import Tensor

from scoresde.compare.true_ends import TrueEnds
from scoresde.likelihood import log_likelihood
from scoresde.metrics import Estimate, nats_lost
from scoresde.score import Conditions, ScoreModel

__all__ = ["OwnDensity"]


class OwnDensity:
    """The loss of log-density under the model's own likelihood, against endpoints of its probability flow.

    The endpoints are exact samples of the model, so that the loss is of the sampler alone, however well the model fits
    the data. Likelihoods are those of `scoresde.likelihood.log_likelihood` at `t_min`; each costs hundreds of
    evaluations a sample.

    Args:
        model: The model, in model space.
        true: The true endpoints of common starts.
        count: Number of samples and of endpoints.
        cond: The conditions of all samples.
    """

    def __init__(self, model: ScoreModel, true: TrueEnds, count: int, cond: Conditions) -> None:
        self._model, self._true, self._count = model, true, count
        self._cond: dict[str, Any] = dict(cond.rows(0, count))

    def __call__(self, samples: Tensor) -> Estimate:
        """The loss of the first `count` of samples `(n, ...)`.

        Raises:
            LikelihoodError: The likelihood of a sample cannot be computed.
        """
        return nats_lost(self._log_prob(samples[: self._count]), self._exact)

    def _log_prob(self, x: Tensor) -> Tensor:
        return log_likelihood(self._model, x.to(self._model.device), **self._cond).log_prob

    @cached_property
    def _exact(self) -> Tensor:
        sde = self._model.sde
        return self._log_prob(self._true.solved(0, sde.t_max, sde.t_min, self._count))
