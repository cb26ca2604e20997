"""Linear combinations of a state and of what a model says about it."""

from typing import NamedTuple

import torch
from torch import Tensor

from scoresde.numerics.values import expand_to

__all__ = ["Linear", "combined"]


class Linear(NamedTuple):
    """The coefficients of a prediction on_x · x + on_output · output.

    The output is a network's raw output F, or a noise prediction ε.

    Attributes:
        on_x: Coefficients of the state, `()` or `(B,)`.
        on_output: Coefficients of the output, of the same shape.
    """

    on_x: Tensor
    on_output: Tensor

    def of(self, x: Tensor, output: Tensor) -> Tensor:
        """The prediction, of the shape of x `(B, ...)`."""
        return expand_to(self.on_x, x) * x + expand_to(self.on_output, x) * output


def combined(on_x: float, x: Tensor, on_output: float, output: Tensor) -> Tensor:
    """The prediction by coefficients that are numbers, without the kernels that a 0 or a 1 saves."""
    if on_x == 0:
        return output if on_output == 1 else on_output * output
    return torch.add(output if on_output == 1 else on_output * output, x, alpha=on_x)
