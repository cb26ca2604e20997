"""Files of reference statistics, read without running anything in them: `.npz`, and the pickles of EDM2."""

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scoresde.storage.bounded import CheckpointError, check_regular, read_file
from scoresde.storage.limits import check_unpacked
from scoresde.storage.pickles import read_pickle

__all__ = ["StoredReference", "read_reference"]

_COUNTS = ("n", "num_images")
_FEATURES = ("features", "pool_3")  # the latter of score_sde
# What EDM2 calls statistics of the features of a network.
_EDM2 = {"inception": "fid", "dinov2": "fd_dinov2"}


@dataclass(frozen=True)
class StoredReference:
    """What a file has of statistics: the mean and covariance, or features, or both.

    Attributes:
        mean: Mean in float64; None where there are features alone.
        covariance: Covariance in float64, as the mean.
        n: Number of features that they are of; None where the file does not say.
        features: Features in their own dtype; None where there are none.
        kind: What the features are; None where the file does not say.
    """

    mean: Tensor | None
    covariance: Tensor | None
    n: int | None
    features: Tensor | None
    kind: str | None


def read_reference(path: Path, network: str | None = None) -> StoredReference:
    """The arrays of a file, see `ReferenceStatistics.load`.

    Raises:
        FileNotFoundError: No such file.
        CheckpointError: A damaged file, or one without the arrays of statistics.
    """
    check_regular(path)
    if not path.exists():
        raise FileNotFoundError(2, "no such file", str(path))
    arrays = _pickled(path, network) if path.suffix in (".pkl", ".pickle") else _arrays(path)
    features = next((arrays[name] for name in _FEATURES if name in arrays), None)
    missing = [name for name in ("mu", "sigma") if name not in arrays]
    if missing and features is None:
        found = ", ".join(sorted(arrays)) or "none"
        raise CheckpointError(
            f"{path} has no array {missing[0]!r}, expected mu and sigma as in the reference files of EDM and "
            f"pytorch-fid; its arrays are {found}"
        )
    counts = [int(arrays[name]) for name in _COUNTS if name in arrays and arrays[name].size == 1]
    try:
        mean, covariance = (None if missing else torch.as_tensor(arrays[name]).double() for name in ("mu", "sigma"))
        kept = None if features is None else torch.as_tensor(features)
    except TypeError as error:  # text, or numbers of a kind that torch does not have
        raise CheckpointError(f"{path}: {error}") from error
    kind = str(arrays["kind"]) if "kind" in arrays and arrays["kind"].dtype.kind == "U" else None
    return StoredReference(mean, covariance, counts[0] if counts else None, kept, kind)


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an npz file that statistics have; if it has none of them, all names that it has."""
    known = ("mu", "sigma", "kind", *_FEATURES, *_COUNTS)
    try:
        check_unpacked(path, str(path))
        with np.load(path, allow_pickle=False) as file:
            if isinstance(file, np.ndarray):
                raise CheckpointError(f"{path} is a single array, expected an npz file with mu and sigma")
            names = [name for name in file.files if name in known]
            arrays = {name: file[name] for name in names} if names else dict.fromkeys(file.files, np.empty(0))
    except (ValueError, zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        if isinstance(error, CheckpointError):
            raise
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path} cannot be read as an npz file of numbers: {reason}") from error
    return arrays


def _pickled(path: Path, network: str | None) -> dict[str, np.ndarray]:
    """The statistics of one network's features in a pickle as EDM2's.

    Raises:
        CheckpointError: Another pickle, or no statistics of that network.
    """
    try:
        check_unpacked(path, str(path))
        content = read_pickle(read_file(path, path.stat().st_size), str(path))
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    if not isinstance(content, Mapping) or not any(isinstance(each, Mapping) for each in content.values()):
        raise CheckpointError(f"{path} is no pickle of statistics as EDM2's, expected fid or fd_dinov2 in it")
    known = {name: key for name, key in _EDM2.items() if isinstance(content.get(key), Mapping)}
    if network is None and len(known) == 1:
        (network,) = known
    if network not in known:
        asked = "none was chosen" if network is None else f"not of {network}"
        raise CheckpointError(f"{path} has statistics of {' and '.join(known) or 'other features'}, {asked}")
    found: Any = content[known[network]]
    arrays = {str(name): value for name, value in found.items() if isinstance(value, np.ndarray | int)}
    return {name: np.require(value, requirements="W") for name, value in arrays.items()}
