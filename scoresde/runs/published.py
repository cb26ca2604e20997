"""Published features of the images of a run, and statistics of reference features in a file."""

import hashlib
import json
import math
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scoresde.data import Transform
from scoresde.data.rows import Values, blocks
from scoresde.metrics import ReferenceStatistics
from scoresde.metrics.features import split
from scoresde.metrics.frechet_reference import (
    fewest_for_infinity,
    frechet_infinity,
    frechet_to_reference,
    kernel_to_reference,
)
from scoresde.metrics.published import PublishedFeatures
from scoresde.options.errors import ConfigError
from scoresde.progress import Progress
from scoresde.runs.coverage import metric_entries
from scoresde.runs.summary import MetricEntry
from scoresde.runs.team import each
from scoresde.storage.bounded import CheckpointError

__all__ = ["KnownFeatures", "Reference", "RunFeatures", "check_images", "save_reference"]

_BLOCK = 128  # images that a process takes at once, whatever the number of processes
_KEPT = 10_000  # features in a reference file, for kernel distances
_IN_MEMORY = 2**29  # bytes of features above which they are in a file


def check_images(name: str, transform: Transform, shape: tuple[int, ...]) -> None:
    """Reject data of which there are no published features.

    Args:
        name: Name of the features.
        transform: The transform of the data.
        shape: Shape of a sample.

    Raises:
        ConfigError: Data that are no images of levels, of one or three channels.
    """
    levels = transform.levels
    if levels is not None and len(shape) == 3 and shape[0] in (1, 3):
        return
    kind = "continuous values" if levels is None else f"integers of {levels} levels"
    raise ConfigError(
        f"features={name} are of images of integer levels with 1 or 3 channels, and the data of this run are {kind} of "
        f"shape {tuple(shape)}: leave features out"
    )


@dataclass(frozen=True, eq=False)
class RunFeatures:
    """Features `(B, F)` of values of a run's data: published ones of images, or the values in model space themselves.

    Attributes:
        published: The published features; None for the values.
        transform: The transform of the data.
        shape: Shape of a sample.

    Raises:
        ConfigError: Published features of data that are no images of levels, of one or three channels.
    """

    published: PublishedFeatures | None
    transform: Transform
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.published is not None:
            check_images(self.published.name, self.transform, self.shape)

    @property
    def width(self) -> int:
        """Number of features."""
        return math.prod(self.shape) if self.published is None else self.published.width

    @property
    def name(self) -> str:
        """What the features are, in a word or two."""
        return "values of a sample" if self.published is None else f"features by {self.published.name}"

    @property
    def kind(self) -> str:
        """A text that is the same for two of them exactly when their features are."""
        if self.published is not None:
            return repr(self.published)
        plain = json.dumps(self.transform.to_plain(), sort_keys=True)
        return f"values by {type(self.transform).__name__} {hashlib.sha256(plain.encode()).hexdigest()[:8]}"

    def __call__(self, raw: Tensor) -> Tensor:
        """Features `(B, F)` in float32, on the CPU, of values `(B, ...)` in raw units."""
        if self.published is None:
            return self.transform.encode(raw).flatten(1)
        assert self.transform.levels is not None
        pixels = raw.to(torch.float32) * (255 / (self.transform.levels - 1))
        found: Tensor = self.published(pixels).to("cpu", torch.float32)
        return found

    def table(self, parts: Iterable[Tensor], n: int, progress: bool = False) -> Tensor:
        """Features `(n, F)` in float32 of values that come in parts, by all processes of the command.

        Where there are very many they are in a file without a name, of which the result is a view.

        Args:
            parts: Values in raw units, `(m, ...)` each.
            n: Number of them in all; more are left out.
            progress: Show a progress bar.
        """
        table, done = _table(n, self.width), 0
        with Progress(n, "features", "image", shown=progress and self.published is not None) as bar:
            for found in each(self, _batches(parts, n)):
                table[done : done + len(found)] = found
                done += len(found)
                bar.update(len(found))
        return table


def _batches(parts: Iterable[Tensor], n: int) -> Iterator[Tensor]:
    """Batches of one size, however values are divided, as last bits of features may depend on the size of a batch."""
    waiting: list[Tensor] = []
    count = done = 0
    for part in parts:
        waiting.append(part[: n - done - count])
        count += len(waiting[-1])
        while count >= _BLOCK:
            joined = torch.cat(waiting)
            yield joined[:_BLOCK].clone()
            waiting, count, done = [joined[_BLOCK:]], count - _BLOCK, done + _BLOCK
    if count:
        yield torch.cat(waiting).clone()


def _table(n: int, width: int) -> Tensor:
    if 4 * n * width <= _IN_MEMORY:
        return torch.empty(n, width)
    with tempfile.TemporaryFile() as file:
        return torch.from_numpy(np.memmap(file, np.float32, "w+", shape=(n, width)))


