"""Samples whose likelihood could not be found, and warnings about others."""

import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = ["LikelihoodError", "remedy", "warn_caller"]

_PACKAGE = Path(__file__).parent.parent
# Files in which nothing asks for a likelihood: what computes it, the check of arguments, and torch's decorators.
_INSIDE = tuple(
    str(path)
    for path in (
        _PACKAGE / "likelihood",
        _PACKAGE / "information",
        _PACKAGE / "arguments.py",
        Path(torch.__file__).parent,
    )
)

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


def warn_caller(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the line that asked for a likelihood, through however many functions of this package."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_INSIDE):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
