"""The request of one call of a sampler, checked before the first evaluation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scoresde.numerics.brownian import BrownianPath
from scoresde.numerics.random import SampleNoise
from scoresde.sampling.grids import Grid
from scoresde.sampling.start import prior_start, warn_of_units
from scoresde.score import Conditions, ScoreModel

__all__ = ["Request"]


@dataclass(frozen=True)
class Request:
    """A model, a batch of samples to draw from it, and where and how they start.

    Attributes:
        model: The score model.
        shape: `(B, ...)`, the shape of all samples.
        conditions: Conditions of the B samples.
        x_init: `(B, ...)`, the states at `times[0]`, or None for draws of the prior.
        times: `(n + 1,)` float64 on the CPU, decreasing.
        dtype: The dtype of the state.
        device: The device of the state.
        batch_size: The number of samples in a chunk.
        seed: Sample i is a function of the seed and of `first` + i.
        first: The index of the first sample.
    """

    model: ScoreModel
    shape: tuple[int, ...]
    conditions: Conditions
    x_init: Tensor | None
    times: Tensor
    dtype: torch.dtype
    device: torch.device
    batch_size: int
    seed: int
    first: int

    @classmethod
    def of(
        cls,
        model: ScoreModel,
        grid: Grid,
        shape: int | Sequence[int] | None,
        x_init: Tensor | None,
        cond: Mapping[str, Any],
        *,
        dtype: torch.dtype | None,
        batch_size: int | None,
        seed: int,
        first: int,
    ) -> "Request":
        """The request from the arguments of `Sampler.__call__`, which also lists the errors."""
        shape = _shape(model, shape, x_init)
        conditions = model.conditions(cond, shape[0], model.device)
        batch_size = shape[0] if batch_size is None else batch_size
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, expected at least 1")
        times = grid(model.sde, model.step_statistics)
        if x_init is None:
            device = model.device
        else:
            x_init = model.on_device(x_init)
            device = x_init.device
            if model.transform is not None:
                warn_of_units(model, x_init, times[0])
        dtype = _dtype(model, x_init, dtype)
        return cls(model, shape, conditions, x_init, times, dtype, device, batch_size, seed, first)

    def chunks(self) -> list[slice]:
        """The samples of each chunk, as slices of the batch."""
        count = self.shape[0]
        return [slice(i, min(i + self.batch_size, count)) for i in range(0, count, self.batch_size)]

    def noise(self, rows: slice, brownian: bool) -> SampleNoise | BrownianPath:
        """The noise of the samples of a chunk: white, or the increments of a Brownian path."""
        source = BrownianPath if brownian else SampleNoise
        indices = torch.arange(self.first + rows.start, self.first + rows.stop)
        return source(self.seed, indices, self.shape[1:], self.dtype, self.device)

    def start(self, rows: slice, noise: SampleNoise | BrownianPath) -> Tensor:
        """`(b, ...)`, the states of the samples of a chunk at `times[0]`."""
        if self.x_init is None:
            return prior_start(self.model, noise(), self.times[0])
        noise.skip()  # A start from draw 0 of the same seed must not be repeated by the noise of the first step.
        return self.x_init[rows].to(self.dtype)


def _shape(model: ScoreModel, shape: int | Sequence[int] | None, x_init: Tensor | None) -> tuple[int, ...]:
    """`(B, ...)` from exactly one of the two."""
    if shape is not None and x_init is None:
        whole = model.batch_shape(shape)
    elif x_init is not None and shape is None:
        whole = tuple(x_init.shape)
    else:
        raise ValueError("give either shape=(B, ...) or x_init, not both or neither")
    if len(whole) < 2 or min(whole) < 1:
        raise ValueError(f"shape is {whole}, expected (B, ...) with at least one sample of at least one element")
    model.check_shape(whole)
    return whole


def _dtype(model: ScoreModel, x_init: Tensor | None, dtype: torch.dtype | None) -> torch.dtype:
    """The dtype that is given, or else that of `x_init` and float32 at least, or else that of the model."""
    if dtype is None:
        if x_init is not None and x_init.is_floating_point():
            return torch.promote_types(x_init.dtype, torch.float32)
        return model.dtype
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"dtype is {dtype}, expected float32 or float64, which the state needs: convert the network alone, by "
            "model.bfloat16()"
        )
    return dtype
