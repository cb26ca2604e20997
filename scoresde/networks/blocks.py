"""The residual block of a U-Net, which may halve or double its features, and what all blocks of a network share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scoresde.networks.attention import CrossAttention, SelfAttention
from scoresde.networks.conditioning import Modulation, Shift
from scoresde.networks.dropout import FeatureDropout
from scoresde.networks.layers import convolution, group_norm, zeroed
from scoresde.networks.recomputing import called, recomputed
from scoresde.networks.resampling import Resample

__all__ = ["BlockOptions", "ResidualBlock"]


@dataclass(frozen=True)
class BlockOptions:
    """What all residual blocks of a network share; the options of `UNet` by the same names."""

    dims: int
    condition_width: int
    dropout: float
    modulation: Literal["scale_shift", "normed_scale_shift", "shift"]
    skip_scale: float
    resampled_skip: bool
    taps: Sequence[float]
    groups: int | None
    attention_groups: int | None
    norm_eps: float
    token_size: int | None = None


class ResidualBlock(nn.Module):
    """A residual block, then residual self-attention if it has heads, and attention to tokens if there are any.

        s (skip(x) + W₂ dropout(silu(m(W₁ silu(norm₁(x)))))),

    where m, with its own normalisation, lets the conditioning vector act: (1 + scale) norm₂(h) + shift, or
    norm₂(h + shift). A block that halves or doubles does so to silu(norm₁(x)) and, on the other path, to x (BigGAN, as
    in Song et al. 2021). The module maps features `(B, inputs, ...)` and conditions `(B, width)` to
    `(B, outputs, ...)`.

    Args:
        inputs: Channels of the input.
        outputs: Channels of the output.
        options: What all blocks of the network share.
        heads: Heads of the attention; 0 for none.
        resample: Whether the block halves ("down") or doubles ("up").
        groups: Groups of the first normalisation, in place of those of the options.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        options: BlockOptions,
        heads: int = 0,
        resample: Literal["up", "down"] | None = None,
        groups: int | None = None,
    ) -> None:
        super().__init__()
        dims, eps = options.dims, options.norm_eps
        self.skip_scale = options.skip_scale
        self.shifts = options.modulation == "shift"
        self.norm1 = group_norm(inputs, options.groups if groups is None else groups, eps)
        self.conv1 = convolution(dims, inputs, outputs)
        self.norm2 = group_norm(outputs, options.groups, eps, affine=options.modulation != "scale_shift")
        self.modulation = (Shift if self.shifts else Modulation)(options.condition_width, outputs)
        self.dropout = FeatureDropout(options.dropout) if options.dropout > 0 else nn.Identity()
        self.conv2 = zeroed(convolution(dims, outputs, outputs))
        projects = inputs != outputs or (resample is not None and options.resampled_skip)
        self.skip = convolution(dims, inputs, outputs, size=1) if projects else nn.Identity()
        self.rate = options.dropout
        self.resample = nn.Identity() if resample is None else Resample(dims, options.taps, resample)
        self.attention = (
            SelfAttention(outputs, heads, self.skip_scale, options.attention_groups, eps) if heads else None
        )
        self.to_tokens = (
            CrossAttention(outputs, heads, options.token_size, self.skip_scale, options.attention_groups, eps)
            if heads and options.token_size is not None
            else None
        )

    def forward(
        self,
        x: Tensor,
        condition: Tensor,
        tokens: Tensor | None = None,
        counts: Tensor | None = None,
        joined: Tensor | None = None,
        recompute: bool = False,
    ) -> Tensor:
        """The features after the block.

        Args:
            x: Features `(B, ...)`, all of the input's channels or, with `joined`, the first of them.
            condition: Conditioning vectors `(B, width)`.
            tokens: Tokens `(B, L, size)` for blocks that attend to them.
            counts: Which tokens count; see `attend`.
            joined: The other channels.
            recompute: Keep only inputs of normalisations for the backward pass; those of convolutions are computed
                again, and no convolution.
        """
        run = recomputed if recompute else called
        if not recompute:
            x, joined = _concatenated(x, joined), None
        h = run(self._convolved, x, joined)
        if self.shifts:
            h = self.modulation(h, condition)
        h = run(self._convolved_again, h, condition, draws=self.training and self.rate > 0)
        out = run(self._skipped, x, joined) + h
        if self.skip_scale != 1:
            out = out * self.skip_scale
        if self.attention is not None:
            out = self.attention(out, recompute)
        if self.to_tokens is not None and tokens is not None:
            out = run(self.to_tokens, out, tokens, counts)
        result: Tensor = out
        return result

    # Each ends with the convolution, which computing again need not reach.

    def _convolved(self, x: Tensor, joined: Tensor | None) -> Tensor:
        out: Tensor = self.conv1(self.resample(F.silu(self.norm1(_concatenated(x, joined)))))
        return out

    def _convolved_again(self, h: Tensor, condition: Tensor) -> Tensor:
        h = self.norm2(h)
        if not self.shifts:
            h = self.modulation(h, condition)
        out: Tensor = self.conv2(self.dropout(F.silu(h)))
        return out

    def _skipped(self, x: Tensor, joined: Tensor | None) -> Tensor:
        out: Tensor = self.skip(self.resample(_concatenated(x, joined)))
        return out


def _concatenated(x: Tensor, joined: Tensor | None) -> Tensor:
    return x if joined is None else torch.cat((x, joined), dim=1)
