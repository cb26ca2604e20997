"""Mixtures as priors, whose posteriors and flows are known: named ones, those of files, and ones that are fitted."""

import math
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from scoresde.arguments import checked
from scoresde.extras import need
from scoresde.numerics.values import at_least
from scoresde.score import GaussianMixtureScore
from scoresde.sde import EDMSDE, SDE

__all__ = ["NAMED", "digits", "fitted", "read_mixture", "ring", "write_mixture"]

_ARRAYS = ("weights", "means", "covariances")
_REGULAR = 1e-3  # added to the variances of fitted components
_MODES = 8
_WIDTH = 0.05


class _Parts(NamedTuple):
    """Weights `(K,)`, means `(K, D)` and covariances `(K, D, D)` of a mixture, as NumPy arrays."""

    weights: Any
    means: Any
    covariances: Any


@checked
def ring(sde: SDE | None = None) -> GaussianMixtureScore:
    """Eight normal distributions of standard deviation 0.05 on the unit circle.

    Args:
        sde: The forward SDE; `EDMSDE(0.002, 10)` if not given.
    """
    angle = torch.arange(_MODES, dtype=torch.float64) * (2 * math.pi / _MODES)
    means = torch.stack([angle.cos(), angle.sin()], 1)
    variances = torch.full((_MODES,), _WIDTH**2, dtype=torch.float64)
    return GaussianMixtureScore(torch.ones(_MODES), means, variances, sde or EDMSDE(0.002, 10.0))


@checked
def digits(sde: SDE | None = None) -> GaussianMixtureScore:
    """Ten normal distributions with full covariances, fitted to the 8×8 digits of scikit-learn scaled to [−1, 1].

    Samples have the shape (1, 8, 8).

    Args:
        sde: The forward SDE; `EDMSDE()` if not given.
    """
    weights, means, covariances = _digits()
    return GaussianMixtureScore(weights, means.reshape(-1, 1, 8, 8), covariances, sde or EDMSDE())


@lru_cache
def _digits() -> tuple[Tensor, Tensor, Tensor]:
    need("the prior of digits", "sklearn")
    from sklearn.datasets import load_digits  # slow to import

    images = load_digits().data / 8.0 - 1.0
    parts = _fit(images, 10, 0)
    return torch.as_tensor(parts.weights), torch.as_tensor(parts.means), torch.as_tensor(parts.covariances)


NAMED = {"ring": ring, "digits": digits}
"""The priors that have a name."""


@checked
def fitted(data: Tensor, components: int = 10, sde: SDE | None = None, seed: int = 0) -> GaussianMixtureScore:
    """A mixture of normal distributions with full covariances, fitted to data by expectation maximisation.

    Args:
        data: `(N, ...)`, in the units that samples are to have.
        components: The number K of components.
        sde: The forward SDE; `EDMSDE()` if not given.
        seed: Seed of the start of the fit.

    Raises:
        ValueError: Fewer data than components, or data that are not finite.
    """
    at_least("components", components, 1)
    flat = data.detach().cpu().double().flatten(1)
    if len(flat) < components:
        raise ValueError(f"there are {len(flat)} samples for {components} components: give fewer components")
    if not bool(flat.isfinite().all()):
        raise ValueError("data has values that are not finite; remove them first")
    parts = _fit(flat.numpy(), components, seed)
    means = torch.as_tensor(parts.means).reshape(components, *data.shape[1:])
    return GaussianMixtureScore(
        torch.as_tensor(parts.weights), means, torch.as_tensor(parts.covariances), sde or EDMSDE()
    )


def _fit(rows: Any, components: int, seed: int) -> _Parts:
    need("fitting a mixture", "sklearn")
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    model = GaussianMixture(components, reg_covar=_REGULAR, random_state=seed, max_iter=500)
    with warnings.catch_warnings():
        # Whatever the fit has come to is a prior, which is exact as such.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(rows)
    return _Parts(model.weights_, model.means_, model.covariances_)


@checked
def read_mixture(path: str | Path, sde: SDE | None = None) -> GaussianMixtureScore:
    """The mixture of an npz file with `weights` `(K,)`, `means` `(K, ...)` and `covariances`.

    Covariances are variances `(K,)`, diagonals of the shape of the means, or matrices `(K, D, D)`.

    Args:
        path: The file.
        sde: The forward SDE; `EDMSDE()` if not given.

    Raises:
        ValueError: A file without these arrays, or with arrays that make no mixture.
        FileNotFoundError: No such file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(2, "No such file of a mixture", str(path))
    try:
        with np.load(path, allow_pickle=False) as file:
            lacking = [name for name in _ARRAYS if name not in file]
            if lacking:
                raise ValueError(f"it lacks {' and '.join(lacking)}, and has {', '.join(file) or 'nothing'}")
            weights, means, covariances = (torch.as_tensor(np.asarray(file[n], dtype=np.float64)) for n in _ARRAYS)
        return GaussianMixtureScore(weights, means, covariances, sde or EDMSDE())
    except (OSError, ValueError, TypeError, AttributeError) as error:
        text = " ".join(str(error).split())
        raise ValueError(f"{path} is no mixture (npz of weights, means and covariances): {text}") from error


@checked
def write_mixture(model: GaussianMixtureScore, path: str | Path) -> None:
    """Write a mixture as an npz file that `read_mixture` reads."""
    variances, means = model.variances.cpu(), model.means.cpu()
    shape = tuple(model.shape or means.shape[1:])
    if model.rotations is None:
        covariances = variances.reshape(-1, *shape)
    else:
        turned = model.rotations.cpu()
        covariances = torch.einsum("kij,kj,klj->kil", turned, variances, turned)
    with Path(path).open("wb") as file:
        np.savez(
            file,
            weights=model.weights.cpu().numpy(),
            means=means.reshape(-1, *shape).numpy(),
            covariances=covariances.numpy(),
        )
