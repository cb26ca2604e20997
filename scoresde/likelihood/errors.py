"""Samples whose likelihood could not be found."""

from typing import Any

from torch import Tensor

__all__ = ["LikelihoodError", "remedy"]

# Standard deviations from the mean beyond which a sample that fails is said to be too far from the data.
_FAR = 100.0


class LikelihoodError(ArithmeticError):
    """Samples whose path could not be followed, or whose value is not finite; the results of the others are kept.

    Attributes:
        samples: Indices of the samples.
        status: `(B,)` int64, the `scoresde.numerics.ode.Status` of every sample.
        result: A `LogLikelihood`, a `Bound`, or the other end of the paths `(B, ...)`, with NaN for these samples.
    """

    def __init__(self, message: str, samples: list[int], status: Tensor, result: Any) -> None:
        super().__init__(message)
        self.samples = samples
        self.status = status
        self.result = result


def remedy(y: Tensor, others: str = "") -> str:
    """The end of a message on a sample that failed: what to do about it.

    Args:
        y: Scaled state `(D,)` from which the sample started.
        others: Further things to try, such as `"loosen the tolerance, "`.
    """
    distance = float(y.abs().max())
    if distance > _FAR:
        return (
            f", which lies {distance:.3g} standard deviations from the data's mean, too far for the model: leave "
            "out samples that far from the data, or bring them to the data's units"
        )
    return f": {others}raise t_min, or check the model for values that are not finite"
