"""True paths of many starts, which tuning fits a solver to; all in the `Angle` of the data."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from scoresde.sampling.adams import Multistep
from scoresde.sampling.adams_plan import gaussian_prediction
from scoresde.sampling.grids import DataStraight, ExplicitTimes
from scoresde.sampling.sampler import Sampler
from scoresde.score import Conditions, ScoreModel
from scoresde.sde.coordinates import Angle

__all__ = ["PATH_STEPS", "Part", "TruePaths", "repeated_conditions"]

PATH_STEPS = 64
_STRIDE = 2  # a state of the path is kept after this many steps
# A sample is a function of the seed and its index: these indices are far from any that a user samples with.
_FIRST_START = 2**40
Part = slice | Tensor
"""Indices of starts."""


def repeated_conditions(cond: Mapping[str, Any], count: int) -> Conditions:
    """The conditions of `count` starts: the entries of each tensor in turn."""
    values = {
        k: v[torch.arange(count, device=v.device) % len(v)] if isinstance(v, Tensor) and v.ndim else v
        for k, v in cond.items()
    }
    return Conditions(values, count)


class TruePaths:
    """Many starts and their paths along the probability flow, by a method of order 4 in many steps.

    A state is y = (x − α m)/n, flattened, in the `Angle` of the data's standard deviation, and P the prediction there
    without the mean's part.

    Args:
        model: The score model.
        shape: The shape of a sample.
        starts: The number of starts.
        seed: The seed of the starts.
        batch_size: The number of samples to work on at once.
        x_init: Starts, `(starts, ...)`, instead of draws of the prior.
        cond: Conditions; a tensor is repeated to the number of starts.

    Attributes:
        times: `(k,)` float64, the times of the states that are kept.
        y: `(k, starts, D)`, the states.
        first: `(starts, D)`, P at the starts, which no search changes.
        gaussian: Whether P at the starts is that of a normal density, which takes no evaluation.
    """

    def __init__(
        self,
        model: ScoreModel,
        shape: tuple[int, ...],
        starts: int,
        seed: int,
        batch_size: int,
        x_init: Tensor | None,
        cond: Mapping[str, Any],
    ) -> None:
        self.model, self.sde, self.cond = model, model.sde, repeated_conditions(cond, starts)
        self.batch_size = batch_size
        self.angle = Angle(model.data_std)
        if model.statistics is None:
            self.mean = torch.zeros(shape, dtype=model.dtype, device=model.device)
        else:
            self.mean = model.statistics.mean.to(model.device, model.dtype)
        times = DataStraight(PATH_STEPS)(self.sde, model.statistics)
        self.times = times[::_STRIDE]
        self.angles = self.angle.variable(self.sde, self.times)
        x = self._solve(times, shape, starts, seed, x_init)
        alpha, norm = (c.to(x).reshape(-1, *[1] * (x.ndim - 1)) for c in self._frame(self.times))
        self.y = ((x - alpha * self.mean) / norm).flatten(2)
        t = self.times[0]
        p, q = (float(c) for c in self.angle.target(self.sde, t))
        first = gaussian_prediction(model, x[0], t, p, q) if not self.cond else None
        self.gaussian = first is not None
        if first is None:
            self.first = self.prediction(self.y[0], t, slice(0, starts))
        else:
            self.first = (first - p * self.mean).flatten(1)

    def _solve(self, times: Tensor, shape: tuple[int, ...], starts: int, seed: int, x_init: Tensor | None) -> Tensor:
        """The states x at the times that are kept, `(k, starts, ...)`."""
        fine = Sampler(Multistep(4, 4, centre=True), ExplicitTimes(times.tolist()), denoise=False)
        dtype, parts = self.model.dtype, []
        for start in range(0, starts, self.batch_size):
            cond = self.cond.rows(start, start + self.batch_size)
            x = None if x_init is None else x_init[start : start + self.batch_size].to(dtype)
            size = None if x is not None else (min(self.batch_size, starts - start), *shape)
            out = fine(self.model, size, x_init=x, seed=seed, first=_FIRST_START + start, trajectory=True, **cond)
            assert out.trajectory is not None
            parts.append(out.trajectory[::_STRIDE].to(self.model.device, dtype))
        return torch.cat(parts, dim=1)

    @property
    def ends(self) -> Tensor:
        """`(starts, D)`, the end points."""
        return self.y[-1]

    @property
    def end_scale(self) -> float:
        """The factor from a distance in y to one in x at the end points."""
        return float(self._frame(self.times[-1:])[1])

    def _frame(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self.sde.alpha(t), self.angle.norm(self.sde, t)

    def prediction(self, y: Tensor, t: Tensor, rows: Part) -> Tensor:
        """P at y `(B, D)` and t, for the conditions of `rows`."""
        p, q = self.angle.target(self.sde, t)
        predict = self.model.prediction(t[None], p[None], q[None])
        alpha, norm = (float(c) for c in self._frame(t))
        x = (norm * y).reshape(len(y), *self.mean.shape) + alpha * self.mean
        cond = self.cond.select(rows)
        parts = []
        for start in range(0, len(x), self.batch_size):
            part = slice(start, start + self.batch_size)
            parts.append(predict(x[part], 0, **cond.select(part)))
        return (torch.cat(parts) - float(p) * self.mean).flatten(1)

    def at(self, times: Tensor) -> Tensor:
        """The paths at times `(n,)`, `(n, starts, D)`, by cubic interpolation in the angle."""
        w = self.angle.variable(self.sde, times)
        # The angle decreases along the path.
        right = torch.searchsorted(-self.angles, -w).clamp(2, len(self.angles) - 2)
        near = right[:, None] + torch.arange(-2, 2)
        at = self.angles[near]
        weights = [
            math.prod((w - at[:, k]) / (at[:, j] - at[:, k]) for k in range(4) if k != j) * torch.ones_like(w)
            for j in range(4)
        ]
        mix = torch.stack(weights, 1).to(self.y)
        return torch.stack([torch.tensordot(m, self.y[n], 1) for m, n in zip(mix, near.to(self.y.device), strict=True)])
