"""Models with a known answer for guidance: a class in a mixture, exact and as a network with labels."""

from typing import Any

import torch
from torch import Tensor, nn

from scoresde.networks import MLP
from scoresde.preconditioning import EDMPreconditioning
from scoresde.score import GaussianMixtureScore, NetworkScore
from scoresde.sde import EDMSDE, SDE
from tests.problems import F64, generator


def classes(sde: SDE, dim: int = 2, seed: int = 0) -> tuple[GaussianMixtureScore, GaussianMixtureScore]:
    """A class of two modes, and the mixture of six modes that it is part of."""
    means = torch.randn(6, dim, dtype=F64, generator=generator(seed))
    variances = torch.full((6,), 0.2**2, dtype=F64)
    one = GaussianMixtureScore(torch.ones(2), means[:2], variances[:2], sde)
    return one, GaussianMixtureScore(torch.ones(6), means, variances, sde)


class CountingMLP(MLP):
    """A perceptron of two classes that counts its calls and the samples in them."""

    def __init__(self, **options: Any) -> None:
        super().__init__((3,), width=16, blocks=1, num_classes=2, **options)
        self.calls: list[int] = []

    def forward(
        self, x: Tensor, c_noise: Tensor, labels: Tensor | None = None, dropped: Tensor | None = None
    ) -> Tensor:
        self.calls.append(len(x))
        return super().forward(x, c_noise, labels, dropped)


def network(sde: SDE | None = None, label_dropout: float = 0.1, seed: int = 0) -> tuple[NetworkScore, CountingMLP]:
    """A network of random weights with labels, and its score model."""
    torch.manual_seed(seed)
    made = CountingMLP(label_dropout=label_dropout)
    with torch.no_grad():
        for p in made.parameters():
            nn.init.normal_(p, std=0.4)
    return NetworkScore(made, EDMSDE() if sde is None else sde, EDMPreconditioning(0.5)).eval(), made
