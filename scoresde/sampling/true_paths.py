"""True paths of many starts, which tuning fits a solver to; all in the `Angle` of the data."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from scoresde.sampling.adams import Multistep
from scoresde.sampling.adams_plan import gaussian_prediction
from scoresde.sampling.edge_starts import Starts
from scoresde.sampling.grids import DataStraight, ExplicitTimes
from scoresde.sampling.sampler import Sampler
from scoresde.score import ScoreModel
from scoresde.sde.coordinates import Angle

__all__ = ["PATH_STEPS", "Part", "TruePaths"]

PATH_STEPS = 64
_STRIDE = 2  # a state of the path is kept after this many steps
Part = slice | Tensor
"""Indices of starts."""


class TruePaths:
    """Many starts and their paths along the probability flow, by a method of order 4 in many steps.

    A state is y = (x − α m)/n, flattened, in the `Angle` of the data's standard deviation, and P the prediction there
    without the mean's part.

    Args:
        model: The score model.
        starts: The starts.
        batch_size: The number of samples to work on at once.

    Attributes:
        times: `(k,)` float64, the times of the states that are kept.
        y: `(k, starts, D)`, the states.
        weights: `(starts,)`, the number of draws that each start stands for.
        first: `(starts, D)`, P at the starts, which no search changes.
        gaussian: Whether P at the starts is that of a normal density, which takes no evaluation.
    """

    def __init__(self, model: ScoreModel, starts: Starts, batch_size: int) -> None:
        self.model, self.sde, self.cond = model, model.sde, starts.conditions
        self.batch_size, count, shape = batch_size, len(starts.x), starts.x.shape[1:]
        self.angle = Angle(model.data_std)
        if model.statistics is None:
            self.mean = torch.zeros(shape, dtype=model.dtype, device=model.device)
        else:
            self.mean = model.statistics.mean.to(model.device, model.dtype)
        times = DataStraight(PATH_STEPS)(self.sde, model.statistics)
        self.times = times[::_STRIDE]
        self.angles = self.angle.variable(self.sde, self.times)
        x = self._solve(times, starts.x)
        self.y = self.scaled(x, self.times)
        self.weights = starts.weights.to(self.y)
        t = self.times[0]
        p, q = (float(c) for c in self.angle.target(self.sde, t))
        first = gaussian_prediction(model, x[0], t, p, q) if not self.cond else None
        self.gaussian = first is not None
        if first is None:
            self.first = self.prediction(self.y[0], t, slice(0, count))
        else:
            self.first = (first - p * self.mean).flatten(1)

    def _solve(self, times: Tensor, starts: Tensor) -> Tensor:
        """The states x at the times that are kept, `(k, starts, ...)`."""
        fine = Sampler(Multistep(4, 4, centre=True), ExplicitTimes(times.tolist()), denoise=False)
        dtype, parts = self.model.dtype, []
        for start in range(0, len(starts), self.batch_size):
            cond, x = self.cond.rows(start, start + self.batch_size), starts[start : start + self.batch_size]
            out = fine(self.model, x_init=x.to(dtype), trajectory=True, **cond)
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

    def scaled(self, x: Tensor, t: Tensor) -> Tensor:
        """States x as y: `(B, ...)` at one time to `(B, D)`, `(k, B, ...)` at k times to `(k, B, D)`."""
        dims = x.ndim - t.ndim
        alpha, norm = (c.to(x).reshape(*t.shape, *[1] * dims) for c in self._frame(t))
        return ((x - alpha * self.mean) / norm).flatten(t.ndim + 1)

    def sampled(
        self, sampler: Sampler, part: Part, watch: Callable[[ScoreModel], ScoreModel] = lambda model: model
    ) -> tuple[Tensor, int]:
        """The end points of a sampler from the starts `part`, `(B, D)` as y, and its evaluations.

        Args:
            sampler: The sampler.
            part: The starts.
            watch: A function that wraps the model.
        """
        alpha, norm = (float(c) for c in self._frame(self.times[0]))
        y = self.y[0, part]
        x = (norm * y).reshape(len(y), *self.mean.shape) + alpha * self.mean
        out = sampler(watch(self.model), x_init=x, batch_size=self.batch_size, **self.cond.select(part))
        return self.scaled(out.x, self.times[-1]), out.nfe

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
