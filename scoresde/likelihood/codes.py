"""Codes: the two ends of the probability flow, which it maps onto each other (Song et al. 2021, section D.3)."""

from typing import Any

import torch
from torch import Tensor

from scoresde.likelihood.density import check, tolerance_of
from scoresde.likelihood.flow import Flow
from scoresde.likelihood.scaling import Scaling
from scoresde.sampling.coordinates import Coordinate
from scoresde.score import ScoreModel
from scoresde.tableaus import DORMAND_PRINCE, Tableau

__all__ = ["decode", "encode"]


@torch.no_grad()
def encode(
    model: ScoreModel,
    x: Tensor,
    *,
    rtol: float = 1e-6,
    atol: float = 1e-6,
    t_min: float | None = None,
    t_max: float | None = None,
    method: Tableau = DORMAND_PRINCE,
    variable: Coordinate | None = None,
    scaling: Scaling | None = None,
    batch_size: int = 512,
    **cond: Any,
) -> Tensor:
    """The code `(B, ...)` at t_max of x `(B, ...)` at t_min; the inverse of `decode` to the tolerance.

    Args, and errors raised, are those of `log_likelihood`.
    """
    check(x, cond)
    flow = Flow(model, x.shape, cond, t_min, t_max, variable, scaling, x.device)
    return _carried(flow, x, rtol, atol, method, batch_size, back=False)


@torch.no_grad()
def decode(
    model: ScoreModel,
    z: Tensor,
    *,
    rtol: float = 1e-6,
    atol: float = 1e-6,
    t_min: float | None = None,
    t_max: float | None = None,
    method: Tableau = DORMAND_PRINCE,
    variable: Coordinate | None = None,
    scaling: Scaling | None = None,
    batch_size: int = 512,
    **cond: Any,
) -> Tensor:
    """The data `(B, ...)` at t_min of a code z `(B, ...)` at t_max; the inverse of `encode` to the tolerance."""
    check(z, cond)
    flow = Flow(model, z.shape, cond, t_min, t_max, variable, scaling, z.device)
    return _carried(flow, z, rtol, atol, method, batch_size, back=True)


def _carried(flow: Flow, x: Tensor, rtol: float, atol: float, method: Tableau, batch_size: int, back: bool) -> Tensor:
    start, stop = flow.at_ends[:1], flow.at_ends[1:]
    if back:
        start, stop = stop, start
    y = flow.to_y(start, x.flatten(1))
    solution = flow.run(y, tolerance_of(None, rtol, atol, x), method, back, width=batch_size)
    return flow.to_x(stop, solution.y).reshape(x.shape).to(x.dtype)
