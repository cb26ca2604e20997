"""The part of a log-likelihood's error that the solver makes, measured.

`log_likelihood` estimates this error for every sample (`solver_stderr`), and is on the safe side. Here the same samples
are solved again at a smaller tolerance, which tells it itself.
"""

from typing import Any

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.likelihood.density import log_likelihood
from scoresde.likelihood.inputs import check_batch
from scoresde.likelihood.numbering import sample_of
from scoresde.likelihood.options import FlowOptions
from scoresde.numerics.jacobian import Function
from scoresde.numerics.trace import Exact, Hutchinson, Known, Traces
from scoresde.score import ScoreModel

__all__ = ["solver_error"]


class _OneProbe(Hutchinson):
    """One probe for the whole path of a sample, so that its error is the same at every tolerance."""

    def for_shape(self, shape: tuple[int, ...]) -> "_OneProbe":
        return self

    def traces(self, function: Function, x: Tensor, seed: int, indices: Tensor, known: Known | None = None) -> Traces:
        return super().traces(function, x, seed, sample_of(indices), known)


@checked
def solver_error(
    model: ScoreModel, x: Tensor, *, tol: float | None = None, ratio: float = 0.03, **options: Any
) -> Tensor:
    """The change `(B,)` of the log-densities of x, in nats, when the tolerance is multiplied by `ratio`.

    A network's divergence is taken along one probe for each sample, which represents the exact divergence at the cost
    of a random one. That of an exact score is exact.

    Args:
        model: The score model.
        x: Samples `(B, ...)`; some tens of them show the size of the error for a data set.
        tol: Tolerance in nats, as for `log_likelihood`.
        ratio: Factor of the smaller tolerance.
        **options: Other options of `log_likelihood`, except `divergence`, `rtol` and `atol`.

    Raises:
        ValueError: As `log_likelihood`, a ratio that is not between 0 and 1, or `corrected` for a network.
    """
    if not 0 < ratio < 1:
        raise ValueError(f"ratio is {ratio}, expected a number between 0 and 1")
    if not model.exact and options.get("corrected", getattr(options.get("options"), "corrected", False)):
        raise ValueError(
            "solver_error follows one probe, to which the correction of corrected=True does not belong: compare "
            "log_likelihood with divergence=Exact() at two tolerances"
        )
    x, _ = check_batch(model, x, {})
    nats = FlowOptions(tol=tol).tolerance(x[0].numel()).nats
    assert nats is not None
    divergence = Exact() if model.exact else _OneProbe()
    coarse, fine = (
        log_likelihood(model, x, tol=t, divergence=divergence, **options).log_prob for t in (nats, ratio * nats)
    )
    return torch.abs(coarse - fine)
