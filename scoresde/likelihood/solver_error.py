"""How much of a log-likelihood's error is the solver's, measured.

Sums of a solver's own local error estimates are too small by a factor of up to ten, since they know nothing of its
dense output. So the same samples are solved again at a smaller tolerance.
"""

from typing import Any

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.likelihood.density import check_batch, log_likelihood, tolerance_of
from scoresde.likelihood.integral import SHIFT
from scoresde.numerics.trace import Function as Function
from scoresde.numerics.trace import Hutchinson, Known, Traces
from scoresde.score import ScoreModel

__all__ = ["solver_error"]


class _OneProbe(Hutchinson):
    """One probe for the whole path of a sample, so that what it errs by is the same at every tolerance."""

    def for_shape(self, shape: tuple[int, ...]) -> "_OneProbe":
        return self

    def traces(self, function: Function, x: Tensor, seed: int, indices: Tensor, known: Known | None = None) -> Traces:
        return super().traces(function, x, seed, indices >> SHIFT, known)


@checked
def solver_error(
    model: ScoreModel, x: Tensor, *, tol: float | None = None, ratio: float = 0.03, **options: Any
) -> Tensor:
    """What the log-densities `(B,)` of x change by, in nats, where the tolerance is smaller by `ratio`.

    Along one probe for each sample, which stands for the exact divergence at the cost of a fresh one.

    Args:
        model: the score model.
        x: `(B, ...)`; some tens of samples tell the size of the error for a data set.
        tol: as for `log_likelihood`.
        ratio: of the tolerances.
        **options: others of `log_likelihood`, but for divergence, rtol and atol.

    Raises:
        ValueError: as `log_likelihood`, or a ratio that is not between 0 and 1.
    """
    if not 0 < ratio < 1:
        raise ValueError(f"ratio is {ratio}, expected a number between 0 and 1")
    x, _ = check_batch(model, x, {})
    allowed = tolerance_of(tol, None, None, x[0].numel()).nats
    assert allowed is not None
    found, truth = (
        log_likelihood(model, x, tol=t, divergence=_OneProbe(), **options).log_prob for t in (allowed, ratio * allowed)
    )
    return torch.abs(found - truth)
