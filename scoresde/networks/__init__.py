"""Score networks: modules `forward(x, c_noise, labels=None)` that return a raw output of the shape of `x`.

And classifiers of noised samples, `forward(x, c_noise)`, that return logits.
"""

from scoresde.networks.classifiers import MLPClassifier, UNetClassifier
from scoresde.networks.conditioning import Conditioning
from scoresde.networks.dit import DiT
from scoresde.networks.edm2 import EDM2UNet, LogVariance
from scoresde.networks.embedding import (
    FourierFeatures,
    GaussianFourierFeatures,
    LevelEmbedding,
    PositionalFeatures,
    TableEmbedding,
)
from scoresde.networks.magnitude import MagnitudeFourier
from scoresde.networks.mlp import MLP
from scoresde.networks.published import adm, ddpm, ddpmpp, ncsnpp, song_ddpmpp, song_ncsnpp
from scoresde.networks.unet import UNet

__all__ = [
    "MLP",
    "Conditioning",
    "DiT",
    "EDM2UNet",
    "FourierFeatures",
    "GaussianFourierFeatures",
    "LevelEmbedding",
    "LogVariance",
    "MLPClassifier",
    "MagnitudeFourier",
    "PositionalFeatures",
    "TableEmbedding",
    "UNet",
    "UNetClassifier",
    "adm",
    "ddpm",
    "ddpmpp",
    "ncsnpp",
    "song_ddpmpp",
    "song_ncsnpp",
]
