"""Dropout that is fast on CPUs."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["FeatureDropout", "dropout"]

_CELLS = 2**16


class FeatureDropout(nn.Dropout):
    """Dropout in training; see `dropout`."""

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p) if self.training else x


def dropout(x: Tensor, rate: float) -> Tensor:
    """Features `(B, ...)` of which a share `rate` is set to 0 at random, and the others divided by 1 − rate.

    On a CPU the rate is rounded to a multiple of 2⁻¹⁶, and four draws are taken from 64 random bits: torch's own
    dropout takes twice as long there, and four times the memory for the backward pass.
    """
    if x.device.type != "cpu" or not x.is_contiguous() or x.numel() == 0 or torch.compiler.is_compiling():
        return F.dropout(x, rate)
    zeros = min(round(rate * _CELLS), _CELLS - 1)
    size = x[0].numel()
    words = torch.empty((len(x), -(-size // 4)), dtype=torch.int64).random_(-(2**63), None)
    kept = words.view(torch.int16)[:, :size] >= zeros - _CELLS // 2
    return x * (_CELLS / (_CELLS - zeros)) * kept.reshape(x.shape)
