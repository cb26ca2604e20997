"""The blocks of the magnitude-preserving U-Net of EDM2."""

import torch
from torch import Tensor, nn

from scoresde.networks.attention import softmax_attention
from scoresde.networks.dropout import dropout
from scoresde.networks.magnitude import MagnitudeConv, MagnitudeLinear, magnitude_silu, magnitude_sum, unit_magnitude
from scoresde.networks.resampling import Resample
from scoresde.numerics.values import at_least

__all__ = ["BlockStyle", "MagnitudeBlock", "MagnitudeDecoderBlock", "MagnitudeEncoderBlock"]


class BlockStyle:
    """What all blocks of a network have in common; the arguments are those of `EDM2UNet`."""

    def __init__(
        self,
        width: int,
        head_channels: int,
        dropout: float,
        residual_share: float,
        attention_share: float,
        clip: float | None,
        token_size: int | None = None,
    ) -> None:
        at_least("embedding_channels", width, 1)
        self.width, self.head_channels, self.dropout, self.clip = width, head_channels, dropout, clip
        self.residual_share, self.attention_share = residual_share, attention_share
        self.token_size = token_size


class MagnitudeBlock(nn.Module):
    """A residual branch that is modulated by the condition, attention, and attention to tokens."""

    reads = False  # whether the block's input has features of the encoder beside the decoder's

    def __init__(self, inputs: int, outputs: int, start: int, style: BlockStyle, attends: bool) -> None:
        super().__init__()
        self.style = style
        self.gain = nn.Parameter(torch.zeros(()))
        self.first = MagnitudeConv(start, outputs, 3)
        self.modulation = MagnitudeLinear(style.width, outputs)
        self.second = MagnitudeConv(outputs, outputs, 3)
        self.skip = MagnitudeConv(inputs, outputs, 1) if inputs != outputs else None
        heads = outputs // style.head_channels if attends else 0
        self.attention = _Attention(outputs, heads) if heads else None
        size = style.token_size
        self.to_tokens = _ToTokens(outputs, heads, size) if heads and size is not None else None

    def _residual(self, x: Tensor, condition: Tensor) -> Tensor:
        h = self.first(magnitude_silu(x))
        scale = self.modulation(condition, self.gain) + 1
        h = magnitude_silu(h * scale[:, :, None, None].to(h.dtype))
        if self.training and self.style.dropout > 0:
            h = dropout(h, self.style.dropout)
        out: Tensor = self.second(h)
        return out

    def _finished(self, x: Tensor, tokens: Tensor | None, counts: Tensor | None) -> Tensor:
        if self.attention is not None:
            x = magnitude_sum(x, self.attention(x), self.style.attention_share)
        if self.to_tokens is not None:
            x = magnitude_sum(x, self.to_tokens(x, tokens, counts), self.style.attention_share)
        return x if self.style.clip is None else x.clamp(-self.style.clip, self.style.clip)


class MagnitudeEncoderBlock(MagnitudeBlock):
    """A block that halves the image, if at all, before everything else, and normalises each pixel."""

    def __init__(
        self, inputs: int, outputs: int, style: BlockStyle, attends: bool = False, down: Resample | None = None
    ) -> None:
        super().__init__(inputs, outputs, outputs, style, attends)
        self.down = down

    def forward(
        self, x: Tensor, condition: Tensor, tokens: Tensor | None = None, counts: Tensor | None = None
    ) -> Tensor:
        x = x if self.down is None else self.down(x)
        x = x if self.skip is None else self.skip(x)
        x = unit_magnitude(x, dim=1)
        x = magnitude_sum(x, self._residual(x, condition), self.style.residual_share)
        return self._finished(x, tokens, counts)


class MagnitudeDecoderBlock(MagnitudeBlock):
    """A block that doubles the image, if at all, before everything else."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        style: BlockStyle,
        attends: bool = False,
        up: Resample | None = None,
        reads: bool = False,
    ) -> None:
        super().__init__(inputs, outputs, inputs, style, attends)
        self.up = up
        self.reads = reads

    def forward(
        self, x: Tensor, condition: Tensor, tokens: Tensor | None = None, counts: Tensor | None = None
    ) -> Tensor:
        x = x if self.up is None else self.up(x)
        residual = self._residual(x, condition)
        x = x if self.skip is None else self.skip(x)
        return self._finished(magnitude_sum(x, residual, self.style.residual_share), tokens, counts)


class _Attention(nn.Module):
    """Self-attention over the pixels by the cosines of queries and keys (Karras et al. 2024, section 2.3)."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(
                f"{channels} channels do not divide into {heads} heads of attention: choose channels, multipliers and "
                "head_channels so that they do"
            )
        self.heads = heads
        self.qkv = MagnitudeConv(channels, 3 * channels, 1)
        self.project = MagnitudeConv(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        # Channels in the order head, channel of the head, (q, k, v).
        parts = self.qkv(x).flatten(2).unflatten(1, (self.heads, -1, 3))
        q, k, v = unit_magnitude(parts, dim=2).permute(3, 0, 1, 4, 2).unbind(0)
        attended = softmax_attention(q, k, v)
        out: Tensor = self.project(attended.mT.reshape(x.shape))
        return out


class _ToTokens(nn.Module):
    """Attention of the pixels to tokens `(B, L, size)`, by the cosines of queries and keys."""

    def __init__(self, channels: int, heads: int, size: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = MagnitudeConv(channels, channels, 1)
        self.kv = MagnitudeLinear(size, 2 * channels)
        self.project = MagnitudeConv(channels, channels, 1)

    def forward(self, x: Tensor, tokens: Tensor, counts: Tensor | None) -> Tensor:
        q = unit_magnitude(self.q(x).flatten(2).unflatten(1, (self.heads, -1)), dim=2).mT
        parts = self.kv(tokens.to(x.dtype)).unflatten(2, (2, self.heads, -1))
        k, v = unit_magnitude(parts, dim=4).permute(2, 0, 3, 1, 4).unbind(0)
        attended = softmax_attention(q, k, v, counts)
        out: Tensor = self.project(attended.mT.reshape(x.shape))
        return out
