"""A residual multilayer perceptron for vectors and other small events."""

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from scoresde.arguments import checked
from scoresde.networks.conditioning import Conditioning, Modulation, check_inputs
from scoresde.networks.conditions import (
    Draws,
    Dropout,
    Size,
    check_superfluous,
    condition_rates,
    condition_shapes,
    has_unconditional,
    settled,
)
from scoresde.networks.dropout import FeatureDropout

__all__ = ["MLP", "MLPBlock"]


@checked
class MLP(nn.Module):
    """A residual perceptron for events of any shape, flattened inside.

    Every block is h + W₂ silu(W₁ modulate(layer_norm(h))), where noise level and label set the scale and shift. The
    residual path is not normalised, so the output keeps a linear path from x. The output layer starts at zero: a new
    network returns exactly zero.

    Args:
        shape: Shape of one event, without the batch.
        width: Width of the residual path, the blocks and the conditioning vector.
        blocks: Number of residual blocks.
        embedding: Noise-level features; see `Conditioning`.
        num_classes: Number of classes, or None.
        label_dropout: Rate at which labels are dropped in training; see `Conditioning`.
        dropout: Rate of dropout of the hidden features of each block, in [0, 1).
        learn_variance: Return twice the channels, `(B, 2C, ...)`; the second half is for the variances of the reverse
            steps (Nichol & Dhariwal 2021), as `NetworkScore` takes it.
        vector_size: Number of values of a vector that samples are conditioned on, or None.
        condition_dropout: Rate at which the vector is dropped in training, in [0, 1); a label is then dropped together
            with it, at its own rate.

    Raises:
        ValueError: A size below 1, or a rate outside [0, 1).

    >>> import torch
    >>> MLP((2,), width=16, num_classes=3)(torch.ones(1, 2), torch.zeros(1), torch.tensor([2])).tolist()
    [[0.0, 0.0]]
    """

    def __init__(
        self,
        shape: Sequence[int],
        width: int = 256,
        blocks: int = 4,
        embedding: nn.Module | None = None,
        num_classes: int | None = None,
        label_dropout: float = 0.0,
        dropout: float = 0.0,
        learn_variance: bool = False,
        vector_size: Size = None,
        condition_dropout: Dropout = 0.0,
    ) -> None:
        super().__init__()
        self.shape = tuple(shape)
        if not self.shape or min(self.shape) < 1:
            raise ValueError(f"shape must be one or more positive sizes, for example (2,), got {self.shape}")
        if width < 1 or blocks < 1:
            raise ValueError(f"width and blocks must be at least 1, got {width} and {blocks}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")
        self.num_classes = num_classes
        self.learn_variance = learn_variance
        vector_size = settled("vector", vector_size)
        self.condition_dropout = condition_dropout
        self.condition_shapes = condition_shapes(vector_size)
        rates = condition_rates(condition_dropout, {"vector": vector_size})
        self.has_unconditional = has_unconditional(num_classes, label_dropout, rates)
        """Whether all conditions are dropped in training, so that the network was trained for samples without."""
        size = math.prod(self.shape)
        self.conditioning = Conditioning(
            width,
            embedding,
            num_classes,
            label_dropout,
            vector_size=vector_size,
            vector_dropout=rates.get("vector", 0.0),
        )
        self.input = nn.Linear(size, width)
        self.blocks = nn.ModuleList(MLPBlock(width, dropout) for _ in range(blocks))
        self.output = nn.Linear(width, (1 + learn_variance) * size)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(
        self,
        x: Tensor,
        c_noise: Tensor,
        labels: Tensor | None = None,
        dropped: Tensor | None = None,
        vector: Tensor | None = None,
    ) -> Tensor:
        """Raw output of the network, of the shape of `x`, or with twice its channels if it learns variances.

        Args:
            x: Scaled states, `(B, *shape)`.
            c_noise: Noise levels, `(B,)`.
            labels: Classes, `(B,)` int64; see `Conditioning`.
            dropped: True for samples that are to be without their conditions, `(B,)` boolean; none if not given.
            vector: Vectors that samples are conditioned on, `(B, vector_size)`, in their own units.

        Raises:
            TypeError: Conditions of another dtype, or `dropped` that is not boolean.
            ValueError: A shape that does not fit, or conditions that are missing, superfluous or out of range.
        """
        check_inputs(x, c_noise, self.shape)
        check_superfluous({"vector": vector}, self.condition_shapes)
        draws = Draws.of(c_noise, dropped, self.condition_dropout, self.training)
        condition = self.conditioning(c_noise, labels, None, draws, vector)
        h = self.input(x.flatten(1))
        for block in self.blocks:
            h = block(h, condition)
        out: Tensor = self.output(h).view(len(x), (1 + self.learn_variance) * self.shape[0], *self.shape[1:])
        return out


class MLPBlock(nn.Module):
    """A residual block of two layers."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = Modulation(width, width)
        self.hidden = nn.Linear(width, width)
        self.dropout = FeatureDropout(dropout) if dropout > 0 else nn.Identity()
        self.project = nn.Linear(width, width)

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        hidden = self.hidden(self.modulation(self.norm(h), condition))
        out: Tensor = h + self.project(self.dropout(F.silu(hidden)))
        return out
