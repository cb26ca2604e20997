"""The field of the probability flow as an integrator asks for it, and the norm of a step's error."""

from collections.abc import Callable

import torch
from torch import Tensor

from scoresde.likelihood.options import Tolerance
from scoresde.likelihood.place import Place
from scoresde.likelihood.scaling import Spread

__all__ = ["SteppedField"]

# Share of the largest effect of rounding on a result that is subtracted from error estimates.
_ROUNDING_SHARE = 0.01


class SteppedField:
    """The slopes dy/dw of a flow, and the norm by which a step's error is compared with the tolerance.

    The integrator evaluates the field at the end of a step just before it asks for the norm of the step's error. So
    the norm is taken at the last evaluation, and needs none of its own.

    Args:
        evaluate: `Flow.evaluate`: slopes, samples and noise predictions at places, states and rows.
        spread: Covariance by which the state is scaled.
        dtype: Dtype of the model.
        tolerance: Error that a step may make.
    """

    def __init__(
        self,
        evaluate: Callable[[Place, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]],
        spread: Spread,
        dtype: torch.dtype,
        tolerance: Tolerance,
    ) -> None:
        self.evaluate = evaluate
        self.spread = spread
        self.tolerance = tolerance
        self._unit = torch.finfo(dtype).eps
        self._last: tuple[Place, Tensor, Tensor] | None = None

    def __call__(self, place: Place, y: Tensor, rows: Tensor) -> Tensor:
        """The slopes `(b, D)` at states y of the samples `rows`."""
        slope, x, eps = self.evaluate(place, y, rows)
        self._last = place, x, eps
        return slope

    def error_norm(self, error: Tensor, before: Tensor, after: Tensor, slope: Tensor) -> Tensor:
        """The size `(b,)` of a step's error in units of the tolerance.

        Args:
            error: Local errors of the state, `(b, D)`.
            before: States before the step.
            after: States after the step.
            slope: Slopes after the step.
        """
        assert self._last is not None
        place, x, eps = self._last
        # The error of ε from rounding its input and itself, where ε is as steep as 1/σ.
        rounding = self._unit * (x.abs() / (place.alpha * place.level)[:, None] + eps.abs())
        if self.tolerance.nats is None:
            return self._relative(error, torch.maximum(before.abs(), after.abs()), place, rounding)
        return self._nats(error, place, eps, rounding)

    def _relative(self, error: Tensor, size: Tensor, place: Place, rounding: Tensor) -> Tensor:
        scale = self.tolerance.atol + self.tolerance.rtol * size
        least = self.spread.apply(place.level[:, None] / place.norm, rounding).abs()
        scale = torch.maximum(scale, least)
        total, noise = ((v / scale).square().mean(1).sqrt() for v in (error, least))
        return (total - _ROUNDING_SHARE * noise).clamp_min(0)

    def _nats(self, error: Tensor, place: Place, eps: Tensor, rounding: Tensor) -> Tensor:
        assert self.tolerance.nats is not None
        # The score of y is −(Σ + σ̃²)^(1/2) ε/σ̃.
        score = self.spread.apply(place.norm / place.level[:, None], eps)
        least = (eps * rounding).square().sum(1).sqrt()
        total = (error.square() * (1 + score.square())).sum(1).sqrt()
        return (total - _ROUNDING_SHARE * least).clamp_min(0) / least.clamp_min(self.tolerance.nats)
