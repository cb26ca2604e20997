"""Statistics of reference features, as the files of EDM and of pytorch-fid have them.

A file has the mean `mu` and the covariance `sigma` of features; those written here also have their number `n`, what the
features are, and the features themselves if they are asked for, without which there is no kernel distance.
"""

import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scoresde.arguments import as_tensor, checked
from scoresde.metrics.features import Samples, moments
from scoresde.metrics.reference_files import read_reference
from scoresde.storage.bounded import CheckpointError
from scoresde.storage.files import write_bytes

__all__ = ["ReferenceStatistics"]

_ROUNDING = 1e-5  # of the largest eigenvalue, which a covariance in float32 may err by


@checked
@dataclass(frozen=True, eq=False)
class ReferenceStatistics:
    """Mean and covariance of reference features, in float64.

    Args:
        mean: Mean, `(F,)`.
        covariance: Unbiased covariance, `(F, F)`.
        n: Number of features that they are of; None where a file does not say.
        features: Those features, or some of them, `(M, F)`; None where none are kept.
        kind: What the features are, such as the text of a `PublishedFeatures`; None where a file does not say.

    Raises:
        ValueError: Shapes that do not fit, values that are not finite, or a covariance that is not symmetric.
    """

    mean: Tensor
    covariance: Tensor
    n: int | None = None
    features: Tensor | None = None
    kind: str | None = None

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
    def of(cls, features: Samples, keep: bool | int = False, kind: str | None = None) -> "ReferenceStatistics":
        """The statistics of features `(N, F)`, which may be a view of a file.

        Args:
            features: The features.
            keep: Whether the features are kept as well, for kernel distances; or how many of them, evenly spaced.
            kind: What the features are.

        Raises:
            ValueError: Fewer than two, another shape, or values that are not finite.
        """
        x = as_tensor("features", features)
        if x.ndim != 2 or len(x) < 2:
            raise ValueError(f"features have shape {tuple(x.shape)}, expected (N, F) of at least 2")
        most = len(x) if keep is True else int(keep)
        kept = x[torch.linspace(0, len(x) - 1, min(most, len(x))).round().long()] if most else None
        return cls(*moments(x), len(x), kept, kind)

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
        arrays: dict[str, np.ndarray] = {"mu": self.mean.numpy(), "sigma": self.covariance.numpy()}
        if self.n is not None:
            arrays["n"] = np.asarray(self.n)
        if self.kind is not None:
            arrays["kind"] = np.asarray(self.kind)
        if self.features is not None:
            arrays["features"] = self.features.to(torch.float32).numpy()
        content = io.BytesIO()
        np.savez(content, **arrays)  # type: ignore[arg-type]
        write_bytes(Path(path), content.getvalue())

    @classmethod
    def load(cls, path: str | Path, network: str | None = None) -> "ReferenceStatistics":
        """The statistics of a file with `mu` and `sigma`, or with the features themselves; nothing in it is run.

        Args:
            path: An `.npz` of EDM, pytorch-fid or `save`, one of features `pool_3` of score_sde, or a `.pkl` of EDM2.
            network: Which statistics of a file of several, as EDM2's, are read: inception or dinov2.

        Raises:
            FileNotFoundError: No such file.
            CheckpointError: A damaged file, or one without these arrays.
        """
        path = Path(path)
        found = read_reference(path, network)
        try:
            if found.mean is not None and found.covariance is not None:
                return cls(found.mean, found.covariance, found.n, found.features, found.kind)
            assert found.features is not None
            return cls.of(found.features, keep=True, kind=found.kind)
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: {error}") from error
