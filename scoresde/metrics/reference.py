"""Statistics of reference features in files, and distances from them: the `.npz` of EDM and of pytorch-fid.

A file has the mean `mu` and the covariance `sigma` of features; those written here also have their number `n`, and the
features themselves if they are asked for, without which there is no kernel distance.
"""

import io
import zipfile
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scoresde.arguments import as_tensor, checked
from scoresde.metrics.features import Samples, moments
from scoresde.storage.bounded import CheckpointError, check_regular
from scoresde.storage.files import write_bytes
from scoresde.storage.limits import check_unpacked

__all__ = ["ReferenceStatistics"]

_ROUNDING = 1e-5  # of the largest eigenvalue, which a covariance in float32 may err by
_COUNTS = ("n", "num_images")


@checked
@dataclass(frozen=True, eq=False)
class ReferenceStatistics:
    """Mean and covariance of reference features, in float64.

    Args:
        mean: Mean, `(F,)`.
        covariance: Unbiased covariance, `(F, F)`.
        n: Number of features that they are of; None where a file does not say.
        features: Those features, or some of them, `(M, F)`; None where none are kept.

    Raises:
        ValueError: Shapes that do not fit, values that are not finite, or a covariance that is not symmetric.
    """

    mean: Tensor
    covariance: Tensor
    n: int | None = None
    features: Tensor | None = None

    def __post_init__(self) -> None:
        width = len(self.mean) if self.mean.ndim == 1 else -1
        if width < 1 or self.covariance.shape != (width, width):
            raise ValueError(
                f"the mean has shape {tuple(self.mean.shape)} and the covariance {tuple(self.covariance.shape)}, "
                "expected (F,) and (F, F)"
            )
        if self.features is not None and (self.features.ndim != 2 or self.features.shape[1] != width):
            raise ValueError(f"the features have shape {tuple(self.features.shape)}, expected (M, {width})")
        for name, x in (("mean", self.mean), ("covariance", self.covariance)):
            if not bool(torch.isfinite(x).all()):
                raise ValueError(f"the {name} has values that are not finite")
        scale = self.covariance.diagonal().max().clamp(min=torch.finfo(torch.float64).tiny)
        if float((self.covariance - self.covariance.T).abs().max() / scale) > 1e-4:
            raise ValueError("the covariance is not symmetric")

    @classmethod
    def of(cls, features: Samples, keep: bool | int = False) -> "ReferenceStatistics":
        """The statistics of features `(N, F)`, which may be a view of a file.

        Args:
            features: The features.
            keep: Whether the features are kept as well, for kernel distances; or how many of them, evenly spaced.

        Raises:
            ValueError: Fewer than two, another shape, or values that are not finite.
        """
        x = as_tensor("features", features)
        if x.ndim != 2 or len(x) < 2:
            raise ValueError(f"features have shape {tuple(x.shape)}, expected (N, F) of at least 2")
        most = len(x) if keep is True else int(keep)
        kept = x[torch.linspace(0, len(x) - 1, min(most, len(x))).round().long()] if most else None
        return cls(*moments(x), len(x), kept)

    @cached_property
    def root(self) -> Tensor:
        """The symmetric square root of the covariance.

        Raises:
            ValueError: A covariance with negative eigenvalues.
        """
        values, vectors = torch.linalg.eigh((self.covariance + self.covariance.T) / 2)
        if values[0] < -_ROUNDING * values[-1].clamp(min=0):
            raise ValueError(
                "the covariance of the reference is not positive semi-definite: its eigenvalues are "
                f"{float(values[0]):.3g} to {float(values[-1]):.3g}; compute it anew, in float64"
            )
        root: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
        return root

    def save(self, path: str | Path) -> None:
        """Write an `.npz` that EDM and pytorch-fid read; features are kept in float32.

        Args:
            path: The file, which is replaced.
        """
        arrays = {"mu": self.mean.numpy(), "sigma": self.covariance.numpy()}
        if self.n is not None:
            arrays["n"] = np.asarray(self.n)
        if self.features is not None:
            arrays["features"] = self.features.to(torch.float32).numpy()
        content = io.BytesIO()
        np.savez(content, **arrays)  # type: ignore[arg-type]
        write_bytes(Path(path), content.getvalue())

    @classmethod
    def load(cls, path: str | Path) -> "ReferenceStatistics":
        """The statistics of an `.npz` with arrays `mu` and `sigma`; nothing in it is run.

        Args:
            path: The file.

        Raises:
            FileNotFoundError: No such file.
            CheckpointError: A damaged file, or one without these arrays.
        """
        path = Path(path)
        check_regular(path)
        if not path.exists():
            raise FileNotFoundError(2, "no such file", str(path))
        arrays = _arrays(path)
        if missing := [name for name in ("mu", "sigma") if name not in arrays]:
            found = ", ".join(sorted(arrays)) or "none"
            raise CheckpointError(
                f"{path} has no array {missing[0]!r}, expected mu and sigma as in the reference files of EDM and "
                f"pytorch-fid; its arrays are {found}"
            )
        counts = [int(arrays[name]) for name in _COUNTS if name in arrays and arrays[name].size == 1]
        features = torch.as_tensor(arrays["features"]).double() if "features" in arrays else None
        try:
            mean, covariance = (torch.as_tensor(arrays[name]).double() for name in ("mu", "sigma"))
            return cls(mean, covariance, counts[0] if counts else None, features)
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: {error}") from error


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of numbers of an npz file that statistics have."""
    try:
        check_unpacked(path, str(path))
        with np.load(path, allow_pickle=False) as file:
            if isinstance(file, np.ndarray):
                raise CheckpointError(f"{path} is a single array, expected an npz file with mu and sigma")
            names = [name for name in file.files if name in ("mu", "sigma", "features", *_COUNTS)]
            arrays = {name: file[name] for name in names} if names else dict.fromkeys(file.files, np.empty(0))
    except (ValueError, zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        if isinstance(error, CheckpointError):
            raise
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path} cannot be read as an npz file of numbers: {reason}") from error
    return arrays
