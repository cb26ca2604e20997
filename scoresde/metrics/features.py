"""Features on which two sample sets are compared: raw values, principal components, or a given feature map."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scoresde.arguments import as_tensor, checked
from scoresde.extras import need
from scoresde.metrics.units import require_same_units

__all__ = [
    "PCA",
    "ROWS",
    "FeatureMap",
    "Samples",
    "as_features",
    "finite_rows",
    "mapped",
    "moments",
    "paired_features",
    "split",
]

Samples = Tensor | np.ndarray
FeatureMap = Callable[[Tensor], Samples]

_BATCH = 512  # samples for which a feature map is called at once
ROWS = 4096
"""Features that are brought to float64 at once."""


@checked
@dataclass(frozen=True)
class PCA:
    """Projection on the leading principal components of the reference set (scikit-learn's, not whitened).

    Every metric fits it on its reference set `b`. The error bars hold for the fitted projection: they do not
    cover fitting it anew. Since the axes are those along which the reference varies most, differences in
    directions where the reference hardly varies are not seen.

    Args:
        components: Number of components that are kept, at most min(n, F).
    """

    components: int

    def __post_init__(self) -> None:
        if self.components < 1:
            raise ValueError(f"PCA needs at least 1 component, got {self.components}")

    def fit(self, reference: Samples) -> FeatureMap:
        """The map from `(N, ...)` to `(N, components)` that is fitted on `reference`, `(N, ...)`."""
        flat = _flatten(as_tensor("reference", reference)).numpy()
        if self.components > min(flat.shape):
            raise ValueError(
                f"PCA cannot find {self.components} components in {flat.shape[0]} samples of dimension "
                f"{flat.shape[1]}; use at most {min(flat.shape)}"
            )
        need("PCA", "sklearn")
        from sklearn import decomposition  # slow to import, and needed only here

        fitted = decomposition.PCA(self.components, random_state=0).fit(flat)

        def project(x: Tensor) -> np.ndarray:
            components: np.ndarray = fitted.transform(_flatten(x).numpy())
            return components

        return project


def as_features(x: Tensor) -> Tensor:
    """The feature map of sets that are already features `(B, F)`, and that were checked against each other."""
    return x


def paired_features(
    a: Samples,
    b: Samples,
    features: PCA | FeatureMap | None = None,
    minimum: int = 2,
    same_units: bool = False,
) -> tuple[Tensor, Tensor]:
    """Features of two sample sets, checked, each `(N, F)` in float64 on the CPU.

    Args:
        a: Generated samples, `(N, ...)`.
        b: Reference samples, `(N, ...)`.
        features: None for the flattened values, a `PCA` (fitted on `b`), or a function from `(B, ...)` to `(B, F)` that
            treats every sample by itself; it is called without gradients on batches of at most 512.
        minimum: Smallest number of samples for which the metric is defined.
        same_units: Whether both sets are known to be in the same units, such as those that one transform has encoded.
            If not, raw values on one side alone are rejected, unless `features` is a function, which may bring both
            sides to the same units.

    Raises:
        ValueError: Fewer than `minimum` samples, sets of different size or shape, non-finite values, raw values (see
            `scoresde.metrics.units`), or features that are not `(B, F)`.
    """
    a, b = as_tensor("the generated set", a), as_tensor("the reference set", b)
    for x, label in ((a, "generated"), (b, "reference")):
        if x.ndim == 0 or len(x) < minimum:
            count = len(x) if x.ndim else 0
            raise ValueError(f"the {label} set has {count} samples; this metric needs at least {minimum}")
    if a.shape[1:] != b.shape[1:]:
        raise ValueError(
            f"generated samples have shape {tuple(a.shape[1:])} but reference samples {tuple(b.shape[1:])}; "
            "both must be the same"
        )
    if len(a) != len(b):
        raise ValueError(
            f"{len(a)} generated but {len(b)} reference samples: the metrics are biased in n and need "
            f"equally many; subsample the larger set to {min(len(a), len(b))}"
        )
    for x, label in ((a, "generated"), (b, "reference")):
        _require_finite(x, f"the {label} set has")
    if not (same_units or callable(features)):
        require_same_units(a, b)
    extract = features.fit(b) if isinstance(features, PCA) else features
    fa, fb = mapped(a, extract), mapped(b, extract)
    if fa.shape[1] != fb.shape[1]:
        raise ValueError(f"features have dimension {fa.shape[1]} and {fb.shape[1]}; both sets must give the same")
    return fa, fb


def finite_rows(name: str, values: Samples) -> Tensor:
    """Samples `(N, F)` in float64 on the CPU, of at least two `(N, ...)`.

    Args:
        name: Name of the samples in messages.
        values: Samples, `(N, ...)`.

    Raises:
        ValueError: Fewer than two samples, or values that are not finite.
    """
    x = as_tensor(name, values)
    if x.ndim < 2 or len(x) < 2:
        raise ValueError(f"{name} has shape {tuple(x.shape)}, expected (N, ...) with at least 2 samples")
    out = _flatten(x)
    _require_finite(out, f"{name} has")
    return out


def mapped(x: Tensor, extract: FeatureMap | None) -> Tensor:
    """Features `(N, F)` in float64 on the CPU of samples `(N, ...)`: the flattened values without a map.

    Raises:
        ValueError: Features that are not `(B, F)`, or not finite.
    """
    if extract is None:
        return _flatten(x)
    parts = []
    with torch.no_grad():
        for batch in split(x):
            part = torch.as_tensor(extract(batch))
            if part.ndim != 2 or len(part) != len(batch):
                raise ValueError(
                    f"features of {len(batch)} samples have shape {tuple(part.shape)}; expected ({len(batch)}, F)"
                )
            parts.append(part.detach().to("cpu", torch.float64))
    out = torch.cat(parts)
    _require_finite(out, "the features have")
    return out


def split(x: Tensor) -> tuple[Tensor, ...]:
    """The batches in which a feature map is given samples `(N, ...)`."""
    parts: tuple[Tensor, ...] = torch.split(x, _BATCH)
    return parts


def moments(x: Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean `(F,)` and unbiased covariance `(F, F)` of features, in float64, by two passes over a few rows at a time.

    Args:
        x: Features `(N, F)` of any dtype, which may be a view of a file.
        rows: Indices of the features that they are of; all if not given.
    """
    parts = torch.arange(len(x)) if rows is None else rows
    n, width = len(parts), x.shape[1]
    mean, covariance = torch.zeros(width, dtype=torch.float64), torch.zeros(width, width, dtype=torch.float64)
    for part in parts.split(ROWS):
        mean += x[part].double().sum(0)
    mean /= n
    for part in parts.split(ROWS):
        centred = x[part].double() - mean
        covariance.addmm_(centred.T, centred)
    return mean, covariance / (n - 1)


def _flatten(x: Tensor) -> Tensor:
    return x.detach().to("cpu", torch.float64).reshape(len(x), -1)


def _require_finite(x: Tensor, subject: str) -> None:
    bad = int((~torch.isfinite(x)).sum())
    if bad:
        raise ValueError(f"{subject} {bad} NaN or infinite values; remove them, or find out what made them")
