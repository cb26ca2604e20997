"""Attention of the places of a feature map: to each other, and to tokens."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scoresde.networks.layers import group_norm, zeroed
from scoresde.networks.recomputing import called, recomputed

__all__ = ["CrossAttention", "SelfAttention", "attend", "softmax_attention"]

# Most places for which a CPU computes the weights of attention in 16 bits all at once.
_MAX_PLACES = 512


class SelfAttention(nn.Module):
    """Residual self-attention over all places of features `(B, channels, ...)`, by torch's fused kernels.

        s (x + W_o softmax(q kᵀ/√d) v),    (q, k, v) = W norm(x),

    with d channels in each head. `qkv` gives q, k and v one after the other, and the channels of each head together.

    Args:
        channels: Number of channels.
        heads: Number of heads, which divides the channels.
        skip_scale: Factor s of the sum.
        groups: Groups of the normalisation; None for the usual number, 0 for no normalisation.
        eps: What is added to the variances of the normalisation.

    Raises:
        ValueError: Heads or groups that do not divide the channels.
    """

    def __init__(
        self, channels: int, heads: int, skip_scale: float, groups: int | None = None, eps: float = 1e-5
    ) -> None:
        super().__init__()
        if heads < 1 or channels % heads:
            raise ValueError(f"{channels} channels do not divide into {heads} heads: choose other channels or heads")
        self.heads = heads
        self.skip_scale = skip_scale
        self.norm = nn.Identity() if groups == 0 else group_norm(channels, groups, eps)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.project = zeroed(nn.Linear(channels, channels))

    def forward(self, x: Tensor, recompute: bool = False) -> Tensor:
        """The features after attention; `recompute` computes it again for the backward pass and keeps its input."""
        out: Tensor = x + (recomputed if recompute else called)(self._attended, x)
        return out if self.skip_scale == 1 else out * self.skip_scale

    def _attended(self, x: Tensor) -> Tensor:
        tokens = self.norm(x).flatten(2).mT
        q, k, v = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        attended = softmax_attention(q, k, v).transpose(1, 2).flatten(2)
        out: Tensor = self.project(attended).mT.unflatten(2, x.shape[2:])
        return out


class CrossAttention(nn.Module):
    """Residual attention of features `(B, channels, ...)` to tokens `(B, L, size)` (Rombach et al. 2022, section 3.3).

        s (x + W_o softmax(q kᵀ/√d) v),    q = W_q norm(x),   (k, v) = W tokens,

    with d channels in each head. W_o starts at zero.

    Args:
        channels: Number of channels.
        heads: Number of heads, which divides the channels.
        size: Length of a token.
        skip_scale: Factor s of the sum.
        groups: Groups of the normalisation; None for the usual number, 0 for no normalisation.
        eps: What is added to the variances of the normalisation.

    References:
        Rombach et al. 2022, High-resolution image synthesis with latent diffusion models,
            https://arxiv.org/abs/2112.10752
    """

    def __init__(
        self, channels: int, heads: int, size: int, skip_scale: float, groups: int | None = None, eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.heads = heads
        self.skip_scale = skip_scale
        self.norm = nn.Identity() if groups == 0 else group_norm(channels, groups, eps)
        self.q = nn.Linear(channels, channels)
        self.kv = nn.Linear(size, 2 * channels)
        self.project = zeroed(nn.Linear(channels, channels))

    def forward(self, x: Tensor, tokens: Tensor, counts: Tensor | None) -> Tensor:
        attended = attend(self.q(self.norm(x).flatten(2).mT), self.kv(tokens), self.heads, counts)
        out: Tensor = x + self.project(attended).mT.unflatten(2, x.shape[2:])
        return out if self.skip_scale == 1 else out * self.skip_scale


def attend(q: Tensor, kv: Tensor, heads: int, counts: Tensor | None) -> Tensor:
    """Attention of queries `(B, N, C)` to keys and values `(B, L, 2C)` in so many heads, `(B, N, C)`.

    Args:
        q: The queries.
        kv: The keys, and the values behind them.
        heads: Number of heads.
        counts: Which keys count, `(B, 1, 1, L)` boolean; None for all.
    """
    queries = q.unflatten(2, (heads, -1)).transpose(1, 2)
    keys, values = kv.unflatten(2, (2, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    found = softmax_attention(queries, keys, values, counts)
    return found.transpose(1, 2).flatten(2)


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, counts: Tensor | None = None) -> Tensor:
    """softmax(q kᵀ/√d) v of `(B, heads, places, d)` each, by torch's fused kernels where they are the fastest.

    `counts` says which keys count, `(B, 1, 1, places)` boolean; None for all.
    """
    if counts is None and q.device.type == "cpu" and q.dtype == torch.bfloat16 and k.shape[-2] <= _MAX_PLACES:
        # The fused kernel of 16 bits takes up to 6 times as long as this. Products q kᵀ are float32 in both.
        with torch.autocast("cpu", enabled=False):
            weights = torch.softmax((q.float() * q.shape[-1] ** -0.5) @ k.float().mT, dim=-1)
            return weights.to(v.dtype) @ v
    return F.scaled_dot_product_attention(q, k, v, attn_mask=counts)
