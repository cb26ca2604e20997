"""A density in the plane that depends on a vector and is known exactly for each."""

import math

import numpy as np
import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.data.affine import Identity
from scoresde.data.base import Data, check_seed
from scoresde.storage.limits import check_memory

__all__ = ["gaussian_arc", "gaussian_arc_log_prob", "gaussian_arc_moments"]

_ANGLES = (0.0, 270.0)  # degrees
_WIDTHS = (0.05, 0.25)


@checked
def gaussian_arc_moments(vector: Tensor) -> tuple[Tensor, Tensor]:
    """Means `(B, 2)` and standard deviations `(B,)` of the Gaussians of `gaussian_arc`, in float64.

    For a vector c = (a, w) of an angle in degrees and a width, p(x | c) = N((cos a, sin a), w² I).

    Args:
        vector: `(B, 2)` conditions.

    Raises:
        ValueError: Another shape.
    """
    if vector.ndim != 2 or vector.shape[1] != 2:
        raise ValueError(f"vector has shape {tuple(vector.shape)}, expected (B, 2): an angle in degrees and a width")
    angle, width = vector.double().unbind(1)
    angle = angle * (math.pi / 180)
    return torch.stack((angle.cos(), angle.sin()), dim=1), width


@checked
def gaussian_arc_log_prob(x: Tensor, vector: Tensor) -> Tensor:
    """log p(x | c) of points `(B, 2)` given vectors `(B, 2)`, `(B,)` float64 in nats."""
    means, widths = gaussian_arc_moments(vector)
    square = ((x.double() - means) / widths[:, None]).square().sum(1)
    return -0.5 * square - math.log(2 * math.pi) - 2 * widths.log()


@checked
def gaussian_arc(n_train: int = 10_000, n_test: int = 2_000, seed: int = 0) -> Data:
    """Points around places on three quarters of the unit circle, given the place and the width of the Gaussian there.

    The condition `vector` is an angle, uniform in 0 to 270 degrees, and a width, uniform in 0.05 to 0.25; see
    `gaussian_arc_moments`. Training and test points come from two independent streams of one seed.

    Raises:
        ValueError: An empty split or a negative seed.
    """
    if n_train < 1 or n_test < 1:
        raise ValueError(f"gaussian_arc: n_train and n_test must be at least 1, got {n_train} and {n_test}")
    check_seed(seed, "gaussian_arc: seed")
    check_memory(64 * (n_train + n_test), f"gaussian_arc: {n_train} and {n_test} samples")
    points, conditions = [], []
    for stream, n in enumerate((n_train, n_test)):
        rng = np.random.default_rng([seed, stream])
        vector = np.stack((rng.uniform(*_ANGLES, n), rng.uniform(*_WIDTHS, n)), axis=1)
        conditions.append(torch.from_numpy(vector).float())
        means, widths = gaussian_arc_moments(conditions[-1])
        points.append((means + widths[:, None] * torch.from_numpy(rng.standard_normal((n, 2)))).float())
    return Data(
        name="gaussian_arc",
        train=points[0],
        test=points[1],
        transform=Identity(),
        train_conditions={"vector": conditions[0]},
        test_conditions={"vector": conditions[1]},
    )
