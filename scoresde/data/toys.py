"""Two-dimensional densities to look at, and Gaussian mixtures whose scores are known exactly.

All but `two_gaussians` are generated at the model's scale (within a circle or square of about unit size around 0), and
all use the identity transform: constants estimated from a finite sample would make the mixtures' exact densities
inexact.
Training and test points come from two independent streams of one seed, so the size of one does not change the
other.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.data.affine import Identity
from scoresde.data.base import Data, check_seed
from scoresde.storage.limits import check_memory

__all__ = [
    "checkerboard",
    "eight_gaussians",
    "eight_gaussians_mixture",
    "grid_gaussians",
    "grid_gaussians_mixture",
    "swiss_roll",
    "two_gaussians",
    "two_gaussians_mixture",
    "two_moons",
]

Draw = Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray | None]]
"""Points `(n, 2)` and, where there are classes, labels `(n,)`."""


@checked
def eight_gaussians_mixture(std: float = 0.05) -> tuple[Tensor, Tensor, Tensor]:
    """Weights `(8,)`, means `(8, 2)` and covariances `(8, 2, 2)` of `eight_gaussians`, exact, in float64.

    Component k sits at angle kπ/4 on the unit circle.

    Raises:
        ValueError: `std` is not positive.
    """
    angles = torch.arange(8, dtype=torch.float64) * (math.pi / 4)
    return _equal_mixture(torch.stack([angles.cos(), angles.sin()], dim=1), std)


@checked
def grid_gaussians_mixture(std: float = 0.05) -> tuple[Tensor, Tensor, Tensor]:
    """Weights `(25,)`, means `(25, 2)` and covariances `(25, 2, 2)` of `grid_gaussians`, exact, in float64.

    Component 5i + j sits at (-1 + i/2, -1 + j/2).

    Raises:
        ValueError: `std` is not positive.
    """
    ticks = torch.linspace(-1, 1, 5, dtype=torch.float64)
    return _equal_mixture(torch.cartesian_prod(ticks, ticks), std)


@checked
def two_gaussians_mixture() -> tuple[Tensor, Tensor, Tensor]:
    """Weights `(2,)`, means `(2, 2)` and covariances `(2, 2, 2)` of `two_gaussians`, exact, in float64."""
    means = torch.tensor([[-5.0, -5.0], [5.0, 5.0]], dtype=torch.float64)
    weights = torch.tensor([0.2, 0.8], dtype=torch.float64)
    return weights, means, torch.eye(2, dtype=torch.float64).repeat(2, 1, 1)


@checked
def two_gaussians(n_train: int = 10_000, n_test: int = 2_000, seed: int = 0, labels: bool = True) -> Data:
    """A fifth of N((−5, −5), I) and four fifths of N((5, 5), I) (Song & Ermon 2019, section 3.2.2).

    There are hardly any data between the modes, so that scores at little noise do not tell the shares of the modes. The
    label is the component.

    Raises:
        ValueError: An empty split or a negative seed.
    """
    mixture = two_gaussians_mixture()
    data = _toy("two_gaussians", _mixture_draw(*mixture), n_train, n_test, seed, 2 if labels else None)
    return replace(data, mixture=mixture)


@checked
def eight_gaussians(
    n_train: int = 10_000, n_test: int = 2_000, seed: int = 0, std: float = 0.05, labels: bool = True
) -> Data:
    """Eight equal Gaussians on the unit circle; the label is the component.

    Raises:
        ValueError: An empty split, a negative seed, or std not positive.
    """
    mixture = eight_gaussians_mixture(std)
    data = _toy("eight_gaussians", _mixture_draw(*mixture), n_train, n_test, seed, 8 if labels else None)
    return replace(data, mixture=mixture)


@checked
def grid_gaussians(
    n_train: int = 10_000, n_test: int = 2_000, seed: int = 0, std: float = 0.05, labels: bool = True
) -> Data:
    """Twenty-five equal Gaussians on a 5×5 grid of spacing 1/2 in [-1, 1]²; the label is the component.

    Raises:
        ValueError: An empty split, a negative seed, or std not positive.
    """
    mixture = grid_gaussians_mixture(std)
    data = _toy("grid_gaussians", _mixture_draw(*mixture), n_train, n_test, seed, 25 if labels else None)
    return replace(data, mixture=mixture)


@checked
def checkerboard(n_train: int = 10_000, n_test: int = 2_000, seed: int = 0) -> Data:
    """Uniform on the eight dark squares of a 4×4 board over [-1, 1]²: density 1/2 there, 0 elsewhere.

    The square at the lower left is dark.

    Raises:
        ValueError: An empty split or a negative seed.
    """

    def draw(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray | None]:
        column, pair = rng.integers(4, size=n), rng.integers(2, size=n)
        square = np.stack([column, 2 * pair + column % 2], axis=1)
        return (square + rng.random((n, 2))) / 2 - 1, None

    return _toy("checkerboard", draw, n_train, n_test, seed, None)


@checked
def two_moons(
    n_train: int = 10_000, n_test: int = 2_000, seed: int = 0, noise: float = 0.05, labels: bool = True
) -> Data:
    """Two interleaved half circles of radius 1 with Gaussian noise, centred on 0; the label is the moon.

    scikit-learn's `make_moons` moved by (-1/2, -1/4).

    Raises:
        ValueError: An empty split, a negative seed, or negative noise.
    """
    _check_noise(noise)

    def draw(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray | None]:
        moon, angle = rng.integers(2, size=n), math.pi * rng.random(n)
        sign = 1 - 2 * moon
        points = np.stack([sign * (np.cos(angle) - 0.5), sign * (np.sin(angle) - 0.25)], axis=1)
        return points + noise * rng.standard_normal((n, 2)), moon

    return _toy("two_moons", draw, n_train, n_test, seed, 2 if labels else None)


@checked
def swiss_roll(n_train: int = 10_000, n_test: int = 2_000, seed: int = 0, noise: float = 0.02) -> Data:
    """A spiral of one and a half turns from radius 1/3 to 1, with Gaussian noise.

    scikit-learn's `make_swiss_roll` without its third axis, divided by its outer radius 9π/2.

    Raises:
        ValueError: An empty split, a negative seed, or negative noise.
    """
    _check_noise(noise)

    def draw(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray | None]:
        angle = 1.5 * math.pi * (1 + 2 * rng.random(n))
        spiral = np.stack([angle * np.cos(angle), angle * np.sin(angle)], axis=1) / (4.5 * math.pi)
        return spiral + noise * rng.standard_normal((n, 2)), None

    return _toy("swiss_roll", draw, n_train, n_test, seed, None)


def _equal_mixture(means: Tensor, std: float) -> tuple[Tensor, Tensor, Tensor]:
    if not (std > 0 and math.isfinite(std)):
        raise ValueError(f"std must be positive and finite, got {std}")
    count, dim = means.shape
    weights = torch.full((count,), 1 / count, dtype=torch.float64)
    return weights, means, (std**2 * torch.eye(dim, dtype=torch.float64)).repeat(count, 1, 1)


def _mixture_draw(weights: Tensor, means: Tensor, covariances: Tensor) -> Draw:
    factors = torch.linalg.cholesky(covariances).numpy()

    def draw(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray | None]:
        component = rng.choice(len(weights), size=n, p=weights.numpy())
        normal = rng.standard_normal((n, means.shape[1]))
        return means.numpy()[component] + np.einsum("nij,nj->ni", factors[component], normal), component

    return draw


def _check_noise(noise: float) -> None:
    if not (noise >= 0 and math.isfinite(noise)):
        raise ValueError(f"noise must be a finite standard deviation of at least 0, got {noise}")


def _toy(name: str, draw: Draw, n_train: int, n_test: int, seed: int, num_classes: int | None) -> Data:
    if n_train < 1 or n_test < 1:
        raise ValueError(f"{name}: n_train and n_test must be at least 1, got {n_train} and {n_test}")
    check_seed(seed, f"{name}: seed")
    check_memory(64 * (n_train + n_test), f"{name}: {n_train} and {n_test} samples")
    points, classes = [], []
    for stream, n in enumerate((n_train, n_test)):
        x, y = draw(np.random.default_rng([seed, stream]), n)
        points.append(torch.from_numpy(x).float())
        classes.append(None if y is None or num_classes is None else torch.from_numpy(y))
    return Data(
        name=name,
        train=points[0],
        test=points[1],
        transform=Identity(),
        train_labels=classes[0],
        test_labels=classes[1],
        num_classes=num_classes,
    )
