"""Posterior samples of some measurements, and what is measured of them: the work that processes share."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scoresde.data import Data, DataInfo
from scoresde.inverse import Measurement, Method, central_coverage, psnr, residual_ratio, restore
from scoresde.runs.restore_input import RestoreInput, in_raw_units
from scoresde.score import NetworkScore

__all__ = ["Part", "Restorer", "known_of", "parts"]


@dataclass(frozen=True)
class Part:
    """Some measurements, one after the other.

    Attributes:
        first: Index of the first.
        measurement: The measurements.
        cond: The conditions of what was measured, by name.
        x: What was measured, in model space; None where it is not known.
        truth: The same in raw units.
    """

    first: int
    measurement: Measurement
    cond: dict[str, Tensor]
    x: Tensor | None
    truth: Tensor | None


def parts(measurement: Measurement, given: RestoreInput, x: Tensor | None, size: int, done: int) -> Iterator[Part]:
    """The measurements after those that are done, `size` at a time."""
    for start in range(done, len(measurement), size):
        rows = slice(start, min(start + size, len(measurement)))
        cond = {name: values[rows].clone() for name, values in given.cond.items()}
        x_rows, truth = (None if values is None else values[rows].clone() for values in (x, given.truth))
        yield Part(start, measurement.rows(rows), cond, x_rows, truth)


def known_of(data: Data | DataInfo) -> DataInfo:
    """What is known of the data, without the data."""
    return data if isinstance(data, DataInfo) else DataInfo(data.name, data.shape, data.transform)


@dataclass(frozen=True)
class Restorer:
    """Draws samples of measurements.

    Attributes:
        model: The model.
        method: How the posterior is sampled.
        data: What is known of the data.
        n: Number of samples of a measurement.
        steps: Number of steps.
        seed: Seed of their noise.
        batch_size: Number of samples to work on at once.
    """

    model: NetworkScore
    method: Method
    data: DataInfo
    n: int
    steps: int
    seed: int
    batch_size: int

    def __call__(self, part: Part) -> tuple[np.ndarray, ...]:
        """Samples `(B, n, ...)`, their means and standard deviations `(B, ...)`, and figures `(B, 7)`."""
        began, measurement = time.perf_counter(), part.measurement
        cond: dict[str, Any] = {name: values.to(self.model.device) for name, values in part.cond.items()}
        options: dict[str, Any] = {"samples": self.n, "steps": self.steps, "seed": self.seed, "first": part.first}
        out = restore(self.model, measurement, self.method, batch_size=self.batch_size, **options, **cond)
        drawn = out.x.cpu()
        seconds = (time.perf_counter() - began) / len(measurement)
        costs = torch.tensor([[out.nfe, out.products, seconds]], dtype=torch.float64)
        figures = torch.cat((costs.expand(len(measurement), -1), self._quality(part, out.x)), 1)
        scaled = in_raw_units(self.data, drawn)
        std = scaled.std(1, unbiased=self.n > 1)
        raw = self._decoded(drawn)
        return raw.numpy(), scaled.mean(1).numpy(), std.numpy(), figures.numpy()

    def _decoded(self, x: Tensor) -> Tensor:
        """Samples `(B, n, ...)` as the data have them."""
        return self.data.transform.decode(x) if self.data.transform.levels is not None else x

    def _quality(self, part: Part, samples: Tensor) -> Tensor:
        """The figures of the samples `(B, n, ...)` of measurements, `(B, 4)`; NaN where there is no truth."""
        n, found = samples.shape[1], torch.full((len(samples), 4), math.nan, dtype=torch.float64)
        repeated = part.measurement.rows(torch.arange(len(samples) * n) // n)
        found[:, 3] = residual_ratio(repeated, samples.flatten(0, 1)).reshape(-1, n).square().mean(1).sqrt().cpu()
        if part.x is None:
            return found
        assert part.truth is not None
        samples = samples.cpu()
        shown, real = self._shown(samples), self._shown(part.x)
        # Of continuous values the range is that of the truth.
        peak = 1.0 if self.data.transform.levels is not None else real.flatten(1).amax(1) - real.flatten(1).amin(1)
        scale = torch.as_tensor(peak, dtype=torch.float64).log10() * 20
        found[:, 0] = psnr(shown.mean(1), real) + scale
        found[:, 1] = (psnr(shown, real) + scale.reshape(-1, 1)).mean(1)
        if n > 1:
            found[:, 2] = central_coverage(self._decoded(samples), part.truth)
        return found

    def _shown(self, x: Tensor) -> Tensor:
        """Discrete data in [0, 1] as they are shown, but not rounded; others as they are."""
        levels = self.data.transform.levels
        return x if levels is None else (in_raw_units(self.data, x) / (levels - 1)).clamp(0, 1)
