"""Measurements of some of the numbers of a sample: inpainting, and any subsampling."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.inverse.operator import LinearOperator
from scoresde.inverse.singular_values import SingularValues, positions_of, spread

__all__ = ["Mask"]


@checked
class Mask(LinearOperator):
    """The numbers of a sample that are kept, as a vector `(M,)` in their order; all singular values are 1.

    The adjoint puts them back at their places, and 0 elsewhere. `Mask.outside_box` and `Mask.random` make masks.

    Args:
        mask: True where a number is measured, of a shape that broadcasts to that of a sample, such as `(H, W)`.
        shape: The shape of a sample; that of the mask if not given.

    Raises:
        ValueError: A mask that is not of True and False, does not fit the shape, or keeps nothing.

    >>> operator = Mask([True, False, True])
    >>> operator(torch.tensor([[1.0, 2.0, 3.0]])), operator.adjoint(torch.tensor([[1.0, 3.0]]))
    (tensor([[1., 3.]]), tensor([[1., 0., 3.]]))
    """

    kept: Tensor
    positions: Tensor

    def __init__(self, mask: Tensor, shape: Sequence[int] | None = None) -> None:
        shape = tuple(mask.shape if shape is None else shape)
        if mask.dtype != torch.bool and not bool(((mask == 0) | (mask == 1)).all()):
            raise ValueError("mask has values other than 0 and 1, expected True where a number is measured")
        try:
            whole = mask.bool().cpu().expand(shape)
        except RuntimeError:
            raise ValueError(f"mask has shape {tuple(mask.shape)}, which does not broadcast to {shape}") from None
        kept = whole.flatten().nonzero()[:, 0]
        if not len(kept):
            raise ValueError("mask is False everywhere, so that nothing is measured")
        super().__init__(shape, (len(kept),))
        self.register_buffer("kept", kept)
        self.register_buffer("positions", positions_of(kept, math.prod(shape)))
        self._values = MaskSingularValues(self)

    @staticmethod
    def outside_box(shape: Sequence[int], share: float = 0.5) -> "Mask":
        """All but a box in the middle, or as near to it as there is: inpainting.

        Args:
            shape: The shape of a sample: `(C, H, W)`, or that of a vector `(D,)`.
            share: The length of the box in each direction, as a part of that of the sample.

        Raises:
            ValueError: A share that is not between 0 and 1, or a sample of a single number.
        """
        _check_share("share", share)
        mask = torch.zeros(tuple(shape), dtype=torch.bool)
        for axis in range(1 if len(shape) > 1 else 0, len(shape)):
            size = shape[axis]
            length = min(max(1, round(share * size)), size - 1) if size > 1 else 1
            start = (size - length) // 2
            inside = torch.arange(size)
            outside = (inside < start) | (inside >= start + length)
            mask |= outside.reshape(-1, *[1] * (len(shape) - axis - 1))
        return Mask(mask)

    @staticmethod
    def random(shape: Sequence[int], share: float, seed: int = 0) -> "Mask":
        """A random part of the numbers; of the pixels, with all channels of each, if the shape is `(C, H, W)`.

        Args:
            shape: The shape of a sample.
            share: The part that is measured, at least one number.
            seed: The seed of the choice.

        Raises:
            ValueError: A share that is not between 0 and 1.
        """
        _check_share("share", share)
        places = tuple(shape[1:] if len(shape) > 1 else shape)
        count = math.prod(places)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
        mask = torch.zeros(count, dtype=torch.bool)
        mask[order[: max(1, round(share * count))]] = True
        return Mask(mask.reshape(places), shape)

    def measure(self, x: Tensor) -> Tensor:
        return x.flatten(1).index_select(1, self.kept)

    def back(self, y: Tensor) -> Tensor:
        return spread(y, self.positions).reshape(-1, *self.shape)

    @property
    def singular_values(self) -> SingularValues:
        return self._values


class MaskSingularValues(SingularValues):
    """Those of a mask: U is the identity, and V puts numbers at their places.

    Args:
        mask: The mask.
    """

    kept: Tensor
    positions: Tensor

    def __init__(self, mask: Mask) -> None:
        super().__init__()
        self.register_buffer("kept", mask.kept)
        self.register_buffer("positions", mask.positions)
        self.register_buffer("values", torch.ones(len(mask.kept), dtype=torch.float64))
        self.shape = mask.shape

    def to_right(self, x: Tensor) -> Tensor:
        return x.flatten(1).index_select(1, self.kept)

    def from_right(self, coefficients: Tensor) -> Tensor:
        return spread(coefficients, self.positions).reshape(-1, *self.shape)

    def to_left(self, y: Tensor) -> Tensor:
        return y

    def from_left(self, coefficients: Tensor) -> Tensor:
        return coefficients


def _check_share(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{name} is {value}, expected a part between 0 and 1")
