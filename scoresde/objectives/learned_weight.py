"""The logarithm of the loss at each noise level, learned beside the network, by which the loss is divided."""

import torch
from torch import Tensor, nn

from scoresde.networks import MagnitudeFourier
from scoresde.score import ScoreModel

__all__ = ["LogLoss", "in_full_precision", "own_log_loss"]


class LogLoss(nn.Module):
    """u(c) = w · φ(c) + b on random Fourier features φ of c = ¼ log(σ/α) (Karras et al. 2024, eq. 21).

    It starts at 0, where the learned weight e^{−u} is 1, and is no part of the network. The module maps c `(B,)` to
    u `(B,)`.

    Args:
        channels: Number of features.
    """

    def __init__(self, channels: int = 128) -> None:
        super().__init__()
        self.embedding = MagnitudeFourier(channels)
        self.linear = nn.Linear(channels, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, c_noise: Tensor) -> Tensor:
        out: Tensor = self.linear(self.embedding(c_noise).to(self.linear.weight.dtype))[:, 0]
        return out


def own_log_loss(model: ScoreModel) -> nn.Module | None:
    """The `log_variance` that the model's network holds itself, as `EDM2UNet` may; None without one."""
    own = getattr(getattr(model, "unwrapped", None), "log_variance", None)
    return own if isinstance(own, nn.Module) else None


def in_full_precision(module: nn.Module, c_noise: Tensor) -> Tensor:
    """u(c) `(B,)`, outside of autocast, which would round it to three digits."""
    with torch.autocast(c_noise.device.type, enabled=False):
        out: Tensor = module(c_noise)
    return out
