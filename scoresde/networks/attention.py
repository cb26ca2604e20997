"""Self-attention over the places of a feature map."""

import torch.nn.functional as F
from torch import Tensor, nn

from scoresde.networks.layers import group_norm, zeroed

__all__ = ["SelfAttention"]


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

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x).flatten(2).mT
        q, k, v = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        out: Tensor = x + self.project(attended).mT.unflatten(2, x.shape[2:])
        return out if self.skip_scale == 1 else out * self.skip_scale
