"""True endpoints: where the probability flow leads the starts that all samplers have in common."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from scoresde.compare.measures import root_mean_square
from scoresde.sampling import Adaptive, ExplicitTimes, Noise, Sampler, Solver
from scoresde.score import Conditions, ScoreModel

__all__ = ["TrueEnds"]

_CHECKED_STARTS = 32  # the first starts, of which the reference's own error is measured


class _Start(Solver):
    """Does not move: its result is the state that a sampler starts from."""

    def solve(self, model: ScoreModel, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        for _ in times[1:]:
            yield x


class TrueEnds:
    """The endpoints of the probability-flow ODE by a reference solver, cached by seed and by first and last time.

    Args:
        model: The score model, in model space.
        solver: The reference.
        shape: The shape of all samples, `(n, ...)`.
        cond: The conditions of the n samples.
        batch_size: The number of samples to work on at once; all if not given.

    Attributes:
        ends: The endpoints before denoising, `(n, ...)`, by a text of seed, first and last time.
        errors: By seed, the root mean square distance of the first 32 endpoints to a solve at a tenth of the tolerance.
    """

    def __init__(
        self, model: ScoreModel, solver: Adaptive, shape: tuple[int, ...], cond: Conditions, batch_size: int | None
    ) -> None:
        self.model, self.solver, self.shape, self.cond, self.batch_size = model, solver, shape, cond, batch_size
        self.ends: dict[str, Tensor] = {}
        self.errors: dict[int, float] = {}

    def starts(self, seed: int, first: float) -> Tensor:
        """`(n, ...)`, the states at the time `first` that every sampler starts from."""
        sde = self.model.sde
        last = sde.t_min_sampling if first > sde.t_min_sampling else sde.t_min
        return self._stay(self.model, first, last, shape=self.shape, seed=seed, **self.cond)

    def endpoints(self, seed: int, times: Tensor, denoise: bool) -> Tensor:
        """`(n, ...)`, the endpoints at the last of `times` for the starts at the first of them.

        A part of the starts is solved at a tenth of the tolerance as well, for `errors`.

        Args:
            seed: The seed of the starts.
            times: The time grid, `(m,)`.
            denoise: Whether the denoising step follows.

        Raises:
            ArithmeticError: The reference cannot follow a path.
        """
        first, last = float(times[0]), float(times[-1])
        key = f"{seed} {first!r} {last!r}"
        if key not in self.ends:
            x = self.starts(seed, first)
            ends = self._solve(self.model, self.solver, x, first, last)
            some = slice(0, min(len(x), _CHECKED_STARTS))
            finer = replace(self.solver, rtol=self.solver.rtol / 10, atol=self.solver.atol / 10)
            precise = self._precise()
            checked = self._solve(precise, finer, x[some].to(precise.dtype), first, last)
            error = root_mean_square(ends[some], checked)[0]
            self.errors[seed] = max(error, self.errors.get(seed, 0.0))
            self.ends[key] = ends
        ends = self.ends[key]
        return self._stay(self.model, self.model.sde.t_max, last, True, x_init=ends, **self.cond) if denoise else ends

    def solved(self, seed: int, first: float, last: float, count: int) -> Tensor:
        """`(count, ...)`, the endpoints of the first starts alone, which are not kept."""
        return self._solve(self.model, self.solver, self.starts(seed, first)[:count], first, last)

    def _precise(self) -> ScoreModel:
        """The model in float64, or the model itself if that is impossible."""
        try:
            precise = copy.deepcopy(self.model).double()
            x = torch.zeros(1, *self.shape[1:], dtype=torch.float64, device=precise.device)
            with torch.no_grad(), precise.evaluating():
                out = precise.denoise(x, torch.tensor(precise.sde.t_max, dtype=torch.float64), **self.cond.rows(0, 1))
        except (RuntimeError, TypeError, ValueError):  # a device or a compiled network without float64
            return self.model
        return precise if out.dtype == torch.float64 else self.model

    def _solve(self, model: ScoreModel, solver: Adaptive, x: Tensor, first: float, last: float) -> Tensor:
        sampler = Sampler(replace(solver, strict=True), ExplicitTimes([first, last]), denoise=False)
        options: dict[str, Any] = {"batch_size": self.batch_size, **self.cond.rows(0, len(x))}
        return sampler(model, x_init=x, **options).x

    def _stay(self, model: ScoreModel, first: float, last: float, denoise: bool = False, **options: Any) -> Tensor:
        return Sampler(_Start(), ExplicitTimes([first, last]), denoise)(model, batch_size=self.batch_size, **options).x
