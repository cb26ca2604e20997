"""Images without their colours: colourisation."""

from collections.abc import Sequence

import torch

from scoresde.arguments import checked
from scoresde.inverse.separable import SeparableOperator

__all__ = ["GreyScale"]


@checked
class GreyScale(SeparableOperator):
    """A weighted sum of the channels of each pixel, `(1, H, W)`; the singular values are the length of the weights.

    Args:
        shape: The shape of a sample, `(C, H, W)`.
        weights: The weights of the channels; those of luma (ITU-R BT.601) if not given, for three channels.

    Raises:
        ValueError: Samples that are not images of several channels, or weights of another number.
    """

    def __init__(self, shape: Sequence[int], weights: Sequence[float] | None = None) -> None:
        if len(shape) != 3 or shape[0] < 2:
            raise ValueError(f"samples have shape {tuple(shape)}, expected images of several channels, (3, H, W)")
        weights = (0.299, 0.587, 0.114) if weights is None else weights
        if len(weights) != shape[0]:
            raise ValueError(f"there are {len(weights)} weights for the {shape[0]} channels of samples")
        super().__init__(shape, [torch.tensor([list(weights)], dtype=torch.float64), None, None])
