"""The sliced Wasserstein distance."""

import math

import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.metrics.distances import BLOCK
from scoresde.metrics.estimate import Estimate
from scoresde.metrics.features import PCA, FeatureMap, Samples, paired_features

__all__ = ["sliced_wasserstein"]


@checked
def sliced_wasserstein(
    a: Samples,
    b: Samples,
    projections: int = 512,
    seed: int = 0,
    features: PCA | FeatureMap | None = None,
) -> Estimate:
    """Sliced 2-Wasserstein distance, in the units of the features (Bonneel et al. 2015).

    It is the root of the mean over directions θ of W₂²(θ·a, θ·b); in one dimension W₂² is the mean squared difference
    of the sorted values. Directions come in random orthonormal blocks (Rowland et al. 2019), so that a pure shift δ
    gives |δ|/√F exactly if F divides `projections`.

    The standard error is that of the delta method: the derivative of W₂² with respect to a sample's weight is its
    Kantorovich potential (del Barrio & Loubes 2019). It covers fresh draws of both sets. It does not cover the choice
    of directions, which the seed fixes for all sets alike, nor the bias (positive, of order n^−½ if the two
    distributions agree). If they agree, the first derivative vanishes and the reported error is up to about twice the
    true one.

    Args:
        a: Generated samples, `(N, ...)`.
        b: Reference samples, `(N, ...)`.
        projections: Number of directions.
        seed: Seed of the directions.
        features: None, a `PCA`, or a function; see `paired_features`.

    Raises:
        ValueError: Samples that do not fit (see `paired_features`) or fewer than 1 projection.
    """
    if projections < 1:
        raise ValueError(f"projections must be at least 1, got {projections}")
    x, y = paired_features(a, b, features)
    n, dimension = x.shape
    directions = _directions(projections, dimension, torch.Generator().manual_seed(seed))
    total = 0.0
    potential_x, potential_y = torch.zeros(n, dtype=x.dtype), torch.zeros(n, dtype=x.dtype)
    for block in torch.split(directions, max(1, BLOCK // n)):
        px, order_x = (block @ x.T).sort(dim=1)
        py, order_y = (block @ y.T).sort(dim=1)
        gap = px - py
        total += gap.square().sum().item()
        # φ' = 2 (x − T(x)) by the trapezium rule; then φ(x_i) + ψ(y_i) = (x_i − y_i)² holds exactly.
        phi = torch.zeros_like(gap)
        phi[:, 1:] = ((gap[:, 1:] + gap[:, :-1]) * px.diff(dim=1)).cumsum(dim=1)
        phi -= phi.mean(dim=1, keepdim=True)
        potential_x.index_add_(0, order_x.flatten(), phi.flatten())
        potential_y.index_add_(0, order_y.flatten(), (gap.square() - phi).flatten())
    value = math.sqrt(total / (projections * n))
    variance = (potential_x.var() + potential_y.var()).item() / (projections**2 * n)
    stderr = math.sqrt(variance) / (2 * value) if value > 0 else 0.0
    return Estimate(value, stderr, n, "sliced_wasserstein")


def _directions(count: int, dimension: int, generator: torch.Generator) -> Tensor:
    """Uniform unit vectors `(count, F)`, orthonormal within each block of F of them."""
    size = min(count, dimension)
    blocks = -(-count // size)
    gaussian = torch.randn(blocks, dimension, size, generator=generator, dtype=torch.float64)
    basis: Tensor = torch.linalg.qr(gaussian).Q
    return basis.transpose(1, 2).reshape(-1, dimension)[:count]