class KnownFeatures:
    """A feature map from values in model space `(B, ...)`, which knows the features of data that are asked for often.

    Args:
        features: The features.
        data: The data in model space, `(N, ...)`; None for none.
    """

    def __init__(self, features: RunFeatures, data: Tensor | None = None) -> None:
        self.features = features
        self._known: dict[bytes, Tensor] = {}
        for batch in () if data is None else split(data):
            self._known[_digest(batch)] = self(batch)

    def __call__(self, x: Tensor) -> Tensor:
        known = self._known.get(_digest(x)) if self._known else None
        return self.features(self.features.transform.decode(x)) if known is None else known


def _digest(x: Tensor) -> bytes:
    return hashlib.sha256(x.detach().cpu().contiguous().numpy().tobytes()).digest()


@dataclass(frozen=True)
class Reference:
    """Statistics of reference features in a file.

    Attributes:
        statistics: The statistics.
        path: The file, as it was given.
    """

    statistics: ReferenceStatistics
    path: str

    @classmethod
    def load(cls, path: str, features: RunFeatures) -> "Reference":
        """The reference in a file, of these features.

        Raises:
            ConfigError: No such file, one of another kind, or statistics of other features.
        """
        network = None if features.published is None else features.published.name
        try:
            found = cls(ReferenceStatistics.load(path, network), path)
            found.check(features)
            _ = found.statistics.root
        except FileNotFoundError as error:
            raise ConfigError(
                f"reference={path} does not exist; give a file with mu and sigma, such as save_reference=FILE writes"
            ) from error
        except CheckpointError as error:
            raise ConfigError(f"reference: {error}") from error
        except ConfigError:
            raise
        except ValueError as error:
            raise ConfigError(f"reference={path}: {error}") from error
        return found

    def check(self, features: RunFeatures) -> None:
        """Reject statistics of other features.

        Raises:
            ConfigError: Another number of features, or others than the file says.
        """
        own, kind = len(self.statistics.mean), self.statistics.kind
        hint = "give features=inception, dinov2 or clip" if features.published is None else "give those that it is of"
        if own != features.width:
            raise ConfigError(
                f"reference={self.path} is of {own} features, and there are {features.width} {features.name}: {hint}"
            )
        if kind is not None and kind != features.kind:
            raise ConfigError(f"reference={self.path} is of {kind}, and the features are {features.kind}: {hint}")

    @cached_property
    def digest(self) -> str:
        """Eight characters of the hash of the mean and the covariance."""
        content = hashlib.sha256(self.statistics.mean.numpy().tobytes())
        content.update(self.statistics.covariance.contiguous().numpy().tobytes())
        return content.hexdigest()[:8]

    @property
    def label(self) -> str:
        """A part of a name."""
        return f"{Path(self.path).stem}-{self.digest}"

    def __str__(self) -> str:
        return f"{Path(self.path).name} {self.digest}"

    def metrics(self, x: Tensor, seed: int = 0) -> dict[str, MetricEntry]:
        """Distances of features `(n, F)` from it, with as many as n is enough for.

        Args:
            x: The features.
            seed: Seed of the extrapolation.
        """
        found = [frechet_to_reference(x, self.statistics)]
        if len(x) >= fewest_for_infinity(x.shape[1]):
            found.append(frechet_infinity(x, self.statistics, seed))
        kernel = kernel_to_reference(x, self.statistics) if self._has_kernel(len(x)) else None
        found += [] if kernel is None else [kernel]
        return metric_entries({e.name: e for e in found})

    def _has_kernel(self, n: int) -> bool:
        features = self.statistics.features
        return features is not None and min(n, len(features)) >= 4

    def left_out(self, n: int) -> list[str]:
        """What is not measured with n samples, and what it would take, a line each."""
        lines = []
        if n < (needed := fewest_for_infinity(len(self.statistics.mean))):
            lines.append(f"frechet_infinity is left out: it takes n={needed} or more")
        if not self._has_kernel(n):
            lines.append("kernel_to_reference is left out: the reference has no features, as save_reference keeps them")
        return lines


def save_reference(path: str, features: RunFeatures, values: Values, progress: bool = True) -> ReferenceStatistics:
    """Write the statistics of the features of values to an npz file, with up to 10,000 of the features.

    Args:
        path: The file.
        features: The features.
        values: The values, in raw units.
        progress: Show a progress bar.

    Raises:
        ConfigError: Fewer than two values.
    """
    if len(values) < 2:
        raise ConfigError(f"save_reference={path} needs at least 2 samples, there are {len(values)}")
    table = features.table(blocks(values, _BLOCK), len(values), progress)
    found = ReferenceStatistics.of(table, keep=_KEPT, kind=features.kind)
    found.save(path)
    return found
