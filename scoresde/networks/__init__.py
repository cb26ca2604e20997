"""Score networks: modules ``forward(x, c_noise, labels=None)`` that return a raw output of ``x``'s shape."""

from scoresde.networks.embedding import (
    Conditioning,
    FourierFeatures,
    GaussianFourierFeatures,
    PositionalFeatures,
)
from scoresde.networks.mlp import MLP
from scoresde.networks.unet import UNet

__all__ = [
    "MLP",
    "Conditioning",
    "FourierFeatures",
    "GaussianFourierFeatures",
    "PositionalFeatures",
    "UNet",
]
